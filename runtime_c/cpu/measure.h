/* measure.h: what this machine can do, measured: read bandwidth and arithmetic peaks. Also the one line that says what was built. */
#ifndef AK42_MEASURE_H
#define AK42_MEASURE_H

#include "kernels.h"

/* n_threads 0: the default. Takes about a second and 1 GiB of memory (less where that cannot be had). */
ak42_status measure_machine(ak42_measurement *out, uint32_t n_threads, const char *isa, ak42_error *err);

#endif

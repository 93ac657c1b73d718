/* sampler.h: logits to a token. Pure functions of their arguments; the generator's state belongs to the caller. */
#ifndef AK42_SAMPLER_H
#define AK42_SAMPLER_H

#include "base.h"

/* scratch: 2 * n floats' worth of memory, any content. history (n_history): tokens that the repetition penalty looks at. */
typedef struct sampler_input {
    const float *logits;           /* (n) */
    uint32_t n;
    const int32_t *history;
    size_t n_history;
    void *scratch;                 /* sampler_scratch_bytes(n) */
} sampler_input;

size_t sampler_scratch_bytes(uint32_t n);
/* ARG naming the option that is out of range. */
ak42_status sampler_check(const ak42_sampler_opts *opts, ak42_error *err);
int32_t sampler_sample(const sampler_input *input, const ak42_sampler_opts *opts, uint64_t *rng);

#endif

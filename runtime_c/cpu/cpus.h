/* cpus.h: processors that may be used, counted. threads_default, in threads.h, is what others ask. */
#ifndef AK42_CPUS_H
#define AK42_CPUS_H

#include "../core/base.h"

/* Logical CPUs that affinity and the cgroup's quota allow, at least 1: more threads than this get in each
 * other's way. */
uint32_t cpus_allowed(void);

/* Linux: what threads_default says on a machine whose /sys and /proc stand under root ("": this one's), to
 * a thread that may run on the CPUs whose bits are set in cpus (CPUS_MASK_WORDS). Apart so that tests can
 * fake a machine. */
enum { CPUS_MASK_WORDS = 256 };
uint32_t cpus_threads(const char *root, const uint64_t *cpus, char *why, size_t why_size);

#endif

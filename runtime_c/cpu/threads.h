/* threads.h: a pool of worker threads that run one function together, with barriers and a work counter inside. Own code, no
 * OpenMP: spin a little, then sleep. It knows nothing of models. */
#ifndef AK42_THREADS_H
#define AK42_THREADS_H

#include "../core/base.h"

typedef struct pool pool;

/* What each thread of a run sees. */
typedef struct team {
    pool *pool;
    uint32_t thread;               /* 0 .. n_threads-1; 0 is the caller */
    uint32_t n_threads;
    uint32_t sense;                /* private to the barrier */
} team;

typedef void team_fn(void *argument, team *team);

/* n_threads counts the caller: 1 makes no thread. Fewer than asked may start where the system refuses (pool_threads tells). */
ak42_status pool_new(pool **pool_out, uint32_t n_threads, ak42_error *err);
void pool_free(pool *pool);                                /* accepts NULL */
uint32_t pool_threads(const pool *pool);
/* Runs fn on all threads and returns when all have. One run at a time: another caller waits for its turn. A pool that was
 * inherited through fork makes its threads anew. */
void pool_run(pool *pool, team_fn *fn, void *argument);

/* All threads of the run meet here. Memory written before it is seen after it. */
void team_barrier(team *team);
/* Hands out the indices 0 .. count-1 of the current section, each to one thread; count or more when there are no more. Sections
 * are separated by team_barrier; at most one is drawn from between two barriers. */
uint32_t team_next(team *team, uint32_t count);

/* Nanoseconds of a clock that never goes back. */
int64_t clock_ns(void);

/* Physical cores that affinity and the cgroup's quota allow, at least 1. why (may be NULL) gets a short reason. */
uint32_t threads_default(char *why, size_t why_size);

#endif

/* threads.c: a pool of workers that run one function together. It knows nothing of models and chooses no
 * number (cpus.c does). The CPU ops run on it; check_threads.c tests it.
 *
 * Everything waits at gates: a word that only grows. A waiter spins for some tens of microseconds, then
 * sleeps in the kernel; a pool with more threads than processors never spins. Three gates carry a run:
 * `start` sends the workers off, `meet` is the barrier inside, `done` tells the caller that all workers
 * have left the function.
 *
 * The counter of team_next is zeroed by the last thread to arrive at a barrier, before it opens the gate.
 * At that moment every thread is inside the barrier, so none draws from the counter, and the gate's
 * release makes the zero visible to whoever leaves. Between runs the same holds: the caller zeroes it
 * after all workers are done and before `start`. So one counter is enough. */
#include "threads.h"

#include <fenv.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "../core/error.h"
#include "cpus.h"

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

/* Spinning longer than a barrier among running threads takes, and shorter than a time slice. */
enum {
    THREADS_MAX = 1024,
    SPIN_NS = 50000,
    SPIN_CHECK = 32,               /* pauses between looks at the clock */
    STACK_BYTES = 1 << 20          /* no model sizes a stack frame; musl's default of 128 KiB is too near */
};

/* ---- gates ---- */

typedef struct gate {
    _Alignas(CACHE_LINE) _Atomic uint32_t value;
    _Alignas(CACHE_LINE) _Atomic uint32_t sleepers;
#if !defined(__linux__) || defined(AK42_NO_FUTEX)
    pthread_mutex_t mutex;
    pthread_cond_t changed;
#endif
} gate;

static void cpu_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");      /* yield does nothing on most cores; isb waits as pause does */
#endif
}

#if defined(__linux__) && !defined(AK42_NO_FUTEX)

static void gate_init(gate *g) {
    atomic_init(&g->value, 0);
    atomic_init(&g->sleepers, 0);
}
static void gate_destroy(gate *g) { (void)g; }

/* The kernel compares and sleeps in one step, so an opening between our look and the sleep is not lost.
 * Returns also for no reason; the caller looks again. */
static void gate_sleep(gate *g, uint32_t old) {
    atomic_fetch_add(&g->sleepers, 1);
    while (atomic_load(&g->value) == old)
        syscall(SYS_futex, (void *)&g->value, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
    atomic_fetch_sub(&g->sleepers, 1);
}
static void gate_wake(gate *g) {
    syscall(SYS_futex, (void *)&g->value, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

#else

static void gate_init(gate *g) {
    atomic_init(&g->value, 0);
    atomic_init(&g->sleepers, 0);
    pthread_mutex_init(&g->mutex, NULL);
    pthread_cond_init(&g->changed, NULL);
}
static void gate_destroy(gate *g) {
    pthread_cond_destroy(&g->changed);
    pthread_mutex_destroy(&g->mutex);
}
static void gate_sleep(gate *g, uint32_t old) {
    pthread_mutex_lock(&g->mutex);
    atomic_fetch_add(&g->sleepers, 1);
    while (atomic_load(&g->value) == old) pthread_cond_wait(&g->changed, &g->mutex);
    atomic_fetch_sub(&g->sleepers, 1);
    pthread_mutex_unlock(&g->mutex);
}
static void gate_wake(gate *g) {
    pthread_mutex_lock(&g->mutex);             /* a waiter that has looked but does not sleep yet holds it */
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->mutex);
}

#endif

int64_t clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Opens the gate for everybody who waits for the value before. A sleeper first counts itself, then looks
 * at the value; we first set the value, then look at the count; all four are sequentially consistent, so
 * one of us sees the other. */
static void gate_open(gate *g, uint32_t value) {
    atomic_store(&g->value, value);
    if (atomic_load(&g->sleepers)) gate_wake(g);
}

/* Returns once the gate's value is no longer old; what was written before gate_open is then visible. */
static void gate_wait(gate *g, uint32_t old, bool spin) {
    if (atomic_load_explicit(&g->value, memory_order_acquire) != old) return;
    if (spin) {
        int64_t until = 0;
        do {
            for (int i = 0; i < SPIN_CHECK; i++) {
                cpu_relax();
                if (atomic_load_explicit(&g->value, memory_order_acquire) != old) return;
            }
            if (!until) until = clock_ns() + SPIN_NS;
        } while (clock_ns() < until);
    }
    gate_sleep(g, old);
}

/* ---- the pool ---- */

typedef struct worker {
    pool *pool;
    pthread_t handle;
    uint32_t thread;
} worker;

struct pool {
    gate start, meet, done;
    _Alignas(CACHE_LINE) _Atomic uint32_t arrived;         /* at the barrier */
    _Atomic uint32_t next;                                 /* team_next; who arrives last writes both */
    _Alignas(CACHE_LINE) _Atomic uint32_t finished;        /* workers that have left the run's function */
    _Alignas(CACHE_LINE) team_fn *fn;                      /* of the run; NULL: workers end */
    void *argument;
    uint32_t meet_value;                                   /* of the meet gate as the run starts */
    uint32_t n_wanted;
    _Atomic uint32_t n_threads;
    bool spin;
    _Atomic int64_t owner;         /* process whose threads these are; negative while it makes them */
    pthread_mutex_t run_lock;
    worker *workers;                                       /* (n_wanted); [0] is not used */
};

static void *worker_main(void *argument) {
    worker *w = argument;
    pool *p = w->pool;
    fesetenv(FE_DFL_ENV);          /* the creator's rounding and flush modes must not reach results */
    for (uint32_t seen = 0;; seen++) {
        gate_wait(&p->start, seen, p->spin);
        if (!p->fn) return NULL;
        uint32_t n = atomic_load_explicit(&p->n_threads, memory_order_relaxed);
        team t = { p, w->thread, n, p->meet_value };
        p->fn(p->argument, &t);
        if (atomic_fetch_add_explicit(&p->finished, 1, memory_order_acq_rel) == n - 2)
            gate_open(&p->done, seen + 1);
    }
}

/* Sets the whole state and starts the workers; as many as the system gives. Called by pool_new, and again
 * in a child process. */
static void pool_start(pool *p) {
    gate_init(&p->start);
    gate_init(&p->meet);
    gate_init(&p->done);
    pthread_mutex_init(&p->run_lock, NULL);
    atomic_store(&p->arrived, 0);
    atomic_store(&p->finished, 0);
    atomic_store(&p->next, 0);
    p->spin = p->n_wanted <= cpus_allowed();

    /* Signals are the application's business: its handlers shall not run on our threads. Faults still stop
     * who made them. */
    sigset_t blocked, before;
    sigfillset(&blocked);
    sigdelset(&blocked, SIGSEGV);
    sigdelset(&blocked, SIGBUS);
    sigdelset(&blocked, SIGILL);
    sigdelset(&blocked, SIGFPE);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    uint32_t n = 1;
    for (; n < p->n_wanted; n++) {
        p->workers[n].pool = p;
        p->workers[n].thread = n;
        if (pthread_create(&p->workers[n].handle, &attributes, worker_main, &p->workers[n])) break;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    atomic_store(&p->n_threads, n);
}

ak42_status pool_new(pool **pool_out, uint32_t n_threads, ak42_error *err) {
    if (n_threads < 1 || n_threads > THREADS_MAX)
        return error_set(err, AK42_STATUS_ARG, "n_threads: expected 1 to %d, found %u", THREADS_MAX,
                         n_threads);
    void *memory = NULL;
    worker *workers = calloc(n_threads, sizeof *workers);
    if (!workers || posix_memalign(&memory, _Alignof(pool), sizeof(pool))) {
        free(workers);
        return error_set(err, AK42_STATUS_NOMEM, "threads: no memory for a pool of %u", n_threads);
    }
    pool *p = memory;
    memset(p, 0, sizeof *p);
    p->n_wanted = n_threads;
    p->workers = workers;
    atomic_store(&p->owner, (int64_t)getpid());
    pool_start(p);
    *pool_out = p;
    return AK42_STATUS_OK;
}

uint32_t pool_threads(const pool *pool) {
    return atomic_load_explicit(&pool->n_threads, memory_order_relaxed);
}

/* In a process that inherited the pool through fork, where its threads do not exist: the first caller
 * makes them anew, others wait for it. The handles, the locks' state and a run that was under way belong
 * to the parent and are forgotten. */
static void pool_adopt(pool *p) {
    int64_t self = (int64_t)getpid(), owner = atomic_load(&p->owner);
    if (owner == self) return;
    while (owner != self) {
        if (owner == -self) {
            sched_yield();
            owner = atomic_load(&p->owner);
        } else if (atomic_compare_exchange_strong(&p->owner, &owner, -self)) {
            pool_start(p);
            atomic_store(&p->owner, self);
            return;
        }
    }
}

void pool_run(pool *pool, team_fn *fn, void *argument) {
    pool_adopt(pool);
    pthread_mutex_lock(&pool->run_lock);
    fenv_t callers;
    fegetenv(&callers);
    fesetenv(FE_DFL_ENV);
    uint32_t n = atomic_load_explicit(&pool->n_threads, memory_order_relaxed);
    uint32_t meet_value = atomic_load_explicit(&pool->meet.value, memory_order_relaxed);
    team t = { pool, 0, n, meet_value };
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    if (n == 1) {
        fn(argument, &t);
    } else {
        uint32_t run = atomic_load_explicit(&pool->start.value, memory_order_relaxed);
        pool->fn = fn;
        pool->argument = argument;
        pool->meet_value = meet_value;
        atomic_store_explicit(&pool->finished, 0, memory_order_relaxed);
        gate_open(&pool->start, run + 1);
        fn(argument, &t);
        gate_wait(&pool->done, run, pool->spin);
    }
    fesetenv(&callers);
    pthread_mutex_unlock(&pool->run_lock);
}

void pool_free(pool *pool) {
    if (!pool) return;
    if (atomic_load(&pool->owner) == (int64_t)getpid()) {
        uint32_t n = atomic_load(&pool->n_threads);
        pool->fn = NULL;
        gate_open(&pool->start, atomic_load(&pool->start.value) + 1);
        for (uint32_t i = 1; i < n; i++) pthread_join(pool->workers[i].handle, NULL);
        pthread_mutex_destroy(&pool->run_lock);
        gate_destroy(&pool->start);
        gate_destroy(&pool->meet);
        gate_destroy(&pool->done);
    }
    free(pool->workers);
    free(pool);
}

void team_barrier(team *team) {
    pool *p = team->pool;
    if (team->n_threads == 1) {
        atomic_store_explicit(&p->next, 0, memory_order_relaxed);
        return;
    }
    if (atomic_fetch_add_explicit(&p->arrived, 1, memory_order_acq_rel) == team->n_threads - 1) {
        atomic_store_explicit(&p->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&p->next, 0, memory_order_relaxed);
        gate_open(&p->meet, team->sense + 1);
    } else {
        gate_wait(&p->meet, team->sense, p->spin);
    }
    team->sense++;
}

uint32_t team_next(team *team, uint32_t count) {
    _Atomic uint32_t *next = &team->pool->next;
    uint32_t index = atomic_load_explicit(next, memory_order_relaxed);
    if (index >= count) return index;          /* so that it never wraps, however often it is asked */
    return atomic_fetch_add_explicit(next, 1, memory_order_relaxed);
}

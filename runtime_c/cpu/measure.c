/* measure.c: ak42_measure and ak42_build_info. Timings only; nothing of a model. */
#include "measure.h"

#include <stdatomic.h>
#include <stdio.h>

#include "../core/error.h"
#include "threads.h"

/* A buffer that no cache holds, read several times in pieces that the threads draw; the mean counts, as of generation it is compared
 * with. Of the peaks the fastest pass counts. */
enum {
    READ_BYTES = 1 << 30, READ_BYTES_MIN = 64 << 20, READ_PIECE = 4 << 20, READ_PASSES = 6, PEAK_LOOPS = 2000000, PEAK_PASSES = 3,
    PAGE = 4096
};

static double seconds_now(void) { return (double)clock_ns() * 1e-9; }

typedef struct job {
    const kernel_table *kernels;
    uint8_t *data;
    uint64_t size;
    kernel_peak *peak;
    double seconds, operations;        /* of a pass; written by thread 0 */
    double done[1024];                 /* operations, by thread */
    atomic_uint_least64_t sink;
} job;

static void run_fill(void *argument, team *team) {
    job *j = argument;
    const uint64_t begin = j->size / PAGE * team->thread / team->n_threads * PAGE;
    const uint64_t end = j->size / PAGE * (team->thread + 1) / team->n_threads * PAGE;
    memset(j->data + begin, 1, (size_t)(end - begin));
}

static void run_read(void *argument, team *team) {
    job *j = argument;
    const uint32_t n_pieces = (uint32_t)(j->size / READ_PIECE);
    const double start = seconds_now();
    for (int pass = 0; pass < READ_PASSES; pass++) {
        for (uint32_t i; (i = team_next(team, n_pieces)) < n_pieces;)
            atomic_fetch_add(&j->sink, j->kernels->read(j->data + (uint64_t)i * READ_PIECE, READ_PIECE, j->kernels->foresees));
        team_barrier(team);
    }
    if (!team->thread) j->seconds = (seconds_now() - start) / READ_PASSES;
}

static void run_peak(void *argument, team *team) {
    job *j = argument;
    float sink[16];
    for (int pass = 0; pass < PEAK_PASSES; pass++) {
        team_barrier(team);
        const double start = seconds_now();
        j->done[team->thread] = j->peak(PEAK_LOOPS, sink);
        team_barrier(team);
        const double seconds = seconds_now() - start;
        atomic_fetch_add(&j->sink, (uint64_t)(sink[0] > 0));
        if (team->thread) continue;
        double operations = 0;
        for (uint32_t t = 0; t < team->n_threads; t++) operations += j->done[t];
        if (!pass || operations / seconds > j->operations / j->seconds) j->seconds = seconds, j->operations = operations;
    }
}

static double peak_of(pool *pool, job *j, kernel_peak *peak) {
    if (!peak) return 0;
    j->peak = peak;
    j->seconds = j->operations = 0;
    pool_run(pool, run_peak, j);
    return j->operations / j->seconds * 1e-9;
}

ak42_status measure_machine(ak42_measurement *out, uint32_t n_threads, const char *isa, ak42_error *err) {
    kernel_table kernels;
    pool *pool = NULL;
    ak42_status status = kernels_select(&kernels, isa, err);
    if (status || (status = pool_new(&pool, n_threads ? n_threads : threads_default(NULL, 0), err))) return status;
    job j = {.kernels = &kernels, .size = READ_BYTES};
    while (!(j.data = page_alloc(j.size)) && j.size > READ_BYTES_MIN) j.size /= 2;
    if (j.data) {
        pool_run(pool, run_fill, &j);
        pool_run(pool, run_read, &j);
        out->read_gb_per_s = (double)j.size / j.seconds * 1e-9;
        out->f32_gflops = peak_of(pool, &j, kernels.peak_f32);
        out->bf16_gflops = peak_of(pool, &j, kernels.peak_bf16);
        out->int8_gops = peak_of(pool, &j, kernels.peak_int8);
    } else {
        status = error_set(err, AK42_STATUS_NOMEM, "measure: %d bytes could not be had", (int)READ_BYTES_MIN);
    }
    page_free(j.data, j.size);
    pool_free(pool);
    return status;
}

/* ---- what was built ---- */

#if defined(__clang__)
#define TEXT_OF(macro) #macro
#define TEXT(macro) TEXT_OF(macro)
#define COMPILER "clang-" TEXT(__clang_major__) "." TEXT(__clang_minor__)
#elif defined(__GNUC__)
#define COMPILER "gcc-" __VERSION__
#else
#define COMPILER "unknown"
#endif

/* Written once; a second thread that comes at the same moment waits for the first. */
const char *ak42_build_info(void) {
    static char text[512];
    static atomic_int state;           /* 0 empty, 1 being written, 2 done */
    int expected = 0;
    if (atomic_compare_exchange_strong(&state, &expected, 1)) {
        char why[128] = "";
        kernel_table kernels;
        const char *isa = kernels_select(&kernels, NULL, NULL) ? "none" : kernels.isa;
        const uint32_t n_threads = threads_default(why, sizeof why);
        char built[128], *end = built;
        for (const char *c = kernels_built(); *c && end < built + sizeof built - 1; c++)
            if (*c != ' ') *end++ = *c;
        *end = 0;
        for (char *c = why; *c; c++)
            if (*c == ' ') *c = '_';
        snprintf(text, sizeof text, "version=%s compiler=%s isas=%s isa=%s n_threads=%u why=%s", AK42_VERSION, COMPILER,
                 built, isa, n_threads, why);
        atomic_store(&state, 2);
    }
    while (atomic_load(&state) != 2) {}
    return text;
}

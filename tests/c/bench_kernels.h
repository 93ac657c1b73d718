/* bench_kernels.h: the timings of check_kernels --bench. Each number stands beside a peak measured in turns with it, the best of
 * several short runs, so that what else the machine does cancels. */
#ifndef AK42_BENCH_KERNELS_H
#define AK42_BENCH_KERNELS_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "../../runtime_c/core/types.h"
#include "../../runtime_c/cpu/kernels.h"

enum { BENCH_ROUNDS = 25, BENCH_SUPERS = 32 /* 2048 columns */, BENCH_THREADS = 2 };
static const size_t BENCH_BYTES = (size_t)1 << 30;

static double bench_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Plausible values of every type: 0x3c3c as f16 is 1.06, as bf16 and f32 0.01, as u8 60. */
static uint8_t *bench_memory(size_t size) {
    const size_t huge = (size_t)2 << 20;
    uint8_t *pages = mmap(NULL, size + huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) {
        perror("check_kernels: mmap");
        exit(1);
    }
    pages += (huge - (uintptr_t)pages % huge) % huge;
    madvise(pages, size, MADV_HUGEPAGE);
    memset(pages, 0x3c, size);
    return pages;
}

/* ---- matrices ---- */

typedef struct bench_job {
    const kernel_table *table;
    gemm_args args;
    kernel_gemm *gemm;             /* NULL: plain reading */
    uint8_t *weights;
    size_t bytes;
} bench_job;

static volatile uint64_t bench_sink;

static void *bench_run(void *argument) {
    bench_job *job = argument;
    if (!job->gemm) {
        bench_sink += job->table->read(job->weights, job->bytes);
        return NULL;
    }
    /* chunks of about 128 KiB, as cpu_matmul hands them out */
    uint32_t step = (uint32_t)((128 * 1024) / job->args.panel_bytes) & ~1u, n = (uint32_t)(job->bytes / job->args.panel_bytes);
    if (step < 2) step = 2;
    for (uint32_t panel = 0; panel < n; panel += step) {
        job->args.n_panels = n - panel < step ? n - panel : step;
        job->args.panels = job->weights + panel * job->args.panel_bytes;
        job->gemm(&job->args);
    }
    return NULL;
}

/* GB/s of passing once over the buffer with n_threads threads. */
static double bench_stream(bench_job job, uint32_t n_threads) {
    pthread_t threads[BENCH_THREADS];
    bench_job jobs[BENCH_THREADS];
    float *outs = calloc(n_threads * TILE_TOKENS_MAX, 4096 * 4);
    const double start = bench_now();
    for (uint32_t i = 0; i < n_threads; i++) {
        jobs[i] = job;
        jobs[i].bytes = job.bytes / n_threads / 4096 * 4096;
        jobs[i].weights = job.weights + i * jobs[i].bytes;
        jobs[i].args.out = outs + i * TILE_TOKENS_MAX * 4096;
        if (i + 1 < n_threads) pthread_create(&threads[i], NULL, bench_run, &jobs[i]);
        else bench_run(&jobs[i]);
    }
    for (uint32_t i = 0; i + 1 < n_threads; i++) pthread_join(threads[i], NULL);
    const double seconds = bench_now() - start;
    free(outs);
    return (double)job.bytes / seconds * 1e-9;
}

static const char *const bench_rows[KERNEL_TYPES] = {"f32", "f16", "bf16", "q8_0", "int8", "q4_0", "q4_1"};
static const uint32_t bench_types[KERNEL_TYPES] = {TYPE_F32, TYPE_F16, TYPE_BF16, TYPE_Q8_0, TYPE_INT8, TYPE_Q4_0, TYPE_Q4_1};

static kernel_peak *bench_peak(const kernel_table *table, act_kind kind, const char **unit) {
    *unit = kind == ACT_Q8 ? "int8" : kind == ACT_BF16 ? "bf16" : "f32";
    return kind == ACT_Q8 ? table->peak_int8 : kind == ACT_BF16 ? table->peak_bf16 : table->peak_f32;
}

/* Full tiles, everything in the second-level cache: 4 panels pass over by 8 tiles. */
static void bench_tiles(const kernel_table *table, uint32_t row, bool wide, uint32_t n, const uint8_t *weights, const uint8_t *act) {
    const type_kernels *k = &table->types[row];
    const uint32_t group = row == KERNEL_INT8 ? 64 : 0, n_panels = 4, n_tiles = 8;
    static float out[TILE_TOKENS_MAX * 64];
    gemm_args args = {.out = out, .ldo = 64, .panels = weights, .n_panels = n_panels, .n_tokens = n, .n_super = BENCH_SUPERS,
                      .group_size = group};
    args.panel_bytes = wide ? (size_t)BENCH_SUPERS * k->wide_super_bytes
                            : (size_t)type_panel_bytes(type_by_id(bench_types[row]), group, BENCH_SUPERS * SUPER_K);
    const char *unit;
    kernel_peak *peak = bench_peak(table, k->act, &unit);
    double best = 1e9, peak_rate = 0;
    for (uint32_t round = 0; round < BENCH_ROUNDS; round++) {
        float sink = 0.5f;
        double start = bench_now();
        const double ops = peak ? peak(400000, &sink) : 0;
        if (ops / (bench_now() - start) > peak_rate) peak_rate = ops / (bench_now() - start);
        start = bench_now();
        for (uint32_t tile = 0; tile < n_tiles; tile++) {
            args.act = act + tile * n * act_token_bytes(k->act, BENCH_SUPERS * SUPER_K);
            (wide ? k->gemm_wide : k->gemm)(&args);
        }
        if (bench_now() - start < best) best = bench_now() - start;
    }
    const double rate = 2.0 * n_tiles * n * n_panels * PANEL_ROWS * BENCH_SUPERS * SUPER_K / best;
    printf("  %-5s %-5s %2u tokens %8.1f Gop/s", bench_rows[row], wide ? "wide" : "", n, rate * 1e-9);
    if (peak) printf("  %5.1f%% of the %s peak %.1f", 100 * rate / peak_rate, unit, peak_rate * 1e-9);
    printf("\n");
}

static void bench_unpack(const kernel_table *table, uint32_t row, const uint8_t *weights, uint8_t *wide) {
    const type_kernels *k = &table->types[row];
    double best = 1e9;
    for (uint32_t round = 0; round < BENCH_ROUNDS; round++) {
        const double start = bench_now();
        k->unpack(wide, weights, BENCH_SUPERS, 0);
        if (bench_now() - start < best) best = bench_now() - start;
    }
    printf("  %-5s unpack %8.1f Gweights/s\n", bench_rows[row], BENCH_SUPERS * 1024.0 / best * 1e-9);
}

static void bench_matrix(const kernel_table *table, uint32_t row, uint8_t *memory) {
    const type_kernels *k = &table->types[row];
    const uint32_t group = row == KERNEL_INT8 ? 64 : 0;
    uint8_t *act = aligned_alloc(64, 8 * TILE_TOKENS_MAX * BENCH_SUPERS * SUPER_K * 4);
    float *x = calloc(BENCH_SUPERS * SUPER_K * TILE_TOKENS_MAX, 4);
    for (uint32_t i = 0; i < BENCH_SUPERS * SUPER_K * TILE_TOKENS_MAX; i++) x[i] = (float)(i % 101) * 0.01f;
    for (uint32_t n = 1; n <= k->nr; n++) {
        if (n != 1 && n != 2 && n != 4 && n != 8 && n != k->nr) continue;
        for (uint32_t tile = 0; tile < 8; tile++)
            table->pack[k->act](act + tile * n * act_token_bytes(k->act, BENCH_SUPERS * SUPER_K), x, BENCH_SUPERS * SUPER_K, n,
                                BENCH_SUPERS * SUPER_K);
        bench_tiles(table, row, false, n, memory, act);
        if (k->unpack && n == k->nr) bench_tiles(table, row, true, n, memory, act);
    }
    if (k->unpack) bench_unpack(table, row, memory, memory + ((size_t)4 << 20));

    table->pack[k->act](act, x, BENCH_SUPERS * SUPER_K, 1, BENCH_SUPERS * SUPER_K);
    bench_job job = {.table = table, .gemm = k->gemm, .weights = memory, .bytes = BENCH_BYTES};
    job.args = (gemm_args){.ldo = 4096, .act = act, .n_super = BENCH_SUPERS, .group_size = group,
                           .panel_bytes = (size_t)type_panel_bytes(type_by_id(bench_types[row]), group, BENCH_SUPERS * SUPER_K)};
    for (uint32_t threads = 1; threads <= BENCH_THREADS; threads++) {
        static const uint32_t counts[] = {0, 1, 2, 4, 8};
        double best[ARRAY_LEN(counts)] = {0};
        for (uint32_t round = 0; round < 4; round++)
            for (uint32_t i = 0; i < ARRAY_LEN(counts); i++) {
                if (counts[i] > k->nr || (counts[i] > 2 && threads > 1)) continue;
                job.gemm = i ? k->gemm : NULL;
                job.args.n_tokens = counts[i];
                if (i) table->pack[k->act](act, x, BENCH_SUPERS * SUPER_K, counts[i], BENCH_SUPERS * SUPER_K);
                const double rate = bench_stream(job, threads);
                if (rate > best[i]) best[i] = rate;
            }
        printf("  %-5s %u threads, memory: read %.1f GB/s;", bench_rows[row], threads, best[0]);
        for (uint32_t i = 1; i < ARRAY_LEN(counts); i++)
            if (best[i] > 0) printf("  %u tokens %.1f (%.0f%%)", counts[i], best[i], 100 * best[i] / best[0]);
        printf("\n");
    }
    free(act);
    free(x);
}

static void bench(const kernel_table *table, const char *part) {
    printf("%s\n", table->isa);
    uint8_t *memory = bench_memory(BENCH_BYTES);
    for (uint32_t row = 0; row < KERNEL_TYPES; row++)
        if (!part || strcmp(part, bench_rows[row]) == 0) bench_matrix(table, row, memory);
    munmap(memory, BENCH_BYTES);
}

#endif

/* bench_kernels.h: the timings of check_kernels --bench. Every run stands between two runs of a peak (or
 * of plain reading), and the median of the ratios is printed, so that what else the machine does cancels;
 * rates are those of the best run. */
#ifndef AK42_BENCH_KERNELS_H
#define AK42_BENCH_KERNELS_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "../../runtime_c/core/types.h"
#include "../../runtime_c/cpu/kernels.h"

enum { BENCH_ROUNDS = 31, BENCH_SUPERS = 32 /* 2048 columns */, BENCH_THREADS = 2, BENCH_TILES = 8 };
static const size_t BENCH_BYTES = (size_t)1 << 29;

static double bench_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Huge pages, with plausible values of every type: 0x3c3c as f16 is 1.06, as bf16 and f32 0.01, as u8 60. */
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

static int bench_compare(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* A run does work_done units (of anything) and takes the time that it takes. */
typedef double bench_fn(void *context);

typedef struct bench_result {
    double best;                   /* units a second */
    double ratio;                  /* to the yardstick's rate beside it, median */
} bench_result;

static bench_result bench_measure(bench_fn *run, void *context, bench_fn *yardstick, void *yardstick_context,
                                  uint32_t rounds) {
    double ratios[BENCH_ROUNDS];
    bench_result result = {0};
    for (uint32_t i = 0; i < rounds; i++) {
        double rates[3];
        for (uint32_t k = 0; k < 3; k++) {
            const double start = bench_now();
            const double units = k == 1 ? run(context) : yardstick ? yardstick(yardstick_context) : 1;
            rates[k] = units / (bench_now() - start);
        }
        ratios[i] = 2 * rates[1] / (rates[0] + rates[2]);
        if (rates[1] > result.best) result.best = rates[1];
    }
    qsort(ratios, rounds, sizeof ratios[0], bench_compare);
    result.ratio = ratios[rounds / 2];
    return result;
}

static double bench_peak_run(void *context) {
    float sink = 0.5f;
    return (*(kernel_peak *const *)context)(150000, &sink);
}

/* ---- matrices ---- */

static const char *const bench_rows[KERNEL_TYPES] = {
    "f32", "f16", "bf16", "q8_0", "int8", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs",
    "mxfp4", "nf4"};

typedef struct bench_gemm {
    const type_kernels *kernels;
    gemm_args args;
    kernel_gemm *gemm;
    uint8_t *weights;
    size_t bytes, tile_bytes;
    const kernel_table *table;
} bench_gemm;

/* Full tiles, everything in the second-level cache: 4 panels pass under 8 tiles. Counts operations. */
static double bench_tiles_run(void *context) {
    bench_gemm *b = context;
    const uint8_t *act = b->args.act;
    const double ops = 2.0 * b->args.n_tokens * b->args.n_panels * PANEL_ROWS * BENCH_SUPERS * SUPER_K;
    double done = 0;
    for (; done < 5e7; done += ops * BENCH_TILES)
        for (uint32_t tile = 0; tile < BENCH_TILES; tile++) {
            b->args.act = act + tile * b->tile_bytes;
            b->gemm(&b->args);
        }
    b->args.act = act;
    return done;
}

static double bench_unpack_run(void *context) {
    bench_gemm *b = context;
    b->kernels->unpack(b->weights + ((size_t)8 << 20), b->weights, BENCH_SUPERS, b->args.group_size);
    return BENCH_SUPERS * SUPER_K * PANEL_ROWS;
}

static volatile uint64_t bench_sink;

/* One thread's part of a pass over the whole buffer, in chunks of about 128 KiB as cpu_matmul hands them
 * out. */
static void *bench_pass(void *context) {
    bench_gemm *b = context;
    if (!b->gemm) {
        bench_sink += b->table->read(b->weights, b->bytes, b->table->foresees);
        return NULL;
    }
    const uint32_t n = (uint32_t)(b->bytes / b->args.panel_bytes);
    uint32_t step = (uint32_t)((128 * 1024) / b->args.panel_bytes) & ~1u;
    if (step < 2) step = 2;
    for (uint32_t panel = 0; panel < n; panel += step) {
        b->args.n_panels = n - panel < step ? n - panel : step;
        b->args.panels = b->weights + panel * b->args.panel_bytes;
        b->gemm(&b->args);
    }
    return NULL;
}

typedef struct bench_stream {
    bench_gemm parts[BENCH_THREADS];
    uint32_t n_threads;
} bench_stream;

static double bench_stream_run(void *context) {
    bench_stream *s = context;
    pthread_t threads[BENCH_THREADS];
    for (uint32_t i = 1; i < s->n_threads; i++) pthread_create(&threads[i], NULL, bench_pass, &s->parts[i]);
    bench_pass(&s->parts[0]);
    for (uint32_t i = 1; i < s->n_threads; i++) pthread_join(threads[i], NULL);
    return (double)s->parts[0].bytes * s->n_threads;
}

static void bench_streams(const kernel_table *table, const bench_gemm *b, const char *name, const float *x) {
    static float out[BENCH_THREADS][TILE_TOKENS_MAX * 4096];
    for (uint32_t threads = 1; threads <= BENCH_THREADS; threads++) {
        printf("  %-5s from memory, %u threads, of plain reading:", name, threads);
        for (uint32_t n = 1; n <= b->kernels->nr && n <= 8; n *= 2) {
            bench_stream stream = {.n_threads = threads}, plain;
            for (uint32_t i = 0; i < threads; i++) {
                stream.parts[i] = *b;
                stream.parts[i].bytes = BENCH_BYTES / threads / 4096 * 4096;
                stream.parts[i].weights = b->weights + i * stream.parts[i].bytes;
                stream.parts[i].gemm = b->kernels->gemm;
                stream.parts[i].args.out = out[i];
                stream.parts[i].args.ldo = 4096;
                stream.parts[i].args.n_tokens = n;
                stream.parts[i].args.foreseen = kernel_foreseen(table, b->kernels, n);
            }
            outlier lists[TILE_TOKENS_MAX * OUTLIERS];
            table->pack[b->kernels->act]((uint8_t *)(uintptr_t)b->args.act, lists, x, BENCH_SUPERS * SUPER_K, n,
                                         BENCH_SUPERS * SUPER_K);
            plain = stream;
            for (uint32_t i = 0; i < threads; i++) plain.parts[i].gemm = NULL;
            const bench_result r = bench_measure(bench_stream_run, &stream, bench_stream_run, &plain, 5);
            printf("  %u token%s %.1f GB/s %.0f%%", n, n > 1 ? "s" : "", r.best * 1e-9, 100 * r.ratio);
        }
        printf("\n");
    }
}

static void bench_matrix(const kernel_table *table, uint32_t row, uint8_t *memory) {
    static float out[TILE_TOKENS_MAX * 64];
    const type_kernels *k = &table->types[row];
    const uint32_t columns = BENCH_SUPERS * SUPER_K, group = row == KERNEL_INT8 ? 64 : 0;
    kernel_peak *peak = act_is_q8(k->act) ? table->peak_int8 : k->act == ACT_BF16 ? table->peak_bf16
        : table->peak_f32;
    uint8_t *act = aligned_alloc(64, BENCH_TILES * TILE_TOKENS_MAX * columns * 4);
    float *x = calloc(TILE_TOKENS_MAX, columns * 4);
    if (!act || !x) exit(1);
    for (uint32_t i = 0; i < columns * TILE_TOKENS_MAX; i++) x[i] = (float)(i % 101) * 0.01f;
    const size_t panel_bytes = (size_t)type_panel_bytes(type_by_id(kernel_row_type(row)), group, columns);
    bench_gemm b = {.kernels = k, .weights = memory, .table = table,
                    .args = {.out = out, .ldo = 64, .panels = memory, .n_panels = 4, .act = act,
                             .n_super = BENCH_SUPERS,
                             .group_size = group, .panel_bytes = panel_bytes}};
    for (uint32_t n = 1; n <= k->nr; n++) {
        if ((n & (n - 1)) && n != k->nr) continue;
        b.args.n_tokens = n;
        b.tile_bytes = n * act_token_bytes(k->act, columns);
        outlier lists[TILE_TOKENS_MAX * OUTLIERS];
        for (uint32_t tile = 0; tile < BENCH_TILES; tile++)
            table->pack[k->act](act + tile * b.tile_bytes, lists, x, columns, n, columns);
        for (uint32_t wide = 0; wide < (k->unpack && n == k->nr ? 2 : 1); wide++) {
            b.gemm = wide ? k->gemm_wide : k->gemm;
            b.args.panel_bytes = wide ? (size_t)BENCH_SUPERS * k->wide_super_bytes : panel_bytes;
            b.args.super_bytes = (uint32_t)(b.args.panel_bytes / BENCH_SUPERS);
            const bench_result r = bench_measure(bench_tiles_run, &b, peak ? bench_peak_run : NULL, &peak,
                                                 BENCH_ROUNDS);
            printf("  %-5s %2u tokens%-5s %8.1f Gop/s", bench_rows[row], n, wide ? " wide" : "",
                   r.best * 1e-9);
            if (peak)
                printf("  %5.1f%% of the %s peak", 100 * r.ratio,
                       act_is_q8(k->act) ? "int8" : k->act == ACT_BF16 ? "bf16" : "f32");
            printf("\n");
        }
    }
    b.args.panel_bytes = panel_bytes;
    if (k->unpack) {
        const bench_result r = bench_measure(bench_unpack_run, &b, NULL, NULL, BENCH_ROUNDS);
        printf("  %-5s unpack %14.1f Gweights/s\n", bench_rows[row], r.best * 1e-9);
    }
    bench_streams(table, &b, bench_rows[row], x);
    free(act);
    free(x);
}

/* ---- attention ---- */

enum { BENCH_POSITIONS = 2048 };

typedef struct bench_attn {
    kernel_attn *attn;
    attn_args args;
    double ops;                    /* of a call */
} bench_attn;

/* All chunks of the cache. Counts operations. */
static double bench_attn_run(void *context) {
    bench_attn *b = context;
    for (b->args.chunk = 0; b->args.chunk < BENCH_POSITIONS; b->args.chunk += ATTN_CHUNK) b->attn(&b->args);
    return b->ops * (BENCH_POSITIONS / ATTN_CHUNK);
}

static void bench_attention(const kernel_table *table, uint8_t *memory) {
    static const char *const names[KV_TYPES] = {"", "f32", "f16", "bf16", "int8"};
    static float m[ATTN_ROWS_MAX], l[ATTN_ROWS_MAX], o[ATTN_ROWS_MAX * 128], q[ATTN_ROWS_MAX * 128];
    kernel_peak *peak = table->peak_f32;
    uint32_t begin[ATTN_ROWS_MAX] = {0}, end[ATTN_ROWS_MAX];
    const float *rows[ATTN_ROWS_MAX];
    for (uint32_t type = AK42_KV_TYPE_F32; type <= AK42_KV_TYPE_INT8; type++)
        for (uint32_t head_dim = 64; head_dim <= 128; head_dim += 64) {
            const size_t element = type == AK42_KV_TYPE_F32 ? 4 : type == AK42_KV_TYPE_INT8 ? 1 : 2;
            const size_t bytes = (size_t)BENCH_POSITIONS * head_dim * element;
            const kv_head head = {memory, memory + bytes, (float *)(void *)(memory + 2 * bytes),
                                  (float *)(void *)(memory + 2 * bytes)};
            for (uint32_t i = 0; i < ATTN_ROWS_MAX; i++) {
                end[i] = BENCH_POSITIONS;
                rows[i] = q + i * head_dim;
            }
            static const uint32_t counts[] = {1, 3, 4, 8, 9, 32};
            printf("  attn  %-4s head_dim %3u, of the f32 peak:", names[type], head_dim);
            for (uint32_t i = 0; i < ARRAY_LEN(counts); i++) {
                bench_attn b = {.attn = table->kv[type].attn, .ops = 4.0 * counts[i] * ATTN_CHUNK * head_dim,
                                .args = {.m = m, .l = l, .o = o, .q = rows, .begin = begin, .end = end,
                                         .n_rows = counts[i],
                                         .head_dim = head_dim, .kv = &head}};
                const bench_result r = bench_measure(bench_attn_run, &b, peak ? bench_peak_run : NULL, &peak,
                                                     BENCH_ROUNDS);
                printf("  %u rows %.0f%% %.0f GB/s", counts[i], 100 * r.ratio,
                       r.best / (4.0 * counts[i] * head_dim) * (double)(2 * head_dim * element) * 1e-9);
            }
            printf("\n");
        }
}

/* ---- activations and vectors ---- */

typedef struct bench_vector {
    const kernel_table *table;
    uint8_t *act;
    float *x, *y, *z;
    uint32_t n, kind, n_tokens;
} bench_vector;

enum { BENCH_CALLS = 32 };             /* of a run */

static double bench_pack_run(void *context) {
    bench_vector *b = context;
    outlier lists[TILE_TOKENS_MAX * OUTLIERS];
    for (uint32_t i = 0; i < BENCH_CALLS; i++) b->table->pack[b->kind](b->act, lists, b->x, b->n, b->n_tokens, b->n);
    return (double)BENCH_CALLS * b->n * b->n_tokens;
}
static double bench_rmsnorm_run(void *context) {
    bench_vector *b = context;
    for (uint32_t i = 0; i < BENCH_CALLS; i++) b->table->rmsnorm(b->z, b->x, b->y, b->n, 1e-5f);
    return (double)BENCH_CALLS * b->n;
}
static double bench_silu_run(void *context) {
    bench_vector *b = context;
    for (uint32_t i = 0; i < BENCH_CALLS; i++) b->table->silu_mul(b->z, b->x, b->y, b->n);
    return (double)BENCH_CALLS * b->n;
}
static double bench_scale_run(void *context) {
    bench_vector *b = context;
    for (uint32_t i = 0; i < BENCH_CALLS; i++) b->table->scale(b->z, b->x, 0.5f, b->n);
    return (double)BENCH_CALLS * b->n;
}
static double bench_rope_run(void *context) {
    bench_vector *b = context;
    for (uint32_t i = 0; i < BENCH_CALLS; i++)
        b->table->rope(b->x, b->y, b->z, b->n / 128, 128, 128, b->kind);
    return (double)BENCH_CALLS * b->n;
}
static double bench_store_run(void *context) {
    bench_vector *b = context;
    const kv_head head = {b->act, b->act + 65536, b->z, b->z};
    for (uint32_t i = 0; i < BENCH_CALLS; i++) b->table->kv[b->kind].store(&head, i, b->x, b->y, 128);
    return (double)BENCH_CALLS * 128 * 2;
}
static double bench_merge_run(void *context) {
    bench_vector *b = context;
    float m[8] = {1}, l[8] = {1};
    for (uint32_t i = 0; i < BENCH_CALLS; i++)
        b->table->attn_merge(&m[i % 8], &l[i % 8], b->z + i % 8 * 128, 1.1f, 1.0f, b->x, 128);
    return (double)BENCH_CALLS * 128;
}

static void bench_line(const char *name, bench_fn *run, bench_vector *b) {
    const bench_result r = bench_measure(run, b, NULL, NULL, BENCH_ROUNDS);
    printf("  %-18s %8.2f Gvalues/s\n", name, r.best * 1e-9);
}

static void bench_vectors(const kernel_table *table, uint8_t *memory) {
    static const char *const packs[] = {"pack f32", "pack bf16", "pack q8"};
    static const char *const stores[] = {"", "store f32", "store f16", "store bf16", "store int8"};
    bench_vector b = {.table = table, .act = memory, .n = 2048, .n_tokens = 1};
    b.x = (float *)(void *)(memory + ((size_t)1 << 20));
    b.y = b.x + 65536;
    b.z = b.y + 65536;
    for (uint32_t i = 0; i < 65536; i++) {
        b.x[i] = (float)(i % 101) * 0.01f;
        b.y[i] = 0.6f;             /* serves as a cosine too, and z as its sine */
        b.z[i] = 0.8f;
    }
    for (b.n_tokens = 1; b.n_tokens <= 8; b.n_tokens += 7)
        for (b.kind = 0; b.kind < ACT_COUNT; b.kind++) {
            char name[32];
            snprintf(name, sizeof name, "%s, %u", packs[b.kind], b.n_tokens);
            bench_line(name, bench_pack_run, &b);
        }
    b.kind = 0;
    bench_line("rope interleaved", bench_rope_run, &b);
    b.kind = 1;
    bench_line("rope half-split", bench_rope_run, &b);
    bench_line("rmsnorm", bench_rmsnorm_run, &b);
    bench_line("silu_mul", bench_silu_run, &b);
    bench_line("scale", bench_scale_run, &b);
    bench_line("attn_merge", bench_merge_run, &b);
    for (b.kind = AK42_KV_TYPE_F32; b.kind <= AK42_KV_TYPE_INT8; b.kind++)
        bench_line(stores[b.kind], bench_store_run, &b);
}

/* part: NULL for all, else a type's name, "attn" or "vectors". */
static void bench(const kernel_table *table, const char *part) {
    uint8_t *memory = bench_memory(BENCH_BYTES);
    printf("%s", table->isa);
    for (uint32_t i = 0; i < 3; i++) {
        kernel_peak *peak = i == 0 ? table->peak_f32 : i == 1 ? table->peak_bf16 : table->peak_int8;
        if (!peak) continue;
        const bench_result r = bench_measure(bench_peak_run, &peak, NULL, NULL, BENCH_ROUNDS);
        printf("  %s peak %.1f Gop/s", i == 0 ? "f32" : i == 1 ? "bf16" : "int8", r.best * 1e-9);
    }
    printf("\n");
    for (uint32_t row = 0; row < KERNEL_TYPES; row++)
        if (!part || strcmp(part, bench_rows[row]) == 0) bench_matrix(table, row, memory);
    if (!part || strcmp(part, "attn") == 0) bench_attention(table, memory);
    if (!part || strcmp(part, "vectors") == 0) bench_vectors(table, memory);
    munmap(memory, BENCH_BYTES);
}

#endif

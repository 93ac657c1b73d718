/* k_avx512.c: matrix products on F32, F16 and BF16 weights with f32 activations for x86-64 with AVX-512
 * (F, BW, DQ, VL), reading and peaks. Every output is one chain of fused multiply-adds, k ascending,
 * whatever the tile. The other slots of the ISA are filled by k_avx512_*.c. */
#if defined(__x86_64__)

#include "k_avx512.h"

/* ---- matrices ---- */

typedef enum float_form { FORM_F32, FORM_F16, FORM_BF16 } float_form;

enum { FLOAT_NR = 12 };

/* sum += w * x of one k. */
AVX512_FN void float_step(__m512 sum[24], __m512 *w, const float *x, int np, int n) {
    if (n > 1)
        AK42_UNROLL for (int p = 0; p < np; p++) AK42_KEEP(w[p]);
    AK42_UNROLL for (int t = 0; t < n; t++) {
        const __m512 value = _mm512_set1_ps(x[t]);
        AK42_UNROLL for (int p = 0; p < np; p++)
            sum[p * n + t] = _mm512_fmadd_ps(w[p], value, sum[p * n + t]);
    }
}

/* A k-pair of np panels. */
AVX512_FN void float_pair(__m512 sum[24], const uint8_t *panel, size_t panel_bytes, const size_t *far, const float *x,
                          int np, int n, float_form form) {
    __m512 first[4], second[4];
    AK42_UNROLL for (int p = 0; p < np; p++) {
        const uint8_t *at = panel + (size_t)p * panel_bytes;
        if (n < FLOAT_NR) {
            ask_line(at, far[p]);
            if (form == FORM_F32) ask_line(at + 64, far[p]);
        }
        if (form == FORM_F16) avx512_part_f16(&first[p], &second[p], at);
        else first[p] = form == FORM_F32 ? _mm512_load_ps(at) : avx512_bf16_first(_mm512_load_si512(at));
    }
    float_step(sum, first, x, np, n);
    AK42_UNROLL for (int p = 0; p < np; p++) {
        const uint8_t *at = panel + (size_t)p * panel_bytes;
        if (form != FORM_F16)
            second[p] = form == FORM_F32 ? _mm512_load_ps(at + 64) : avx512_bf16_second(_mm512_load_si512(at));
    }
    float_step(sum, second, x + n, np, n);
}

/* out for n tokens and np panels from panel on. */
AVX512_FN void float_tile(const gemm_args *args, uint32_t panel, int np, int n, float_form form) {
    const uint8_t *w = args->panels + panel * args->panel_bytes;
    const float *x = (const float *)(const void *)args->act;
    const size_t pair_bytes = form == FORM_F32 ? 128 : 64;
    __m512 sum[24];
    AK42_UNROLL for (int p = 0; p < np; p++)
        AK42_UNROLL for (int t = 0; t < n; t++)
            sum[p * n + t] = avx512_start(args, (size_t)t, panel + (size_t)p);
    for (size_t left = args->n_super * (SUPER_K / 2) * pair_bytes, bytes; left; left -= bytes) {
        size_t far[4];
        AK42_UNROLL for (int p = 0; p < np; p++)
            far[p] = ahead_far(left, gemm_jump(args, panel, (uint32_t)np, (uint32_t)p), args->foreseen);
        bytes = ahead_bytes(left);
        for (size_t i = 0; i < bytes; i += 2 * pair_bytes, w += 2 * pair_bytes, x += 4 * n) {
            float_pair(sum, w, args->panel_bytes, far, x, np, n, form);
            float_pair(sum, w + pair_bytes, args->panel_bytes, far, x + 2 * n, np, n, form);
        }
    }
    AK42_UNROLL for (int p = 0; p < np; p++)
        AK42_UNROLL for (int t = 0; t < n; t++) {
            float *out = args->out + t * args->ldo + (panel + (uint32_t)p) * PANEL_ROWS;
            const __m512 old = args->accumulate ? _mm512_loadu_ps(out) : _mm512_setzero_ps();
            _mm512_storeu_ps(out, args->accumulate ? _mm512_add_ps(old, sum[p * n + t]) : sum[p * n + t]);
        }
}

/* np panels at once, and what is left one by one. */
AVX512_FN void float_panels(const gemm_args *args, int np, int n, float_form form) {
    uint32_t panel = 0;
    for (; panel + (uint32_t)np <= args->n_panels; panel += (uint32_t)np)
        float_tile(args, panel, np, n, form);
    for (; panel < args->n_panels; panel++) float_tile(args, panel, 1, n, form);
}

/* One function for each number of tokens, so that all of a tile stays in registers: np panels in flight
 * hide the latency of the chains. */
#define FLOAT_GEMM_N(name, n, np, form) \
    AVX512 static void name##_##n(const gemm_args *args) { float_panels(args, np, n, form); }
#define FLOAT_GEMM(name, form)                                                                       \
    FLOAT_GEMM_N(name, 1, 4, form)                                                                   \
    FLOAT_GEMM_N(name, 2, 4, form)                                                                   \
    FLOAT_GEMM_N(name, 3, 4, form)                                                                   \
    FLOAT_GEMM_N(name, 4, 4, form)                                                                   \
    FLOAT_GEMM_N(name, 5, 2, form)                                                                   \
    FLOAT_GEMM_N(name, 6, 2, form)                                                                   \
    FLOAT_GEMM_N(name, 7, 2, form)                                                                   \
    FLOAT_GEMM_N(name, 8, 2, form)                                                                   \
    FLOAT_GEMM_N(name, 9, 2, form)                                                                   \
    FLOAT_GEMM_N(name, 10, 2, form)                                                                  \
    FLOAT_GEMM_N(name, 11, 2, form)                                                                  \
    FLOAT_GEMM_N(name, 12, 2, form)                                                                  \
    static void name(const gemm_args *args) {                                                        \
        kernel_gemm *const by_tokens[FLOAT_NR] = {name##_1, name##_2, name##_3, name##_4,            \
                                                  name##_5, name##_6, name##_7, name##_8,            \
                                                  name##_9, name##_10, name##_11, name##_12};        \
        by_tokens[args->n_tokens - 1](args);                                                         \
    }

FLOAT_GEMM(gemm_f32, FORM_F32)
FLOAT_GEMM(gemm_f16, FORM_F16)
FLOAT_GEMM(gemm_bf16, FORM_BF16)

/* F16 and BF16 panels widen to F32 panels. F32 panels are copied: side by side they do not fall on the same sets of the cache, as
 * panels do that are a power of two apart. */
AVX512 static void unpack_f32(uint8_t *dst, const uint8_t *panel, uint32_t n_super, uint32_t group_size) {
    (void)group_size;
    memcpy(dst, panel, (size_t)n_super * SUPER_K * PANEL_ROWS * 4);
}
AVX512 static void unpack_f16(uint8_t *dst, const uint8_t *panel, uint32_t n_super, uint32_t group_size) {
    (void)group_size;
    for (size_t line = 0; line < (size_t)n_super * (SUPER_K / 2); line++) {
        __m512 first, second;
        avx512_part_f16(&first, &second, panel + line * 64);
        _mm512_store_ps(dst + line * 128, first);
        _mm512_store_ps(dst + line * 128 + 64, second);
    }
}
AVX512 static void unpack_bf16(uint8_t *dst, const uint8_t *panel, uint32_t n_super, uint32_t group_size) {
    (void)group_size;
    for (size_t line = 0; line < (size_t)n_super * (SUPER_K / 2); line++) {
        const __m512i both = _mm512_load_si512(panel + line * 64);
        _mm512_store_ps(dst + line * 128, avx512_bf16_first(both));
        _mm512_store_ps(dst + line * 128 + 64, avx512_bf16_second(both));
    }
}

/* ---- reading and peaks ---- */

AVX512 static uint64_t read_sum(const uint8_t *data, size_t size, bool foreseen) {
    const size_t far = foreseen ? 0 : AHEAD_FAR;
    __m512i sum[4];
    AK42_UNROLL for (int i = 0; i < 4; i++) sum[i] = _mm512_setzero_si512();
    for (size_t at = 0; at < size; at += 256)
        AK42_UNROLL for (int i = 0; i < 4; i++) {
            ask_line(data + at + i * 64, far);
            sum[i] = _mm512_add_epi64(sum[i], _mm512_load_si512(data + at + i * 64));
        }
    const __m512i all = _mm512_add_epi64(_mm512_add_epi64(sum[0], sum[1]), _mm512_add_epi64(sum[2], sum[3]));
    uint64_t lanes[8], total = 0;
    _mm512_storeu_si512(lanes, all);
    for (int i = 0; i < 8; i++) total += lanes[i];
    return total;
}

enum { PEAK_CHAINS = 16 };

AVX512 static double peak_f32(uint64_t n, float *sink) {
    const __m512 a = _mm512_set1_ps((float)(n % 8)), b = _mm512_set1_ps(0.5f);
    __m512 sum[PEAK_CHAINS], all = _mm512_setzero_ps();
    AK42_UNROLL for (int i = 0; i < PEAK_CHAINS; i++) sum[i] = _mm512_set1_ps((float)i);
    const uint64_t rounds = n / PEAK_CHAINS;
    for (uint64_t r = 0; r < rounds; r++)
        AK42_UNROLL for (int i = 0; i < PEAK_CHAINS; i++) sum[i] = _mm512_fmadd_ps(a, b, sum[i]);
    AK42_UNROLL for (int i = 0; i < PEAK_CHAINS; i++) all = _mm512_add_ps(all, sum[i]);
    *sink = _mm512_reduce_add_ps(all);
    return (double)rounds * PEAK_CHAINS * 32;
}

/* ---- outliers ---- */

/* Where a column's 16 quants and scales lie in a panel, and how they become floats: the byte of each group of 4 columns by a shuffle,
 * the nibble by a shift and a mask, less the quant that stands for zero. */
typedef struct outlier_column {
    size_t quants, scales, mins;
    __m512i byte;                      /* takes the column's byte to the lowest of its lane, zeros above */
    __m128i shift;
    __m512 value;
} outlier_column;

/* quants_at: bytes before a superblock's quants. */
AVX512_FN outlier_column outlier_at(outlier o, uint32_t scale_columns, uint32_t scale_bytes, uint32_t quants_at, bool nibbles) {
    const uint32_t k = o.column % SUPER_K, super = quants_at + (nibbles ? 512 : 1024);
    const size_t at = (size_t)(o.column / SUPER_K) * super;
    const __m512i lanes = _mm512_set4_epi32(12, 8, 4, 0);
    return (outlier_column){
        .quants = at + quants_at + (nibbles ? k / 4 % 8 : k / 4) * 64,
        .scales = at + k / scale_columns * scale_bytes,
        .mins = at + 64 + k / 32 * 32,
        .byte = _mm512_or_si512(_mm512_add_epi32(lanes, _mm512_set1_epi32((int32_t)(k % 4))), _mm512_set1_epi32((int32_t)0x80808000)),
        .shift = _mm_cvtsi32_si128(k >= 32 ? 4 : 0),
        .value = _mm512_set1_ps(o.value),
    };
}

AVX512_FN __m512 outlier_halves(const uint8_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

/* sum + weight * value for 16 rows of a panel. */
AVX512_FN __m512 outlier_add(__m512 sum, const outlier_column *c, const uint8_t *panel, int32_t zero, bool halves, bool nibbles,
                             bool mins) {
    __m512i q = _mm512_shuffle_epi8(_mm512_loadu_si512(panel + c->quants), c->byte);
    if (nibbles) q = _mm512_and_si512(_mm512_srl_epi32(q, c->shift), _mm512_set1_epi32(15));
    if (zero) q = _mm512_sub_epi32(q, _mm512_set1_epi32(zero));
    const __m512 scale = halves ? outlier_halves(panel + c->scales) : _mm512_loadu_ps(panel + c->scales);
    if (mins) {
        const __m512 weight = _mm512_fmadd_ps(_mm512_cvtepi32_ps(q), scale, outlier_halves(panel + c->mins));
        return _mm512_fmadd_ps(weight, c->value, sum);
    }
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(q), _mm512_mul_ps(scale, c->value), sum);
}

AVX512_FN void outliers_multiply(const outliers_args *a, uint32_t scale_columns, uint32_t scale_bytes, uint32_t quants_at, int32_t zero,
                                 bool nibbles, bool mins) {
    for (uint32_t t = 0; t < a->n_tokens; t++) {
        outlier_column columns[OUTLIERS];
        for (uint32_t i = 0; i < OUTLIERS; i++)
            columns[i] = outlier_at(a->lists[t * OUTLIERS + i], scale_columns, scale_bytes, quants_at, nibbles);
        const uint8_t *panel = a->panels;
        float *out = a->out + t * a->ldo;
        for (uint32_t p = 0; p < a->n_panels; p++, panel += a->panel_bytes, out += PANEL_ROWS) {
            __m512 sum = _mm512_setzero_ps();
            AK42_UNROLL for (uint32_t i = 0; i < OUTLIERS; i++)
                sum = outlier_add(sum, &columns[i], panel, zero, scale_bytes == 32, nibbles, mins);
            _mm512_storeu_ps(out, _mm512_add_ps(_mm512_loadu_ps(out), sum));
        }
    }
}

AVX512 static void outliers_q8_0(const outliers_args *a) { outliers_multiply(a, 32, 32, 64, 128, false, false); }
AVX512 static void outliers_int8(const outliers_args *a) {
    outliers_multiply(a, a->group_size, 64, SUPER_K / a->group_size * 64, 128, false, false);
}
AVX512 static void outliers_q4_0(const outliers_args *a) { outliers_multiply(a, 32, 32, 64, 8, true, false); }
AVX512 static void outliers_q4_1(const outliers_args *a) { outliers_multiply(a, 32, 32, 128, 0, true, true); }

void kernels_fill_avx512(kernel_table *table) {
    table->outliers[KERNEL_Q8_0] = outliers_q8_0;
    table->outliers[KERNEL_INT8] = outliers_int8;
    table->outliers[KERNEL_Q4_0] = outliers_q4_0;
    table->outliers[KERNEL_Q4_1] = outliers_q4_1;
    avx512_fill_blocks(table);
    const uint32_t f32_super_bytes = SUPER_K * PANEL_ROWS * 4;
    table->kv_default = AK42_KV_TYPE_F16;
    table->types[KERNEL_F32] = (type_kernels){
        .act = ACT_F32, .nr = FLOAT_NR, .gemm = gemm_f32, .unpack = unpack_f32, .gemm_wide = gemm_f32,
        .wide_super_bytes = f32_super_bytes, .wide_from = 48, .in_order = true};
    table->types[KERNEL_F16] = (type_kernels){
        .act = ACT_F32, .nr = FLOAT_NR, .gemm = gemm_f16, .unpack = unpack_f16, .gemm_wide = gemm_f32,
        .wide_super_bytes = f32_super_bytes, .wide_from = 32};
    table->types[KERNEL_BF16] = (type_kernels){
        .act = ACT_F32, .nr = FLOAT_NR, .gemm = gemm_bf16, .unpack = unpack_bf16, .gemm_wide = gemm_f32,
        .wide_super_bytes = f32_super_bytes, .wide_from = 96};
    avx512_fill_quant(table);
    avx512_fill_pack(table);
    avx512_fill_attn(table);
    avx512_fill_store(table);
    avx512_fill_vectors(table);
    table->read = read_sum;
    table->peak_f32 = peak_f32;
}

#else
typedef int k_avx512_is_empty;
#endif

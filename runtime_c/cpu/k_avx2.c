/* k_avx2.c: kernels for x86-64 with AVX2, FMA and F16C: float matrix products, packing of activations, the
 * vector steps, peaks. Quantised products and attention are in k_avx2_quant.c and k_avx2_attn.c. */
#include "k_avx2.h"

#if defined(__x86_64__)

#include <math.h>

#include "../core/config.h"
#include "outliers.h"

enum { FLOAT_NR = 6, WIDE_BYTES = SUPER_K * PANEL_ROWS * 4 };

/* ---- float matrices ---- */

/* Panels [0, n_panels) in steps of np; returns how many were done. */
AVX2_FN uint32_t float_panels(const gemm_args *args, uint32_t first, int np, int n, avx2_form form) {
    const float *x[FLOAT_NR];
    for (int t = 0; t < n; t++) x[t] = (const float *)(const void *)args->act + t;
    for (; first + (uint32_t)np <= args->n_panels; first += (uint32_t)np) {
        __m256 sum[AVX2_TILE_MAX];
        for (int p = 0; p < np; p++)
            for (int t = 0; t < n; t++) avx2_start(&sum[(p * n + t) * 2], args, (size_t)t, first + (uint32_t)p);
        avx2_tile(sum, args->panels + first * args->panel_bytes, args->panel_bytes, args->n_super * SUPER_K,
                  x, (size_t)n, np, n, form, n < 4 && !args->foreseen);
        for (int p = 0; p < np; p++)
            for (int t = 0; t < n; t++)
                avx2_put(args->out + (size_t)t * args->ldo + (first + (uint32_t)p) * PANEL_ROWS,
                         sum[(p * n + t) * 2], sum[(p * n + t) * 2 + 1], args->accumulate);
    }
    return first;
}

/* Few tokens take several panels at a time: a chain of multiply-adds each is too few to keep the units
 * busy. */
AVX2_FN void float_gemm(const gemm_args *args, avx2_form form) {
    switch (args->n_tokens) {
        case 1: float_panels(args, float_panels(args, 0, 4, 1, form), 1, 1, form); break;
        case 2: float_panels(args, float_panels(args, 0, 2, 2, form), 1, 2, form); break;
        case 3: float_panels(args, float_panels(args, 0, 2, 3, form), 1, 3, form); break;
        case 4: float_panels(args, 0, 1, 4, form); break;
        case 5: float_panels(args, 0, 1, 5, form); break;
        default: float_panels(args, 0, 1, FLOAT_NR, form); break;
    }
}

static AK42_TARGET(AVX2_TARGET) void gemm_f32(const gemm_args *args) { float_gemm(args, AVX2_F32); }
static AK42_TARGET(AVX2_TARGET) void gemm_f16(const gemm_args *args) { float_gemm(args, AVX2_F16); }
static AK42_TARGET(AVX2_TARGET) void gemm_bf16(const gemm_args *args) { float_gemm(args, AVX2_BF16); }

/* 16-bit panels to f32 ones, for gemm_f32: the same sums without a conversion for every tile of tokens. */
AVX2_FN void unpack_pairs(uint8_t *dst, const uint8_t *panel, uint32_t n_super, avx2_form form) {
    for (size_t i = 0; i < (size_t)n_super * (SUPER_K / 2); i++, panel += 64, dst += 128)
        for (int h = 0; h < 2; h++) {
            __m256 w[2];
            avx2_pair(w, panel + h * 32, form);
            for (int odd = 0; odd < 2; odd++)
                _mm256_store_ps((float *)(void *)(dst + odd * 64 + h * 32),
                                form == AVX2_F16 ? avx2_in_order(w[odd]) : w[odd]);
        }
}
/* A copy: side by side panels do not fall on the same sets of the cache, as they do where they are a power of two apart. */
static void unpack_f32(uint8_t *dst, const uint8_t *panel, uint32_t n_super, uint32_t group_size) {
    (void)group_size;
    memcpy(dst, panel, (size_t)n_super * WIDE_BYTES);
}
static AK42_TARGET(AVX2_TARGET) void unpack_f16(uint8_t *dst, const uint8_t *panel, uint32_t n_super,
                                                uint32_t group_size) {
    (void)group_size;
    unpack_pairs(dst, panel, n_super, AVX2_F16);
}
static AK42_TARGET(AVX2_TARGET) void unpack_bf16(uint8_t *dst, const uint8_t *panel, uint32_t n_super,
                                                 uint32_t group_size) {
    (void)group_size;
    unpack_pairs(dst, panel, n_super, AVX2_BF16);
}

/* ---- activations ---- */

typedef __m256 block_floats[4];

AVX2_FN void load_floats(block_floats v, const float *x) {
    for (int i = 0; i < 4; i++) v[i] = _mm256_loadu_ps(x + i * 8);
}

/* 8 rows of 4 columns of u32 side by side: the largest. */
AVX2_FN uint32_t max_u32(__m256i v) {
    __m128i half = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    half = _mm_max_epu32(half, _mm_shuffle_epi32(half, _MM_SHUFFLE(1, 0, 3, 2)));
    half = _mm_max_epu32(half, _mm_shuffle_epi32(half, _MM_SHUFFLE(2, 3, 0, 1)));
    return (uint32_t)_mm_cvtsi128_si32(half);
}

AVX2_FN uint32_t max_magnitude(block_floats v) {
    const __m256i mask = _mm256_set1_epi32(0x7fffffff);
    __m256i max = _mm256_and_si256(_mm256_castps_si256(v[0]), mask);
    for (int i = 1; i < 4; i++)
        max = _mm256_max_epu32(max, _mm256_and_si256(_mm256_castps_si256(v[i]), mask));
    return max_u32(max);
}

AVX2_FN int32_t quant_codes32(uint8_t *codes, block_floats v, float inverse) {
    const __m256 factor = _mm256_set1_ps(inverse);
    __m256i q[4], sum;
    for (int i = 0; i < 4; i++)
        q[i] = inverse == 0.0f ? _mm256_setzero_si256() : _mm256_cvtps_epi32(_mm256_mul_ps(v[i], factor));
    sum = _mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3]));
    /* Packing works within halves of a register, and leaves the 8 words of codes in the order 0 2 4 6 1 3
     * 5 7. */
    const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    _mm256_storeu_si256((__m256i *)(void *)codes,
                        _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, _MM_SHUFFLE(1, 0, 3, 2)));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, _MM_SHUFFLE(2, 3, 0, 1)));
    return _mm_cvtsi128_si32(half);
}

#define PACK_FN AVX2_FN
#define PACK_TARGET AK42_TARGET(AVX2_TARGET)
#include "k_pack.h"

/* ---- vectors ---- */

static AK42_TARGET(AVX2_TARGET) void rmsnorm(float *out, const float *x, const float *weight, uint32_t n,
                                             float eps) {
    __m256d sum[4] = { _mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd() };
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 4; j++) {
            const __m256d v = _mm256_cvtps_pd(_mm_loadu_ps(x + i + j * 4));
            sum[j] = _mm256_fmadd_pd(v, v, sum[j]);
        }
    sum[0] = _mm256_add_pd(_mm256_add_pd(sum[0], sum[1]), _mm256_add_pd(sum[2], sum[3]));
    double parts[4], total;
    _mm256_storeu_pd(parts, sum[0]);
    total = (parts[0] + parts[1]) + (parts[2] + parts[3]);
    for (; i < n; i++) total += (double)x[i] * x[i];
    const float factor = (float)(1.0 / sqrt(total / n + eps));
    for (i = 0; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, _mm256_mul_ps(_mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(factor)),
                                                _mm256_loadu_ps(weight + i)));
    for (; i < n; i++) out[i] = x[i] * factor * weight[i];
}

/* (a, b) -> (a cos - b sin, b cos + a sin) */
AVX2_FN void rope_one(float *a, float *b, float cosine, float sine) {
    const float real = fmaf(*a, cosine, -(*b * sine)), imaginary = fmaf(*b, cosine, *a * sine);
    *a = real;
    *b = imaginary;
}

AVX2_FN void rope_interleaved(float *x, const float *cosine, const float *sine, uint32_t half) {
    uint32_t i = 0;
    for (; i + 4 <= half; i += 4) {
        const __m256i twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
        const __m256 c = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(cosine + i)), twice);
        const __m256 s = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(sine + i)), twice);
        const __m256 v = _mm256_loadu_ps(x + 2 * i), swapped = _mm256_permute_ps(v, _MM_SHUFFLE(2, 3, 0, 1));
        _mm256_storeu_ps(x + 2 * i, _mm256_fmaddsub_ps(v, c, _mm256_mul_ps(swapped, s)));
    }
    for (; i < half; i++) rope_one(x + 2 * i, x + 2 * i + 1, cosine[i], sine[i]);
}

AVX2_FN void rope_half_split(float *x, const float *cosine, const float *sine, uint32_t half) {
    uint32_t i = 0;
    for (; i + 8 <= half; i += 8) {
        const __m256 c = _mm256_loadu_ps(cosine + i), s = _mm256_loadu_ps(sine + i);
        const __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + half + i);
        _mm256_storeu_ps(x + i, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)));
        _mm256_storeu_ps(x + half + i, _mm256_fmadd_ps(b, c, _mm256_mul_ps(a, s)));
    }
    for (; i < half; i++) rope_one(x + i, x + half + i, cosine[i], sine[i]);
}

static AK42_TARGET(AVX2_TARGET) void rope(float *x, const float *cosine, const float *sine, uint32_t n_heads,
                                          uint32_t head_dim, uint32_t rotary_dim, uint32_t rope_layout) {
    for (uint32_t h = 0; h < n_heads; h++, x += head_dim) {
        if (rope_layout == ROPE_LAYOUT_INTERLEAVED) rope_interleaved(x, cosine, sine, rotary_dim / 2);
        else rope_half_split(x, cosine, sine, rotary_dim / 2);
    }
}

AVX2_FN __m256 silu_times(__m256 gate, __m256 up) {
    const __m256 one = _mm256_set1_ps(1.0f), e = avx2_exp(_mm256_sub_ps(_mm256_setzero_ps(), gate));
    return _mm256_mul_ps(_mm256_div_ps(gate, _mm256_add_ps(one, e)), up);
}

static AK42_TARGET(AVX2_TARGET) void silu_mul(float *out, const float *gate, const float *up, uint32_t n) {
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, silu_times(_mm256_loadu_ps(gate + i), _mm256_loadu_ps(up + i)));
    if (i == n) return;
    float a[8] = { 0 }, b[8] = { 0 };
    memcpy(a, gate + i, (n - i) * sizeof(float));
    memcpy(b, up + i, (n - i) * sizeof(float));
    _mm256_storeu_ps(a, silu_times(_mm256_loadu_ps(a), _mm256_loadu_ps(b)));
    memcpy(out + i, a, (n - i) * sizeof(float));
}

static AK42_TARGET(AVX2_TARGET) void scale(float *out, const float *x, float factor, uint32_t n) {
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(factor)));
    for (; i < n; i++) out[i] = x[i] * factor;
}

/* ---- measuring ---- */

static AK42_TARGET(AVX2_TARGET) uint64_t read_sum(const uint8_t *data, size_t size, bool foreseen) {
    const size_t far = foreseen ? 0 : AHEAD_FAR;
    __m256i sum[4] = { _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                       _mm256_setzero_si256() };
    for (size_t i = 0; i < size; i += 256)
        AK42_UNROLL for (size_t j = 0; j < 8; j++) {
            if (j % 2 == 0) ask_line(data + i + j * 32, far);
            sum[j % 4] = _mm256_add_epi64(sum[j % 4], avx2_load(data + i + j * 32));
        }
    sum[0] = _mm256_add_epi64(_mm256_add_epi64(sum[0], sum[1]), _mm256_add_epi64(sum[2], sum[3]));
    uint64_t parts[4];
    _mm256_storeu_si256((__m256i *)(void *)parts, sum[0]);
    return parts[0] + parts[1] + parts[2] + parts[3];
}

/* Twelve independent chains of fused multiply-adds. */
static AK42_TARGET(AVX2_TARGET) double peak_f32(uint64_t n, float *sink) {
    __m256 sum[12], a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(0.25f);
    AK42_UNROLL for (int i = 0; i < 12; i++) sum[i] = _mm256_set1_ps((float)i);
    for (uint64_t k = 0; k < n; k++) {
        AK42_UNROLL for (int i = 0; i < 12; i++) sum[i] = _mm256_fmadd_ps(sum[i], a, b);
    }
    AK42_UNROLL for (int i = 1; i < 12; i++) sum[0] = _mm256_add_ps(sum[0], sum[i]);
    *sink = avx2_sum(sum[0]);
    return (double)n * 12 * 16;
}

AK42_TARGET("avx2,fma,f16c") static inline void widen_halves(float *out, const uint8_t *in) {
    for (uint32_t r = 0; r < PANEL_ROWS; r += 8)
        _mm256_storeu_ps(out + r, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(in + 2 * r))));
}

#define OUTLIERS_NAME(name) outliers_##name
#define OUTLIERS_TARGET AK42_TARGET("avx2,f16c")
#define OUTLIERS_HALVES widen_halves
#include "k_outliers.h"

void kernels_fill_avx2(kernel_table *table) {
    outliers_fill(table);
    avx2_fill_blocks(table);
    avx2_fill_encode(table);
    table->kv_default = AK42_KV_TYPE_F16;
    table->types[KERNEL_F32] = (type_kernels){
        .act = ACT_F32, .nr = FLOAT_NR, .gemm = gemm_f32, .unpack = unpack_f32, .gemm_wide = gemm_f32,
        .in_order = true, .wide_super_bytes = WIDE_BYTES, .wide_from = 48};
    table->types[KERNEL_F16] = (type_kernels){
        .act = ACT_F32, .nr = FLOAT_NR, .gemm = gemm_f16, .unpack = unpack_f16, .gemm_wide = gemm_f32, .wide_super_bytes = WIDE_BYTES};
    table->types[KERNEL_BF16] = (type_kernels){
        .act = ACT_F32, .nr = FLOAT_NR, .gemm = gemm_bf16, .unpack = unpack_bf16, .gemm_wide = gemm_f32, .in_order = true,
        .wide_super_bytes = WIDE_BYTES};
    table->pack[ACT_F32] = pack_f32;
    table->pack[ACT_Q8] = pack_q8;
    table->rmsnorm = rmsnorm;
    table->rope = rope;
    table->silu_mul = silu_mul;
    table->scale = scale;
    table->read = read_sum;
    table->peak_f32 = peak_f32;
    avx2_fill_quant(table);
    avx2_fill_attention(table);
    avx2_fill_gates(table);
}

#else

void kernels_fill_avx2(kernel_table *table) { (void)table; }

#endif

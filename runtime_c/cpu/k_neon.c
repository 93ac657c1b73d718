/* k_neon.c: kernels for aarch64 with NEON: float matrix products, packing of activations, the vector
 * steps, peaks. Quantised products are in k_neon_quant.c and k_neon_blocks.c, attention in
 * k_neon_attn.c. */
#include "k_neon.h"

#if defined(__aarch64__)

#include <math.h>

#include "../core/config.h"
#include "outliers.h"

enum { FLOAT_NR = 6, WIDE_BYTES = SUPER_K * PANEL_ROWS * 4 };

/* ---- float matrices ---- */

/* Panels from first on, in steps of np; returns the first that is left. */
NEON_FN uint32_t float_panels(const gemm_args *args, uint32_t first, int np, int n, neon_form form) {
    const float *x[FLOAT_NR];
    for (int t = 0; t < n; t++) x[t] = (const float *)(const void *)args->act + t;
    for (; first + (uint32_t)np <= args->n_panels; first += (uint32_t)np) {
        float32x4_t sum[NEON_TILE_MAX];
        for (int p = 0; p < np; p++)
            for (int t = 0; t < n; t++) neon_start(&sum[(p * n + t) * 4], args, (size_t)t, first + (uint32_t)p);
        neon_tile(sum, args->panels + first * args->panel_bytes, args->panel_bytes, args->n_super * SUPER_K,
                  x, (size_t)n, np, n, form);
        for (int p = 0; p < np; p++)
            for (int t = 0; t < n; t++)
                neon_put(args->out + (size_t)t * args->ldo + (first + (uint32_t)p) * PANEL_ROWS,
                         &sum[(p * n + t) * 4], args->accumulate);
    }
    return first;
}

/* Few tokens take several panels at a time: a chain of multiply-adds each is too few to keep the units
 * busy. */
NEON_FN void float_gemm(const gemm_args *args, neon_form form) {
    switch (args->n_tokens) {
        case 1: float_panels(args, float_panels(args, 0, 4, 1, form), 1, 1, form); break;
        case 2: float_panels(args, float_panels(args, 0, 2, 2, form), 1, 2, form); break;
        case 3: float_panels(args, float_panels(args, 0, 2, 3, form), 1, 3, form); break;
        case 4: float_panels(args, 0, 1, 4, form); break;
        case 5: float_panels(args, 0, 1, 5, form); break;
        default: float_panels(args, 0, 1, FLOAT_NR, form); break;
    }
}

static void gemm_f32(const gemm_args *args) { float_gemm(args, NEON_F32); }
static void gemm_f16(const gemm_args *args) { float_gemm(args, NEON_F16); }
static void gemm_bf16(const gemm_args *args) { float_gemm(args, NEON_BF16); }

/* 16-bit panels to f32 ones, for gemm_f32: the same sums without a conversion for every tile of tokens. */
NEON_FN void unpack_pairs(uint8_t *dst, const uint8_t *panel, uint32_t n_super, neon_form form) {
    for (size_t i = 0; i < (size_t)n_super * (SUPER_K / 2); i++, panel += 64, dst += 128)
        for (int h = 0; h < 2; h++) {
            float32x4_t w[2][2];
            neon_pair(w, panel, h, form);
            for (int odd = 0; odd < 2; odd++)
                for (int j = 0; j < 2; j++)
                    vst1q_f32((float *)(void *)(dst + odd * 64 + h * 32 + j * 16), w[odd][j]);
        }
}
/* A copy: side by side panels do not fall on the same sets of the cache, as they do where they are a power of two apart. */
static void unpack_f32(uint8_t *dst, const uint8_t *panel, uint32_t n_super, uint32_t group_size) {
    (void)group_size;
    memcpy(dst, panel, (size_t)n_super * WIDE_BYTES);
}
static void unpack_f16(uint8_t *dst, const uint8_t *panel, uint32_t n_super, uint32_t group_size) {
    (void)group_size;
    unpack_pairs(dst, panel, n_super, NEON_F16);
}
static void unpack_bf16(uint8_t *dst, const uint8_t *panel, uint32_t n_super, uint32_t group_size) {
    (void)group_size;
    unpack_pairs(dst, panel, n_super, NEON_BF16);
}

/* ---- activations ---- */

typedef float32x4_t block_floats[8];

static void load_floats(block_floats v, const float *x) {
    for (int i = 0; i < 8; i++) v[i] = vld1q_f32(x + i * 4);
}

static uint32_t max_magnitude(block_floats v) {
    const uint32x4_t mask = vdupq_n_u32(0x7fffffffu);
    uint32x4_t max = vdupq_n_u32(0);
    for (int i = 0; i < 8; i++) max = vmaxq_u32(max, vandq_u32(vreinterpretq_u32_f32(v[i]), mask));
    return vmaxvq_u32(max);
}

static int32_t quant_codes32(uint8_t *codes, block_floats v, float inverse) {
    int32x4_t q[8], sum = vdupq_n_s32(0);
    for (int i = 0; i < 8; i++) {
        q[i] = inverse == 0.0f ? vdupq_n_s32(0) : vcvtnq_s32_f32(vmulq_n_f32(v[i], inverse));
        sum = vaddq_s32(sum, q[i]);
    }
    for (int i = 0; i < 8; i += 2) {
        const int16x8_t pair = vcombine_s16(vmovn_s32(q[i]), vmovn_s32(q[i + 1]));
        vst1_u8(codes + i * 4, vreinterpret_u8_s8(vmovn_s16(pair)));
    }
    return vaddvq_s32(sum);
}

#define PACK_FN static inline
#define PACK_TARGET
#include "k_pack.h"

/* ---- vectors ---- */

static void rmsnorm(float *out, const float *x, const float *weight, uint32_t n, float eps) {
    float64x2_t sum[4] = { vdupq_n_f64(0.0), vdupq_n_f64(0.0), vdupq_n_f64(0.0), vdupq_n_f64(0.0) };
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (uint32_t j = 0; j < 4; j++) {
            const float64x2_t v = vcvt_f64_f32(vld1_f32(x + i + j * 2));
            sum[j] = vfmaq_f64(sum[j], v, v);
        }
    double total = vaddvq_f64(vaddq_f64(vaddq_f64(sum[0], sum[1]), vaddq_f64(sum[2], sum[3])));
    for (; i < n; i++) total = fma(x[i], x[i], total);
    const float factor = (float)(1.0 / sqrt(total / n + eps));
    for (i = 0; i + 4 <= n; i += 4)
        vst1q_f32(out + i, vmulq_f32(vmulq_n_f32(vld1q_f32(x + i), factor), vld1q_f32(weight + i)));
    for (; i < n; i++) out[i] = x[i] * factor * weight[i];
}

/* (a, b) -> (a cos - b sin, b cos + a sin) */
NEON_FN void rope_four(float32x4_t *a, float32x4_t *b, float32x4_t cosine, float32x4_t sine) {
    const float32x4_t real = vfmsq_f32(vmulq_f32(*a, cosine), *b, sine);
    const float32x4_t imaginary = vfmaq_f32(vmulq_f32(*b, cosine), *a, sine);
    *a = real;
    *b = imaginary;
}
NEON_FN void rope_one(float *a, float *b, float cosine, float sine) {
    const float real = fmaf(-*b, sine, *a * cosine), imaginary = fmaf(*a, sine, *b * cosine);
    *a = real;
    *b = imaginary;
}

static void rope(float *x, const float *cosine, const float *sine, uint32_t n_heads, uint32_t head_dim,
                 uint32_t rotary_dim, uint32_t rope_layout) {
    const bool interleaved = rope_layout == ROPE_LAYOUT_INTERLEAVED;
    const uint32_t half = rotary_dim / 2;
    for (uint32_t h = 0; h < n_heads; h++, x += head_dim) {
        uint32_t i = 0;
        for (; i + 4 <= half; i += 4) {
            const float32x4_t c = vld1q_f32(cosine + i), s = vld1q_f32(sine + i);
            if (interleaved) {
                float32x4x2_t pair = vld2q_f32(x + 2 * i);
                rope_four(&pair.val[0], &pair.val[1], c, s);
                vst2q_f32(x + 2 * i, pair);
            } else {
                float32x4_t a = vld1q_f32(x + i), b = vld1q_f32(x + half + i);
                rope_four(&a, &b, c, s);
                vst1q_f32(x + i, a);
                vst1q_f32(x + half + i, b);
            }
        }
        for (; i < half; i++)
            rope_one(x + (interleaved ? 2 * i : i), x + (interleaved ? 2 * i + 1 : half + i), cosine[i],
                     sine[i]);
    }
}

NEON_FN float32x4_t silu_times(float32x4_t gate, float32x4_t up) {
    return vmulq_f32(vdivq_f32(gate, vaddq_f32(vdupq_n_f32(1.0f), neon_exp(vnegq_f32(gate)))), up);
}

static void silu_mul(float *out, const float *gate, const float *up, uint32_t n) {
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4) vst1q_f32(out + i, silu_times(vld1q_f32(gate + i), vld1q_f32(up + i)));
    if (i == n) return;
    float a[4] = { 0 }, b[4] = { 0 };
    memcpy(a, gate + i, (n - i) * sizeof(float));
    memcpy(b, up + i, (n - i) * sizeof(float));
    vst1q_f32(a, silu_times(vld1q_f32(a), vld1q_f32(b)));
    memcpy(out + i, a, (n - i) * sizeof(float));
}

static void scale(float *out, const float *x, float factor, uint32_t n) {
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4) vst1q_f32(out + i, vmulq_n_f32(vld1q_f32(x + i), factor));
    for (; i < n; i++) out[i] = x[i] * factor;
}

/* ---- measuring ---- */

static uint64_t read_sum(const uint8_t *data, size_t size, bool foreseen) {
    const size_t far = foreseen ? 0 : AHEAD_FAR;
    uint64x2_t sum[4] = { vdupq_n_u64(0), vdupq_n_u64(0), vdupq_n_u64(0), vdupq_n_u64(0) };
    for (size_t i = 0; i < size; i += 128)
        AK42_UNROLL for (size_t j = 0; j < 8; j++) {
            if (j % 4 == 0) ask_line(data + i + j * 16, far);
            sum[j % 4] = vaddq_u64(sum[j % 4], vreinterpretq_u64_u8(vld1q_u8(data + i + j * 16)));
        }
    return vaddvq_u64(vaddq_u64(vaddq_u64(sum[0], sum[1]), vaddq_u64(sum[2], sum[3])));
}

/* Sixteen independent chains of fused multiply-adds. */
static double peak_f32(uint64_t n, float *sink) {
    float32x4_t sum[16];
    const float32x4_t a = vdupq_n_f32(0.5f), b = vdupq_n_f32(0.25f);
    AK42_UNROLL for (int i = 0; i < 16; i++) sum[i] = vdupq_n_f32((float)i);
    for (uint64_t k = 0; k < n; k++) {
        AK42_UNROLL for (int i = 0; i < 16; i++) sum[i] = vfmaq_f32(sum[i], a, b);
        NEON_LOAD_ANEW();
    }
    AK42_UNROLL for (int i = 1; i < 16; i++) sum[0] = vaddq_f32(sum[0], sum[i]);
    *sink = vaddvq_f32(sum[0]);
    return (double)n * 16 * 8;
}

NEON_FN void widen_halves(float *out, const uint8_t *in) {
    for (int i = 0; i < 4; i++) vst1q_f32(out + i * 4, neon_load_f16(in + i * 8));
}

#define OUTLIERS_NAME(name) outliers_##name
#define OUTLIERS_TARGET
#define OUTLIERS_HALVES widen_halves
#include "k_outliers.h"

void kernels_fill_neon(kernel_table *table) {
    outliers_fill(table);
    neon_fill_blocks(table);
    table->kv_default = AK42_KV_TYPE_F16;
    table->types[KERNEL_F32] = (type_kernels){
        .act = ACT_F32, .nr = FLOAT_NR, .gemm = gemm_f32, .unpack = unpack_f32, .gemm_wide = gemm_f32,
        .wide_super_bytes = WIDE_BYTES, .wide_from = 48};
    table->types[KERNEL_F16] = (type_kernels){
        .act = ACT_F32, .nr = FLOAT_NR, .gemm = gemm_f16, .unpack = unpack_f16, .gemm_wide = gemm_f32, .wide_super_bytes = WIDE_BYTES};
    table->types[KERNEL_BF16] = (type_kernels){
        .act = ACT_F32, .nr = FLOAT_NR, .gemm = gemm_bf16, .unpack = unpack_bf16, .gemm_wide = gemm_f32, .wide_super_bytes = WIDE_BYTES};
    table->pack[ACT_F32] = pack_f32;
    table->pack[ACT_Q8] = pack_q8;
    table->rmsnorm = rmsnorm;
    table->rope = rope;
    table->silu_mul = silu_mul;
    table->scale = scale;
    table->read = read_sum;
    table->peak_f32 = peak_f32;
    neon_fill_quant(table);
    neon_fill_attention(table);
    neon_fill_gates(table);
}

#else

void kernels_fill_neon(kernel_table *table) { (void)table; }

#endif

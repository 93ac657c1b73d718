/* k_neon.h: what the NEON files lend each other: the float tile that matrices and attention share, exp,
 * small helpers. Private to cpu/k_neon*.c. */
#ifndef AK42_K_NEON_H
#define AK42_K_NEON_H

#include "kernels.h"

#if defined(__aarch64__)

#include <arm_neon.h>

#include "k_simd.h"

#define NEON_FN static AK42_INLINE
#define NEON_DOT_TARGET "arch=armv8.2-a+dotprod"
#define NEON_I8MM_TARGET "arch=armv8.2-a+dotprod+i8mm"

/* Quantised products of k_neon_quant.c, for groups below 32 also k_neon_dot.c's and k_neon_i8mm.c's. */
void neon_gemm_int8(const gemm_args *args);
void neon_fill_quant(kernel_table *table);
void neon_fill_blocks(kernel_table *table);        /* k_neon_blocks.c */
void neon_dot_fill_blocks(kernel_table *table);    /* k_neon_blocks_dot.c */
void neon_i8mm_fill_blocks(kernel_table *table);   /* k_neon_blocks_i8mm.c */
void neon_fill_attention(kernel_table *table);
void neon_fill_gates(kernel_table *table);

NEON_FN float32x4_t neon_load(const uint8_t *p) { return vreinterpretq_f32_u8(vld1q_u8(p)); }
NEON_FN float32x4_t neon_load_f16(const uint8_t *p) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p))); }
NEON_FN float neon_float(const uint8_t *p) {
    float value;
    memcpy(&value, p, 4);
    return value;
}

/* What the sums of token t and a panel go on from. */
NEON_FN void neon_start(float32x4_t sum[4], const gemm_args *args, size_t t, uint32_t panel) {
    const float *start = args->start ? args->start + t * args->ld_start + panel * PANEL_ROWS : NULL;
    for (int i = 0; i < 4; i++) sum[i] = start ? vld1q_f32(start + i * 4) : vdupq_n_f32(0.0f);
}

/* A result's 16 lanes to its place. */
NEON_FN void neon_put(float *out, const float32x4_t sum[4], bool accumulate) {
    for (int i = 0; i < 4; i++)
        vst1q_f32(out + i * 4, accumulate ? vaddq_f32(vld1q_f32(out + i * 4), sum[i]) : sum[i]);
}

/* e^x within 2 units in the last place; 0 below ln of the smallest normal, infinite above ln of the
 * largest float, NaN for NaN. x = n ln 2 + r with |r| <= ln 2 / 2, e^r by its Taylor series to degree 7,
 * 2^n in two halves. */
NEON_FN float32x4_t neon_exp(float32x4_t x) {
    const float32x4_t lowest = vdupq_n_f32(-87.336544f), highest = vdupq_n_f32(88.722839f);
    const float32x4_t y = vminq_f32(highest, vmaxq_f32(lowest, x));
    const float32x4_t n = vrndnq_f32(vmulq_f32(y, vdupq_n_f32(1.44269504f)));
    /* ln 2 in two parts, the first of 9 bits */
    float32x4_t r = vfmsq_f32(y, n, vdupq_n_f32(0.693359375f));
    r = vfmsq_f32(r, n, vdupq_n_f32(-2.12194440e-4f));
    float32x4_t p = vdupq_n_f32(1.0f / 5040.0f);
    p = vfmaq_f32(vdupq_n_f32(1.0f / 720.0f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f / 120.0f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f / 24.0f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f / 6.0f), p, r);
    p = vfmaq_f32(vdupq_n_f32(0.5f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f), p, r);
    const int32x4_t whole = vcvtq_s32_f32(n), half = vshrq_n_s32(whole, 1), one = vdupq_n_s32(127);
    p = vmulq_f32(p, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(half, one), 23)));
    p = vmulq_f32(p, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vsubq_s32(whole, half), one), 23)));
    p = vbslq_f32(vcgtq_f32(x, highest), vdupq_n_f32(__builtin_inff()), p);
    return vbslq_f32(vcltq_f32(x, lowest), vdupq_n_f32(0.0f), p);
}

/* Keeps the compiler from holding on to what it has loaded: where loading again is cheap and registers are
 * short. */
#define NEON_LOAD_ANEW() __asm__ volatile("" ::: "memory")

/* ---- the float tile ---- */

/* Columns of 16 lanes, as panels of weights and the key cache hold them. */
typedef enum neon_form { NEON_F32, NEON_F16, NEON_BF16 } neon_form;

/* Accumulators that 32 registers leave room for, beside weights and broadcasts. */
enum { NEON_TILE_MAX = 24 };

/* Two k of 8 lanes, half h of the panel: w[k][4 lanes]. */
NEON_FN void neon_pair(float32x4_t w[2][2], const uint8_t *p, int h, neon_form form) {
    if (form == NEON_F32) {
        for (int j = 0; j < 2; j++) {
            w[0][j] = neon_load(p + h * 32 + j * 16);
            w[1][j] = neon_load(p + 64 + h * 32 + j * 16);
        }
    } else if (form == NEON_F16) {
        const uint8x16_t a = vld1q_u8(p + h * 32), b = vld1q_u8(p + h * 32 + 16);
        const uint16x8_t even = vuzp1q_u16(vreinterpretq_u16_u8(a), vreinterpretq_u16_u8(b));
        const uint16x8_t odd = vuzp2q_u16(vreinterpretq_u16_u8(a), vreinterpretq_u16_u8(b));
        w[0][0] = vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(even)));
        w[0][1] = vcvt_f32_f16(vreinterpret_f16_u16(vget_high_u16(even)));
        w[1][0] = vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(odd)));
        w[1][1] = vcvt_f32_f16(vreinterpret_f16_u16(vget_high_u16(odd)));
    } else {
        for (int j = 0; j < 2; j++) {
            const uint32x4_t both = vreinterpretq_u32_u8(vld1q_u8(p + h * 32 + j * 16));
            w[0][j] = vreinterpretq_f32_u32(vshlq_n_u32(both, 16));
            w[1][j] = vreinterpretq_f32_u32(vandq_u32(both, vdupq_n_u32(0xffff0000u)));
        }
    }
}

/* sum[(p * n + t) * 4 + i] += sum over k < n_k (even), ascending, of panel p's lanes 4i .. 4i+3 times
 * x[t][k * step]. One chain of fused multiply-adds for each lane, whatever np and n are. */
NEON_FN void neon_tile(float32x4_t *sum, const uint8_t *panels, size_t panel_bytes, uint32_t n_k,
                       const float *const *x, size_t step, int np, int n, neon_form form) {
    const size_t pair_bytes = form == NEON_F32 ? 128 : 64;
    float32x4_t acc[NEON_TILE_MAX];
    AK42_UNROLL for (int i = 0; i < np * n * 4; i++) acc[i] = sum[i];
    for (size_t k = 0; k < n_k; k += 2, panels += pair_bytes) {
        AK42_UNROLL for (int i = 0; i < np * 2; i++) {
            const uint8_t *p = panels + (size_t)(i / 2) * panel_bytes;
            NEON_LOAD_ANEW();
            if (n < 4 && i % 2 == 0) ask_ahead(p);
            float32x4_t w[2][2];
            neon_pair(w, p, i % 2, form);
            AK42_UNROLL for (int t = 0; t < n; t++) {
                const float even = x[t][k * step], odd = x[t][(k + 1) * step];
                AK42_UNROLL for (int j = 0; j < 2; j++) {
                    float32x4_t *s = &acc[(i / 2 * n + t) * 4 + i % 2 * 2 + j];
                    *s = vfmaq_n_f32(*s, w[0][j], even);
                    *s = vfmaq_n_f32(*s, w[1][j], odd);
                }
            }
        }
    }
    AK42_UNROLL for (int i = 0; i < np * n * 4; i++) sum[i] = acc[i];
}

#endif
#endif

/* k_avx2.h: what the AVX2 files lend each other: the float tile that matrices and attention share, exp,
 * small helpers. Private to cpu/k_avx2*.c and to files that build on AVX2. */
#ifndef AK42_K_AVX2_H
#define AK42_K_AVX2_H

#include "kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include "k_simd.h"

#define AVX2_TARGET "avx2,fma,f16c"
#define AVX2_FN static AK42_INLINE AK42_TARGET(AVX2_TARGET)

/* Quantised products of k_avx2_quant.c, for groups below 32 also k_avx2_vnni.c's. */
void avx2_gemm_int8(const gemm_args *args);
void avx2_fill_quant(kernel_table *table);
void avx2_fill_encode(kernel_table *table);        /* k_avx2_encode.c */
void avx2_fill_blocks(kernel_table *table);        /* k_avx2_blocks.c */
void avx2_vnni_fill_blocks(kernel_table *table);   /* k_avx2_blocks_vnni.c */
void avx2_fill_attention(kernel_table *table);
void avx2_fill_gates(kernel_table *table);

AVX2_FN __m256i avx2_load(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)(const void *)p); }
AVX2_FN __m256 avx2_load_f16(const uint8_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
/* 4 bytes from any address to all lanes. */
AVX2_FN __m256i avx2_word(const uint8_t *p) {
    int32_t word;
    memcpy(&word, p, 4);
    return _mm256_set1_epi32(word);
}
AVX2_FN __m256 avx2_float(const uint8_t *p) { return _mm256_castsi256_ps(avx2_word(p)); }

/* What the sums of token t and a panel go on from. */
AVX2_FN void avx2_start(__m256 sum[2], const gemm_args *args, size_t t, uint32_t panel) {
    const float *start = args->start ? args->start + t * args->ld_start + panel * PANEL_ROWS : NULL;
    sum[0] = start ? _mm256_loadu_ps(start) : _mm256_setzero_ps();
    sum[1] = start ? _mm256_loadu_ps(start + 8) : _mm256_setzero_ps();
}

/* A result's 16 lanes to its place. */
AVX2_FN void avx2_put(float *out, __m256 low, __m256 high, bool accumulate) {
    if (accumulate) {
        low = _mm256_add_ps(_mm256_loadu_ps(out), low);
        high = _mm256_add_ps(_mm256_loadu_ps(out + 8), high);
    }
    _mm256_storeu_ps(out, low);
    _mm256_storeu_ps(out + 8, high);
}

AVX2_FN float avx2_sum(__m256 v) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
AVX2_FN float avx2_max(__m256 v) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

/* e^x within 2 units in the last place; 0 below ln of the smallest normal, infinite above ln of the
 * largest float, NaN for NaN. x = n ln 2 + r with |r| <= ln 2 / 2, e^r by its Taylor series to degree 7,
 * 2^n in two halves. Operands of min and max stand so that a NaN in x passes through. */
AVX2_FN __m256 avx2_exp(__m256 x) {
    const __m256 lowest = _mm256_set1_ps(-87.336544f), highest = _mm256_set1_ps(88.722839f);
    const __m256 y = _mm256_min_ps(highest, _mm256_max_ps(lowest, x));
    const __m256 n = _mm256_round_ps(_mm256_mul_ps(y, _mm256_set1_ps(1.44269504f)),
                                     _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    /* ln 2 in two parts, the first of 9 bits */
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), y);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
    __m256 p = _mm256_set1_ps(1.0f / 5040.0f);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 720.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 120.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 24.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 6.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    const __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    const __m256i one = _mm256_set1_epi32(127);
    const __m256i rest = _mm256_sub_epi32(whole, half);
    p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, one), 23)));
    p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, one), 23)));
    p = _mm256_blendv_ps(p, _mm256_set1_ps(__builtin_inff()), _mm256_cmp_ps(x, highest, _CMP_GT_OQ));
    return _mm256_andnot_ps(_mm256_cmp_ps(x, lowest, _CMP_LT_OQ), p);
}

/* Keeps the compiler from holding on to what it has loaded: where loading again is cheap and registers are
 * short. */
#define AVX2_LOAD_ANEW() __asm__ volatile("" ::: "memory")

/* ---- the float tile ---- */

/* Columns of 16 lanes, as panels of weights and the key cache hold them. */
typedef enum avx2_form { AVX2_F32, AVX2_F16, AVX2_BF16 } avx2_form;

/* Accumulators that 16 registers leave room for, beside weights and a broadcast. */
enum { AVX2_TILE_MAX = 12 };

/* The order in which F16's conversion leaves 8 lanes: 0 1 4 5 2 3 6 7, and back. Sums are turned once, at
 * the start and at the end. */
AVX2_FN __m256 avx2_in_order(__m256 v) {
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(v), _MM_SHUFFLE(3, 1, 2, 0)));
}

/* Two k of 8 lanes from 32 bytes of pairs. */
AVX2_FN void avx2_pair(__m256 w[2], const uint8_t *p, avx2_form form) {
    if (form == AVX2_F16) {
        const __m256 a = avx2_load_f16(p), b = avx2_load_f16(p + 16);
        w[0] = _mm256_shuffle_ps(a, b, _MM_SHUFFLE(2, 0, 2, 0));
        w[1] = _mm256_shuffle_ps(a, b, _MM_SHUFFLE(3, 1, 3, 1));
    } else {
        const __m256i both = avx2_load(p);
        w[0] = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
        w[1] = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32((int32_t)0xffff0000)));
    }
}

/* sum[(p * n + t) * 2 + h] += sum over k < n_k (even), ascending, of panel p's lanes 8h .. 8h+7 times
 * x[t][k * step]. One chain of fused multiply-adds for each lane, whatever np and n are. ask: for lines ahead. */
AVX2_FN void avx2_tile(__m256 *sum, const uint8_t *panels, size_t panel_bytes, uint32_t n_k,
                       const float *const *x, size_t step, int np, int n, avx2_form form, bool ask) {
    const size_t pair_bytes = form == AVX2_F32 ? 128 : 64;
    __m256 acc[AVX2_TILE_MAX];
    AK42_UNROLL for (int i = 0; i < np * n * 2; i++)
        acc[i] = form == AVX2_F16 ? avx2_in_order(sum[i]) : sum[i];
    for (size_t k = 0; k < n_k; k += 2, panels += pair_bytes) {
        if (ask)
            AK42_UNROLL for (int p = 0; p < np; p++)
                AK42_UNROLL for (size_t line = 0; line < pair_bytes; line += CACHE_LINE)
                    ask_ahead(panels + (size_t)p * panel_bytes + line);
        if (form == AVX2_F32) {
            AK42_UNROLL for (int odd = 0; odd < 2; odd++) {
                __m256 w[8];
                AK42_UNROLL for (int i = 0; i < np * 2; i++)
                    w[i] = _mm256_castsi256_ps(
                        avx2_load(panels + (size_t)(i / 2) * panel_bytes + odd * 64 + i % 2 * 32));
                AK42_UNROLL for (int t = 0; t < n; t++) {
                    const __m256 a = _mm256_broadcast_ss(x[t] + (k + (size_t)odd) * step);
                    AK42_UNROLL for (int i = 0; i < np * 2; i++) {
                        __m256 *s = &acc[(i / 2 * n + t) * 2 + i % 2];
                        *s = _mm256_fmadd_ps(w[i], a, *s);
                    }
                }
            }
        } else {
            AK42_UNROLL for (int i = 0; i < np * 2; i++) {
                AVX2_LOAD_ANEW();
                __m256 w[2];
                avx2_pair(w, panels + (size_t)(i / 2) * panel_bytes + i % 2 * 32, form);
                AK42_UNROLL for (int t = 0; t < n; t++) {
                    __m256 *s = &acc[(i / 2 * n + t) * 2 + i % 2];
                    *s = _mm256_fmadd_ps(w[0], _mm256_broadcast_ss(x[t] + k * step), *s);
                    *s = _mm256_fmadd_ps(w[1], _mm256_broadcast_ss(x[t] + (k + 1) * step), *s);
                }
            }
        }
    }
    AK42_UNROLL for (int i = 0; i < np * n * 2; i++)
        sum[i] = form == AVX2_F16 ? avx2_in_order(acc[i]) : acc[i];
}

#endif
#endif

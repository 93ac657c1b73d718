/* k_avx512.h: what the AVX-512 kernel files share: the target, small inline helpers and the parts of the
 * table that each fills. Private to cpu/k_avx512*.c. */
#ifndef AK42_K_AVX512_H
#define AK42_K_AVX512_H

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "k_simd.h"
#include "kernels.h"

#define AVX512_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"
#define AVX512 AK42_TARGET(AVX512_TARGET)
#define AVX512_FN static AK42_INLINE AVX512

/* Parts of kernels_fill_avx512, by file. */
void avx512_fill_pack(kernel_table *table);        /* k_avx512_pack.c */
void avx512_fill_attn(kernel_table *table);        /* k_avx512_attn.c */
void avx512_fill_store(kernel_table *table);       /* k_avx512_store.c */
void avx512_fill_vectors(kernel_table *table);     /* k_avx512_vectors.c */
void avx512_fill_quant(kernel_table *table);       /* k_avx512_quant.c */
void avx512_fill_blocks(kernel_table *table);      /* k_avx512_blocks.c */
void avx512_vnni_fill_blocks(kernel_table *table); /* k_avx512_blocks_vnni.c */

/* sum + the products of 4 u8 of w with the 4 i8 at a. One instruction, which gcc makes two of: while a line of weights is awaited the
 * processor holds a certain number of instructions behind it, and the fewer a line takes, the more lines are under way. */
static AK42_INLINE AK42_TARGET(AVX512_TARGET ",avx512vnni") __m512i avx512_dot_at(__m512i sum, __m512i w, const uint8_t *a) {
#if defined(__GNUC__) && !defined(__clang__)
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(w), "m"(*(const uint8_t (*)[4])(const void *)a));
    return sum;
#else
    int32_t word;
    memcpy(&word, a, 4);
    return _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(word));
#endif
}

/* Lanes 0 .. n-1, n <= 16. */
AVX512_FN __mmask16 avx512_lanes(uint32_t n) { return (__mmask16)((1u << n) - 1u); }

/* What the sums of a token and a panel go on from. */
AVX512_FN __m512 avx512_start(const gemm_args *args, size_t t, size_t panel) {
    return args->start ? _mm512_loadu_ps(args->start + t * args->ld_start + panel * PANEL_ROWS) : _mm512_setzero_ps();
}

/* Lines of 16 x 2 f16 or bf16, pairs side by side: the 16 first or second ones of the pairs. */
AVX512_FN __m512 avx512_bf16_first(__m512i line) { return _mm512_castsi512_ps(_mm512_slli_epi32(line, 16)); }
AVX512_FN __m512 avx512_bf16_second(__m512i line) {
    return _mm512_castsi512_ps(_mm512_and_si512(line, _mm512_set1_epi32((int)0xffff0000)));
}
/* A line of 16 x 2 f16, pairs side by side, as 16 first and 16 second ones. Converted from memory before
 * they are parted, which takes half the shuffles of the other order. */
AVX512_FN void avx512_part_f16(__m512 *first, __m512 *second, const uint8_t *line) {
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i odd = _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    const __m512 low = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)line));
    const __m512 high = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(line + 32)));
    *first = _mm512_permutex2var_ps(low, even, high);
    *second = _mm512_permutex2var_ps(low, odd, high);
}

/* The 16 floats at x + at of a row of n floats; zeros past its end. */
AVX512_FN __m512 avx512_load_row(const float *x, size_t at, size_t n) {
    if (at + 16 <= n) return _mm512_loadu_ps(x + at);
    return at < n ? _mm512_maskz_loadu_ps(avx512_lanes((uint32_t)(n - at)), x + at) : _mm512_setzero_ps();
}

/* e^x for x <= 110, within 0.9 ulp; 0 where it is less than the least normal number and for -infinity, infinity from 88.73 on, NaN for
 * NaN. With x = n ln 2 + r, |r| <= ln(2) / 2: e^x = 2^n e^r, and e^r by a polynomial of degree 6 fitted for the least largest relative
 * error, 2^-28. A lane of which the result is not normal would make the whole vector take 30 times as long, and each row of a causal
 * attention ends in such lanes: they are not computed. */
AVX512_FN __m512 avx512_exp(__m512 x) {
    const __m512 round = _mm512_set1_ps(12582912.0f);      /* 1.5 * 2^23: adding it rounds to an integer */
    const __mmask16 normal = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.3365f), _CMP_NLT_UQ);        /* NaN, too */
    const __m512 n = _mm512_sub_ps(_mm512_fmadd_ps(x, _mm512_set1_ps(1.44269504089f), round), round);
    /* ln 2 in two parts, of which the first is exact times n */
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-0.693145751953125f), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-1.42860682e-6f), r);
    __m512 e = _mm512_set1_ps(0.00138146f);
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(0.00836871751f));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(0.041668389f));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(0.166665211f));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(0.49999994f));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(1.0f));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(1.0f));
    return _mm512_maskz_scalef_ps(normal, e, n);
}
/* The same where x may be any float. */
AVX512_FN __m512 avx512_exp_any(__m512 x) { return avx512_exp(_mm512_min_ps(_mm512_set1_ps(110.0f), x)); }

/* (row, column) to (column, row). */
AVX512_FN void avx512_transpose(__m512i x[16]) {
    __m512i y[16];
    AK42_UNROLL for (int i = 0; i < 16; i += 2) {
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    AK42_UNROLL for (int i = 0; i < 16; i += 4) {
        x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
        x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
        x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
        x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
    }
    AK42_UNROLL for (int i = 0; i < 4; i++) {
        y[i] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0x88);
        y[i + 4] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0xdd);
        y[i + 8] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0x88);
        y[i + 12] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0xdd);
    }
    AK42_UNROLL for (int i = 0; i < 8; i++) {
        x[i] = _mm512_shuffle_i32x4(y[i], y[i + 8], 0x88);
        x[i + 8] = _mm512_shuffle_i32x4(y[i], y[i + 8], 0xdd);
    }
}

/* 16 words from word `at` on of a row of n floats, zeros past its end: 16 f32, or 16 pairs of bf16. */
typedef __m512i avx512_words_fn(const float *x, size_t at, size_t n);

AVX512_FN __m512i avx512_words_f32(const float *x, size_t at, size_t n) {
    return _mm512_castps_si512(avx512_load_row(x, at, n));
}

/* The upper half of each lane becomes bf16, rounded to nearest even; NaNs keep a bit set there. */
AVX512_FN __m512i avx512_round_bf16(__m512 x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
}
AVX512_FN __m512i avx512_words_bf16(const float *x, size_t at, size_t n) {
    const __m512i upper = _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31,
                                           29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    return _mm512_permutex2var_epi16(avx512_round_bf16(avx512_load_row(x, at * 2, n)), upper,
                                     avx512_round_bf16(avx512_load_row(x, at * 2 + 16, n)));
}

/* ---- attention: the frame is in k_avx512_attn.c; an ISA may bring its own scores ---- */

/* One call's memory, on the stack. */
enum { ATTN_SCRATCH = 8192 };
typedef struct attn_work {
    _Alignas(64) float score[ATTN_ROWS_MAX][ATTN_CHUNK];       /* q . k, then softmax weights */
    /* query rows, tile by tile, (dims, rows of the tile) */
    _Alignas(64) float q[ATTN_ROWS_MAX * 128 + 16];
    _Alignas(64) float scratch[ATTN_SCRATCH];                  /* keys or values as f32 */
    /* what each row sees, from the chunk's start */
    uint32_t begin[ATTN_ROWS_MAX], end[ATTN_ROWS_MAX];
    /* groups of 16 positions that some row sees: [first, last) */
    uint32_t first, last;
} attn_work;

/* Fills work->score for all rows and the groups [first, last). */
typedef void avx512_scores_fn(attn_work *work, const attn_args *args);
/* n positions from `position` on (absolute), dims [dim, dim + n_dims) of v as f32, to dst (n, n_dims). */
typedef void avx512_values_fn(float *dst, const attn_args *args, uint32_t position, uint32_t n, uint32_t dim,
                              uint32_t n_dims);

typedef struct avx512_attn_form {
    avx512_scores_fn *scores;
    avx512_values_fn *values;          /* NULL: they are f32 */
    bool scaled;                       /* k_scale and v_scale are used */
} avx512_attn_form;
void avx512_attn(const attn_args *args, const avx512_attn_form *form);
void avx512_values_bf16(float *dst, const attn_args *args, uint32_t position, uint32_t n, uint32_t dim,
                        uint32_t n_dims);

/* Rows of a tile of scores: tiles of at most 12, as equal as can be. */
enum { SCORE_ROWS = 12 };
AVX512_FN uint32_t avx512_tile_rows(uint32_t n_rows, uint32_t first, uint32_t max) {
    const uint32_t n_tiles = (n_rows + max - 1) / max, tile = (first * n_tiles + n_rows - 1) / n_rows;
    return n_rows * (tile + 1) / n_tiles - first;
}

#endif

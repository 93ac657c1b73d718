/* k_avx512_blocks.h: k_blocks.h's vectors for AVX-512, for three files: before the #include they define BLOCKS_TARGET, BLOCKS_NR,
 * BLOCKS_WIDE_FROM, BLOCKS_VNNI, and BLOCKS_LOOKUP_ANY 1 where there is VBMI. */
#include "k_avx512.h"

#define BLOCKS_PANELS 2
#define W_FN static AK42_INLINE BLOCKS_TARGET

typedef __m512i words;
typedef __m512 floats;

W_FN words w_load(const uint8_t *p) { return _mm512_loadu_si512(p); }
W_FN void w_store(uint8_t *p, words w) { _mm512_storeu_si512(p, w); }
W_FN words w_set1(uint32_t x) { return _mm512_set1_epi32((int)x); }
W_FN words w_and(words a, words b) { return _mm512_and_si512(a, b); }
W_FN words w_or(words a, words b) { return _mm512_or_si512(a, b); }
W_FN words w_xor(words a, words b) { return _mm512_xor_si512(a, b); }
W_FN words w_add(words a, words b) { return _mm512_add_epi32(a, b); }
W_FN words w_sub(words a, words b) { return _mm512_sub_epi32(a, b); }
#define w_shr(w, n) _mm512_srli_epi32(w, (unsigned)(n))
#define w_shl(w, n) _mm512_slli_epi32(w, (unsigned)(n))
#define w_shr_by(w, n) w_shr(w, n)                     /* by a number that need not be constant */
#define w_shl_by(w, n) w_shl(w, n)
/* (w & mask) | rest */
W_FN words w_merge(words w, words mask, words rest) { return _mm512_ternarylogic_epi32(w, mask, rest, 0xea); }
W_FN words w_lookup(words w, const uint8_t table[16]) {
    const __m512i all = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)table));
#if defined(BLOCKS_LOOKUP_ANY)
    return _mm512_permutexvar_epi8(w, all);            /* 6 bits of a byte choose among four copies */
#else
    return _mm512_shuffle_epi8(all, w);                /* a high bit would make zeros */
#endif
}
W_FN void w_keep(words *w) { AK42_KEEP(*w); }
W_FN words w_cast(floats x) { return _mm512_castps_si512(x); }
W_FN floats f_cast(words w) { return _mm512_castsi512_ps(w); }
W_FN floats f_of_int(words w) { return _mm512_cvtepi32_ps(w); }
W_FN floats f_half(words w, int second) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(second ? w_shr(w, 16) : w)); }
W_FN floats f_set1(float x) { return _mm512_set1_ps(x); }
W_FN floats f_load(const uint8_t *p) { return _mm512_loadu_ps(p); }
W_FN void f_store(uint8_t *p, floats x) { _mm512_storeu_ps(p, x); }
W_FN floats f_add(floats a, floats b) { return _mm512_add_ps(a, b); }
W_FN floats f_mul(floats a, floats b) { return _mm512_mul_ps(a, b); }
W_FN floats f_fma(floats a, floats b, floats c) { return _mm512_fmadd_ps(a, b, c); }
W_FN floats f_neg(floats x) { return _mm512_sub_ps(_mm512_set1_ps(-0.0f), x); }

#if BLOCKS_VNNI
W_FN words w_dot(words sum, words w, words a, bool large) {
    (void)large;
    return _mm512_dpbusd_epi32(sum, w, a);
}
#define BLOCKS_DOT_AT
W_FN words w_dot_at(words sum, words w, const uint8_t *a, bool large) {
    (void)large;
    return avx512_dot_at(sum, w, a);
}
#else
W_FN words w_dot(words sum, words w, words a, bool large) {
    if (!large) return _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(w, a), _mm512_set1_epi16(1)));
    const words even = _mm512_madd_epi16(_mm512_and_si512(w, _mm512_set1_epi16(0xff)), _mm512_srai_epi16(_mm512_slli_epi16(a, 8), 8));
    const words odd = _mm512_madd_epi16(_mm512_srli_epi16(w, 8), _mm512_srai_epi16(a, 8));
    return _mm512_add_epi32(_mm512_add_epi32(sum, even), odd);
}
#endif
/* The sum of 16 i8. */
W_FN int32_t w_sum16(const uint8_t *q) {
    const __m128i pairs = _mm_maddubs_epi16(_mm_set1_epi8(1), _mm_loadu_si128((const __m128i *)(const void *)q));
    const __m128i fours = _mm_madd_epi16(pairs, _mm_set1_epi16(1)), eights = _mm_add_epi32(fours, _mm_srli_si128(fours, 8));
    return _mm_cvtsi128_si32(_mm_add_epi32(eights, _mm_srli_si128(eights, 4)));
}
/* The same of both halves of a block of 8 tokens: 4 columns of a token lie in a lane of words, halves and tokens in turns. */
#if BLOCKS_NR == 8
#define BLOCKS_SUMS_8
W_FN void w_sums_8(int32_t first[8], int32_t second[8], const uint8_t *q) {
    __m512i quads[4], pairs[2];
    AK42_UNROLL for (int i = 0; i < 4; i++)
        quads[i] = w_dot(_mm512_setzero_si512(), _mm512_set1_epi8(1), w_load(q + i * 64), false);
    AK42_UNROLL for (int i = 0; i < 2; i++)
        pairs[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(quads[2 * i], quads[2 * i + 1]),
                                    _mm512_unpackhi_epi32(quads[2 * i], quads[2 * i + 1]));
    const __m512i sums = _mm512_add_epi32(_mm512_unpacklo_epi64(pairs[0], pairs[1]), _mm512_unpackhi_epi64(pairs[0], pairs[1]));
    /* lane 2 * (t % 2) + half, place t / 2 */
    const __m512i order = _mm512_set_epi32(15, 7, 14, 6, 13, 5, 12, 4, 11, 3, 10, 2, 9, 1, 8, 0);
    const __m512i halves = _mm512_permutexvar_epi32(order, sums);
    _mm256_storeu_si256((__m256i *)(void *)first, _mm512_castsi512_si256(halves));
    _mm256_storeu_si256((__m256i *)(void *)second, _mm512_extracti64x4_epi64(halves, 1));
}
#endif

#include "k_blocks.h"

/* k_avx2_blocks.h: k_blocks.h's vectors as pairs of 256-bit registers, for two files: before the #include they define BLOCKS_TARGET,
 * BLOCKS_NR, BLOCKS_WIDE_FROM and BLOCKS_VNNI. */
#include "k_avx2.h"

#define BLOCKS_PANELS 1
#define W_FN static AK42_INLINE BLOCKS_TARGET

typedef struct words { __m256i low, high; } words;     /* rows 0 to 7, 8 to 15 */
typedef struct floats { __m256 low, high; } floats;

W_FN words w_load(const uint8_t *p) { return (words){avx2_load(p), avx2_load(p + 32)}; }
W_FN void w_store(uint8_t *p, words w) {
    _mm256_storeu_si256((__m256i *)(void *)p, w.low);
    _mm256_storeu_si256((__m256i *)(void *)(p + 32), w.high);
}
W_FN words w_set1(uint32_t x) { return (words){_mm256_set1_epi32((int)x), _mm256_set1_epi32((int)x)}; }
#define W_BOTH(name, intrinsic) \
    W_FN words name(words a, words b) { return (words){intrinsic(a.low, b.low), intrinsic(a.high, b.high)}; }
W_BOTH(w_and, _mm256_and_si256)
W_BOTH(w_or, _mm256_or_si256)
W_BOTH(w_xor, _mm256_xor_si256)
W_BOTH(w_add, _mm256_add_epi32)
W_BOTH(w_sub, _mm256_sub_epi32)
W_FN words w_shr(words w, int n) { return (words){_mm256_srli_epi32(w.low, n), _mm256_srli_epi32(w.high, n)}; }
W_FN words w_shl(words w, int n) { return (words){_mm256_slli_epi32(w.low, n), _mm256_slli_epi32(w.high, n)}; }
#define w_shr_by(w, n) w_shr(w, n)                     /* by a number that need not be constant */
#define w_shl_by(w, n) w_shl(w, n)
/* (w & mask) | rest */
W_FN words w_merge(words w, words mask, words rest) { return w_or(w_and(w, mask), rest); }
W_FN words w_lookup(words w, const uint8_t table[16]) {
    const __m256i both = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)table));
    return (words){_mm256_shuffle_epi8(both, w.low), _mm256_shuffle_epi8(both, w.high)};
}
W_FN void w_keep(words *w) { (void)w; }
W_FN words w_cast(floats x) { return (words){_mm256_castps_si256(x.low), _mm256_castps_si256(x.high)}; }
W_FN floats f_cast(words w) { return (floats){_mm256_castsi256_ps(w.low), _mm256_castsi256_ps(w.high)}; }
W_FN floats f_of_int(words w) { return (floats){_mm256_cvtepi32_ps(w.low), _mm256_cvtepi32_ps(w.high)}; }
W_FN __m256 halves_of(__m256i w, int second) {
    const __m256i lower = second ? _mm256_srli_epi32(w, 16) : _mm256_and_si256(w, _mm256_set1_epi32(0xffff));
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(lower, lower), 0x08);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(packed));
}
W_FN floats f_half(words w, int second) { return (floats){halves_of(w.low, second), halves_of(w.high, second)}; }
W_FN floats f_set1(float x) { return (floats){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
W_FN floats f_load(const uint8_t *p) {
    return (floats){_mm256_loadu_ps((const float *)(const void *)p), _mm256_loadu_ps((const float *)(const void *)(p + 32))};
}
W_FN void f_store(uint8_t *p, floats x) {
    _mm256_storeu_ps((float *)(void *)p, x.low);
    _mm256_storeu_ps((float *)(void *)(p + 32), x.high);
}
#define F_BOTH(name, intrinsic) \
    W_FN floats name(floats a, floats b) { return (floats){intrinsic(a.low, b.low), intrinsic(a.high, b.high)}; }
F_BOTH(f_add, _mm256_add_ps)
F_BOTH(f_mul, _mm256_mul_ps)
W_FN floats f_fma(floats a, floats b, floats c) {
    return (floats){_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
W_FN floats f_neg(floats x) {
    const __m256 zero = _mm256_set1_ps(-0.0f);
    return (floats){_mm256_sub_ps(zero, x.low), _mm256_sub_ps(zero, x.high)};
}

#if BLOCKS_VNNI
W_FN __m256i half_dot(__m256i sum, __m256i w, __m256i a, bool large) {
    (void)large;
    return _mm256_dpbusd_avx_epi32(sum, w, a);
}
#else
W_FN __m256i half_dot(__m256i sum, __m256i w, __m256i a, bool large) {
    if (!large) return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), _mm256_set1_epi16(1)));
    const __m256i even = _mm256_madd_epi16(_mm256_and_si256(w, _mm256_set1_epi16(0xff)),
                                           _mm256_srai_epi16(_mm256_slli_epi16(a, 8), 8));
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(w, 8), _mm256_srai_epi16(a, 8));
    return _mm256_add_epi32(_mm256_add_epi32(sum, even), odd);
}
#endif
W_FN words w_dot(words sum, words w, words a, bool large) {
    return (words){half_dot(sum.low, w.low, a.low, large), half_dot(sum.high, w.high, a.high, large)};
}
/* The sum of 16 i8. */
W_FN int32_t w_sum16(const uint8_t *q) {
    const __m128i pairs = _mm_maddubs_epi16(_mm_set1_epi8(1), _mm_loadu_si128((const __m128i *)(const void *)q));
    const __m128i fours = _mm_madd_epi16(pairs, _mm_set1_epi16(1)), eights = _mm_add_epi32(fours, _mm_srli_si128(fours, 8));
    return _mm_cvtsi128_si32(_mm_add_epi32(eights, _mm_srli_si128(eights, 4)));
}

#include "k_blocks.h"

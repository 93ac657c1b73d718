/* k_avx512_store.c: writes a position's key and value to the cache for x86-64 with AVX-512: bit for bit
 * what k_generic.c writes. */
#if defined(__x86_64__)

#include "k_avx512.h"

/* Words of 4 bytes to a group of 16 positions, where they stand 64 bytes apart. */
AVX512_FN void spread_words(uint8_t *dst, __m512i words, uint32_t n) {
    _Alignas(64) uint32_t buffer[16];
    _mm512_store_si512(buffer, words);
    for (uint32_t i = 0; i < n; i++) memcpy(dst + (size_t)i * 64, &buffer[i], 4);
}
static inline uint32_t words_left(uint32_t n, uint32_t at) { return n - at < 16 ? n - at : 16; }

/* Where position p's first word of the key is, in a group of n_words words a position. */
static inline uint8_t *key_at(const kv_head *kv, uint32_t p, uint32_t n_words) {
    return kv->k + (size_t)(p / KV_BLOCK) * n_words * 64 + p % KV_BLOCK * 4;
}

AVX512 static void store_f32(const kv_head *kv, uint32_t position, const float *k, const float *v,
                             uint32_t head_dim) {
    uint8_t *key = key_at(kv, position, head_dim);
    for (uint32_t d = 0; d < head_dim; d++) memcpy(key + (size_t)d * 64, &k[d], 4);
    memcpy(kv->v + (size_t)position * head_dim * 4, v, (size_t)head_dim * 4);
}

/* 16-bit caches: 16 pairs at a time. */
AVX512_FN void store_16(const kv_head *kv, uint32_t position, const float *k, const float *v,
                        uint32_t head_dim, avx512_words_fn *pairs) {
    const uint32_t n_words = head_dim / 2;
    uint8_t *key = key_at(kv, position, n_words), *value = kv->v + (size_t)position * head_dim * 2;
    for (uint32_t at = 0; at < n_words; at += 16) {
        const uint32_t n = words_left(n_words, at);
        spread_words(key + (size_t)at * 64, pairs(k, at, head_dim), n);
        _mm512_mask_storeu_epi32(value + (size_t)at * 4, avx512_lanes(n), pairs(v, at, head_dim));
    }
}

AVX512_FN __m512i pairs_f16(const float *x, size_t at, size_t n) {
    const __m256i low = _mm512_cvtps_ph(avx512_load_row(x, at * 2, n), _MM_FROUND_TO_NEAREST_INT);
    const __m256i high = _mm512_cvtps_ph(avx512_load_row(x, at * 2 + 16, n), _MM_FROUND_TO_NEAREST_INT);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}
AVX512 static void store_f16(const kv_head *kv, uint32_t position, const float *k, const float *v,
                             uint32_t head_dim) {
    store_16(kv, position, k, v, head_dim, pairs_f16);
}
AVX512 static void store_bf16(const kv_head *kv, uint32_t position, const float *k, const float *v,
                              uint32_t head_dim) {
    store_16(kv, position, k, v, head_dim, avx512_words_bf16);
}

/* The scale d of a row, and the factor that quantises it: k_generic.c's rule. */
AVX512_FN float row_scale(float *inverse, const float *x, uint32_t n) {
    __m512i bits = _mm512_setzero_si512();
    for (uint32_t at = 0; at < n; at += 16) {
        const __m512i magnitude = _mm512_and_si512(_mm512_castps_si512(avx512_load_row(x, at, n)),
                                                   _mm512_set1_epi32(0x7fffffff));
        bits = _mm512_max_epi32(bits, magnitude);
    }
    const int32_t max_bits = _mm512_reduce_max_epi32(bits);
    float max;
    memcpy(&max, &max_bits, 4);
    *inverse = 0.0f;
    if (!isfinite(max)) return NAN;
    if (max == 0.0f || !isfinite(127.0f / max)) return 0.0f;
    *inverse = 127.0f / max;
    return max / 127.0f;
}
/* 16 codes. */
AVX512_FN __m128i row_codes(const float *x, uint32_t at, uint32_t n, float inverse) {
    const __m512i codes = _mm512_cvtps_epi32(_mm512_mul_ps(avx512_load_row(x, at, n),
                                                           _mm512_set1_ps(inverse)));
    return inverse == 0.0f ? _mm_setzero_si128() : _mm512_cvtepi32_epi8(codes);
}

AVX512 static void store_int8(const kv_head *kv, uint32_t position, const float *k, const float *v,
                              uint32_t head_dim) {
    const uint32_t n_words = (head_dim + 3) / 4;
    uint8_t *key = key_at(kv, position, n_words), *value = kv->v + (size_t)position * head_dim;
    float k_inverse, v_inverse;
    kv->k_scale[position] = row_scale(&k_inverse, k, head_dim);
    kv->v_scale[position] = row_scale(&v_inverse, v, head_dim);
    for (uint32_t at = 0; at < head_dim; at += 16) {
        const __m128i codes = _mm_xor_si128(row_codes(k, at, head_dim, k_inverse), _mm_set1_epi8((char)128));
        spread_words(key + (size_t)at * 16, _mm512_castsi128_si512(codes),
                     n_words - at / 4 < 4 ? n_words - at / 4 : 4);
        _mm_mask_storeu_epi8(value + at, avx512_lanes(words_left(head_dim, at)),
                             row_codes(v, at, head_dim, v_inverse));
    }
}

void avx512_fill_store(kernel_table *table) {
    table->kv[AK42_KV_TYPE_F32].store = store_f32;
    table->kv[AK42_KV_TYPE_F16].store = store_f16;
    table->kv[AK42_KV_TYPE_BF16].store = store_bf16;
    table->kv[AK42_KV_TYPE_INT8].store = store_int8;
}

#else
typedef int k_avx512_store_is_empty;
#endif

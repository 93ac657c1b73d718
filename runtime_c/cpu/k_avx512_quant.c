/* k_avx512_quant.c: matrix products on quantised weights for x86-64 with AVX-512 that lacks VNNI: the body
 * of k_avx512_quant.h on 16-bit multiply-adds. */
#if defined(__x86_64__)

#include "k_avx512.h"

/* 4 u8 x 4 i8 a lane, as two pairs of 16-bit products: even bytes, odd bytes. Nothing saturates: 255 * 128
 * * 2 fits 32 bits. */
AVX512_FN __m512i dot_bytes(__m512i sum, __m512i w, __m512i a) {
    const __m512i w_even = _mm512_and_si512(w, _mm512_set1_epi16(0xff)), w_odd = _mm512_srli_epi16(w, 8);
    const __m512i a_even = _mm512_srai_epi16(_mm512_slli_epi16(a, 8), 8), a_odd = _mm512_srai_epi16(a, 8);
    return _mm512_add_epi32(_mm512_add_epi32(sum, _mm512_madd_epi16(w_even, a_even)),
                            _mm512_madd_epi16(w_odd, a_odd));
}

#define QUANT_TARGET AVX512_TARGET
#define QUANT_NR 4
#define QUANT_UNROLL
#define quant_dot(sum, w, a) dot_bytes(sum, w, a)
#define quant_dot_at(sum, w, a) dot_bytes(sum, w, _mm512_set1_epi32(quant_word(a)))
#include "k_avx512_quant.h"

void avx512_fill_quant(kernel_table *table) { quant_fill(table); }

#else
typedef int k_avx512_quant_is_empty;
#endif

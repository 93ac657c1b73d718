/* k_avx512_vnni.c: matrix products on quantised weights for x86-64 with AVX-512 VNNI: the body of
 * k_avx512_quant.h on its dot instruction, and that instruction's peak. */
#if defined(__x86_64__)

#include "k_avx512.h"

#define QUANT_TARGET AVX512_TARGET ",avx512vnni"
#define QUANT_NR 8
#define QUANT_UNROLL AK42_UNROLL
#define quant_dot(sum, w, a) _mm512_dpbusd_epi32(sum, w, a)
#define quant_dot_at(sum, w, a) avx512_dot_at(sum, w, a)
#include "k_avx512_quant.h"

AK42_TARGET(QUANT_TARGET) static double peak_int8(uint64_t n, float *sink) {
    const __m512i a = _mm512_set1_epi32((int)(n % 8)), b = _mm512_set1_epi8(3);
    __m512i sum[16], all = _mm512_setzero_si512();
    AK42_UNROLL for (int i = 0; i < 16; i++) sum[i] = _mm512_set1_epi32(i);
    const uint64_t rounds = n / 16;
    for (uint64_t r = 0; r < rounds; r++)
        AK42_UNROLL for (int i = 0; i < 16; i++) sum[i] = quant_dot(sum[i], a, b);
    AK42_UNROLL for (int i = 0; i < 16; i++) all = _mm512_add_epi32(all, sum[i]);
    *sink = _mm512_reduce_add_ps(_mm512_cvtepi32_ps(all));
    return (double)rounds * 16 * 128;
}

void kernels_fill_avx512_vnni(kernel_table *table) {
    quant_fill(table);
    avx512_vnni_fill_blocks(table);
    table->peak_int8 = peak_int8;
}

#else
typedef int k_avx512_vnni_is_empty;
#endif

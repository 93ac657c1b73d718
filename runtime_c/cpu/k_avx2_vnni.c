/* k_avx2_vnni.c: matrix products on quantised weights for x86-64 with AVX-VNNI (vpdpbusd on 256-bit
 * registers, VEX encoded). All else is AVX2's. */
#include "kernels.h"

#if defined(__x86_64__)

#define QUANT_TARGET "avx2,fma,f16c,avxvnni"
#define QUANT_VNNI 1
#include "k_avx2_quant.h"

/* Groups below 32 split a block's dot, which the signed form of AVX2 does better. */
static void gemm_int8(const gemm_args *args) {
    if (args->group_size < ACT_BLOCK) avx2_gemm_int8(args);
    else gemm_int8_whole(args);
}

/* Twelve independent sums of 32 multiply-adds. */
static AK42_TARGET(QUANT_TARGET) double peak_int8(uint64_t n, float *sink) {
    __m256i sum[12], a = _mm256_set1_epi32(0x01020304), w = _mm256_set1_epi32(0x04030201);
    AK42_UNROLL for (int i = 0; i < 12; i++) sum[i] = _mm256_set1_epi32(i);
    for (uint64_t k = 0; k < n; k++) {
        AK42_UNROLL for (int i = 0; i < 12; i++) sum[i] = _mm256_dpbusd_avx_epi32(sum[i], w, a);
    }
    AK42_UNROLL for (int i = 1; i < 12; i++) sum[0] = _mm256_add_epi32(sum[0], sum[i]);
    *sink = avx2_sum(_mm256_cvtepi32_ps(sum[0]));
    return (double)n * 12 * 64;
}

void kernels_fill_avx2_vnni(kernel_table *table) {
    table->types[KERNEL_Q8_0] = (type_kernels){ .act = ACT_Q8, .nr = QUANT_NR, .gemm = gemm_q8_0 };
    table->types[KERNEL_INT8] = (type_kernels){ .act = ACT_Q8, .nr = QUANT_NR, .gemm = gemm_int8 };
    table->types[KERNEL_Q4_0] = (type_kernels){ .act = ACT_Q8, .nr = QUANT_NR, .gemm = gemm_q4_0 };
    table->types[KERNEL_Q4_1] = (type_kernels){ .act = ACT_Q8, .nr = QUANT_NR, .gemm = gemm_q4_1 };
    table->peak_int8 = peak_int8;
    avx2_vnni_fill_blocks(table);
}

#else

void kernels_fill_avx2_vnni(kernel_table *table) { (void)table; }

#endif

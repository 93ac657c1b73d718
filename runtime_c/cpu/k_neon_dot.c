/* k_neon_dot.c: matrix products on quantised weights for aarch64 with the dot product instructions (sdot).
 * All else is NEON's. */
#include "kernels.h"

#if defined(__aarch64__)

#define QUANT_FN static AK42_INLINE AK42_TARGET(NEON_DOT_TARGET)
#define QUANT_GEMM static AK42_TARGET(NEON_DOT_TARGET)
#define QUANT_DOT 1
#define QUANT_PAIRS 0
#include "k_neon_quant.h"

/* Groups below 32 split a block's dot; NEON's form does that. */
static void gemm_int8(const gemm_args *args) {
    if (args->group_size < ACT_BLOCK) neon_gemm_int8(args);
    else gemm_int8_whole(args);
}

/* Sixteen independent sums of 16 multiply-adds. */
static AK42_TARGET(NEON_DOT_TARGET) double peak_int8(uint64_t n, float *sink) {
    int32x4_t sum[16];
    const int8x16_t a = vdupq_n_s8(3), w = vdupq_n_s8(5);
    AK42_UNROLL for (int i = 0; i < 16; i++) sum[i] = vdupq_n_s32(i);
    for (uint64_t k = 0; k < n; k++) {
        AK42_UNROLL for (int i = 0; i < 16; i++) sum[i] = vdotq_s32(sum[i], w, a);
        NEON_LOAD_ANEW();
    }
    AK42_UNROLL for (int i = 1; i < 16; i++) sum[0] = vaddq_s32(sum[0], sum[i]);
    *sink = (float)vaddvq_s32(sum[0]);
    return (double)n * 16 * 32;
}

void kernels_fill_neon_dot(kernel_table *table) {
    table->types[KERNEL_Q8_0] = (type_kernels){ .act = ACT_Q8, .nr = QUANT_NR, .gemm = gemm_q8_0 };
    table->types[KERNEL_INT8] = (type_kernels){ .act = ACT_Q8, .nr = QUANT_NR, .gemm = gemm_int8 };
    table->types[KERNEL_Q4_0] = (type_kernels){ .act = ACT_Q8, .nr = QUANT_NR, .gemm = gemm_q4_0 };
    table->types[KERNEL_Q4_1] = (type_kernels){ .act = ACT_Q8, .nr = QUANT_NR, .gemm = gemm_q4_1 };
    table->peak_int8 = peak_int8;
    neon_dot_fill_blocks(table);
}

#else

void kernels_fill_neon_dot(kernel_table *table) { (void)table; }

#endif

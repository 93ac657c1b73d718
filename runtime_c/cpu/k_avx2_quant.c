/* k_avx2_quant.c: matrix products on quantised weights for x86-64 with AVX2 and no VNNI. */
#include "kernels.h"

#if defined(__x86_64__)

#define QUANT_TARGET AVX2_TARGET
#define QUANT_VNNI 0
#include "k_avx2_quant.h"

/* ---- int8 with groups below 32: every group has its own integer dot ---- */

AVX2_FN void small_block(__m256 (*sum)[2], const uint8_t *super, const uint8_t *act, uint32_t n,
                         uint32_t group, uint32_t block) {
    const uint8_t *quants = super + SUPER_K / group * 64 + block * 512, *d = act + n * ACT_BLOCK;
    const uint32_t words = group / 4;
    for (uint32_t h = 0; h < 2; h++)
        for (uint32_t t = 0; t < n; t++) {
            __m256 part = _mm256_setzero_ps();
            for (uint32_t g = 0; g < 8; g += words) {
                __m256i dot = _mm256_setzero_si256();
                for (uint32_t i = g; i < g + words; i++)
                    dot = quant_dot(dot, quant_ready(avx2_load(quants + i * 64 + h * 32), QUANT_INT8),
                                    avx2_word(act + t * ACT_BLOCK + i * 4), QUANT_INT8);
                const uint8_t *scale = super + (block * 8 + g) / words * 64 + h * 32;
                part = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_castsi256_ps(avx2_load(scale)), part);
            }
            sum[t][h] = _mm256_fmadd_ps(part, avx2_float(d + t * 4), sum[t][h]);
        }
}

static AK42_TARGET(AVX2_TARGET) void gemm_int8_small(const gemm_args *args) {
    const uint32_t n = args->n_tokens, group = args->group_size;
    const size_t super_bytes = SUPER_K / group * 64 + 1024;
    for (uint32_t p = 0; p < args->n_panels; p++) {
        const uint8_t *super = args->panels + p * args->panel_bytes, *act = args->act;
        __m256 sum[TILE_TOKENS_MAX][2];
        for (uint32_t t = 0; t < n; t++) avx2_start(sum[t], args, t, p);
        for (uint32_t i = 0; i < args->n_super; i++, super += super_bytes)
            for (uint32_t block = 0; block < 2; block++, act += n * ACT_Q8_BLOCK_BYTES)
                small_block(sum, super, act, n, group, block);
        for (uint32_t t = 0; t < n; t++)
            avx2_put(args->out + t * args->ldo + p * PANEL_ROWS, sum[t][0], sum[t][1], args->accumulate);
    }
}

void avx2_gemm_int8(const gemm_args *args) {
    if (args->group_size < ACT_BLOCK) gemm_int8_small(args);
    else gemm_int8_whole(args);
}

/* Twelve independent sums of what Q4 products do: 32 multiply-adds into 16 bits. */
static AK42_TARGET(AVX2_TARGET) double peak_int8(uint64_t n, float *sink) {
    __m256i sum[12], a = _mm256_set1_epi32(0x01020304), w = _mm256_set1_epi32(0x04030201);
    AK42_UNROLL for (int i = 0; i < 12; i++) sum[i] = _mm256_set1_epi32(i);
    for (uint64_t k = 0; k < n; k++) {
        AK42_UNROLL for (int i = 0; i < 12; i++) {
            /* the product is the same every time: it must not be taken out of the loop */
            __asm__("" : "+x"(w));
            sum[i] = _mm256_add_epi16(sum[i], _mm256_maddubs_epi16(w, a));
        }
    }
    AK42_UNROLL for (int i = 1; i < 12; i++) sum[0] = _mm256_add_epi16(sum[0], sum[i]);
    *sink = avx2_sum(_mm256_cvtepi32_ps(sum[0]));
    return (double)n * 12 * 64;
}

void avx2_fill_quant(kernel_table *table) {
    table->types[KERNEL_Q8_0] = (type_kernels){ .act = ACT_Q8, .nr = QUANT_NR, .gemm = gemm_q8_0, .in_order = true };
    table->types[KERNEL_INT8] = (type_kernels){ .act = ACT_Q8, .nr = QUANT_NR, .gemm = avx2_gemm_int8, .in_order = true };
    table->types[KERNEL_Q4_0] = (type_kernels){ .act = ACT_Q8, .nr = QUANT_NR, .gemm = gemm_q4_0 };
    table->types[KERNEL_Q4_1] = (type_kernels){ .act = ACT_Q8, .nr = QUANT_NR, .gemm = gemm_q4_1 };
    table->peak_int8 = peak_int8;
}

#endif

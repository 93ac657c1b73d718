/* k_neon_quant.c: matrix products on quantised weights for aarch64 without dot product instructions. */
#include "kernels.h"

#if defined(__aarch64__)

#define QUANT_FN static AK42_INLINE
#define QUANT_GEMM static
#define QUANT_DOT 0
#define QUANT_PAIRS 0
#include "k_neon_quant.h"

/* ---- int8 with groups below 32: every group has its own integer dot ---- */

static void small_block(float32x4_t (*sum)[4], const uint8_t *super, const uint8_t *act, uint32_t n,
                        uint32_t group, uint32_t block) {
    const uint8_t *quants = super + SUPER_K / group * 64, *d = act + n * ACT_BLOCK;
    const uint32_t words = group / 4;
    for (int i = 0; i < 4; i++)
        for (uint32_t t = 0; t < n; t++) {
            float32x4_t part = vdupq_n_f32(0.0f);
            for (uint32_t g = 0; g < 8; g += words) {
                int32x4_t low = vdupq_n_s32(0), high = low;
                for (uint32_t j = g; j < g + words; j++) {
                    const int8x16_t w = quant_codes(quants, QUANT_INT8, (int)block, (int)j, i);
                    const int8x8_t a = quant_word(act + t * ACT_BLOCK + j * 4);
                    low = vpadalq_s16(low, vmull_s8(vget_low_s8(w), a));
                    high = vpadalq_s16(high, vmull_s8(vget_high_s8(w), a));
                }
                const float32x4_t scale = neon_load(super + (block * 8 + g) / words * 64 + (size_t)i * 16);
                part = vfmaq_f32(part, vcvtq_f32_s32(quant_fold(low, high)), scale);
            }
            sum[t][i] = vfmaq_n_f32(sum[t][i], part, neon_float(d + t * 4));
        }
}

static void gemm_int8_small(const gemm_args *args) {
    const uint32_t n = args->n_tokens, group = args->group_size;
    const size_t super_bytes = SUPER_K / group * 64 + 1024;
    for (uint32_t p = 0; p < args->n_panels; p++) {
        const uint8_t *super = args->panels + p * args->panel_bytes, *act = args->act;
        float32x4_t sum[TILE_TOKENS_MAX][4];
        for (uint32_t t = 0; t < n; t++) neon_start(sum[t], args, t, p);
        for (uint32_t i = 0; i < args->n_super; i++, super += super_bytes)
            for (uint32_t block = 0; block < 2; block++, act += n * ACT_Q8_BLOCK_BYTES)
                small_block(sum, super, act, n, group, block);
        for (uint32_t t = 0; t < n; t++)
            neon_put(args->out + t * args->ldo + p * PANEL_ROWS, sum[t], args->accumulate);
    }
}

void neon_gemm_int8(const gemm_args *args) {
    if (args->group_size < ACT_BLOCK) gemm_int8_small(args);
    else gemm_int8_whole(args);
}

/* Sixteen independent sums of 8 multiply-adds into 16 bits. */
static double peak_int8(uint64_t n, float *sink) {
    int16x8_t sum[16];
    int8x8_t a = vdup_n_s8(3), w = vdup_n_s8(5);
    AK42_UNROLL for (int i = 0; i < 16; i++) sum[i] = vdupq_n_s16((int16_t)i);
    for (uint64_t k = 0; k < n; k++) {
        AK42_UNROLL for (int i = 0; i < 16; i++) sum[i] = vmlal_s8(sum[i], w, a);
        NEON_LOAD_ANEW();
    }
    AK42_UNROLL for (int i = 1; i < 16; i++) sum[0] = vaddq_s16(sum[0], sum[i]);
    *sink = (float)vaddlvq_s16(sum[0]);
    return (double)n * 16 * 16;
}

void neon_fill_quant(kernel_table *table) {
    table->types[KERNEL_Q8_0] = (type_kernels){ .act = ACT_Q8, .nr = QUANT_NR, .gemm = gemm_q8_0 };
    table->types[KERNEL_INT8] = (type_kernels){ .act = ACT_Q8, .nr = QUANT_NR, .gemm = neon_gemm_int8 };
    table->types[KERNEL_Q4_0] = (type_kernels){ .act = ACT_Q8, .nr = QUANT_NR, .gemm = gemm_q4_0 };
    table->types[KERNEL_Q4_1] = (type_kernels){ .act = ACT_Q8, .nr = QUANT_NR, .gemm = gemm_q4_1 };
    table->peak_int8 = peak_int8;
}

#endif

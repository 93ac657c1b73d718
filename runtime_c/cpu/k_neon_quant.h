/* k_neon_quant.h: matrix products on quantised weights and ACT_Q8 tiles for NEON, a body that three files
 * include, each with its own instructions: before the #include they define
 *     QUANT_FN, QUANT_GEMM          what stands before functions: inlined ones, entries of the table
 *     QUANT_DOT                     1: sdot on 4 products; 0: 8-bit multiplies into 16 bits
 *     QUANT_PAIRS                   1: two tokens and more go to k_neon_quant_pairs.h's tiles
 * It defines gemm_* for the four quantised types. No dispatch, no state.
 *
 * Codes are made signed, so that dots need no correction. Without sdot, two products of 8-bit weights fit
 * 16 bits (2 * 128 * 127 < 2^15), and a whole block's of 4-bit ones (8 * 15 * 127 < 2^15). */
#include "k_neon.h"

typedef enum quant_form { QUANT_8_0, QUANT_INT8, QUANT_4_0, QUANT_4_1 } quant_form;

enum { QUANT_NR = QUANT_PAIRS ? 8 : 4 };

QUANT_FN bool quant_is_8(quant_form form) { return form == QUANT_8_0 || form == QUANT_INT8; }

QUANT_FN size_t quant_head_bytes(quant_form form, uint32_t group) {
    return form == QUANT_INT8 ? SUPER_K / group * 64 : form == QUANT_4_1 ? 128 : 64;
}

/* Codes of 4 rows x 4 k: k-group g of a block, rows 4i .. 4i+3. quants points behind the scales. */
QUANT_FN int8x16_t quant_codes(const uint8_t *quants, quant_form form, int block, int g, int i) {
    if (quant_is_8(form)) {
        const uint8x16_t codes = vld1q_u8(quants + (block * 8 + g) * 64 + i * 16);
        return vreinterpretq_s8_u8(veorq_u8(codes, vdupq_n_u8(0x80)));
    }
    const uint8x16_t both = vld1q_u8(quants + g * 64 + i * 16);
    const int8x16_t codes = vreinterpretq_s8_u8(block ? vshrq_n_u8(both, 4) : vandq_u8(both, vdupq_n_u8(15)));
    return form == QUANT_4_0 ? vsubq_s8(codes, vdupq_n_s8(8)) : codes;
}

/* A token's 4 activations of a k-group, twice. */
QUANT_FN int8x8_t quant_word(const uint8_t *act) {
    int32_t word;
    memcpy(&word, act, 4);
    return vreinterpret_s8_s32(vdup_n_s32(word));
}

/* Sums of neighbours twice over: 4 rows of 4 products each. */
QUANT_FN int32x4_t quant_fold(int32x4_t low, int32x4_t high) { return vpaddq_s32(low, high); }

/* dot[t][i] = products of one block of n tokens with rows 4i .. 4i+3. */
#if QUANT_DOT

/* The lane of an activation register must be a literal. */
#define QUANT_GROUP(half, lane)                                                                    \
    do {                                                                                           \
        AK42_UNROLL for (int i = 0; i < 4; i++) {                                                  \
            const int8x16_t w = quant_codes(quants, form, block, (half) * 4 + (lane), i);          \
            AK42_UNROLL for (int t = 0; t < n; t++)                                                \
                dot[t][i] = vdotq_laneq_s32(dot[t][i], w, a[t], lane);                             \
        }                                                                                          \
    } while (0)

QUANT_FN void quant_dots(int32x4_t dot[QUANT_NR][4], const uint8_t *quants, const uint8_t *act, int n,
                         quant_form form, int block) {
    AK42_UNROLL for (int t = 0; t < n; t++)
        AK42_UNROLL for (int i = 0; i < 4; i++) dot[t][i] = vdupq_n_s32(0);
    AK42_UNROLL for (int half = 0; half < 2; half++) {
        int8x16_t a[QUANT_NR];
        AK42_UNROLL for (int t = 0; t < n; t++)
            a[t] = vreinterpretq_s8_u8(vld1q_u8(act + t * ACT_BLOCK + half * 16));
        QUANT_GROUP(half, 0);
        QUANT_GROUP(half, 1);
        QUANT_GROUP(half, 2);
        QUANT_GROUP(half, 3);
    }
}

#else

QUANT_FN void quant_dots(int32x4_t dot[QUANT_NR][4], const uint8_t *quants, const uint8_t *act, int n,
                         quant_form form, int block) {
    AK42_UNROLL for (int i = 0; i < 4; i++) {
        int32x4_t low[QUANT_NR], high[QUANT_NR];
        int16x8_t low16[QUANT_NR], high16[QUANT_NR];
        AK42_UNROLL for (int t = 0; t < n; t++) {
            low[t] = high[t] = vdupq_n_s32(0);
            low16[t] = high16[t] = vdupq_n_s16(0);
        }
        AK42_UNROLL for (int g = 0; g < 8; g++) {
            NEON_LOAD_ANEW();
            const int8x16_t w = quant_codes(quants, form, block, g, i);
            AK42_UNROLL for (int t = 0; t < n; t++) {
                const int8x8_t a = quant_word(act + t * ACT_BLOCK + g * 4);
                low16[t] = vmlal_s8(low16[t], vget_low_s8(w), a);
                high16[t] = vmlal_s8(high16[t], vget_high_s8(w), a);
                if (g == 7 || (quant_is_8(form) && g % 2)) {
                    low[t] = vpadalq_s16(low[t], low16[t]);
                    high[t] = vpadalq_s16(high[t], high16[t]);
                    low16[t] = high16[t] = vdupq_n_s16(0);
                }
            }
        }
        AK42_UNROLL for (int t = 0; t < n; t++) dot[t][i] = quant_fold(low[t], high[t]);
    }
}

#endif

/* sum[t][i] += d[t] * (scale * dot + min * sum of a) for one block of 32 k. */
QUANT_FN void quant_block(float32x4_t (*sum)[4], const uint8_t *super, const uint8_t *act, int n,
                          quant_form form, uint32_t group, int block) {
    const uint8_t *d = act + n * ACT_BLOCK, *s = d + n * 4;
    int32x4_t dot[QUANT_NR][4];
    quant_dots(dot, super + quant_head_bytes(form, group), act, n, form, block);
    AK42_UNROLL for (int i = 0; i < 4; i++) {
        const float32x4_t scale = form == QUANT_INT8
            ? neon_load(super + block * 32 / (int)group * 64 + i * 16)
            : neon_load_f16(super + block * 32 + i * 8);
        AK42_UNROLL for (int t = 0; t < n; t++) {
            float32x4_t part = vmulq_f32(vcvtq_f32_s32(dot[t][i]), scale);
            if (form == QUANT_4_1)
                part = vfmaq_n_f32(part, neon_load_f16(super + 64 + block * 32 + i * 8),
                                   (float)load_i32(s + t * 4));
            sum[t][i] = vfmaq_n_f32(sum[t][i], part, neon_float(d + t * 4));
        }
    }
}

QUANT_FN void quant_panels(const gemm_args *args, int n, quant_form form) {
    const size_t super_bytes = quant_head_bytes(form, args->group_size) + (quant_is_8(form) ? 1024 : 512);
    for (uint32_t p = 0; p < args->n_panels; p++) {
        const uint8_t *super = args->panels + p * args->panel_bytes, *end = super + args->n_super * super_bytes, *act = args->act;
        const size_t jump = gemm_jump(args, p, 1, 0);
        float32x4_t sum[QUANT_NR][4];
        AK42_UNROLL for (int t = 0; t < n; t++) neon_start(sum[t], args, (size_t)t, p);
        for (uint32_t i = 0; i < args->n_super; i++, super += super_bytes) {
            const size_t far = ahead_far((size_t)(end - super), jump, args->foreseen);
            for (size_t line = 0; line < super_bytes; line += CACHE_LINE) ask_line(super + line, far);
            AK42_UNROLL for (int block = 0; block < 2; block++, act += n * ACT_Q8_BLOCK_BYTES)
                quant_block(sum, super, act, n, form, args->group_size, block);
        }
        AK42_UNROLL for (int t = 0; t < n; t++)
            neon_put(args->out + (size_t)t * args->ldo + p * PANEL_ROWS, sum[t], args->accumulate);
    }
}

#if QUANT_PAIRS
#include "k_neon_quant_pairs.h"
#else
QUANT_FN void quant_many(const gemm_args *args, quant_form form) {
    switch (args->n_tokens) {
        case 2: quant_panels(args, 2, form); break;
        case 3: quant_panels(args, 3, form); break;
        default: quant_panels(args, QUANT_NR, form); break;
    }
}
#endif

QUANT_FN void quant_gemm(const gemm_args *args, quant_form form) {
    if (args->n_tokens == 1) quant_panels(args, 1, form);
    else quant_many(args, form);
}

QUANT_GEMM void gemm_q8_0(const gemm_args *args) { quant_gemm(args, QUANT_8_0); }
QUANT_GEMM void gemm_q4_0(const gemm_args *args) { quant_gemm(args, QUANT_4_0); }
QUANT_GEMM void gemm_q4_1(const gemm_args *args) { quant_gemm(args, QUANT_4_1); }
/* Groups of 32 and 64. */
QUANT_GEMM void gemm_int8_whole(const gemm_args *args) { quant_gemm(args, QUANT_INT8); }

/* k_neon_blocks_pairs.h: k_blocks.h's product of spread units with a tile of tokens, on int8 matrix multiplies: for each
 * output the arithmetic of multiply_super, so the same bits. Included by k_blocks.h for k_neon_blocks_i8mm.c. */

/* sum[t] += the products of n_units units of a panel with the n tokens of a tile, pairs = (n + 1) / 2. */
BLOCKS_FN void multiply_pairs(floats *total, const int32_t (*dots)[BLOCKS_NR], const float (*sums)[BLOCKS_NR], const uint8_t *wide,
                              const uint8_t *act, uint32_t n_units, uint32_t n, int pairs, blocks_form form) {
    const int quads = form_group(form) / 4;
    pair_sums sum;
    AK42_UNROLL for (int p = 0; p < pairs; p++)
        AK42_UNROLL for (int i = 0; i < 4; i++)
            pair_open(&sum[i][0][p], &sum[i][1][p], total[2 * p * 4 + i], total[pair_second(p, n) * 4 + (uint32_t)i]);
    for (uint32_t u = 0; u < n_units; u++, wide += form_bytes(form))
        for (int g = 0; g < form_groups(form); g++, dots++, sums++) {
            const uint8_t *q = act + g * quads % 8 * 4, *d = act + n * ACT_BLOCK;
            const uint8_t *codes = wide + form_codes_at(form) + (size_t)(g * quads) * 64;
            const uint8_t *start = (const uint8_t *)*dots, *s = (const uint8_t *)*sums;
            int8x16_t a[PAIRS_MAX][4];
            int32x4_t from[PAIRS_MAX];
            float32x4_t factor[PAIRS_MAX], each[PAIRS_MAX];
            AK42_UNROLL for (int p = 0; p < pairs; p++) {
                const size_t first = 2 * (size_t)p, second = pair_second(p, n);
                AK42_UNROLL for (int half = 0; half < quads / 4; half++)
                    pair_columns(a[p] + half * 2, q + first * ACT_BLOCK + half * 16, q + second * ACT_BLOCK + half * 16);
                from[p] = pair_tokens(start + first * 4, start + second * 4);
                factor[p] = vreinterpretq_f32_s32(pair_tokens(d + first * 4, d + second * 4));
                each[p] = form_has_mins(form) ? vreinterpretq_f32_s32(pair_tokens(s + first * 4, s + second * 4)) : factor[p];
            }
            for (int i = 0; i < 4; i++) {                  /* the sums are in memory, too many for the registers */
                int32x4_t dot[2][PAIRS_MAX];
                AK42_UNROLL for (int p = 0; p < pairs; p++) dot[0][p] = dot[1][p] = from[p];
                AK42_UNROLL for (int j = 0; j < quads / 2; j++) {
                    uint8x16_t w[2];
                    pair_rows(w, vld1q_u8(codes + j * 128 + i * 16), vld1q_u8(codes + j * 128 + 64 + i * 16));
                    AK42_UNROLL for (int h = 0; h < 2; h++)
                        AK42_UNROLL for (int p = 0; p < pairs; p++) dot[h][p] = vusmmlaq_s32(dot[h][p], w[h], a[p][j]);
                }
                const float32x4_t scales = neon_load(wide + g * 64 + i * 16);
                const float32x4_t mins = form_has_mins(form) ? neon_load(wide + (form_groups(form) + g) * 64 + i * 16) : scales;
                AK42_UNROLL for (int h = 0; h < 2; h++) {
                    const float32x4_t scale = pair_of_rows(scales, h), bias = vmulq_n_f32(scale, -BLOCKS_MAGIC);
                    const float32x4_t min = form_has_mins(form) ? pair_of_rows(mins, h) : scale;
                    AK42_UNROLL for (int p = 0; p < pairs; p++) {
                        float32x4_t part = vfmaq_f32(bias, vreinterpretq_f32_s32(dot[h][p]), scale);
                        if (form_has_mins(form)) part = vfmaq_f32(part, min, each[p]);
                        sum[i][h][p] = vfmaq_f32(sum[i][h][p], part, factor[p]);
                    }
                }
            }
            if ((g + 1) * form_group(form) % ACT_BLOCK == 0) act += n * ACT_Q8_BLOCK_BYTES;
        }
    AK42_UNROLL for (int p = 0; p < pairs; p++)
        AK42_UNROLL for (int i = 0; i < 4; i++) {
            total[2 * p * 4 + i] = pair_close(sum[i][0][p], sum[i][1][p], 0);
            if (2 * (uint32_t)p + 1 < n) total[(2 * p + 1) * 4 + i] = pair_close(sum[i][0][p], sum[i][1][p], 1);
        }
}

typedef void matrix_fn(floats *total, const int32_t (*dots)[BLOCKS_NR], const float (*sums)[BLOCKS_NR], const uint8_t *wide,
                       const uint8_t *act, uint32_t n_units, uint32_t n);
#define MATRIX_FN(form, pairs)                                                                                                   \
    BLOCKS_TARGET static void matrix_##form##_##pairs(floats *total, const int32_t (*dots)[BLOCKS_NR],                           \
                                                      const float (*sums)[BLOCKS_NR], const uint8_t *wide, const uint8_t *act,   \
                                                      uint32_t n_units, uint32_t n) {                                            \
        multiply_pairs(total, dots, sums, wide, act, n_units, n, pairs, form);                                                   \
    }
#define MATRIX_FNS(form) MATRIX_FN(form, 1) MATRIX_FN(form, 2) MATRIX_FN(form, 3) MATRIX_FN(form, 4)
#define MATRIX_LIST(form) {matrix_##form##_1, matrix_##form##_2, matrix_##form##_3, matrix_##form##_4}
MATRIX_FNS(FORM_32)
MATRIX_FNS(FORM_32_MIN)
MATRIX_FNS(FORM_16)
MATRIX_FNS(FORM_16_MIN)
static matrix_fn *const matrix_units[FORM_COUNT][PAIRS_MAX] = {
    MATRIX_LIST(FORM_32), MATRIX_LIST(FORM_32_MIN), MATRIX_LIST(FORM_16), MATRIX_LIST(FORM_16_MIN)};

/* All tokens of a tile, n_units units of a panel. */
BLOCKS_FN void multiply_tile(floats *total, const blocks_start *start, uint32_t unit, const uint8_t *wide, size_t wide_bytes,
                             const uint8_t *act, uint32_t n_units, uint32_t n, int np, blocks_form form) {
    const uint32_t group = unit * (uint32_t)form_groups(form);
    (void)wide_bytes, (void)np;
    matrix_units[form][(n - 1) / 2](total, start->dot + group, start->s + group, wide, act, n_units, n);
}

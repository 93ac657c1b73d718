/* k_neon_blocks_tile.h: k_blocks.h's product of spread units with a tile of up to 4 tokens, 16 rows at a time: for each output the
 * arithmetic of multiply_super, so the same bits. Included by k_blocks.h for k_neon_blocks.c and k_neon_blocks_dot.c. */

BLOCKS_FN void multiply_tokens(floats *total, const int32_t (*dots)[BLOCKS_NR], const float (*sums)[BLOCKS_NR], const uint8_t *wide,
                               const uint8_t *act, uint32_t n_units, int n, blocks_form form) {
    const int quads = form_group(form) / 4;
    floats sum[BLOCKS_NR][4];
    AK42_UNROLL for (int i = 0; i < n * 4; i++) sum[i / 4][i % 4] = total[i];
    for (uint32_t u = 0; u < n_units; u++, wide += form_bytes(form))
        for (int g = 0; g < form_groups(form); g++, dots++, sums++) {
            const uint8_t *q = act + g * quads % 8 * 4, *d = act + n * ACT_BLOCK;
            const uint8_t *codes = wide + form_codes_at(form) + (size_t)(g * quads) * 64;
            words dot[BLOCKS_NR][4];
            AK42_UNROLL for (int i = 0; i < n * 4; i++) dot[i / 4][i % 4] = w_set1((uint32_t)(*dots)[i / 4]);
            AK42_UNROLL for (int j = 0; j < quads; j++) {
                words w[4];
                AK42_UNROLL for (int i = 0; i < 4; i++) w[i] = w_load(codes + j * 64 + i * 16);
                AK42_UNROLL for (int t = 0; t < n; t++) {
                    const words a = w_set1(blocks_word(q + t * ACT_BLOCK + j * 4));
                    AK42_UNROLL for (int i = 0; i < 4; i++) dot[t][i] = w_dot(dot[t][i], w[i], a, form == FORM_32);
                }
            }
            AK42_UNROLL for (int i = 0; i < 4; i++) {
                const floats scale = f_load(wide + g * 64 + i * 16), bias = f_mul(scale, f_set1(-BLOCKS_MAGIC));
                const floats min = form_has_mins(form) ? f_load(wide + (form_groups(form) + g) * 64 + i * 16) : bias;
                AK42_UNROLL for (int t = 0; t < n; t++) {
                    floats part = f_fma(f_cast(dot[t][i]), scale, bias);
                    if (form_has_mins(form)) part = f_fma(min, f_set1((*sums)[t]), part);
                    sum[t][i] = f_fma(part, f_set1(blocks_float(d + t * 4)), sum[t][i]);
                }
            }
            if ((g + 1) * form_group(form) % ACT_BLOCK == 0) act += n * ACT_Q8_BLOCK_BYTES;
        }
    AK42_UNROLL for (int i = 0; i < n * 4; i++) total[i] = sum[i / 4][i % 4];
}

typedef void tile_fn(floats *total, const int32_t (*dots)[BLOCKS_NR], const float (*sums)[BLOCKS_NR], const uint8_t *wide,
                     const uint8_t *act, uint32_t n_units);
#define TILE_FN(form, n)                                                                                                         \
    BLOCKS_TARGET static void tile_##form##_##n(floats *total, const int32_t (*dots)[BLOCKS_NR], const float (*sums)[BLOCKS_NR], \
                                                const uint8_t *wide, const uint8_t *act, uint32_t n_units) {                     \
        multiply_tokens(total, dots, sums, wide, act, n_units, n, form);                                                         \
    }
#define TILE_FNS(form) TILE_FN(form, 1) TILE_FN(form, 2) TILE_FN(form, 3) TILE_FN(form, 4)
#define TILE_LIST(form) {tile_##form##_1, tile_##form##_2, tile_##form##_3, tile_##form##_4}
TILE_FNS(FORM_32)
TILE_FNS(FORM_32_MIN)
TILE_FNS(FORM_16)
TILE_FNS(FORM_16_MIN)
static tile_fn *const tiles[FORM_COUNT][BLOCKS_NR] = {TILE_LIST(FORM_32), TILE_LIST(FORM_32_MIN), TILE_LIST(FORM_16),
                                                      TILE_LIST(FORM_16_MIN)};

/* All tokens of a tile, n_units units of a panel. */
BLOCKS_FN void multiply_tile(floats *total, const blocks_start *start, uint32_t unit, const uint8_t *wide, size_t wide_bytes,
                             const uint8_t *act, uint32_t n_units, uint32_t n, int np, blocks_form form) {
    const uint32_t group = unit * (uint32_t)form_groups(form);
    (void)wide_bytes, (void)np;
    tiles[form][n - 1](total, start->dot + group, start->s + group, wide, act, n_units);
}

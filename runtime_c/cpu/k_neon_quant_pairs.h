/* k_neon_quant_pairs.h: k_neon_quant.h's products for tiles of 2 to 8 tokens on int8 matrix multiplies. For each output the integer
 * sums and the order of the float ones are quant_block's, so the same bits. Included by k_neon_quant.h for k_neon_i8mm.c.
 *
 * Codes stay as they lie, u8, and what their zero adds is taken off where a dot starts. With f16 scales the dot starts at the bits of
 * M = 1.5 * 2^23, whose last place is one: read as a float that is M + c, exactly, and scale * c, rounded once, is fma(M + c, scale,
 * -M * scale). With f32 scales c is converted and multiplied, which rounds alike. */

enum { QUANT_MAGIC_BITS = 0x4b400000 };
#define QUANT_MAGIC 12582912.0f

/* Codes of 4 rows x 4 k as they lie. */
QUANT_FN uint8x16_t pair_codes(const uint8_t *quants, quant_form form, int block, int g, int i) {
    if (quant_is_8(form)) return vld1q_u8(quants + (block * 8 + g) * 64 + i * 16);
    const uint8x16_t both = vld1q_u8(quants + g * 64 + i * 16);
    return block ? vshrq_n_u8(both, 4) : vandq_u8(both, vdupq_n_u8(15));
}

/* Where the dots of two tokens start; s their sums of activations. */
QUANT_FN int32x4_t pair_start(int32x4_t s, quant_form form) {
    const int32x4_t from = vdupq_n_s32(form == QUANT_INT8 ? 0 : QUANT_MAGIC_BITS);
    const int32_t zero = quant_is_8(form) ? 128 : form == QUANT_4_0 ? 8 : 0;
    return zero ? vmlsq_n_s32(from, s, zero) : from;
}

/* sum += d * (scale * dot + min * sum of a) for one block of 32 k. */
QUANT_FN void pair_block(pair_sums sum, const uint8_t *super, const uint8_t *act, uint32_t n, int pairs, quant_form form,
                         uint32_t group, int block) {
    const uint8_t *quants = super + quant_head_bytes(form, group), *d = act + n * ACT_BLOCK, *s = d + n * 4;
    int8x16_t a[PAIRS_MAX][4];
    int32x4_t start[PAIRS_MAX];
    float32x4_t factor[PAIRS_MAX], each[PAIRS_MAX];
    AK42_UNROLL for (int p = 0; p < pairs; p++) {
        const size_t first = 2 * (size_t)p, second = pair_second(p, n);
        pair_columns(a[p], act + first * ACT_BLOCK, act + second * ACT_BLOCK);
        pair_columns(a[p] + 2, act + first * ACT_BLOCK + 16, act + second * ACT_BLOCK + 16);
        const int32x4_t sums = pair_tokens(s + first * 4, s + second * 4);
        start[p] = pair_start(sums, form);
        each[p] = vcvtq_f32_s32(sums);
        factor[p] = vreinterpretq_f32_s32(pair_tokens(d + first * 4, d + second * 4));
    }
    for (int i = 0; i < 4; i++) {                  /* the sums are in memory, too many for the registers */
        int32x4_t dot[2][PAIRS_MAX];
        AK42_UNROLL for (int p = 0; p < pairs; p++) dot[0][p] = dot[1][p] = start[p];
        AK42_UNROLL for (int j = 0; j < 4; j++) {
            uint8x16_t w[2];
            pair_rows(w, pair_codes(quants, form, block, 2 * j, i), pair_codes(quants, form, block, 2 * j + 1, i));
            AK42_UNROLL for (int h = 0; h < 2; h++)
                AK42_UNROLL for (int p = 0; p < pairs; p++) dot[h][p] = vusmmlaq_s32(dot[h][p], w[h], a[p][j]);
        }
        const float32x4_t scales = form == QUANT_INT8 ? neon_load(super + block * 32 / (int)group * 64 + i * 16)
                                                      : neon_load_f16(super + block * 32 + i * 8);
        const float32x4_t mins = form == QUANT_4_1 ? neon_load_f16(super + 64 + block * 32 + i * 8) : scales;
        AK42_UNROLL for (int h = 0; h < 2; h++) {
            const float32x4_t scale = pair_of_rows(scales, h), bias = vmulq_n_f32(scale, -QUANT_MAGIC);
            const float32x4_t min = form == QUANT_4_1 ? pair_of_rows(mins, h) : scale;
            AK42_UNROLL for (int p = 0; p < pairs; p++) {
                float32x4_t part = form == QUANT_INT8 ? vmulq_f32(vcvtq_f32_s32(dot[h][p]), scale)
                                                      : vfmaq_f32(bias, vreinterpretq_f32_s32(dot[h][p]), scale);
                if (form == QUANT_4_1) part = vfmaq_f32(part, min, each[p]);
                sum[i][h][p] = vfmaq_f32(sum[i][h][p], part, factor[p]);
            }
        }
    }
}

QUANT_FN void pair_panels(const gemm_args *args, int pairs, quant_form form) {
    const size_t super_bytes = quant_head_bytes(form, args->group_size) + (quant_is_8(form) ? 1024 : 512);
    const uint32_t n = args->n_tokens;
    for (uint32_t panel = 0; panel < args->n_panels; panel++) {
        const uint8_t *super = args->panels + panel * args->panel_bytes, *end = super + args->n_super * super_bytes, *act = args->act;
        const size_t jump = gemm_jump(args, panel, 1, 0);
        pair_sums sum;
        AK42_UNROLL for (int p = 0; p < pairs; p++) {
            float32x4_t first[4], second[4];
            neon_start(first, args, 2 * (size_t)p, panel);
            neon_start(second, args, pair_second(p, n), panel);
            AK42_UNROLL for (int i = 0; i < 4; i++) pair_open(&sum[i][0][p], &sum[i][1][p], first[i], second[i]);
        }
        for (uint32_t i = 0; i < args->n_super; i++, super += super_bytes) {
            const size_t far = ahead_far((size_t)(end - super), jump, args->foreseen);
            for (size_t line = 0; line < super_bytes; line += CACHE_LINE) ask_line(super + line, far);
            AK42_UNROLL for (int block = 0; block < 2; block++, act += n * ACT_Q8_BLOCK_BYTES)
                pair_block(sum, super, act, n, pairs, form, args->group_size, block);
        }
        AK42_UNROLL for (int p = 0; p < pairs; p++)
            for (uint32_t t = 2 * (uint32_t)p; t <= pair_second(p, n); t++) {
                float32x4_t put[4];
                AK42_UNROLL for (int i = 0; i < 4; i++) put[i] = pair_close(sum[i][0][p], sum[i][1][p], t % 2);
                neon_put(args->out + t * args->ldo + panel * PANEL_ROWS, put, args->accumulate);
            }
    }
}

QUANT_FN void quant_many(const gemm_args *args, quant_form form) {
    switch ((args->n_tokens + 1) / 2) {
        case 1: pair_panels(args, 1, form); break;
        case 2: pair_panels(args, 2, form); break;
        case 3: pair_panels(args, 3, form); break;
        default: pair_panels(args, PAIRS_MAX, form); break;
    }
}

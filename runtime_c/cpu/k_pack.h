/* k_pack.h: the packing of ACT_F32 and ACT_Q8 tiles, a body that ISA files include, each with its own vectors. Before the #include a
 * file defines
 *     PACK_FN, PACK_TARGET          what stands before functions: inlined ones, entries of the table
 *     block_floats                  32 floats, an array of vectors
 *     load_floats(v, x)             them from memory
 *     max_magnitude(v)              the bits of the largest magnitude, compared as integers
 *     quant_codes32(codes, v, inverse)      round-to-nearest-even(x * inverse) as i8; inverse 0: all 0, also of NaN. Returns their sum
 * It defines pack_f32 and pack_q8. No dispatch, no state. */
#include "kernels.h"
#include "outliers.h"

PACK_TARGET static void pack_f32(uint8_t *act, outlier *lists, const float *x, size_t ldx, uint32_t n_tokens, uint32_t columns) {
    (void)lists;
    const size_t k_pad = round_up(columns, SUPER_K);
    float *out = (float *)(void *)act;
    if (n_tokens == 1) {
        memcpy(out, x, columns * sizeof(float));
    } else {
        for (size_t k = 0; k < columns; k++)
            for (uint32_t t = 0; t < n_tokens; t++) out[k * n_tokens + t] = x[t * ldx + k];
    }
    memset(out + (size_t)columns * n_tokens, 0, (k_pad - columns) * n_tokens * sizeof(float));
}

/* 32 floats of a token, zeros from the row's end on. */
PACK_FN void load_block(block_floats v, const float *x, size_t n) {
    float padded[ACT_BLOCK];
    if (n < ACT_BLOCK) {
        for (size_t i = 0; i < ACT_BLOCK; i++) padded[i] = i < n ? x[i] : 0.0f;
        x = padded;
    }
    load_floats(v, x);
}

/* The scale d for values whose largest magnitude has these bits, and *inverse, by which they are
 * multiplied: a NaN or an infinity makes d NaN, and what is so small that 127 / max overflows counts as
 * zero. */
PACK_FN float quant_scale(float *inverse, uint32_t max_bits) {
    float max;
    memcpy(&max, &max_bits, 4);
    *inverse = 0.0f;
    if (max_bits >= 0x7f800000u) return NAN;
    if (max_bits == 0 || 127.0f / max > 3.4028235e38f) return 0.0f;
    *inverse = 127.0f / max;
    return max / 127.0f;
}

/* Block b of token t of a tile of n; returns the bits of its largest magnitude. */
PACK_FN uint32_t pack_q8_block(uint8_t *act, const float *x, size_t left, size_t b, uint32_t t, uint32_t n) {
    uint8_t *block = act + b * n * ACT_Q8_BLOCK_BYTES;
    block_floats v;
    load_block(v, x, left);
    float inverse;
    const uint32_t max_bits = max_magnitude(v);
    const float d = quant_scale(&inverse, max_bits);
    const int32_t sum = quant_codes32(block + t * ACT_BLOCK, v, inverse);
    memcpy(block + n * ACT_BLOCK + t * 4, &d, 4);
    memcpy(block + n * (ACT_BLOCK + 4) + t * 4, &sum, 4);
    return max_bits;
}

/* Rows whole, and then once more the blocks in which outliers were found. */
PACK_TARGET static void pack_q8(uint8_t *act, outlier *lists, const float *x, size_t ldx, uint32_t n_tokens, uint32_t columns) {
    const size_t n_blocks = round_up(columns, SUPER_K) / ACT_BLOCK;
    for (uint32_t t = 0; t < n_tokens; t++, x += ldx, lists += OUTLIERS) {
        outlier_blocks found = { { 0 }, { 0 } };
        for (size_t b = 0; b < n_blocks; b++) {
            const size_t k = b * ACT_BLOCK, left = k < columns ? columns - k : 0;
            outliers_note(&found, (uint32_t)b, pack_q8_block(act, left ? x + k : x, left, b, t, n_tokens));
        }
        outliers_choose(lists, &found, x, columns);
        for (uint32_t i = 0; i < OUTLIERS; i++) {
            float values[ACT_BLOCK];
            const uint32_t b = lists[i].column / ACT_BLOCK;
            outliers_block(values, lists, b, x, columns);
            pack_q8_block(act, values, ACT_BLOCK, b, t, n_tokens);
        }
    }
}

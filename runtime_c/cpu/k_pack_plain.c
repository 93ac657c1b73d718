/* k_pack_plain.c: packs tiles of activations (kernels.h) by the simplest loops in plain C: the definition that each ISA's packing is
 * checked against, to the bit. Never tuned. */
#include <math.h>

#include "k_plain.h"
#include "outliers.h"

static void pack_f32(uint8_t *act, outlier *lists, const float *x, size_t ldx, uint32_t n_tokens, uint32_t columns) {
    (void)lists;
    size_t k_pad = round_up(columns, SUPER_K);
    for (size_t k = 0; k < k_pad; k++)
        for (uint32_t t = 0; t < n_tokens; t++) {
            float value = k < columns ? x[t * ldx + k] : 0.0f;
            memcpy(act + (k * n_tokens + t) * 4, &value, 4);
        }
}

static void pack_bf16(uint8_t *act, outlier *lists, const float *x, size_t ldx, uint32_t n_tokens, uint32_t columns) {
    (void)lists;
    size_t k_pad = round_up(columns, SUPER_K);
    for (size_t k = 0; k < k_pad; k++)
        for (uint32_t t = 0; t < n_tokens; t++) {
            uint16_t value = k < columns ? f32_to_bf16(x[t * ldx + k]) : 0;
            memcpy(act + ((k / 2 * n_tokens + t) * 2 + k % 2) * 2, &value, 2);
        }
}

float plain_quant_scale(float *inverse, const float *x, uint32_t n) {
    uint32_t bits_max = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], 4);
        bits &= 0x7fffffffu;
        if (bits > bits_max) bits_max = bits;
    }
    float max;
    memcpy(&max, &bits_max, 4);
    *inverse = 0.0f;
    if (!isfinite(max)) return NAN;
    if (max == 0.0f || !isfinite(127.0f / max)) return 0.0f;
    *inverse = 127.0f / max;
    return max / 127.0f;
}
int8_t plain_quant_code(float x, float inverse) { return inverse == 0.0f ? 0 : (int8_t)lrintf(x * inverse); }

/* The largest magnitudes of a row, the definition of outliers.h by the shortest way. */
static void take_outliers(outlier *list, const float *x, uint32_t columns) {
    outlier_blocks all = {{0}, {0}};
    for (uint32_t i = 0; i < columns; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], 4);
        outliers_note(&all, i, bits & 0x7fffffffu);
    }
    for (uint32_t i = 0; i < OUTLIERS; i++) list[i] = (outlier){0, 0};
    for (uint32_t i = 0; i < OUTLIERS && all.bits[i]; i++) {
        uint32_t at = OUTLIERS - 1;            /* before the ones of higher columns, after the empty ones */
        while (at > 0 && list[at].value != 0 && list[at].column > all.block[i]) at--;
        for (uint32_t j = 0; j < at; j++) list[j] = list[j + 1];
        list[at] = (outlier){all.block[i], x[all.block[i]]};
    }
}

static void pack_q8(uint8_t *act, outlier *lists, const float *x, size_t ldx, uint32_t n_tokens, uint32_t columns) {
    for (uint32_t t = 0; t < n_tokens; t++) take_outliers(lists + t * OUTLIERS, x + t * ldx, columns);
    size_t n_blocks = round_up(columns, SUPER_K) / ACT_BLOCK;
    for (size_t b = 0; b < n_blocks; b++) {
        uint8_t *block = act + b * n_tokens * ACT_Q8_BLOCK_BYTES;
        for (uint32_t t = 0; t < n_tokens; t++) {
            float values[ACT_BLOCK];
            outliers_block(values, lists + t * OUTLIERS, (uint32_t)b, x + t * ldx, columns);
            float inverse, d = plain_quant_scale(&inverse, values, ACT_BLOCK);
            int32_t sum = 0;
            for (uint32_t i = 0; i < ACT_BLOCK; i++) {
                int8_t code = plain_quant_code(values[i], inverse);
                memcpy(block + t * ACT_BLOCK + i, &code, 1);
                sum += code;
            }
            memcpy(block + n_tokens * ACT_BLOCK + t * 4, &d, 4);
            memcpy(block + n_tokens * (ACT_BLOCK + 4) + t * 4, &sum, 4);
        }
    }
}

/* A superblock of a tile of w tokens: where the codes of token t's block b begin, and a word of 4 bytes; at: where the token's words
 * would begin if w were 1. */
static uint8_t *super_codes(uint8_t *super, uint32_t w, uint32_t t, uint32_t b) {
    return super + b * w * ACT_SUPER_BLOCK_BYTES + t * ACT_BLOCK;
}
static void put_word(uint8_t *super, uint32_t w, uint32_t t, uint32_t at, uint32_t index, uint32_t word) {
    memcpy(super + (size_t)w * at + ((size_t)index * w + t) * 4, &word, 4);
}
/* The sum of n codes from column k on. */
static int32_t super_sum(uint8_t *super, uint32_t w, uint32_t t, uint32_t k, uint32_t n) {
    int32_t sum = 0;
    for (uint32_t i = k; i < k + n; i++) sum += (int8_t)super_codes(super, w, t, i / ACT_BLOCK)[i % ACT_BLOCK];
    return sum;
}

static void pack_super(uint8_t *super, const float values[SUPER_K_MAX], uint32_t t, uint32_t w) {
    float inverse, d = plain_quant_scale(&inverse, values, SUPER_K_MAX);
    uint32_t d_bits;
    memcpy(&d_bits, &d, 4);
    put_word(super, w, t, SUPER_D, 0, d_bits);
    for (uint32_t i = 0; i < SUPER_K_MAX; i++)
        super_codes(super, w, t, i / ACT_BLOCK)[i % ACT_BLOCK] = (uint8_t)plain_quant_code(values[i], inverse);
    for (uint32_t g = 0; g < 16; g++)
        put_word(super, w, t, g / 2 * ACT_SUPER_BLOCK_BYTES + ACT_BLOCK, g % 2, (uint32_t)(SUPER_START - 128 * super_sum(super, w, t, g * 16, 16)));
    for (uint32_t n = 16; n <= 32; n += 16)
        for (uint32_t p = 0; p < 128 / n; p++) {
            const uint32_t g = p / 2 * 4 + p % 2;
            const uint32_t low = (uint32_t)super_sum(super, w, t, g * n, n), high = (uint32_t)super_sum(super, w, t, (g + 2) * n, n);
            put_word(super, w, t, n == 16 ? SUPER_PAIRS_16 : SUPER_PAIRS_32, p, (low & 0xffff) | high << 16);
        }
}

static void pack_q8_super(uint8_t *act, outlier *lists, const float *x, size_t ldx, uint32_t n_tokens, uint32_t columns) {
    for (uint32_t t = 0; t < n_tokens; t++) {
        take_outliers(lists + t * OUTLIERS, x + t * ldx, columns);
        for (uint32_t b = 0; b * ACT_BLOCK < columns; b += SUPER_K_MAX / ACT_BLOCK) {
            float values[SUPER_K_MAX];
            for (uint32_t i = 0; i < SUPER_K_MAX / ACT_BLOCK; i++)
                outliers_block(values + i * ACT_BLOCK, lists + t * OUTLIERS, b + i, x + t * ldx, columns);
            pack_super(act + (size_t)b / (SUPER_K_MAX / ACT_BLOCK) * n_tokens * ACT_SUPER_BYTES, values, t, n_tokens);
        }
    }
}

void pack_fill_plain(kernel_table *table) {
    table->pack[ACT_F32] = pack_f32;
    table->pack[ACT_BF16] = pack_bf16;
    table->pack[ACT_Q8] = pack_q8;
    table->pack[ACT_Q8_SUPER] = pack_q8_super;
}

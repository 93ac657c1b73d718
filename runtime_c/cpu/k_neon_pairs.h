/* k_neon_pairs.h: pairs of tokens by pairs of rows, what aarch64's int8 matrix multiply (usmmla) takes: one instruction adds 8 products
 * to each of 2 x 2 sums. A tile of up to 8 tokens is 4 pairs, a panel 8 pairs of rows, and a register of sums holds
 *     { row 0 token 0, row 0 token 1, row 1 token 0, row 1 token 1 }
 * Private to the two files that define PAIR_TARGET and include it. No dispatch, no state. */
#define PAIR_FN static AK42_INLINE PAIR_TARGET

enum { PAIRS_MAX = 4 };

/* The f32 sums of a panel: of rows 4i + 2h and the next, of tokens 2p and the next, in [i][h][p]. */
typedef float32x4_t pair_sums[4][2][PAIRS_MAX];

/* The second token of pair p of a tile of n: where n is odd the last pair has its first twice. */
PAIR_FN uint32_t pair_second(int p, uint32_t n) { return 2 * (uint32_t)p + (2 * (uint32_t)p + 1 < n); }

/* 16 activations of two tokens: 8 columns of each to a register. */
PAIR_FN void pair_columns(int8x16_t a[2], const uint8_t *first, const uint8_t *second) {
    const int64x2_t x = vreinterpretq_s64_u8(vld1q_u8(first)), y = vreinterpretq_s64_u8(vld1q_u8(second));
    a[0] = vreinterpretq_s8_s64(vtrn1q_s64(x, y));
    a[1] = vreinterpretq_s8_s64(vtrn2q_s64(x, y));
}

/* Codes of 4 rows of two neighbouring k-groups: 8 columns of rows 0 and 1, of rows 2 and 3. */
PAIR_FN void pair_rows(uint8x16_t w[2], uint8x16_t group, uint8x16_t next) {
    const uint32x4_t x = vreinterpretq_u32_u8(group), y = vreinterpretq_u32_u8(next);
    w[0] = vreinterpretq_u8_u32(vzip1q_u32(x, y));
    w[1] = vreinterpretq_u8_u32(vzip2q_u32(x, y));
}

/* A number of each of two tokens, beside every row; any 4 bytes. */
PAIR_FN int32x4_t pair_tokens(const uint8_t *first, const uint8_t *second) {
    const int32x2_t both = vld1_lane_s32((const int32_t *)(const void *)second,
                                         vld1_dup_s32((const int32_t *)(const void *)first), 1);
    return vcombine_s32(both, both);
}
/* A number of each of 4 rows, beside both tokens; h: rows 2 and 3. */
PAIR_FN float32x4_t pair_of_rows(float32x4_t rows, int h) { return h ? vzip2q_f32(rows, rows) : vzip1q_f32(rows, rows); }

/* Sums by token, rows 4i to 4i + 3, to pairs and back. */
PAIR_FN void pair_open(float32x4_t *low, float32x4_t *high, float32x4_t first, float32x4_t second) {
    *low = vzip1q_f32(first, second);
    *high = vzip2q_f32(first, second);
}
PAIR_FN float32x4_t pair_close(float32x4_t low, float32x4_t high, int second) {
    return second ? vuzp2q_f32(low, high) : vuzp1q_f32(low, high);
}

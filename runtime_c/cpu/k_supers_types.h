/* k_supers_types.h: what the superblocks of Q2_K to Q6_K hold as k_supers.h takes it: d over the factor by which codes are too large
 * (whole), -dmin (least), pairs of mins, and codes of `n` blocks from `block` on, as far up in their byte as they go. The rest is
 * k_blocks_types.h's. Included by k_supers.h alone. */

/* A line, loaded here: not before what was loaded before it. */
SUPERS_FN words word_next(const uint8_t *super, int w) {
    words word = word_at(super, w);
    AK42_KEEP_HERE(word);
    return word;
}

SUPERS_FN floats whole_q4_k(const uint8_t *super) { return f_mul(half_at(super, 0, 0), f_set1(1.0f / 16)); }
SUPERS_FN words fours_q4_k(const uint8_t *super, int i) { return scale_words(super, i); }
SUPERS_FN floats least_q4_k(const uint8_t *super) { return f_neg(half_at(super, 0, 1)); }
SUPERS_FN words mins_q4_k(const uint8_t *super, int p) {
    const words four = min_words(super, p / 2);
    return w_and(p % 2 ? w_shr(four, 8) : four, w_set1(0x00ff00ff));
}
SUPERS_FN void super_codes_q4_k(words *codes, const uint8_t *super, int block, int j, int n) {
    AK42_UNROLL for (int b = 0; b < n; b++) codes[b] = placed_q4_k(super, block + b, j, 4);
}

SUPERS_FN floats whole_q5_k(const uint8_t *super) { return f_mul(half_at(super, 0, 0), f_set1(1.0f / 8)); }
SUPERS_FN void super_codes_q5_k(words *codes, const uint8_t *super, int block, int j, int n) {
    AK42_UNROLL for (int b = 0; b < n; b++) codes[b] = placed_q5_k(super, block + b, j, 3);
}

SUPERS_FN floats whole_q6_k(const uint8_t *super) { return f_mul(half_at(super, stream16_q6_k(52), 0), f_set1(1.0f / 4)); }
/* A half's four blocks, or the first or last two of them. */
SUPERS_FN void super_codes_q6_k(words *codes, const uint8_t *super, int block, int j, int n) {
    const int half = block / 4;
    words low[2];
    AK42_UNROLL for (int b = 0; b < 2; b++) low[b] = word_next(super, stream16_q6_k(16 * half + 8 * b + j));
    const words high = word_next(super, stream16_q6_k(32 + 8 * half + j));
    AK42_UNROLL for (int i = 0; i < n; i++) {
        const int u = (block + i) % 4 / 2, b = (block + i) % 2;
        codes[i] = merged(moved(low[b], 4 * u, 2), 15u << 2, field(high, 4 * u + 2 * b, 6, 3));
    }
}

SUPERS_FN floats whole_q3_k(const uint8_t *super) { return f_mul(half_at(super, 27, 0), f_set1(1.0f / 32)); }
SUPERS_FN void super_codes_q3_k(words *codes, const uint8_t *super, int block, int j, int n) {
    AK42_UNROLL for (int b = 0; b < n; b++) codes[b] = placed_q3_k(super, block + b, j, 5);
}

SUPERS_FN floats whole_q2_k(const uint8_t *super) { return f_mul(half_at(super, 20, 0), f_set1(1.0f / 64)); }
SUPERS_FN floats least_q2_k(const uint8_t *super) { return f_neg(half_at(super, 20, 1)); }
SUPERS_FN words mins_q2_k(const uint8_t *super, int p) { return w_and(w_shr(word_at(super, p / 2), 8 * (p % 2) + 4), w_set1(0x000f000f)); }
SUPERS_FN void super_codes_q2_k(words *codes, const uint8_t *super, int block, int j, int n) {
    AK42_UNROLL for (int b = 0; b < n; b++) codes[b] = placed_q2_k(super, block + b, j, 6);
}

/* k_supers_types.h: what the superblocks of Q2_K to Q6_K hold as k_supers.h takes it: d over the factor by which codes are too large
 * (whole), the sum of the groups' numbers, -dmin (least), pairs of mins, and codes as far up in their byte as they go. The rest is
 * k_blocks_types.h's. Included by k_supers.h alone. */

/* sum + the bytes of each row's word. */
SUPERS_FN words add_bytes(words sum, words w) { return w_dot(sum, w, bytes_of(1), true); }

SUPERS_FN floats whole_q4_k(const uint8_t *super) { return f_mul(half_at(super, 0, 0), f_set1(1.0f / 16)); }
SUPERS_FN words numbers_q4_k(const uint8_t *super) { return add_bytes(add_bytes(w_set1(0), scale_words(super, 0)), scale_words(super, 1)); }
SUPERS_FN floats least_q4_k(const uint8_t *super) { return f_neg(half_at(super, 0, 1)); }
SUPERS_FN words mins_q4_k(const uint8_t *super, int p) {
    const words four = min_words(super, p / 2);
    return w_and(p % 2 ? w_shr(four, 8) : four, w_set1(0x00ff00ff));
}
SUPERS_FN words super_codes_q4_k(const uint8_t *super, int block, int j) { return placed_q4_k(super, block, j, 4); }

SUPERS_FN floats whole_q5_k(const uint8_t *super) { return f_mul(half_at(super, 0, 0), f_set1(1.0f / 8)); }
SUPERS_FN words super_codes_q5_k(const uint8_t *super, int block, int j) { return placed_q5_k(super, block, j, 3); }

SUPERS_FN floats whole_q6_k(const uint8_t *super) { return f_mul(half_at(super, stream16_q6_k(52), 0), f_set1(1.0f / 4)); }
SUPERS_FN words numbers_q6_k(const uint8_t *super) {
    words sum = w_set1(0);
    AK42_UNROLL for (int i = 0; i < 4; i++) sum = w_dot(sum, bytes_of(1), word_at(super, stream16_q6_k(48 + i)), false);
    return sum;
}
SUPERS_FN words super_codes_q6_k(const uint8_t *super, int block, int j) { return placed_q6_k(super, block, j, 2); }

SUPERS_FN floats whole_q3_k(const uint8_t *super) { return f_mul(half_at(super, 27, 0), f_set1(1.0f / 32)); }
SUPERS_FN words numbers_q3_k(const uint8_t *super) {
    words low = w_set1(0), high = w_set1(0);
    AK42_UNROLL for (int i = 0; i < 4; i++) {
        low = add_bytes(low, nibbles(word_at(super, 24 + i / 2), i % 2));
        high = add_bytes(high, field(word_at(super, 26), 2 * i, 0, 3));
    }
    return w_sub(w_add(low, w_shl(high, 4)), w_set1(16 * 32));
}
SUPERS_FN words super_codes_q3_k(const uint8_t *super, int block, int j) { return placed_q3_k(super, block, j, 5); }

SUPERS_FN floats whole_q2_k(const uint8_t *super) { return f_mul(half_at(super, 20, 0), f_set1(1.0f / 64)); }
SUPERS_FN words numbers_q2_k(const uint8_t *super) {
    words sum = w_set1(0);
    AK42_UNROLL for (int i = 0; i < 4; i++) sum = add_bytes(sum, nibbles(word_at(super, i), 0));
    return sum;
}
SUPERS_FN floats least_q2_k(const uint8_t *super) { return f_neg(half_at(super, 20, 1)); }
SUPERS_FN words mins_q2_k(const uint8_t *super, int p) { return w_and(w_shr(word_at(super, p / 2), 8 * (p % 2) + 4), w_set1(0x000f000f)); }
SUPERS_FN words super_codes_q2_k(const uint8_t *super, int block, int j) { return placed_q2_k(super, block, j, 6); }

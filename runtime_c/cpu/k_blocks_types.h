/* k_blocks_types.h: what the superblocks of core/blocks.h's types hold (docs/format.md: panel16; core/stream16.h), on the words and floats
 * of k_blocks.h: of each type scales, mins and codes. Included by k_blocks.h alone; k_supers.h takes the K types' parts from here, too. */
#include "../core/stream16.h"

BLOCKS_FN words word_at(const uint8_t *super, int w) { return w_load(super + w * 64); }
/* The same, loaded once where several use it; not where an instruction less is worth a load more. */
BLOCKS_FN words word_kept(const uint8_t *super, int w) {
    words word = word_at(super, w);
    if (BLOCKS_STRAIGHT != 8) w_keep(&word);
    return word;
}
BLOCKS_FN words bytes_of(uint32_t byte) { return w_set1(byte * 0x01010101u); }
BLOCKS_FN words nibbles(words w, int second) { return w_and(second ? w_shr(w, 4) : w, bytes_of(15)); }
/* Byte i of each row's word, as a number. */
BLOCKS_FN words byte_number(words w, int i) { return w_and(w_shr(w, 8 * i), w_set1(255)); }

/* ---- each type: scale and min of group g of a unit, codes of k-group j (4 columns) of block b (32 columns) of it; super is the unit's
 *      superblock, u its place there ---- */

typedef floats scale_fn(const uint8_t *super, int u, int g);
typedef words codes_fn(const uint8_t *super, int u, int b, int j);

#define TYPE_SCALE(name) BLOCKS_FN floats scale_##name(const uint8_t *super, int u, int g)
#define TYPE_MIN(name) BLOCKS_FN floats min_##name(const uint8_t *super, int u, int g)
#define TYPE_CODES(name) BLOCKS_FN words codes_##name(const uint8_t *super, int u, int b, int j)

/* (w & mask) | rest, where mask is the same byte throughout. */
BLOCKS_FN words merged(words w, uint32_t mask, words rest) { return w_merge(w, bytes_of(mask), rest); }
/* Bits of each byte, `to` - `from` places up. */
BLOCKS_FN words moved(words w, int from, int to) { return from < to ? w_shl_by(w, to - from) : from > to ? w_shr_by(w, from - to) : w; }

/* Bits of each byte, mask << from, as mask << to. */
BLOCKS_FN words field(words w, int from, int to, uint32_t mask) { return w_and(moved(w, from, to), bytes_of(mask << to)); }

BLOCKS_FN floats no_min(const uint8_t *super, int u, int g) { return (void)super, (void)u, (void)g, f_set1(0.0f); }

/* Bit j of each byte of high becomes the fifth bit of a code. */
BLOCKS_FN words fifth_bit(words high, int j) { return w_and(moved(high, j, 4), bytes_of(16)); }
BLOCKS_FN words five_bits(words low, int second, words fifth) { return merged(second ? w_shr(low, 4) : low, 15, fifth); }
BLOCKS_FN floats half_at(const uint8_t *super, int w, int second) {
    return second ? f_half(word_at(super, w), 1) : f_half(word_at(super, w), 0);
}

TYPE_SCALE(q5_0) { return (void)u, half_at(super, 0, g); }
TYPE_CODES(q5_0) {
    (void)u;
    const words codes = five_bits(word_kept(super, 3 + j), b, fifth_bit(word_at(super, 1 + b), j));
    return w_xor(w_add(codes, bytes_of(127 - 16)), bytes_of(CODES_LESS));
}
TYPE_SCALE(q5_1) { return (void)u, half_at(super, 0, g); }
TYPE_MIN(q5_1) { return (void)u, half_at(super, 1, g); }
TYPE_CODES(q5_1) { return (void)u, five_bits(word_kept(super, 4 + j), b, fifth_bit(word_at(super, 2 + b), j)); }

#define LESS(a, b, c, d) a ^ CODES_LESS, b ^ CODES_LESS, c ^ CODES_LESS, d ^ CODES_LESS
static const uint8_t iq4_table[16] = {LESS(0, 23, 44, 62), LESS(78, 92, 105, 117), LESS(128, 140, 152, 165), LESS(180, 196, 216, 240)};
static const uint8_t mxfp4_table[16] = {LESS(127, 128, 129, 130), LESS(131, 133, 135, 139), LESS(127, 126, 125, 124),
                                        LESS(123, 121, 119, 115)};
static const uint8_t nf4_table[16] = {LESS(15, 49, 68, 83), LESS(95, 106, 117, 127), LESS(136, 145, 155, 165), LESS(176, 190, 208, 239)};

BLOCKS_FN words looked_up(words w, int second, const uint8_t table[16]) {
    return w_lookup(!BLOCKS_LOOKUP_ANY ? nibbles(w, second) : second ? w_shr(w, 4) : w, table);
}

TYPE_SCALE(iq4_nl) { return (void)u, half_at(super, 0, g); }
TYPE_CODES(iq4_nl) { return (void)u, looked_up(word_kept(super, 1 + j), b, iq4_table); }

/* 2^(e - 128) as a product of two normal powers, exact down to the smallest. */
BLOCKS_FN floats e8m0_half(words e) {
    const words first = w_shr(e, 1), second = w_sub(e, first);
    return f_mul(f_cast(w_shl(w_add(first, w_set1(63)), 23)), f_cast(w_shl(w_add(second, w_set1(63)), 23)));
}
TYPE_SCALE(mxfp4) { return e8m0_half(w_and(w_shr_by(word_at(super, 0), 16 * u + 8 * g), w_set1(255))); }
TYPE_CODES(mxfp4) { return looked_up(word_kept(super, 1 + 8 * u + j), b, mxfp4_table); }

TYPE_SCALE(nf4) {
    (void)u, (void)g;
    const floats scale = f_mul(f_cast(word_at(super, 0)), f_set1(NF4_UNIT));
    return f_cast(w_and(w_cast(scale), w_set1(0xfffffffcu)));
}
TYPE_CODES(nf4) { return (void)u, looked_up(word_kept(super, 1 + j), b, nf4_table); }

/* A small number n >= 0 that is put at bit NUMBER_SHIFT of 256.0f makes the float 256 + n, without a conversion. */
enum { NUMBER_BITS = 0x43800000, NUMBER_SHIFT = 23 - 8 };
#define NUMBER_LESS 256.0f

/* 6 bits of scale, less 32. */
TYPE_SCALE(iq4_xs) {
    const int b = 2 * u + g;
    const words low = w_merge(moved(word_at(super, 1), 4 * b, NUMBER_SHIFT), w_set1(15u << NUMBER_SHIFT), w_set1(NUMBER_BITS));
    const words all = w_merge(moved(word_at(super, 0), 16 + 2 * b, NUMBER_SHIFT + 4), w_set1(3u << (NUMBER_SHIFT + 4)), low);
    const floats d = half_at(super, 0, 0);
    return f_fma(f_cast(all), d, f_mul(d, f_set1(-NUMBER_LESS - 32.0f)));
}
TYPE_CODES(iq4_xs) { return looked_up(word_at(super, stream16_iq4_xs(2 + 4 * (2 * u + b) + j % 4)), j / 4, iq4_table); }

/* The K types' superblocks: number_x and min_number_x are integers of a group; fours_x the numbers of four groups, bytes of a word, with
 * what makes none negative added; placed_x the codes of 4 columns, the j-th of a block of 32, with their lowest bits at bit `at` of a
 * byte. */

/* Four scales, bytes of a word, of sub-blocks 0..3 or 4..7 of Q4_K and Q5_K; and four mins. */
BLOCKS_FN words scale_words(const uint8_t *super, int second) {
    if (!second) return w_and(word_at(super, 1), bytes_of(63));
    return w_or(w_and(word_at(super, 3), bytes_of(15)), w_and(w_shr(word_at(super, 1), 2), bytes_of(0x30)));
}
BLOCKS_FN words min_words(const uint8_t *super, int second) {
    if (!second) return w_and(word_at(super, 2), bytes_of(63));
    return w_or(w_and(w_shr(word_at(super, 3), 4), bytes_of(15)), w_and(w_shr(word_at(super, 2), 2), bytes_of(0x30)));
}
BLOCKS_FN words number_q4_k(const uint8_t *super, int g) { return byte_number(scale_words(super, g / 4), g % 4); }
BLOCKS_FN words min_number_q4_k(const uint8_t *super, int g) { return byte_number(min_words(super, g / 4), g % 4); }
BLOCKS_FN words placed_q4_k(const uint8_t *super, int block, int j, int at) {
    return field(word_kept(super, 4 + 8 * (block / 2) + j), block % 2 * 4, at, 15);
}
BLOCKS_FN words placed_q5_k(const uint8_t *super, int block, int j, int at) {
    const words low = moved(word_kept(super, stream16_q5_k(12 + 8 * (block / 2) + j)), block % 2 * 4, at);
    return merged(low, 15u << at, field(word_at(super, stream16_q5_k(4 + j)), block, at + 4, 1));
}
TYPE_SCALE(q4_k) { return f_mul(half_at(super, 0, 0), f_of_int(number_q4_k(super, 2 * u + g))); }
TYPE_MIN(q4_k) { return f_mul(f_neg(half_at(super, 0, 1)), f_of_int(min_number_q4_k(super, 2 * u + g))); }
TYPE_CODES(q4_k) { return placed_q4_k(super, 2 * u + b, j, 0); }
#if BLOCKS_VNNI
BLOCKS_FN words upper_q4_k(const uint8_t *super, int u, int b, int j) { return placed_q4_k(super, 2 * u + b, j, 4); }
#else
#define upper_q4_k NULL
#endif
TYPE_SCALE(q5_k) { return scale_q4_k(super, u, g); }
TYPE_MIN(q5_k) { return min_q4_k(super, u, g); }
TYPE_CODES(q5_k) { return placed_q5_k(super, 2 * u + b, j, 0); }

BLOCKS_FN words fours_q6_k(const uint8_t *super, int i) { return w_xor(word_at(super, stream16_q6_k(48 + i)), bytes_of(128)); }
BLOCKS_FN words number_q6_k(const uint8_t *super, int g) { return w_sub(byte_number(fours_q6_k(super, g / 4), g % 4), w_set1(128)); }
BLOCKS_FN words placed_q6_k(const uint8_t *super, int block, int j, int at) {
    const int u = block / 2, b = block % 2;
    const words low = moved(word_at(super, stream16_q6_k(16 * (u / 2) + 8 * b + j)), 4 * (u % 2), at);
    return merged(low, 15u << at, field(word_at(super, stream16_q6_k(32 + 8 * (u / 2) + j)), 4 * (u % 2) + 2 * b, at + 4, 3));
}
TYPE_SCALE(q6_k) { return f_mul(half_at(super, stream16_q6_k(52), 0), f_of_int(number_q6_k(super, 4 * u + g))); }
TYPE_CODES(q6_k) { return placed_q6_k(super, 2 * u + b, j, 0); }

BLOCKS_FN words fours_q3_k(const uint8_t *super, int i) {
    return merged(moved(word_at(super, 24 + i % 2), 4 * (i / 2), 0), 15, field(word_at(super, 26), 2 * i, 4, 3));
}
BLOCKS_FN words number_q3_k(const uint8_t *super, int g) { return w_sub(byte_number(fours_q3_k(super, g / 4), g % 4), w_set1(32)); }
BLOCKS_FN words placed_q3_k(const uint8_t *super, int block, int j, int at) {
    const words low = moved(word_at(super, 8 + block / 4 * 8 + j), 2 * (block % 4), at);
    return merged(low, 3u << at, field(word_at(super, j), block, at + 2, 1));
}
TYPE_SCALE(q3_k) { return f_mul(half_at(super, 27, 0), f_of_int(number_q3_k(super, 4 * u + g))); }
TYPE_CODES(q3_k) { return w_add(placed_q3_k(super, 2 * u + b, j, 0), bytes_of(32 - 4)); }

BLOCKS_FN words fours_q2_k(const uint8_t *super, int i) { return nibbles(word_at(super, i), 0); }
BLOCKS_FN words number_q2_k(const uint8_t *super, int g) { return byte_number(fours_q2_k(super, g / 4), g % 4); }
BLOCKS_FN words min_number_q2_k(const uint8_t *super, int g) {
    return w_and(w_shr_by(word_at(super, g / 4), 8 * (g % 4) + 4), w_set1(15));
}
BLOCKS_FN words placed_q2_k(const uint8_t *super, int block, int j, int at) {
    return field(word_at(super, 4 + block / 4 * 8 + j), 2 * (block % 4), at, 3);
}
TYPE_SCALE(q2_k) { return f_mul(half_at(super, 20, 0), f_of_int(number_q2_k(super, 4 * u + g))); }
TYPE_MIN(q2_k) { return f_mul(f_neg(half_at(super, 20, 1)), f_of_int(min_number_q2_k(super, 4 * u + g))); }
TYPE_CODES(q2_k) { return placed_q2_k(super, 2 * u + b, j, 0); }

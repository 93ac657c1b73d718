/* k_blocks.h: matrix products on the types of core/blocks.h and ACT_Q8 tiles: a body that ISA files include, each with its own vectors.
 * Every type is first spread to a "wide" unit of 64 columns: f32 scales, f32 mins, codes as bytes; one multiply then serves all types of
 * a form. For few tokens a piece of a panel is spread into the first-level cache on its way, for many tokens whole panels are spread
 * once (unpack): the same arithmetic on the same numbers, so the same bits. Before the #include a file defines
 *     BLOCKS_TARGET         the target of every function
 *     BLOCKS_NR             tokens of a full tile
 *     BLOCKS_PANELS         panels that a tile of 2 or more tokens takes at once, 1 or 2
 *     words, floats         types of 16 u32 and of 16 f32, one for each row of a panel, and on them w_*, f_* as below
 *     w_dot(sum, w, a, large)   sum + the products of 4 u8 of w with 4 i8 of a; large: u8 above 127
 * It defines blocks_fill, which sets the rows of all these types. No dispatch, no state.
 *
 * A group's integer dot is added to the bits of the float M = 1.5 * 2^23, whose last place is one: read as a float that is M + c,
 * exactly; scale * c, rounded once, is then fma(M + c, scale, -M * scale), as scales have at most 22 significant bits (NF4's, which
 * have 24, are cut). */
#include "../core/blocks.h"
#include "k_simd.h"
#include "kernels.h"

#define BLOCKS_FN static AK42_INLINE BLOCKS_TARGET

enum { BLOCKS_MAGIC_BITS = 0x4b400000 };
#define BLOCKS_MAGIC 12582912.0f

/* Columns that share a scale, whether there are mins, and the code that stands for zero. */
typedef enum blocks_form { FORM_32, FORM_32_MIN, FORM_16, FORM_16_MIN, FORM_COUNT } blocks_form;

BLOCKS_FN int form_group(blocks_form form) { return form < FORM_16 ? 32 : 16; }
BLOCKS_FN bool form_has_mins(blocks_form form) { return form == FORM_32_MIN || form == FORM_16_MIN; }
BLOCKS_FN int form_zero(blocks_form form) { return form == FORM_32 ? 127 : form == FORM_16 ? 32 : 0; }
BLOCKS_FN int form_groups(blocks_form form) { return SUPER_K / form_group(form); }
BLOCKS_FN size_t form_codes_at(blocks_form form) { return (size_t)form_groups(form) * 64 * (form_has_mins(form) ? 2 : 1); }
BLOCKS_FN size_t form_bytes(blocks_form form) { return form_codes_at(form) + 1024; }
enum { FORM_BYTES_MAX = 512 + 1024 };

BLOCKS_FN void put_scale(uint8_t *unit, int group, floats scale) { f_store(unit + group * 64, scale); }
BLOCKS_FN void put_min(uint8_t *unit, blocks_form form, int group, floats min) {
    f_store(unit + (form_groups(form) + group) * 64, min);
}
/* k-group j (4 columns) of block b (32 columns) of a unit. */
BLOCKS_FN void put_codes(uint8_t *unit, blocks_form form, int b, int j, words codes) {
    w_store(unit + form_codes_at(form) + (b * 8 + j) * 64, codes);
}

BLOCKS_FN words word_at(const uint8_t *super, int w) { return w_load(super + w * 64); }
BLOCKS_FN words bytes_of(uint32_t byte) { return w_set1(byte * 0x01010101u); }
BLOCKS_FN words nibbles(words w, int second) { return w_and(second ? w_shr(w, 4) : w, bytes_of(15)); }
/* Byte i of each row's word, as a number. */
BLOCKS_FN words byte_number(words w, int i) { return w_and(w_shr(w, 8 * i), w_set1(255)); }

/* ---- one unit of each type; super is its superblock, u the unit in it ---- */

typedef void spread_fn(uint8_t *unit, const uint8_t *super, int u);

/* Bit j of each byte of high becomes the fifth bit of a code. */
BLOCKS_FN words fifth_bit(words high, int j) {
    return w_and(j < 4 ? w_shl(high, 4 - j) : j > 4 ? w_shr(high, j - 4) : high, bytes_of(16));
}

BLOCKS_FN void spread_q5(uint8_t *unit, const uint8_t *super, bool mins) {
    const blocks_form form = mins ? FORM_32_MIN : FORM_32;
    const int at = mins ? 2 : 1;
    AK42_UNROLL for (int b = 0; b < 2; b++) {
        put_scale(unit, b, f_half(word_at(super, 0), b));
        if (mins) put_min(unit, form, b, f_half(word_at(super, 1), b));
        const words high = word_at(super, at + b);
        AK42_UNROLL for (int j = 0; j < 8; j++) {
            const words code = w_or(nibbles(word_at(super, at + 2 + j), b), fifth_bit(high, j));
            put_codes(unit, form, b, j, mins ? code : w_add(code, bytes_of(127 - 16)));
        }
    }
}
BLOCKS_FN void spread_q5_0(uint8_t *unit, const uint8_t *super, int u) { (void)u; spread_q5(unit, super, false); }
BLOCKS_FN void spread_q5_1(uint8_t *unit, const uint8_t *super, int u) { (void)u; spread_q5(unit, super, true); }

/* Eight words of nibbles of two blocks, looked up. */
BLOCKS_FN void spread_values(uint8_t *unit, const uint8_t *super, int at, const uint8_t table[16]) {
    AK42_UNROLL for (int j = 0; j < 8; j++)
        AK42_UNROLL for (int b = 0; b < 2; b++)
            put_codes(unit, FORM_32, b, j, w_lookup(nibbles(word_at(super, at + j), b), table));
}
static const uint8_t iq4_table[16] = {0, 23, 44, 62, 78, 92, 105, 117, 128, 140, 152, 165, 180, 196, 216, 240};
static const uint8_t mxfp4_table[16] = {127, 128, 129, 130, 131, 133, 135, 139, 127, 126, 125, 124, 123, 121, 119, 115};
static const uint8_t nf4_table[16] = {15, 49, 68, 83, 95, 106, 117, 127, 136, 145, 155, 165, 176, 190, 208, 239};

BLOCKS_FN void spread_iq4_nl(uint8_t *unit, const uint8_t *super, int u) {
    (void)u;
    AK42_UNROLL for (int b = 0; b < 2; b++) put_scale(unit, b, f_half(word_at(super, 0), b));
    spread_values(unit, super, 1, iq4_table);
}
/* 2^(e - 128) as a product of two normal powers, exact down to the smallest. */
BLOCKS_FN floats e8m0_half(words e) {
    const words first = w_shr(e, 1), second = w_sub(e, first);
    return f_mul(f_cast(w_shl(w_add(first, w_set1(63)), 23)), f_cast(w_shl(w_add(second, w_set1(63)), 23)));
}
BLOCKS_FN void spread_mxfp4(uint8_t *unit, const uint8_t *super, int u) {
    AK42_UNROLL for (int b = 0; b < 2; b++)
        put_scale(unit, b, e8m0_half(w_and(w_shr_by(word_at(super, 0), 16 * u + 8 * b), w_set1(255))));
    spread_values(unit, super, 1 + 8 * u, mxfp4_table);
}
BLOCKS_FN floats nf4_scale(const uint8_t *super) {
    const floats scale = f_mul(f_cast(word_at(super, 0)), f_set1(NF4_UNIT));
    return f_cast(w_and(w_cast(scale), w_set1(0xfffffffcu)));
}
BLOCKS_FN void spread_nf4(uint8_t *unit, const uint8_t *super, int u) {
    (void)u;
    const floats scale = nf4_scale(super);
    put_scale(unit, 0, scale);
    put_scale(unit, 1, scale);
    spread_values(unit, super, 1, nf4_table);
}

/* 6 bits of scale of sub-block b of IQ4_XS, less 32. */
BLOCKS_FN floats iq4_xs_scale(const uint8_t *super, int b) {
    const words low = w_and(w_shr_by(word_at(super, 1), 4 * b), w_set1(15));
    const words high = w_and(w_shr_by(word_at(super, 0), 16 + 2 * b), w_set1(3));
    const floats scale = f_of_int(w_sub(w_or(low, w_shl(high, 4)), w_set1(32)));
    return f_mul(f_half(word_at(super, 0), 0), scale);
}
BLOCKS_FN void spread_iq4_xs(uint8_t *unit, const uint8_t *super, int u) {
    AK42_UNROLL for (int b = 0; b < 2; b++) {
        put_scale(unit, b, iq4_xs_scale(super, 2 * u + b));
        AK42_UNROLL for (int j = 0; j < 8; j++)
            put_codes(unit, FORM_32, b, j, w_lookup(nibbles(word_at(super, 2 + 4 * (2 * u + b) + j % 4), j / 4), iq4_table));
    }
}

/* Four scales and four mins, bytes of a word, of sub-blocks 0..3 or 4..7 of Q4_K and Q5_K. */
BLOCKS_FN void scale_words(words *scales, words *mins, const uint8_t *super, int second) {
    const words a = word_at(super, 1), b = word_at(super, 2), c = word_at(super, 3);
    if (second) {
        *scales = w_or(w_and(c, bytes_of(15)), w_and(w_shr(a, 2), bytes_of(0x30)));
        *mins = w_or(w_and(w_shr(c, 4), bytes_of(15)), w_and(w_shr(b, 2), bytes_of(0x30)));
    } else {
        *scales = w_and(a, bytes_of(63));
        *mins = w_and(b, bytes_of(63));
    }
}
BLOCKS_FN void spread_q45_k(uint8_t *unit, const uint8_t *super, int u, bool five) {
    const floats d = f_half(word_at(super, 0), 0), m = f_neg(f_half(word_at(super, 0), 1));
    const int at = five ? 12 : 4;
    words scales, mins;
    scale_words(&scales, &mins, super, u / 2);
    scales = w_shr_by(scales, 16 * (u % 2));
    mins = w_shr_by(mins, 16 * (u % 2));
    AK42_UNROLL for (int b = 0; b < 2; b++) {
        put_scale(unit, b, f_mul(d, f_of_int(byte_number(scales, b))));
        put_min(unit, FORM_32_MIN, b, f_mul(m, f_of_int(byte_number(mins, b))));
        AK42_UNROLL for (int j = 0; j < 8; j++) {
            words code = nibbles(word_at(super, at + 8 * u + j), b);
            if (five) code = w_or(code, w_shl(w_and(w_shr_by(word_at(super, 4 + j), 2 * u + b), bytes_of(1)), 4));
            put_codes(unit, FORM_32_MIN, b, j, code);
        }
    }
}
BLOCKS_FN void spread_q4_k(uint8_t *unit, const uint8_t *super, int u) { spread_q45_k(unit, super, u, false); }
BLOCKS_FN void spread_q5_k(uint8_t *unit, const uint8_t *super, int u) { spread_q45_k(unit, super, u, true); }

BLOCKS_FN void spread_q6_k(uint8_t *unit, const uint8_t *super, int u) {
    const floats d = f_half(word_at(super, 52), 0);
    const words scales = word_at(super, 48 + u);
    const int half = u / 2;
    AK42_UNROLL for (int g = 0; g < 4; g++) put_scale(unit, g, f_mul(d, f_of_int(w_sar(w_shl(scales, 24 - 8 * g), 24))));
    AK42_UNROLL for (int b = 0; b < 2; b++)
        AK42_UNROLL for (int j = 0; j < 8; j++) {
            const words low = w_and(w_shr_by(word_at(super, 16 * half + 8 * b + j), 4 * (u % 2)), bytes_of(15));
            const words high = w_and(w_shr_by(word_at(super, 32 + 8 * half + j), 4 * (u % 2) + 2 * b), bytes_of(3));
            put_codes(unit, FORM_16, b, j, w_or(low, w_shl(high, 4)));
        }
}

/* Four scales of a unit of Q3_K, bytes of a word, still 32 too large. */
BLOCKS_FN words q3_k_scales(const uint8_t *super, int u) {
    const words low = w_and(w_shr_by(word_at(super, 24 + u % 2), 4 * (u / 2)), bytes_of(15));
    return w_or(low, w_shl(w_and(w_shr_by(word_at(super, 26), 2 * u), bytes_of(3)), 4));
}
BLOCKS_FN void spread_q3_k(uint8_t *unit, const uint8_t *super, int u) {
    const floats d = f_half(word_at(super, 27), 0);
    const words scales = q3_k_scales(super, u);
    AK42_UNROLL for (int g = 0; g < 4; g++)
        put_scale(unit, g, f_mul(d, f_of_int(w_sub(byte_number(scales, g), w_set1(32)))));
    AK42_UNROLL for (int b = 0; b < 2; b++)
        AK42_UNROLL for (int j = 0; j < 8; j++) {
            const words low = w_and(w_shr_by(word_at(super, 8 + u / 2 * 8 + j), 4 * (u % 2) + 2 * b), bytes_of(3));
            const words high = w_and(w_shr_by(word_at(super, j), 2 * u + b), bytes_of(1));
            put_codes(unit, FORM_16, b, j, w_add(w_or(low, w_shl(high, 2)), bytes_of(32 - 4)));
        }
}
BLOCKS_FN void spread_q2_k(uint8_t *unit, const uint8_t *super, int u) {
    const floats d = f_half(word_at(super, 20), 0), m = f_neg(f_half(word_at(super, 20), 1));
    const words both = word_at(super, u);
    AK42_UNROLL for (int g = 0; g < 4; g++) {
        put_scale(unit, g, f_mul(d, f_of_int(w_and(w_shr(both, 8 * g), w_set1(15)))));
        put_min(unit, FORM_16_MIN, g, f_mul(m, f_of_int(w_and(w_shr(both, 8 * g + 4), w_set1(15)))));
    }
    AK42_UNROLL for (int b = 0; b < 2; b++)
        AK42_UNROLL for (int j = 0; j < 8; j++)
            put_codes(unit, FORM_16_MIN, b, j,
                      w_and(w_shr_by(word_at(super, 4 + u / 2 * 8 + j), 4 * (u % 2) + 2 * b), bytes_of(3)));
}

/* ---- multiplying units ---- */

enum { START_UNITS = 128, NARROW_UNITS = 4 };

/* What a stretch of columns needs of the activations, for each group and token: where the integer dots start, M - zero * s, and, where
 * there are mins, s. It goes through memory so that each is loaded as a broadcast. */
typedef struct blocks_start {
    _Alignas(64) int32_t dot[START_UNITS * 4][BLOCKS_NR];
    float s[START_UNITS * 4][BLOCKS_NR];
} blocks_start;

BLOCKS_FN void prepare(blocks_start *start, const uint8_t *act, uint32_t n_units, uint32_t n, blocks_form form) {
    const int group = form_group(form), zero = form_zero(form);
    uint32_t g = 0;
    for (uint32_t block = 0; block < n_units * 2; block++, act += n * ACT_Q8_BLOCK_BYTES)
        for (int part = 0; part < ACT_BLOCK / group; part++, g++)
            for (uint32_t t = 0; t < n; t++) {
                int32_t s;
                if (group == ACT_BLOCK) memcpy(&s, act + n * (ACT_BLOCK + 4) + t * 4, 4);
                else s = w_sum16(act + t * ACT_BLOCK + part * 16);
                start->dot[g][t] = BLOCKS_MAGIC_BITS - zero * s;
                if (form_has_mins(form)) start->s[g][t] = (float)s;
            }
}

BLOCKS_FN float blocks_float(const uint8_t *p) {
    float value;
    memcpy(&value, p, 4);
    return value;
}
BLOCKS_FN uint32_t blocks_word(const uint8_t *p) {
    uint32_t word;
    memcpy(&word, p, 4);
    return word;
}

/* sum[p * m + t] += the products of n_units units of np panels with tokens first .. first + m - 1 of a tile of n. start's first group is
 * that of the first unit. One order for every np and m: groups ascending. */
BLOCKS_FN void multiply_units(floats *total, const int32_t (*dots)[BLOCKS_NR], const float (*sums)[BLOCKS_NR], const uint8_t *wide,
                              size_t wide_bytes, const uint8_t *act, uint32_t n_units, uint32_t n, uint32_t first, int np, int m,
                              blocks_form form) {
    floats sum[2 * BLOCKS_NR];
    AK42_UNROLL for (int i = 0; i < np * m; i++) sum[i] = total[i];
    const int quads = form_group(form) / 4;
    for (uint32_t u = 0; u < n_units; u++, wide += form_bytes(form))
        for (int g = 0; g < form_groups(form); g++, dots++, sums++) {
            const uint8_t *q = act + first * ACT_BLOCK + (g * quads % 8) * 4, *d = act + n * ACT_BLOCK + first * 4;
            const uint8_t *codes = wide + form_codes_at(form) + (size_t)(g * quads) * 64;
            words dot[2 * BLOCKS_NR];
            AK42_UNROLL for (int t = 0; t < m; t++)
                AK42_UNROLL for (int p = 0; p < np; p++) dot[p * m + t] = w_set1((uint32_t)(*dots)[first + (uint32_t)t]);
            AK42_UNROLL for (int j = 0; j < quads; j++) {
                words w[2];
                AK42_UNROLL for (int p = 0; p < np; p++) {
                    w[p] = w_load(codes + (size_t)p * wide_bytes + j * 64);
                    w_keep(&w[p]);
                }
                AK42_UNROLL for (int t = 0; t < m; t++) {
                    const words a = w_set1(blocks_word(q + t * ACT_BLOCK + j * 4));
                    AK42_UNROLL for (int p = 0; p < np; p++)
                        dot[p * m + t] = w_dot(dot[p * m + t], w[p], a, form == FORM_32);
                }
            }
            floats scale[2], bias[2], min[2];
            AK42_UNROLL for (int p = 0; p < np; p++) {
                scale[p] = f_load(wide + (size_t)p * wide_bytes + g * 64);
                bias[p] = f_mul(scale[p], f_set1(-BLOCKS_MAGIC));
                min[p] = form_has_mins(form) ? f_load(wide + (size_t)p * wide_bytes + (form_groups(form) + g) * 64) : bias[p];
            }
            AK42_UNROLL for (int t = 0; t < m; t++) {
                const floats factor = f_set1(blocks_float(d + t * 4));
                AK42_UNROLL for (int p = 0; p < np; p++) {
                    floats part = f_fma(f_cast(dot[p * m + t]), scale[p], bias[p]);
                    if (form_has_mins(form)) part = f_fma(min[p], f_set1((*sums)[first + (uint32_t)t]), part);
                    sum[p * m + t] = f_fma(part, factor, sum[p * m + t]);
                }
            }
            if ((g + 1) * form_group(form) % ACT_BLOCK == 0) act += n * ACT_Q8_BLOCK_BYTES;
        }
    AK42_UNROLL for (int i = 0; i < np * m; i++) total[i] = sum[i];
}

typedef void units_fn(floats *total, const int32_t (*dots)[BLOCKS_NR], const float (*sums)[BLOCKS_NR], const uint8_t *wide,
                      size_t wide_bytes, const uint8_t *act, uint32_t n_units, uint32_t n, uint32_t first);
#define UNITS_FN(form, np, m)                                                                                                    \
    BLOCKS_TARGET static void units_##form##_##np##_##m(floats *total, const int32_t (*dots)[BLOCKS_NR],                         \
                                                        const float (*sums)[BLOCKS_NR], const uint8_t *wide, size_t wide_bytes,  \
                                                        const uint8_t *act, uint32_t n_units, uint32_t n, uint32_t first) {      \
        multiply_units(total, dots, sums, wide, wide_bytes, act, n_units, n, first, np, m, form);                                \
    }
#if BLOCKS_PANELS == 2
#define UNITS_PAIRS(form) UNITS_FN(form, 2, 1) UNITS_FN(form, 2, 2) UNITS_FN(form, 2, 3) UNITS_FN(form, 2, 4)
#define UNITS_PAIRS_4(form) units_##form##_2_1, units_##form##_2_2, units_##form##_2_3, units_##form##_2_4
#if BLOCKS_NR == 8
#define UNITS_MORE(form) UNITS_FN(form, 2, 5) UNITS_FN(form, 2, 6) UNITS_FN(form, 2, 7) UNITS_FN(form, 2, 8)
#define UNITS_LIST(form) UNITS_PAIRS_4(form), units_##form##_2_5, units_##form##_2_6, units_##form##_2_7, units_##form##_2_8
#else
#define UNITS_MORE(form)
#define UNITS_LIST(form) UNITS_PAIRS_4(form)
#endif
#else
#define UNITS_PAIRS(form)
#define UNITS_MORE(form)
#define UNITS_LIST(form) NULL
#endif
#define UNITS(form) UNITS_FN(form, 1, 1) UNITS_FN(form, 1, 4) UNITS_PAIRS(form) UNITS_MORE(form)
UNITS(FORM_32)
UNITS(FORM_32_MIN)
UNITS(FORM_16)
UNITS(FORM_16_MIN)
static units_fn *const units_one[FORM_COUNT] = {units_FORM_32_1_1, units_FORM_32_MIN_1_1, units_FORM_16_1_1, units_FORM_16_MIN_1_1};
static units_fn *const units_four[FORM_COUNT] = {units_FORM_32_1_4, units_FORM_32_MIN_1_4, units_FORM_16_1_4, units_FORM_16_MIN_1_4};
#if BLOCKS_PANELS == 2
static units_fn *const units_pair[FORM_COUNT][BLOCKS_NR] = {
    {UNITS_LIST(FORM_32)}, {UNITS_LIST(FORM_32_MIN)}, {UNITS_LIST(FORM_16)}, {UNITS_LIST(FORM_16_MIN)}};
#endif

/* All tokens of a tile, n_units units of np panels; total is (np, n) with the panels apart by n. */
BLOCKS_FN void multiply_tile(floats *total, const blocks_start *start, uint32_t unit, const uint8_t *wide, size_t wide_bytes,
                             const uint8_t *act, uint32_t n_units, uint32_t n, int np, blocks_form form) {
    const int32_t (*dots)[BLOCKS_NR] = start->dot + unit * (uint32_t)form_groups(form);
    const float (*sums)[BLOCKS_NR] = start->s + unit * (uint32_t)form_groups(form);
#if BLOCKS_PANELS == 2
    if (np == 2) {
        units_pair[form][n - 1](total, dots, sums, wide, wide_bytes, act, n_units, n, 0);
        return;
    }
#endif
    (void)np;
    uint32_t t = 0;
    for (; t + 4 <= n; t += 4) units_four[form](total + t, dots, sums, wide, wide_bytes, act, n_units, n, t);
    for (; t < n; t++) units_one[form](total + t, dots, sums, wide, wide_bytes, act, n_units, n, t);
}

/* ---- whole products ---- */

typedef struct blocks_kind {
    blocks_form form;
    uint32_t units;                /* of a superblock */
    uint32_t super_bytes;
} blocks_kind;

BLOCKS_FN void spread_units(uint8_t *wide, const uint8_t *panel, uint32_t first, uint32_t n, blocks_kind kind, spread_fn *spread) {
    if (kind.units == 4) {         /* which of a superblock's units it is must become a constant */
        panel += (size_t)first / 4 * kind.super_bytes;
        for (uint32_t i = 0; i < n; i += 4, panel += kind.super_bytes)
            AK42_UNROLL for (int u = 0; u < 4; u++, wide += form_bytes(kind.form)) spread(wide, panel, u);
        return;
    }
    for (uint32_t i = 0; i < n; i++, wide += form_bytes(kind.form))
        spread(wide, panel + (size_t)((first + i) / kind.units) * kind.super_bytes, (int)((first + i) % kind.units));
}

/* Weights are read once, from memory: asked for this far ahead, over the pages at which processors stop asking by themselves. */
enum { BLOCKS_AHEAD = 4096 };
BLOCKS_FN void ask_ahead(const uint8_t *panel, uint32_t unit, uint32_t n, blocks_kind kind) {
    const uintptr_t at = (uintptr_t)panel + (size_t)unit * kind.super_bytes / kind.units + BLOCKS_AHEAD;
    for (uint32_t i = 0; i < n * kind.super_bytes / kind.units; i += 64) AK42_PREFETCH(at + i);
}

BLOCKS_FN void put_totals(const gemm_args *a, const floats *total, uint32_t panel, int np) {
    for (int p = 0; p < np; p++)
        for (uint32_t t = 0; t < a->n_tokens; t++) {
            uint8_t *out = (uint8_t *)(a->out + t * a->ldo + (panel + (uint32_t)p) * PANEL_ROWS);
            const floats sum = total[(uint32_t)p * a->n_tokens + t];
            f_store(out, a->accumulate ? f_add(f_load(out), sum) : sum);
        }
}

/* spread NULL: the panels are wide already. */
BLOCKS_FN void multiply(const gemm_args *a, blocks_kind kind, spread_fn *spread) {
    _Alignas(64) uint8_t buffer[BLOCKS_PANELS * NARROW_UNITS * FORM_BYTES_MAX];
    blocks_start start;
    const size_t unit_bytes = form_bytes(kind.form), token_bytes = 2 * ACT_Q8_BLOCK_BYTES;
    uint32_t prepared = UINT32_MAX;
    for (uint32_t panel = 0; panel < a->n_panels;) {
        const int np = a->n_panels - panel >= BLOCKS_PANELS && (a->n_tokens > 1 || !spread) ? BLOCKS_PANELS : 1;
        floats total[BLOCKS_PANELS * BLOCKS_NR];
        for (uint32_t i = 0; i < (uint32_t)np * a->n_tokens; i++) total[i] = f_set1(0.0f);
        for (uint32_t begin = 0; begin < a->n_super; begin += START_UNITS) {
            const uint32_t end = a->n_super - begin < START_UNITS ? a->n_super : begin + START_UNITS;
            const uint8_t *act = a->act + begin * token_bytes * a->n_tokens;
            if (prepared != begin) prepare(&start, act, end - begin, a->n_tokens, kind.form);
            prepared = begin;
            if (!spread) {
                multiply_tile(total, &start, 0, a->panels + panel * a->panel_bytes + begin * unit_bytes, a->panel_bytes, act,
                              end - begin, a->n_tokens, np, kind.form);
                continue;
            }
            for (uint32_t u = begin; u < end; u += NARROW_UNITS) {
                const uint32_t n = end - u < NARROW_UNITS ? end - u : NARROW_UNITS;
                for (int p = 0; p < np; p++) {
                    const uint8_t *from = a->panels + (panel + (uint32_t)p) * a->panel_bytes;
                    ask_ahead(from, u, n, kind);
                    spread_units(buffer + (size_t)p * NARROW_UNITS * FORM_BYTES_MAX, from, u, n, kind, spread);
                }
                multiply_tile(total, &start, u - begin, buffer, NARROW_UNITS * FORM_BYTES_MAX,
                              act + (u - begin) * token_bytes * a->n_tokens, n, a->n_tokens, np, kind.form);
            }
        }
        put_totals(a, total, panel, np);
        panel += (uint32_t)np;
    }
}

#define WIDE_GEMM(form) \
    BLOCKS_TARGET static void wide_##form(const gemm_args *a) { multiply(a, (blocks_kind){form, 1, 0}, NULL); }
WIDE_GEMM(FORM_32)
WIDE_GEMM(FORM_32_MIN)
WIDE_GEMM(FORM_16)
WIDE_GEMM(FORM_16_MIN)

/* ---- single columns, for outliers: 16 rows of column k of a unit as f32 ---- */

typedef floats column_fn(const uint8_t *super, int u, int k);

/* Byte i of each row's word >> shift, under a mask. */
BLOCKS_FN words picked(const uint8_t *super, int w, int i, int shift, uint32_t mask) {
    return w_and(w_shr_by(word_at(super, w), 8 * i + shift), w_set1(mask));
}
BLOCKS_FN floats looked_up(words code, const uint8_t table[16]) {
    return f_of_int(w_sub(w_and(w_lookup(code, table), w_set1(255)), w_set1(127)));
}
BLOCKS_FN floats half_of(const uint8_t *super, int w, int second) {
    return second ? f_half(word_at(super, w), 1) : f_half(word_at(super, w), 0);
}

BLOCKS_FN words column_q5(const uint8_t *super, int at, int k) {
    const int b = k / 32, j = k % 32 / 4, i = k % 4;
    return w_or(picked(super, at + 2 + j, i, 4 * b, 15), w_shl(picked(super, at + b, i, j, 1), 4));
}
BLOCKS_FN floats column_q5_0(const uint8_t *super, int u, int k) {
    (void)u;
    return f_mul(f_of_int(w_sub(column_q5(super, 1, k), w_set1(16))), half_of(super, 0, k / 32));
}
BLOCKS_FN floats column_q5_1(const uint8_t *super, int u, int k) {
    (void)u;
    return f_fma(f_of_int(column_q5(super, 2, k)), half_of(super, 0, k / 32), half_of(super, 1, k / 32));
}
BLOCKS_FN floats column_iq4_nl(const uint8_t *super, int u, int k) {
    (void)u;
    return f_mul(looked_up(picked(super, 1 + k % 32 / 4, k % 4, k / 32 * 4, 15), iq4_table), half_of(super, 0, k / 32));
}
BLOCKS_FN floats column_mxfp4(const uint8_t *super, int u, int k) {
    const words e = w_and(w_shr_by(word_at(super, 0), 16 * u + 8 * (k / 32)), w_set1(255));
    return f_mul(looked_up(picked(super, 1 + 8 * u + k % 32 / 4, k % 4, k / 32 * 4, 15), mxfp4_table), e8m0_half(e));
}
BLOCKS_FN floats column_nf4(const uint8_t *super, int u, int k) {
    (void)u;
    return f_mul(looked_up(picked(super, 1 + k % 32 / 4, k % 4, k / 32 * 4, 15), nf4_table), nf4_scale(super));
}
BLOCKS_FN floats column_iq4_xs(const uint8_t *super, int u, int k) {
    const int b = 2 * u + k / 32, j = k % 32 / 4;
    return f_mul(looked_up(picked(super, 2 + 4 * b + j % 4, k % 4, j / 4 * 4, 15), iq4_table), iq4_xs_scale(super, b));
}
BLOCKS_FN floats column_q45_k(const uint8_t *super, int u, int k, bool five) {
    const int b = 2 * u + k / 32, j = k % 32 / 4, i = k % 4;
    words scales, mins, code = picked(super, (five ? 12 : 4) + 8 * u + j, i, k / 32 * 4, 15);
    if (five) code = w_or(code, w_shl(picked(super, 4 + j, i, b, 1), 4));
    if (u / 2) scale_words(&scales, &mins, super, 1);
    else scale_words(&scales, &mins, super, 0);
    const floats scale = f_mul(half_of(super, 0, 0), f_of_int(w_and(w_shr_by(scales, b % 4 * 8), w_set1(255))));
    const floats min = f_mul(f_neg(half_of(super, 0, 1)), f_of_int(w_and(w_shr_by(mins, b % 4 * 8), w_set1(255))));
    return f_fma(f_of_int(code), scale, min);
}
BLOCKS_FN floats column_q4_k(const uint8_t *super, int u, int k) { return column_q45_k(super, u, k, false); }
BLOCKS_FN floats column_q5_k(const uint8_t *super, int u, int k) { return column_q45_k(super, u, k, true); }
BLOCKS_FN floats column_q6_k(const uint8_t *super, int u, int k) {
    const int b = k / 32, j = k % 32 / 4, i = k % 4;
    const words low = picked(super, 16 * (u / 2) + 8 * b + j, i, u % 2 * 4, 15);
    const words high = picked(super, 32 + 8 * (u / 2) + j, i, 4 * (u % 2) + 2 * b, 3);
    const words scale = w_sub(w_xor(picked(super, 48 + u, k / 16, 0, 255), w_set1(128)), w_set1(128));
    return f_mul(f_of_int(w_sub(w_or(low, w_shl(high, 4)), w_set1(32))), f_mul(half_of(super, 52, 0), f_of_int(scale)));
}
BLOCKS_FN floats column_q3_k(const uint8_t *super, int u, int k) {
    const int b = k / 32, j = k % 32 / 4, i = k % 4;
    const words low = picked(super, 8 + u / 2 * 8 + j, i, 4 * (u % 2) + 2 * b, 3), high = picked(super, j, i, 2 * u + b, 1);
    const words scale = w_sub(w_and(w_shr_by(q3_k_scales(super, u), k / 16 * 8), w_set1(255)), w_set1(32));
    return f_mul(f_of_int(w_sub(w_or(low, w_shl(high, 2)), w_set1(4))), f_mul(half_of(super, 27, 0), f_of_int(scale)));
}
BLOCKS_FN floats column_q2_k(const uint8_t *super, int u, int k) {
    const words code = picked(super, 4 + u / 2 * 8 + k % 32 / 4, k % 4, 4 * (u % 2) + k / 32 * 2, 3);
    const floats scale = f_mul(half_of(super, 20, 0), f_of_int(picked(super, u, k / 16, 0, 15)));
    const floats min = f_mul(f_neg(half_of(super, 20, 1)), f_of_int(picked(super, u, k / 16, 4, 15)));
    return f_fma(f_of_int(code), scale, min);
}

/* Outliers ascending, one sum, one add. */
BLOCKS_FN void add_outliers(const outliers_args *a, blocks_kind kind, column_fn *column) {
    for (uint32_t panel = 0; panel < a->n_panels; panel++)
        for (uint32_t t = 0; t < a->n_tokens; t++) {
            floats sum = f_set1(0.0f);
            for (uint32_t i = 0; i < OUTLIERS; i++) {
                const outlier o = a->lists[t * OUTLIERS + i];
                const uint32_t u = o.column / SUPER_K;
                const uint8_t *super = a->panels + panel * a->panel_bytes + u / kind.units * kind.super_bytes;
                sum = f_fma(column(super, (int)(u % kind.units), (int)(o.column % SUPER_K)), f_set1(o.value), sum);
            }
            uint8_t *out = (uint8_t *)(a->out + t * a->ldo + panel * PANEL_ROWS);
            f_store(out, f_add(f_load(out), sum));
        }
}

/* ---- the types ---- */

#define BLOCKS_TYPE(name, form, units, words_of_super)                                                                     \
    BLOCKS_TARGET static void gemm_##name(const gemm_args *a) {                                                            \
        multiply(a, (blocks_kind){form, units, words_of_super * 64}, spread_##name);                                       \
    }                                                                                                                      \
    BLOCKS_TARGET static void unpack_##name(uint8_t *dst, const uint8_t *panel, uint32_t n_super, uint32_t group_size) {   \
        (void)group_size;                                                                                                  \
        spread_units(dst, panel, 0, n_super, (blocks_kind){form, units, words_of_super * 64}, spread_##name);              \
    }                                                                                                                      \
    BLOCKS_TARGET static void outliers_##name(const outliers_args *a) {                                                    \
        add_outliers(a, (blocks_kind){form, units, words_of_super * 64}, column_##name);                                   \
    }
BLOCKS_TYPE(q5_0, FORM_32, 1, 11)
BLOCKS_TYPE(q5_1, FORM_32_MIN, 1, 12)
BLOCKS_TYPE(q2_k, FORM_16_MIN, 4, 21)
BLOCKS_TYPE(q3_k, FORM_16, 4, 28)
BLOCKS_TYPE(q4_k, FORM_32_MIN, 4, 36)
BLOCKS_TYPE(q5_k, FORM_32_MIN, 4, 44)
BLOCKS_TYPE(q6_k, FORM_16, 4, 53)
BLOCKS_TYPE(iq4_nl, FORM_32, 1, 9)
BLOCKS_TYPE(iq4_xs, FORM_32, 4, 34)
BLOCKS_TYPE(mxfp4, FORM_32, 2, 17)
BLOCKS_TYPE(nf4, FORM_32, 1, 9)

#define BLOCKS_ROW(row, name, form)                                                                                        \
    table->types[row] = (type_kernels){.act = ACT_Q8, .nr = BLOCKS_NR, .gemm = gemm_##name, .unpack = unpack_##name,       \
                                       .gemm_wide = wide_##form, .wide_super_bytes = (uint32_t)form_bytes(form),           \
                                       .wide_from = BLOCKS_WIDE_FROM};                                                     \
    table->outliers[row] = outliers_##name;

BLOCKS_TARGET static void blocks_fill(kernel_table *table) {
    BLOCKS_ROW(KERNEL_Q5_0, q5_0, FORM_32)
    BLOCKS_ROW(KERNEL_Q5_1, q5_1, FORM_32_MIN)
    BLOCKS_ROW(KERNEL_Q2_K, q2_k, FORM_16_MIN)
    BLOCKS_ROW(KERNEL_Q3_K, q3_k, FORM_16)
    BLOCKS_ROW(KERNEL_Q4_K, q4_k, FORM_32_MIN)
    BLOCKS_ROW(KERNEL_Q5_K, q5_k, FORM_32_MIN)
    BLOCKS_ROW(KERNEL_Q6_K, q6_k, FORM_16)
    BLOCKS_ROW(KERNEL_IQ4_NL, iq4_nl, FORM_32)
    BLOCKS_ROW(KERNEL_IQ4_XS, iq4_xs, FORM_32)
    BLOCKS_ROW(KERNEL_MXFP4, mxfp4, FORM_32)
    BLOCKS_ROW(KERNEL_NF4, nf4, FORM_32)
}

/* k_supers.h: matrix products on the types whose superblocks have 256 columns (Q2_K to Q6_K) and ACT_Q8_SUPER tiles, of which the 256
 * activations share a scale, too: a body behind k_blocks.h, on whose vectors it works, for ISA files with
 *     w_dot           of any u8
 *     w_dot_pairs(sum, w, a)        sum + the products of 2 i16 of w with 2 of a
 * Within a superblock all is integers but for the scales d and dmin: T = d * (sum over the groups of number * integer dot) - dmin * (sum of
 * min * sum of q). A dot c is added to the bits of the float M = 1.5 * 2^23, as in k_blocks.h (|c| < 2^20, and the mins' sum is < 2^21),
 * and T starts at -M * (d * sum of the numbers - dmin), so that a group costs one multiply-add, T = fma(M + c, number * d, T). While T is
 * large it is rounded to about a unit of c; so that such a unit is small, codes are taken as far up in their byte as they go (Q4_K's 16
 * times too large), and d as much smaller.
 * It defines supers_fill, which sets the rows of these types. No dispatch, no state. */

#define SUPERS_FN BLOCKS_FN

/* Groups of 32 or 16 columns, with mins, or with the code 128 for zero. */
typedef enum supers_form { SUPERS_32_MIN, SUPERS_16, SUPERS_16_MIN } supers_form;

enum { SUPERS_COLUMNS = 256, SUPERS_UNITS = SUPERS_COLUMNS / SUPER_K, SUPERS_QUADS = SUPERS_COLUMNS / 4 };
_Static_assert((int)SUPER_START == (int)BLOCKS_MAGIC_BITS, "dots start at M");

SUPERS_FN int supers_groups(supers_form form) { return form == SUPERS_32_MIN ? 8 : 16; }
SUPERS_FN bool supers_mins(supers_form form) { return form != SUPERS_16; }

/* Rows from which unpacking pays: what has more groups is more work to take straight. */
SUPERS_FN uint32_t supers_wide_from(supers_form form) { return form == SUPERS_32_MIN ? BLOCKS_WIDE_FROM : 36; }

/* A type. p counts pairs of mins: pair p is of groups p / 2 * 4 + p % 2 and the next but one. */
typedef floats supers_whole_fn(const uint8_t *super);
typedef words supers_words_fn(const uint8_t *super, int i);
typedef void supers_codes_fn(words *codes, const uint8_t *super, int block, int j, int n);
typedef struct supers_kind {
    supers_form form;
    uint32_t bytes;                /* of a superblock */
    int together;                  /* blocks that most words hold codes of */
    int zero;                      /* what is added to the groups' numbers */
    supers_whole_fn *whole;        /* d over the factor by which codes are too large */
    supers_words_fn *fours;        /* the numbers of four groups, u8 */
    supers_whole_fn *least;        /* -dmin; NULL: no mins */
    supers_words_fn *mins;         /* of a pair of groups, i16 */
    supers_codes_fn *codes;        /* of 4 columns, j-th of some blocks of 32 */
} supers_kind;

#include "k_supers_types.h"

/* ---- a superblock spread: f32 numbers[groups], start, then, where there are mins, least and i16 pairs[groups / 2], then u8 codes;
 *      each of 16 rows ---- */

SUPERS_FN size_t supers_start_at(supers_form form) { return (size_t)supers_groups(form) * 64; }
SUPERS_FN size_t supers_least_at(supers_form form) { return supers_start_at(form) + 64; }
SUPERS_FN size_t supers_pairs_at(supers_form form) { return supers_least_at(form) + 64; }
SUPERS_FN size_t supers_codes_at(supers_form form) {
    return supers_mins(form) ? supers_pairs_at(form) + (size_t)supers_groups(form) * 32 : supers_least_at(form);
}
SUPERS_FN size_t supers_bytes(supers_form form) { return supers_codes_at(form) + SUPERS_QUADS * 64; }
enum { SUPERS_FEW = 8 };                   /* tokens that a superblock is multiplied with straight */

/* What the groups' numbers are worth: fours, d, and -d times what a number is too large. */
typedef struct supers_numbers {
    words fours[4];
    floats whole, less;
} supers_numbers;

SUPERS_FN supers_numbers numbers_open(const uint8_t *super, supers_kind kind) {
    supers_numbers n = {.whole = kind.whole(super)};
    AK42_UNROLL for (int i = 0; i < supers_groups(kind.form) / 4; i++) n.fours[i] = kind.fours(super, i);
    n.less = f_mul(n.whole, f_set1(-NUMBER_LESS - (float)kind.zero));
    return n;
}
/* number * d of group g, rounded once: NUMBER_LESS + zero has few bits. */
SUPERS_FN floats numbers_at(const supers_numbers *n, int g) {
    const words byte = moved(n->fours[g / 4], 8 * (g % 4), NUMBER_SHIFT);
    return f_fma(f_cast(w_merge(byte, w_set1(255u << NUMBER_SHIFT), w_set1(NUMBER_BITS))), n->whole, n->less);
}

/* Where T starts: the numbers' sum, and the mins', times -M. */
SUPERS_FN floats supers_start(const uint8_t *super, const supers_numbers *n, supers_kind kind) {
    words sum = w_set1((uint32_t)(-kind.zero * supers_groups(kind.form)));
    AK42_UNROLL for (int i = 0; i < supers_groups(kind.form) / 4; i++) sum = w_dot(sum, n->fours[i], bytes_of(1), true);
    const floats numbers = f_mul(f_of_int(sum), n->whole), most = f_set1(-BLOCKS_MAGIC);
    return f_mul(supers_mins(kind.form) ? f_add(numbers, kind.least(super)) : numbers, most);
}

SUPERS_FN void supers_spread(uint8_t *restrict wide, const uint8_t *restrict super, supers_kind kind) {
    const supers_numbers numbers = numbers_open(super, kind);
    AK42_UNROLL for (int g = 0; g < supers_groups(kind.form); g++) f_store(wide + g * 64, numbers_at(&numbers, g));
    f_store(wide + supers_start_at(kind.form), supers_start(super, &numbers, kind));
    if (supers_mins(kind.form)) {
        f_store(wide + supers_least_at(kind.form), kind.least(super));
        AK42_UNROLL for (int p = 0; p < supers_groups(kind.form) / 2; p++)
            w_store(wide + supers_pairs_at(kind.form) + p * 64, kind.mins(super, p));
    }
    AK42_UNROLL for (int block = 0; block < SUPERS_COLUMNS / ACT_BLOCK; block += kind.together)
        AK42_UNROLL for (int j = 0; j < 8; j++) {
            words codes[4];
            kind.codes(codes, super, block, j, kind.together);
            AK42_UNROLL for (int b = 0; b < kind.together; b++)
                w_store(wide + supers_codes_at(kind.form) + ((block + b) * 8 + j) * 64, codes[b]);
        }
}

/* ---- multiplying superblocks ---- */

/* Of token t of a tile of m: where 4 columns of a block are; and, each as a broadcast, where the dot of 16 columns starts; a pair of sums;
 * d. */
SUPERS_FN const uint8_t *act_quad(const uint8_t *act, int block, int j, int t, int m) {
    return act + block * m * ACT_SUPER_BLOCK_BYTES + t * ACT_BLOCK + j * 4;
}
SUPERS_FN words act_start(const uint8_t *act, int g, int t, int m) {
    return w_set1(blocks_word(act + (g / 2 * ACT_SUPER_BLOCK_BYTES + ACT_BLOCK) * m + (g % 2 * m + t) * 4));
}
SUPERS_FN words act_pair(const uint8_t *act, int p, int t, int m, supers_form form) {
    return w_set1(blocks_word(act + (form == SUPERS_32_MIN ? SUPER_PAIRS_32 : SUPER_PAIRS_16) * m + (p * m + t) * 4));
}
SUPERS_FN floats act_d(const uint8_t *act, int t, int m) { return f_set1(blocks_float(act + SUPER_D * m + t * 4)); }

/* Where the integer dots of group g start. */
SUPERS_FN words dot_start(const uint8_t *act, int g, int t, int m, supers_form form) {
    return supers_mins(form) ? w_set1(BLOCKS_MAGIC_BITS) : act_start(act, g, t, m);
}

/* total[p * m + t] += the products of n_supers spread superblocks of np panels with a tile of m tokens. */
SUPERS_FN void supers_multiply(floats *total, const uint8_t *wide, size_t wide_bytes, const uint8_t *act, uint32_t n_supers, int np, int m,
                               supers_form form) {
    floats sum[2 * BLOCKS_NR];
    AK42_UNROLL for (int i = 0; i < np * m; i++) sum[i] = total[i];
    const int quads = SUPERS_QUADS / supers_groups(form);
    for (uint32_t i = 0; i < n_supers; i++, wide += supers_bytes(form), act += m * ACT_SUPER_BYTES) {
        floats scaled[2 * BLOCKS_NR];
        AK42_UNROLL for (int p = 0; p < np; p++)
            AK42_UNROLL for (int t = 0; t < m; t++) scaled[p * m + t] = f_load(wide + (size_t)p * wide_bytes + supers_start_at(form));
        for (int g = 0; g < supers_groups(form); g++) {
            words dot[2 * BLOCKS_NR];
            AK42_UNROLL for (int t = 0; t < m; t++)
                AK42_UNROLL for (int p = 0; p < np; p++)
                    dot[p * m + t] = dot_start(act, g, t, m, form);
            AK42_UNROLL for (int j = 0; j < quads; j++) {
                words w[2];
                AK42_UNROLL for (int p = 0; p < np; p++) {
                    w[p] = w_load(wide + (size_t)p * wide_bytes + supers_codes_at(form) + (size_t)(g * quads + j) * 64);
                    w_keep(&w[p]);
                }
                AK42_UNROLL for (int t = 0; t < m; t++) {
                    const words a = w_set1(blocks_word(act_quad(act, g * quads / 8, g * quads % 8 + j, t, m)));
                    AK42_UNROLL for (int p = 0; p < np; p++) dot[p * m + t] = w_dot(dot[p * m + t], w[p], a, true);
                }
            }
            AK42_UNROLL for (int p = 0; p < np; p++) {
                const floats number = f_load(wide + (size_t)p * wide_bytes + g * 64);
                AK42_UNROLL for (int t = 0; t < m; t++)
                    scaled[p * m + t] = f_fma(f_cast(dot[p * m + t]), number, scaled[p * m + t]);
            }
        }
        if (supers_mins(form)) {
            words dot[2 * BLOCKS_NR];
            AK42_UNROLL for (int k = 0; k < np * m; k++) dot[k] = w_set1(BLOCKS_MAGIC_BITS);
            AK42_UNROLL for (int pair = 0; pair < supers_groups(form) / 2; pair++)
                AK42_UNROLL for (int p = 0; p < np; p++) {
                    words mins = w_load(wide + (size_t)p * wide_bytes + supers_pairs_at(form) + pair * 64);
                    w_keep(&mins);
                    AK42_UNROLL for (int t = 0; t < m; t++)
                        dot[p * m + t] = w_dot_pairs(dot[p * m + t], mins, act_pair(act, pair, t, m, form));
                }
            AK42_UNROLL for (int p = 0; p < np; p++) {
                const floats least = f_load(wide + (size_t)p * wide_bytes + supers_least_at(form));
                AK42_UNROLL for (int t = 0; t < m; t++) scaled[p * m + t] = f_fma(f_cast(dot[p * m + t]), least, scaled[p * m + t]);
            }
        }
        AK42_UNROLL for (int t = 0; t < m; t++)
            AK42_UNROLL for (int p = 0; p < np; p++) sum[p * m + t] = f_fma(scaled[p * m + t], act_d(act, t, m), sum[p * m + t]);
    }
    AK42_UNROLL for (int i = 0; i < np * m; i++) total[i] = sum[i];
}

typedef void supers_tile_fn(floats *total, const uint8_t *wide, size_t wide_bytes, const uint8_t *act, uint32_t n_supers);
#define SUPERS_TILE(form, np, m)                                                                                                 \
    BLOCKS_TARGET static void tile_##form##_##np##_##m(floats *total, const uint8_t *wide, size_t wide_bytes, const uint8_t *act, \
                                                       uint32_t n_supers) {                                                      \
        supers_multiply(total, wide, wide_bytes, act, n_supers, np, m, form);                                                    \
    }
#define SUPERS_TILES_8(form, np)                                                                                     \
    SUPERS_TILE(form, np, 1) SUPERS_TILE(form, np, 2) SUPERS_TILE(form, np, 3) SUPERS_TILE(form, np, 4)              \
    SUPERS_TILE(form, np, 5) SUPERS_TILE(form, np, 6) SUPERS_TILE(form, np, 7) SUPERS_TILE(form, np, 8)
#define SUPERS_LIST_8(form, np)                                                                                      \
    {tile_##form##_##np##_1, tile_##form##_##np##_2, tile_##form##_##np##_3, tile_##form##_##np##_4,                 \
     tile_##form##_##np##_5, tile_##form##_##np##_6, tile_##form##_##np##_7, tile_##form##_##np##_8}
SUPERS_TILES_8(SUPERS_32_MIN, 1)
SUPERS_TILES_8(SUPERS_32_MIN, 2)
SUPERS_TILES_8(SUPERS_16, 1)
SUPERS_TILES_8(SUPERS_16, 2)
SUPERS_TILES_8(SUPERS_16_MIN, 1)
SUPERS_TILES_8(SUPERS_16_MIN, 2)
static supers_tile_fn *const supers_tiles[][2][BLOCKS_NR] = {
    [SUPERS_32_MIN] = {SUPERS_LIST_8(SUPERS_32_MIN, 1), SUPERS_LIST_8(SUPERS_32_MIN, 2)},
    [SUPERS_16] = {SUPERS_LIST_8(SUPERS_16, 1), SUPERS_LIST_8(SUPERS_16, 2)},
    [SUPERS_16_MIN] = {SUPERS_LIST_8(SUPERS_16_MIN, 1), SUPERS_LIST_8(SUPERS_16_MIN, 2)},
};
_Static_assert(BLOCKS_NR == 8, "tiles of 1 to 8 tokens");

/* total[t] += the product of a superblock with m tokens from `first` on of a tile of n, straight from its bytes: supers_multiply's
 * arithmetic, without the detour through memory. The dots of blocks that share words go on side by side, as each waits for its
 * last, or of fewer where their sums would not fit into the registers. */
SUPERS_FN void supers_direct(floats *total, const uint8_t *super, bool asks, size_t far, const uint8_t *act, int first, int m, int n,
                             supers_kind kind) {
    const int groups = supers_groups(kind.form), quads = SUPERS_QUADS / groups;
    const int together = groups * m > 64 ? 1 : groups * m > 32 ? 2 : kind.together;
    const int n_steps = SUPERS_COLUMNS / ACT_BLOCK / together, of_step = groups / n_steps;
    const supers_numbers numbers = numbers_open(super, kind);
    const floats start = supers_start(super, &numbers, kind);
    floats scaled[SUPERS_FEW];
    AK42_UNROLL for (int t = 0; t < m; t++) scaled[t] = start;
    AK42_UNROLL for (int step = 0; step < n_steps; step++) {
        words dot[8][SUPERS_FEW];
        AK42_UNROLL for (int g = 0; g < of_step; g++)
            AK42_UNROLL for (int t = 0; t < m; t++)
                dot[g][t] = dot_start(act, step * of_step + g, first + t, n, kind.form);
        AK42_UNROLL for (int j = 0; j < 8; j++) {
            ask_share(asks, super, far, step * 8 + j, n_steps * 8, kind.bytes);
            words codes[4];
            kind.codes(codes, super, step * together, j, together);
            AK42_UNROLL for (int b = 0; b < together; b++) {
                const int g = (b * 8 + j) / quads;
                AK42_UNROLL for (int t = 0; t < m; t++)
                    dot[g][t] = w_dot_at(dot[g][t], codes[b], act_quad(act, step * together + b, j, first + t, n), true);
            }
        }
        AK42_UNROLL for (int g = 0; g < of_step; g++) {
            const floats number = numbers_at(&numbers, step * of_step + g);
            AK42_UNROLL for (int t = 0; t < m; t++) scaled[t] = f_fma(f_cast(dot[g][t]), number, scaled[t]);
        }
    }
    if (supers_mins(kind.form)) {
        words dot[SUPERS_FEW];
        AK42_UNROLL for (int t = 0; t < m; t++) dot[t] = w_set1(BLOCKS_MAGIC_BITS);
        AK42_UNROLL for (int pair = 0; pair < groups / 2; pair++) {
            const words mins = kind.mins(super, pair);
            AK42_UNROLL for (int t = 0; t < m; t++) dot[t] = w_dot_pairs(dot[t], mins, act_pair(act, pair, first + t, n, kind.form));
        }
        const floats least = kind.least(super);
        AK42_UNROLL for (int t = 0; t < m; t++) scaled[t] = f_fma(f_cast(dot[t]), least, scaled[t]);
    }
    AK42_UNROLL for (int t = 0; t < m; t++) total[t] = f_fma(scaled[t], act_d(act, first + t, n), total[t]);
}

/* ---- whole products ---- */

/* total += one panel with a tile of n tokens, m at a time. */
SUPERS_FN void supers_all(floats *total, const gemm_args *a, uint32_t panel, int n, int m, bool asks, supers_kind kind) {
    const uint8_t *super = a->panels + panel * a->panel_bytes, *act = a->act;
    const panel_end end = end_of(a, panel, 1, 0);
    floats sum[SUPERS_FEW];
    AK42_UNROLL for (int t = 0; t < n; t++) sum[t] = total[t];
    for (uint32_t i = 0; i < a->n_super; i += SUPERS_UNITS, super += kind.bytes, act += n * ACT_SUPER_BYTES) {
        const size_t far = far_of(super, end);
        AK42_UNROLL for (int t = 0; t < n; t += m) supers_direct(sum + t, super, asks && !t, far, act, t, m, n, kind);
    }
    AK42_UNROLL for (int t = 0; t < n; t++) total[t] = sum[t];
}
/* The same for 3, 5, 6 or 7 of them, in fours, twos and ones. */
SUPERS_FN void supers_parts(floats *total, const gemm_args *a, uint32_t panel, supers_kind kind) {
    const uint8_t *super = a->panels + panel * a->panel_bytes, *act = a->act;
    const panel_end end = end_of(a, panel, 1, 0);
    const int n = (int)a->n_tokens;
    for (uint32_t i = 0; i < a->n_super; i += SUPERS_UNITS, super += kind.bytes, act += (size_t)n * ACT_SUPER_BYTES) {
        const size_t far = far_of(super, end);
        int t = n < 4 ? 2 : 4;
        if (t == 4) supers_direct(total, super, true, far, act, 0, 4, n, kind);
        else supers_direct(total, super, true, far, act, 0, 2, n, kind);
        for (; t + 2 <= n; t += 2) supers_direct(total + t, super, false, 0, act, t, 2, n, kind);
        if (t < n) supers_direct(total + t, super, false, 0, act, t, 1, n, kind);
    }
}

/* The panels are a type's, or, where kind.codes is NULL, spread already. */
SUPERS_FN void supers_gemm(const gemm_args *a, supers_kind kind) {
    const uint32_t n = a->n_tokens;
    const bool wide = !kind.codes;
    for (uint32_t panel = 0; panel < a->n_panels;) {
        const int np = a->n_panels - panel >= 2 && wide ? 2 : 1;
        floats total[2 * BLOCKS_NR];
        open_totals(total, a, panel, np);
        if (wide)
            supers_tiles[kind.form][np - 1][n - 1](total, a->panels + panel * a->panel_bytes, a->panel_bytes, a->act,
                                                   a->n_super / SUPERS_UNITS);
        else if (n == 1 && a->foreseen) supers_all(total, a, panel, 1, 1, false, kind);
        else if (n == 1) supers_all(total, a, panel, 1, 1, true, kind);
        else if (n == 2) supers_all(total, a, panel, 2, 2, true, kind);
        else if (n == 4) supers_all(total, a, panel, 4, 4, true, kind);
        else if (n == 8) supers_all(total, a, panel, 8, kind.form == SUPERS_32_MIN ? 8 : 4, true, kind);
        else supers_parts(total, a, panel, kind);
        put_totals(a, total, panel, np);
        panel += (uint32_t)np;
    }
}

/* ---- outliers: a few columns of 16 rows as f32, the same numbers as k_blocks.h's of packed panels ---- */

/* Where a spread panel has an outlier's code, number and min, and what picks the two integers out of their words. */
typedef struct supers_place {
    size_t super, code, number, pair;
    words pick_code, pick_min;
    floats value;
} supers_place;

SUPERS_FN supers_place place_outlier(outlier o, supers_form form) {
    const uint32_t k = o.column % SUPERS_COLUMNS, g = k * (uint32_t)supers_groups(form) / SUPERS_COLUMNS;
    return (supers_place){
        .super = o.column / SUPERS_COLUMNS * supers_bytes(form), .code = supers_codes_at(form) + k / 4 * 64, .number = g * 64,
        .pair = supers_pairs_at(form) + (g / 4 * 2 + g % 2) * 64, .pick_code = w_set1(1u << k % 4 * 8),
        .pick_min = w_set1(1u << g % 4 / 2 * 16), .value = f_set1(o.value)};
}
SUPERS_FN floats outlier_weight(const uint8_t *panel, const supers_place *o, supers_form form) {
    const uint8_t *super = panel + o->super;
    const words code = w_dot(w_set1(supers_mins(form) ? 0 : (uint32_t)-128), w_load(super + o->code), o->pick_code, true);
    const floats number = f_load(super + o->number);
    if (!supers_mins(form)) return f_mul(f_of_int(code), number);
    const floats min = f_of_int(w_dot_pairs(w_set1(0), w_load(super + o->pair), o->pick_min));
    return f_fma(f_of_int(code), number, f_mul(f_load(super + supers_least_at(form)), min));
}

/* Outliers ascending, one sum, one add. */
SUPERS_FN void supers_outliers(const outliers_args *a, supers_form form) {
    for (uint32_t t = 0; t < a->n_tokens; t++) {
        supers_place places[OUTLIERS];
        AK42_UNROLL for (int i = 0; i < OUTLIERS; i++) places[i] = place_outlier(a->lists[t * OUTLIERS + (uint32_t)i], form);
        for (uint32_t at = 0; at < a->n_panels; at++) {
            floats sum = f_set1(0.0f);
            AK42_UNROLL for (int i = 0; i < OUTLIERS; i++)
                sum = f_fma(outlier_weight(a->panels + at * a->panel_bytes, &places[i], form), places[i].value, sum);
            uint8_t *out = (uint8_t *)(a->out + t * a->ldo + at * PANEL_ROWS);
            f_store(out, f_add(f_load(out), sum));
        }
    }
}

/* ---- the rows ---- */

#define SUPERS_FORM(name)                                                                                      \
    BLOCKS_TARGET static void wide_##name(const gemm_args *a) { supers_gemm(a, (supers_kind){.form = name}); } \
    BLOCKS_TARGET static void outliers_##name(const outliers_args *a) { supers_outliers(a, name); }
SUPERS_FORM(SUPERS_32_MIN)
SUPERS_FORM(SUPERS_16)
SUPERS_FORM(SUPERS_16_MIN)

#define SUPERS_KIND(name, form, n_words, together, zero, ...)                                                                        \
    (supers_kind) { form, n_words * 64, together, zero, whole_##name, __VA_ARGS__, super_codes_##name }
#define SUPERS_TYPE(name, form, n_words, together, zero, ...)                                                                        \
    BLOCKS_TARGET static void super_gemm_##name(const gemm_args *a) {                                                                \
        supers_gemm(a, SUPERS_KIND(name, form, n_words, together, zero, __VA_ARGS__));                                                \
    }                                                                                                                                \
    BLOCKS_TARGET static void super_unpack_##name(uint8_t *dst, const uint8_t *panel, uint32_t n_super, uint32_t group_size) {       \
        (void)group_size;                                                                                                            \
        for (uint32_t i = 0; i < n_super; i += SUPERS_UNITS, panel += n_words * 64, dst += supers_bytes(form))                       \
            supers_spread(dst, panel, SUPERS_KIND(name, form, n_words, together, zero, __VA_ARGS__));                                 \
    }
SUPERS_TYPE(q2_k, SUPERS_16_MIN, 21, 4, 0, fours_q2_k, least_q2_k, mins_q2_k)
SUPERS_TYPE(q3_k, SUPERS_16, 28, 4, 32, fours_q3_k, NULL, NULL)
SUPERS_TYPE(q4_k, SUPERS_32_MIN, 36, 2, 0, fours_q4_k, least_q4_k, mins_q4_k)
SUPERS_TYPE(q5_k, SUPERS_32_MIN, 44, 2, 0, fours_q4_k, least_q4_k, mins_q4_k)
SUPERS_TYPE(q6_k, SUPERS_16, 53, 4, 128, fours_q6_k, NULL, NULL)

#define SUPERS_ROW(row, name, form, order)                                                                                   \
    table->types[row] = (type_kernels){.act = ACT_Q8_SUPER, .nr = BLOCKS_NR, .gemm = super_gemm_##name, .unpack = super_unpack_##name, \
                                       .gemm_wide = wide_##form, .outliers_wide = outliers_##form,                           \
                                       .wide_super_bytes = (uint32_t)supers_bytes(form) / SUPERS_UNITS,                      \
                                       .wide_from = supers_wide_from(form), .in_order = order};

BLOCKS_TARGET static void supers_fill(kernel_table *table) {
    SUPERS_ROW(KERNEL_Q2_K, q2_k, SUPERS_16_MIN, false)      /* in order, but nearly always faster with requests */
    SUPERS_ROW(KERNEL_Q3_K, q3_k, SUPERS_16, false)
    SUPERS_ROW(KERNEL_Q4_K, q4_k, SUPERS_32_MIN, true)
    SUPERS_ROW(KERNEL_Q5_K, q5_k, SUPERS_32_MIN, true)
    SUPERS_ROW(KERNEL_Q6_K, q6_k, SUPERS_16, true)
}

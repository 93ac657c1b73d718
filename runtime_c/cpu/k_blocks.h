/* k_blocks.h: matrix products on the types of core/blocks.h and ACT_Q8 tiles: a body that ISA files include, each with its own vectors.
 * For many tokens panels are first spread (unpack) to "wide" units of 64 columns: f32 scales, f32 mins, codes as bytes; one multiply
 * then serves all types of a form. One or two tokens, and all of a tile where registers suffice, are multiplied straight from the
 * blocks; else a piece of a panel is spread into the first-level cache on its way. It is the same arithmetic on the same numbers, so
 * the bits are the same. Before the #include a file defines
 *     BLOCKS_TARGET         the target of every function
 *     BLOCKS_NR             tokens of a full tile
 *     BLOCKS_PANELS         panels that a tile of 2 or more tokens takes at once, 1 or 2
 *     words, floats         types of BLOCKS_ROWS u32 and f32, one for each row of a panel or of a part of it, and on them w_*, f_* as below
 *     w_dot(sum, w, a, large)   sum + the products of 4 u8 of w with 4 i8 of a; large: u8 above 127
 *     BLOCKS_VNNI           1 where w_dot takes u8 and costs the same for large ones
 * and, where they serve,
 *     BLOCKS_SIGNED         1: w_dot's w are i8; FORM_32's codes are then kept less 128
 *     BLOCKS_ROWS           16, or rows of a part of a panel, which is then worked through part by part
 *     BLOCKS_TILE           a file that defines multiply_tile, where BLOCKS_ROWS is not 16 or the ISA has better than w_dot
 *     BLOCKS_STRAIGHT       the most tokens that are multiplied straight: 8, or as if it were 2
 *     BLOCKS_DOT_AT         w_dot_at, w_dot of 4 i8 in memory, where the ISA takes them from there
 *     BLOCKS_LOOKUP_ANY     1: w_lookup looks at the lowest 4 bits of a byte, whatever the others are
 *     BLOCKS_TYPES(TYPE)    those of BLOCKS_PLAIN, BLOCKS_SUPERS and BLOCKS_LOOKUPS that it wants, instead of all
 * It defines blocks_fill, which sets the rows of these types. No dispatch, no state.
 *
 * A group's integer dot is added to the bits of the float M = 1.5 * 2^23, whose last place is one: read as a float that is M + c,
 * exactly; scale * c, rounded once, is then fma(M + c, scale, -M * scale), as scales have at most 22 significant bits (NF4's, which
 * have 24, are cut). */
#include "../core/blocks.h"
#include "k_simd.h"
#include "kernels.h"

#define BLOCKS_FN static AK42_INLINE BLOCKS_TARGET

#if !defined(BLOCKS_SIGNED)
#define BLOCKS_SIGNED 0
#endif
#if !defined(BLOCKS_ROWS)
#define BLOCKS_ROWS 16
#endif
#if !defined(BLOCKS_STRAIGHT)
#define BLOCKS_STRAIGHT 2
#endif
#if !defined(BLOCKS_LOOKUP_ANY)
#define BLOCKS_LOOKUP_ANY 0
#endif

/* A part's words lie this far apart. */
enum { BLOCKS_PARTS = PANEL_ROWS / BLOCKS_ROWS, PART_BYTES = BLOCKS_ROWS * 4 };

enum { BLOCKS_MAGIC_BITS = 0x4b400000 };
#define BLOCKS_MAGIC 12582912.0f

/* Columns that share a scale, whether there are mins, and the code that stands for zero. */
typedef enum blocks_form { FORM_32, FORM_32_MIN, FORM_16, FORM_16_MIN, FORM_COUNT } blocks_form;

BLOCKS_FN int form_group(blocks_form form) { return form < FORM_16 ? 32 : 16; }
BLOCKS_FN bool form_has_mins(blocks_form form) { return form == FORM_32_MIN || form == FORM_16_MIN; }
BLOCKS_FN int form_zero(blocks_form form) { return form == FORM_32 ? 127 : form == FORM_16 ? 32 : 0; }
/* What is taken off the codes of a form of which some are above 127, where they must fit i8. */
enum { CODES_LESS = BLOCKS_SIGNED ? 128 : 0 };
BLOCKS_FN int form_less(blocks_form form) { return form == FORM_32 ? CODES_LESS : 0; }
BLOCKS_FN int form_groups(blocks_form form) { return SUPER_K / form_group(form); }
BLOCKS_FN size_t form_codes_at(blocks_form form) { return (size_t)form_groups(form) * 64 * (form_has_mins(form) ? 2 : 1); }
BLOCKS_FN size_t form_bytes(blocks_form form) { return form_codes_at(form) + 1024; }
enum { FORM_BYTES_MAX = 512 + 1024 };

#include "k_blocks_types.h"

/* A type, all constants where it is used. */
typedef struct blocks_kind {
    blocks_form form;
    int units;                     /* of a superblock */
    uint32_t super_bytes;
    scale_fn *scale, *min;
    codes_fn *codes;
    codes_fn *upper;               /* 16 times the codes of the second 32 columns, where that is cheaper, for 1/16 of the scale; else NULL */
} blocks_kind;

BLOCKS_FN void spread(uint8_t *restrict unit, const uint8_t *restrict super, int u, blocks_kind kind) {
    const int groups = form_groups(kind.form);
    AK42_UNROLL for (int g = 0; g < groups; g++) {
        f_store(unit + g * 64, kind.scale(super, u, g));
        if (form_has_mins(kind.form)) f_store(unit + (groups + g) * 64, kind.min(super, u, g));
    }
    AK42_UNROLL for (int b = 0; b < 2; b++)
        AK42_UNROLL for (int j = 0; j < 8; j++)
            w_store(unit + form_codes_at(kind.form) + (b * 8 + j) * 64, kind.codes(super, u, b, j));
}

/* ---- multiplying units ---- */

enum { START_UNITS = 128, NARROW_UNITS = 4 };

/* What a stretch of columns needs of the activations, for each group and token: where the integer dots start, M - zero * s, and, where
 * there are mins, s. It goes through memory so that each is loaded as a broadcast. */
typedef struct blocks_start {
    _Alignas(64) int32_t dot[START_UNITS * 4][BLOCKS_NR];
    float s[START_UNITS * 4][BLOCKS_NR];
} blocks_start;

/* The sums of both halves of a block, of n tokens. */
BLOCKS_FN void sum_halves(int32_t sums[2][BLOCKS_NR], const uint8_t *act, uint32_t n) {
#if defined(BLOCKS_SUMS_8)
    if (n == 8) {
        w_sums_8(sums[0], sums[1], act);
        return;
    }
#endif
    for (uint32_t t = 0; t < n; t++)
        for (int half = 0; half < 2; half++) sums[half][t] = w_sum16(act + t * ACT_BLOCK + half * 16);
}

BLOCKS_FN void prepare(blocks_start *start, const uint8_t *act, uint32_t n_units, uint32_t n, blocks_form form) {
    const int group = form_group(form), zero = form_zero(form) - form_less(form);
    uint32_t g = 0;
    for (uint32_t block = 0; block < n_units * 2; block++, act += n * ACT_Q8_BLOCK_BYTES) {
        int32_t halves[2][BLOCKS_NR];
        if (group < ACT_BLOCK) sum_halves(halves, act, n);
        for (int part = 0; part < ACT_BLOCK / group; part++, g++)
            for (uint32_t t = 0; t < n; t++) {
                int32_t s;
                if (group < ACT_BLOCK) s = halves[part][t];
                else memcpy(&s, act + n * (ACT_BLOCK + 4) + t * 4, 4);
                start->dot[g][t] = BLOCKS_MAGIC_BITS - zero * s;
                if (form_has_mins(form)) start->s[g][t] = (float)s;
            }
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
#if !defined(BLOCKS_DOT_AT)
BLOCKS_FN words w_dot_at(words sum, words w, const uint8_t *a, bool large) { return w_dot(sum, w, w_set1(blocks_word(a)), large); }
#endif

#if defined(BLOCKS_TILE)
#include BLOCKS_TILE
#else

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

#endif

/* ---- whole products ---- */

BLOCKS_FN void spread_units(uint8_t *wide, const uint8_t *panel, uint32_t first, uint32_t n, blocks_kind kind) {
    const uint32_t units = (uint32_t)kind.units;
    panel += (size_t)(first / units) * kind.super_bytes;
    for (uint32_t i = 0; i < n; i += units, panel += kind.super_bytes, wide += units * form_bytes(kind.form))
        for (int part = 0; part < BLOCKS_PARTS; part++)
            AK42_UNROLL for (int u = 0; u < kind.units; u++)
                if (kind.units != 2 || i + (uint32_t)u < n)
                    spread(wide + (uint32_t)u * form_bytes(kind.form) + part * PART_BYTES, panel + part * PART_BYTES, u, kind);
}

/* Where a panel ends, and what is read after it (k_simd.h). */
typedef struct panel_end {
    const uint8_t *at;
    size_t jump;
} panel_end;
BLOCKS_FN panel_end end_of(const gemm_args *a, uint32_t panel, int np, int p) {
    return (panel_end){a->panels + (panel + (uint32_t)p + 1) * a->panel_bytes, gemm_jump(a, panel, (uint32_t)np, (uint32_t)p)};
}
BLOCKS_FN size_t far_of(const uint8_t *line, panel_end end) { return ahead_far((size_t)(end.at - line), end.jump, false); }

/* Asks ahead for what n units of a panel take. */
BLOCKS_FN void ask_units(const uint8_t *panel, uint32_t unit, uint32_t n, panel_end end, blocks_kind kind) {
    const uint32_t bytes = kind.super_bytes / (uint32_t)kind.units;
    const uint8_t *first = panel + (size_t)unit * bytes;
    const size_t far = far_of(first, end);
    for (uint32_t i = 0; i < n * bytes; i += CACHE_LINE) ask_if(true, first + i, far);
}
/* The same for one of n equal shares of a superblock's lines, so that there is work between the requests. */
BLOCKS_FN void ask_share(bool asks, const uint8_t *super, size_t far, int share, int n, uint32_t bytes) {
    const int n_lines = (int)bytes / CACHE_LINE;
    AK42_UNROLL for (int i = share * n_lines / n; i < (share + 1) * n_lines / n; i++)
        if (BLOCKS_STRAIGHT == 8) ask_if(asks, super + i * CACHE_LINE, far);
        else ask_line(super + i * CACHE_LINE, far);            /* few registers: gcc does better between branches */
}

/* Where part `part` of token t's outputs of panel p lies in totals and in an (n_tokens, ld) array. */
BLOCKS_FN uint32_t total_at(const gemm_args *a, int p, uint32_t t, int part) {
    return ((uint32_t)p * a->n_tokens + t) * BLOCKS_PARTS + (uint32_t)part;
}
BLOCKS_FN size_t output_at(size_t ld, uint32_t panel, int p, uint32_t t, int part) {
    return t * ld + (panel + (uint32_t)p) * PANEL_ROWS + (uint32_t)(part * BLOCKS_ROWS);
}
BLOCKS_FN void open_totals(floats *total, const gemm_args *a, uint32_t panel, int np) {
    for (int p = 0; p < np; p++)
        for (uint32_t t = 0; t < a->n_tokens; t++)
            for (int part = 0; part < BLOCKS_PARTS; part++) {
                const float *from = a->start ? a->start + output_at(a->ld_start, panel, p, t, part) : NULL;
                total[total_at(a, p, t, part)] = from ? f_load((const uint8_t *)from) : f_set1(0.0f);
            }
}
BLOCKS_FN void put_totals(const gemm_args *a, const floats *total, uint32_t panel, int np) {
    for (int p = 0; p < np; p++)
        for (uint32_t t = 0; t < a->n_tokens; t++)
            for (int part = 0; part < BLOCKS_PARTS; part++) {
                uint8_t *out = (uint8_t *)(a->out + output_at(a->ldo, panel, p, t, part));
                const floats sum = total[total_at(a, p, t, part)];
                f_store(out, a->accumulate ? f_add(f_load(out), sum) : sum);
            }
}

/* The products of a part of a superblock with m tokens from `first` on of a tile of n, straight from its bytes: multiply_units'
 * arithmetic, without the detour through memory, which would be most of the work where tokens are few. All dots of a unit go on side by
 * side, as each waits for its last. */
BLOCKS_FN void multiply_super(floats *sum, const int32_t (*dots)[BLOCKS_NR], const float (*sums)[BLOCKS_NR], const uint8_t *super,
                              bool asks, size_t far, const uint8_t *act, uint32_t n_units, int first, int m, int n, blocks_kind kind) {
    const int quads = form_group(kind.form) / 4, groups = form_groups(kind.form);
    AK42_UNROLL for (int u = 0; u < kind.units; u++) {
        if (kind.units == 2 && (uint32_t)u >= n_units) break;
        const uint8_t *blocks[2] = {act + 2 * u * n * ACT_Q8_BLOCK_BYTES, act + (2 * u + 1) * n * ACT_Q8_BLOCK_BYTES};
        words dot[4][BLOCKS_STRAIGHT];
        AK42_UNROLL for (int g = 0; g < groups; g++)
            AK42_UNROLL for (int t = 0; t < m; t++) dot[g][t] = w_set1((uint32_t)dots[u * groups + g][first + t]);
        AK42_UNROLL for (int j = 0; j < 8; j++) {
            if (BLOCKS_PARTS == 1) ask_share(asks, super, far, u * 8 + j, kind.units * 8, kind.super_bytes);
            AK42_UNROLL for (int b = 0; b < 2; b++) {
                const words w = b && kind.upper ? kind.upper(super, u, b, j) : kind.codes(super, u, b, j);
                const int g = (b * 8 + j) / quads;
                AK42_UNROLL for (int t = 0; t < m; t++)
                    dot[g][t] = w_dot_at(dot[g][t], w, blocks[b] + (first + t) * ACT_BLOCK + j * 4, kind.form == FORM_32);
            }
        }
        AK42_UNROLL for (int g = 0; g < groups; g++) {
            const int b = g * quads / 8;
            const uint8_t *d = blocks[b] + n * ACT_BLOCK;
            const floats whole = kind.scale(super, u, g), scale = b && kind.upper ? f_mul(whole, f_set1(1.0f / 16)) : whole;
            const floats bias = f_mul(scale, f_set1(-BLOCKS_MAGIC));
            const floats min = form_has_mins(kind.form) ? kind.min(super, u, g) : bias;
            AK42_UNROLL for (int t = 0; t < m; t++) {
                floats part = f_fma(f_cast(dot[g][t]), scale, bias);
                if (form_has_mins(kind.form)) part = f_fma(min, f_set1(sums[u * groups + g][first + t]), part);
                sum[t] = f_fma(part, f_set1(blocks_float(d + (first + t) * 4)), sum[t]);
            }
        }
    }
}

/* Units [begin, end) of a panel, all tokens of a tile of n, whose sums stay in registers. */
BLOCKS_FN void multiply_few(floats *total, const blocks_start *start, const gemm_args *a, uint32_t panel, const uint8_t *act,
                            uint32_t begin, uint32_t end, int n, bool asks, blocks_kind kind) {
    const uint32_t units = (uint32_t)kind.units, groups = (uint32_t)form_groups(kind.form);
    const uint8_t *super = a->panels + panel * a->panel_bytes + (size_t)(begin / units) * kind.super_bytes;
    const panel_end behind = end_of(a, panel, 1, 0);
    floats sum[BLOCKS_STRAIGHT];       /* a whole panel's */
    AK42_UNROLL for (int t = 0; t < n && BLOCKS_PARTS == 1; t++) sum[t] = total[t];
    for (uint32_t u = begin; u < end; u += units, act += units * 2 * (size_t)n * ACT_Q8_BLOCK_BYTES, super += kind.super_bytes) {
        const int32_t (*dots)[BLOCKS_NR] = start->dot + (u - begin) * groups;
        const float (*sums)[BLOCKS_NR] = start->s + (u - begin) * groups;
        const size_t far = far_of(super, behind);
        if (BLOCKS_PARTS == 1) {
            multiply_super(sum, dots, sums, super, asks, far, act, end - u, 0, n, n, kind);
            continue;
        }
        ask_units(super, 0, units, behind, kind);
        for (int part = 0; part < BLOCKS_PARTS; part++) {
            floats *at = total + part, those[BLOCKS_STRAIGHT];
            AK42_UNROLL for (int t = 0; t < n; t++) those[t] = at[t * BLOCKS_PARTS];
            multiply_super(those, dots, sums, super + part * PART_BYTES, asks, far, act, end - u, 0, n, n, kind);
            AK42_UNROLL for (int t = 0; t < n; t++) at[t * BLOCKS_PARTS] = those[t];
        }
    }
    AK42_UNROLL for (int t = 0; t < n && BLOCKS_PARTS == 1; t++) total[t] = sum[t];
}
/* The same for 3, 5, 6 or 7 tokens, in fours, twos and ones; not where a panel has parts. */
BLOCKS_FN void multiply_some(floats *total, const blocks_start *start, const gemm_args *a, uint32_t panel, const uint8_t *act,
                             uint32_t begin, uint32_t end, blocks_kind kind) {
    const uint32_t units = (uint32_t)kind.units, groups = (uint32_t)form_groups(kind.form);
    const uint8_t *super = a->panels + panel * a->panel_bytes + (size_t)(begin / units) * kind.super_bytes;
    const panel_end behind = end_of(a, panel, 1, 0);
    const int n = (int)a->n_tokens;
    for (uint32_t u = begin; u < end; u += units, act += units * 2 * (size_t)n * ACT_Q8_BLOCK_BYTES, super += kind.super_bytes) {
        const int32_t (*dots)[BLOCKS_NR] = start->dot + (u - begin) * groups;
        const float (*sums)[BLOCKS_NR] = start->s + (u - begin) * groups;
        const size_t far = far_of(super, behind);
        int t = n < 4 ? 2 : 4;
        if (t == 4) multiply_super(total, dots, sums, super, true, far, act, end - u, 0, 4, n, kind);
        else multiply_super(total, dots, sums, super, true, far, act, end - u, 0, 2, n, kind);
        for (; t + 2 <= n; t += 2) multiply_super(total + t, dots, sums, super, false, 0, act, end - u, t, 2, n, kind);
        if (t < n) multiply_super(total + t, dots, sums, super, false, 0, act, end - u, t, 1, n, kind);
    }
}

/* The panels are a type's, or, where kind.codes is NULL, spread already. */
BLOCKS_FN void multiply(const gemm_args *a, blocks_kind kind) {
    blocks_start start;
    const bool wide = !kind.codes;
    const size_t unit_bytes = form_bytes(kind.form), token_bytes = 2 * ACT_Q8_BLOCK_BYTES;
    uint32_t prepared = UINT32_MAX;
    for (uint32_t panel = 0; panel < a->n_panels;) {
        const int np = a->n_panels - panel >= BLOCKS_PANELS && (wide || a->n_tokens > BLOCKS_STRAIGHT) ? BLOCKS_PANELS : 1;
        floats total[BLOCKS_PANELS * BLOCKS_NR * BLOCKS_PARTS];        /* (np, n_tokens, parts) */
        open_totals(total, a, panel, np);
        for (uint32_t begin = 0; begin < a->n_super; begin += START_UNITS) {
            const uint32_t end = a->n_super - begin < START_UNITS ? a->n_super : begin + START_UNITS;
            const uint8_t *act = a->act + begin * token_bytes * a->n_tokens, *from = a->panels + panel * a->panel_bytes;
            if (prepared != begin) prepare(&start, act, end - begin, a->n_tokens, kind.form);
            prepared = begin;
            if (wide) {
                multiply_tile(total, &start, 0, from + begin * unit_bytes, a->panel_bytes, act, end - begin, a->n_tokens, np,
                              kind.form);
            } else if (a->n_tokens == 1 && BLOCKS_STRAIGHT == 8 && a->foreseen) {
                multiply_few(total, &start, a, panel, act, begin, end, 1, false, kind);
            } else if (a->n_tokens == 1) {
                multiply_few(total, &start, a, panel, act, begin, end, 1, true, kind);
            } else if (a->n_tokens == 2) {
                multiply_few(total, &start, a, panel, act, begin, end, 2, true, kind);
#if BLOCKS_STRAIGHT == 8
            } else if (a->n_tokens == 4) {
                multiply_few(total, &start, a, panel, act, begin, end, 4, true, kind);
            } else if (a->n_tokens == 8) {
                multiply_few(total, &start, a, panel, act, begin, end, 8, true, kind);
            } else {
                multiply_some(total, &start, a, panel, act, begin, end, kind);
            }
#else
            } else {
                _Alignas(64) uint8_t buffer[BLOCKS_PANELS * NARROW_UNITS * FORM_BYTES_MAX];
                for (uint32_t u = begin; u < end; u += NARROW_UNITS) {
                    const uint32_t n = end - u < NARROW_UNITS ? end - u : NARROW_UNITS;
                    for (int p = 0; p < np; p++) {
                        ask_units(from + (size_t)p * a->panel_bytes, u, n, end_of(a, panel, np, p), kind);
                        spread_units(buffer + (size_t)p * NARROW_UNITS * FORM_BYTES_MAX, from + (size_t)p * a->panel_bytes, u, n,
                                     kind);
                    }
                    multiply_tile(total, &start, u - begin, buffer, NARROW_UNITS * FORM_BYTES_MAX,
                                  act + (u - begin) * token_bytes * a->n_tokens, n, a->n_tokens, np, kind.form);
                }
            }
#endif
        }
        put_totals(a, total, panel, np);
        panel += (uint32_t)np;
    }
}

/* ---- outliers: a few columns of 16 rows as f32 ---- */

/* Column k of a unit: what its code is and what it is worth. */
BLOCKS_FN floats column_of(const uint8_t *super, int u, int k, blocks_kind kind) {
    const int g = k / form_group(kind.form), b = k / 32, j = k % 32 / 4;
    const words less = w_and(w_shr_by(kind.codes(super, u, b, j), k % 4 * 8), w_set1(255));
    const words code = w_xor(less, w_set1((uint32_t)form_less(kind.form)));
    const floats value = f_of_int(w_sub(code, w_set1((uint32_t)form_zero(kind.form)))), scale = kind.scale(super, u, g);
    return form_has_mins(kind.form) ? f_fma(value, scale, kind.min(super, u, g)) : f_mul(value, scale);
}

/* Outliers ascending, one sum, one add. */
BLOCKS_FN void add_outliers(const outliers_args *a, blocks_kind kind) {
    for (uint32_t at = 0; at < a->n_panels * BLOCKS_PARTS; at++)
        for (uint32_t t = 0; t < a->n_tokens; t++) {
            const uint8_t *panel = a->panels + at / BLOCKS_PARTS * a->panel_bytes + at % BLOCKS_PARTS * PART_BYTES;
            floats sum = f_set1(0.0f);
            for (uint32_t i = 0; i < OUTLIERS; i++) {
                const outlier o = a->lists[t * OUTLIERS + i];
                const uint32_t u = o.column / SUPER_K, units = (uint32_t)kind.units;
                const uint8_t *super = panel + (size_t)(u / units) * kind.super_bytes;
                sum = f_fma(column_of(super, (int)(u % units), (int)(o.column % SUPER_K), kind), f_set1(o.value), sum);
            }
            uint8_t *out = (uint8_t *)(a->out + t * a->ldo + at * BLOCKS_ROWS);
            f_store(out, f_add(f_load(out), sum));
        }
}

/* The same of spread panels: the same numbers, a few instructions each. */
BLOCKS_FN void add_outliers_wide(const outliers_args *a, blocks_form form) {
    for (uint32_t t = 0; t < a->n_tokens; t++)
        for (uint32_t at = 0; at < a->n_panels * BLOCKS_PARTS; at++) {
            const uint8_t *panel = a->panels + at / BLOCKS_PARTS * a->panel_bytes + at % BLOCKS_PARTS * PART_BYTES;
            floats sum = f_set1(0.0f);
            for (uint32_t i = 0; i < OUTLIERS; i++) {
                const outlier o = a->lists[t * OUTLIERS + i];
                const uint32_t k = o.column % SUPER_K, g = k / (uint32_t)form_group(form);
                const uint8_t *unit = panel + o.column / SUPER_K * form_bytes(form);
                const words quad = w_load(unit + form_codes_at(form) + k / 4 * 64);
                const words less = w_and(w_shr_by(quad, k % 4 * 8), w_set1(255));
                const words code = w_xor(less, w_set1((uint32_t)form_less(form)));
                const floats value = f_of_int(w_sub(code, w_set1((uint32_t)form_zero(form)))), scale = f_load(unit + g * 64);
                const uint8_t *mins = unit + (size_t)form_groups(form) * 64;
                const floats weight = form_has_mins(form) ? f_fma(value, scale, f_load(mins + g * 64)) : f_mul(value, scale);
                sum = f_fma(weight, f_set1(o.value), sum);
            }
            uint8_t *out = (uint8_t *)(a->out + t * a->ldo + at * BLOCKS_ROWS);
            f_store(out, f_add(f_load(out), sum));
        }
}

/* ---- the forms ---- */

#define BLOCKS_FORM(form)                                                            \
    AK42_UNUSED BLOCKS_TARGET static void wide_##form(const gemm_args *a) {          \
        multiply(a, (blocks_kind){form, 1, 0, NULL, NULL, NULL, NULL});              \
    }                                                                                \
    AK42_UNUSED BLOCKS_TARGET static void outliers_##form(const outliers_args *a) { add_outliers_wide(a, form); }
BLOCKS_FORM(FORM_32)
BLOCKS_FORM(FORM_32_MIN)
BLOCKS_FORM(FORM_16)
BLOCKS_FORM(FORM_16_MIN)

/* ---- the types: row of the table, name, form, units, words of a superblock, mins, upper codes ---- */

#define BLOCKS_PLAIN(TYPE)                             \
    TYPE(Q5_0, q5_0, FORM_32, 1, 11, no_min, NULL)     \
    TYPE(Q5_1, q5_1, FORM_32_MIN, 1, 12, min_q5_1, NULL)
#define BLOCKS_SUPERS(TYPE)                                \
    TYPE(Q2_K, q2_k, FORM_16_MIN, 4, 21, min_q2_k, NULL)   \
    TYPE(Q3_K, q3_k, FORM_16, 4, 28, no_min, NULL)         \
    TYPE(Q4_K, q4_k, FORM_32_MIN, 4, 36, min_q4_k, upper_q4_k) \
    TYPE(Q5_K, q5_k, FORM_32_MIN, 4, 44, min_q5_k, NULL)   \
    TYPE(Q6_K, q6_k, FORM_16, 4, 53, no_min, NULL)
#define BLOCKS_LOOKUPS(TYPE)                           \
    TYPE(IQ4_NL, iq4_nl, FORM_32, 1, 9, no_min, NULL)  \
    TYPE(IQ4_XS, iq4_xs, FORM_32, 4, 34, no_min, NULL) \
    TYPE(MXFP4, mxfp4, FORM_32, 2, 17, no_min, NULL)   \
    TYPE(NF4, nf4, FORM_32, 1, 9, no_min, NULL)
#if !defined(BLOCKS_TYPES)
#define BLOCKS_TYPES(TYPE) BLOCKS_PLAIN(TYPE) BLOCKS_SUPERS(TYPE) BLOCKS_LOOKUPS(TYPE)
#endif

#define BLOCKS_KERNELS(row, name, form, units, n_words, min, upper)                                                        \
    BLOCKS_TARGET static void gemm_##name(const gemm_args *a) {                                                            \
        multiply(a, (blocks_kind){form, units, n_words * 64, scale_##name, min, codes_##name, upper});                     \
    }                                                                                                                      \
    BLOCKS_TARGET static void unpack_##name(uint8_t *dst, const uint8_t *panel, uint32_t n_super, uint32_t group_size) {   \
        (void)group_size;                                                                                                  \
        spread_units(dst, panel, 0, n_super, (blocks_kind){form, units, n_words * 64, scale_##name, min, codes_##name, upper});   \
    }                                                                                                                      \
    BLOCKS_TARGET static void outliers_##name(const outliers_args *a) {                                                    \
        add_outliers(a, (blocks_kind){form, units, n_words * 64, scale_##name, min, codes_##name, upper});                 \
    }
BLOCKS_TYPES(BLOCKS_KERNELS)

#define BLOCKS_ROW(row, name, form, units, n_words, min, upper)                                                            \
    table->types[KERNEL_##row] = (type_kernels){.act = ACT_Q8, .nr = BLOCKS_NR, .gemm = gemm_##name, .unpack = unpack_##name, \
                                                .gemm_wide = wide_##form, .outliers_wide = outliers_##form,                \
                                                .wide_super_bytes = (uint32_t)form_bytes(form), .wide_from = BLOCKS_WIDE_FROM,         \
                                                .in_order = BLOCKS_STRAIGHT == 8 && form == FORM_32};                       \
    table->outliers[KERNEL_##row] = outliers_##name;

BLOCKS_TARGET static void blocks_fill(kernel_table *table) {
    BLOCKS_TYPES(BLOCKS_ROW)
}

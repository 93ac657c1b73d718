/* check_kernels.c: every slot of the kernel table on every ISA that this machine has, against sums in
 * double or against the plain C kernels, on random and edge sizes; that results do not depend on how the
 * work is cut; that nothing is read or written outside. A slot that an ISA has from an earlier one of the run is not checked again.
 *     check_kernels [ISA...]         prints "N passed, N failed"
 *     check_kernels --beyond ISA ISA...      only the slots that the first has not
 *     check_kernels --part PART ISA...       only those of pack (with encode), matrices, attention or vectors
 *     check_kernels --bench [ISA [PART]]     times every slot (bench_kernels.h) */
#include "../../runtime_c/core/config.h"
#include "../../runtime_c/core/blocks.h"
#include "../../runtime_c/core/panel.h"
#include "../../runtime_c/core/panel_words.h"
#include "../../runtime_c/core/quant.h"
#include "../../runtime_c/core/types.h"
#include "../../runtime_c/cpu/outliers.h"
#include "attention_checks.h"
#include "bench_kernels.h"
#include "kernel_checks.h"

/* ---- what was checked ---- */

/* The tables whose slots this run has checked. */
static kernel_table seen[16];
static uint32_t n_seen;

/* Whether none of them has the same in this place of the table. */
static bool is_new(const kernel_table *table, const void *slot, size_t size) {
    const size_t at = (size_t)((const char *)slot - (const char *)table);
    for (uint32_t i = 0; i < n_seen; i++)
        if (memcmp((const char *)&seen[i] + at, slot, size) == 0) return false;
    return true;
}
#define IS_NEW(table, slot) is_new(table, &(table)->slot, sizeof (table)->slot)

/* ---- weights ---- */

static size_t super_bytes(uint32_t type, uint32_t group) {
    switch (type) {
        case TYPE_F32: return 4096;
        case TYPE_F16:
        case TYPE_BF16: return 2048;
        case TYPE_Q8_0: return 1088;
        case TYPE_INT8: return SUPER_K / group * 64 + 1024;
        case TYPE_Q4_0: return 576;
        case TYPE_Q4_1: return 640;
        default: return type_by_id(type)->super_bytes;
    }
}

/* Superblocks whose words are whole blocks: random blocks with f16 scales of at most `largest`, packed. */
static void fill_words(uint8_t *super, const type_info *type, uint32_t style) {
    static const struct { uint32_t type, at, n; } halves[] = {
        {TYPE_Q5_0, 0, 1}, {TYPE_Q5_1, 0, 2}, {TYPE_Q2_K, 80, 2}, {TYPE_Q3_K, 108, 1}, {TYPE_Q4_K, 0, 2}, {TYPE_Q5_K, 0, 2},
        {TYPE_Q6_K, 208, 1}, {TYPE_IQ4_NL, 0, 1}, {TYPE_IQ4_XS, 0, 1}};
    uint8_t rows[PANEL_ROWS][SUPER_K_MAX];
    const uint32_t n_blocks = type->super_columns / type->block_len;
    const float largest = style == 2 ? 0.0f : style == 1 ? 10.0f : 0.01f;
    for (uint32_t r = 0; r < PANEL_ROWS; r++)
        for (uint32_t b = 0; b < n_blocks; b++) {
            uint8_t *block = rows[r] + b * type->block_bytes;
            for (uint32_t i = 0; i < type->block_bytes; i++) block[i] = style == 1 ? (rng() & 1 ? 0 : 255) : (uint8_t)rng();
            for (size_t h = 0; h < ARRAY_LEN(halves); h++)
                if (halves[h].type == type->id)
                    for (uint32_t i = 0; i < halves[h].n; i++)
                        put_u16(block + halves[h].at, i, f32_to_f16(rng_below(16) ? rng_float() * largest : 0.0f));
            if (type->id == TYPE_MXFP4) block[0] = style == 2 ? 0 : (uint8_t)(100 + rng_below(40));
            if (type->id == TYPE_NF4) put_float(block, 0, fabsf(rng_float()) * largest);
        }
    panel_words_pack(type, super, rows[0], SUPER_K_MAX, PANEL_ROWS, type->super_columns);
}

/* style 0: ordinary; 1: extreme quants; 2: zero. */
static void fill_super(uint8_t *super, uint32_t type, uint32_t group, uint32_t style) {
    const size_t bytes = super_bytes(type, group);
    if (panel_is_words(type_by_id(type))) {
        fill_words(super, type_by_id(type), style);
        return;
    }
    const uint32_t n_values = type == TYPE_F32 ? 1024 : type == TYPE_F16 || type == TYPE_BF16 ? 1024 : 0;
    for (uint32_t i = 0; i < n_values; i++) {
        float x = style == 2 ? 0.0f : style == 1 ? (rng() & 1 ? 60000.0f : 1e-6f) * rng_float() : rng_value();
        if (type == TYPE_F32) put_float(super, i, x);
        else put_u16(super, i, type == TYPE_F16 ? f32_to_f16(x) : f32_to_bf16(x));
    }
    if (n_values) return;
    const uint32_t n_scales = type == TYPE_INT8 ? SUPER_K / group * 16 : type == TYPE_Q4_1 ? 64 : 32;
    const size_t scale_bytes = n_scales * (type == TYPE_INT8 ? 4 : 2);
    for (uint32_t i = 0; i < n_scales; i++) {
        const float largest = style == 2 || rng_below(16) == 0 ? 0.0f : style == 1 ? 100.0f : 0.01f;
        const float x = rng_float() * largest;
        if (type == TYPE_INT8) put_float(super, i, x);
        else put_u16(super, i, f32_to_f16(x));
    }
    for (size_t i = scale_bytes; i < bytes; i++) {
        if (style == 1) super[i] = rng() & 1 ? 0 : 255;
        else super[i] = (uint8_t)rng();
    }
}

/* Row r of a superblock of words: as core/ decodes it, or with the codes that int8 kernels use. */
static void weights_of_words(double *out, const uint8_t *super, const type_info *type, uint32_t r, bool exact) {
    if (exact) {
        float row[SUPER_K_MAX];
        panel_row(type, 0, row, super, r, type->super_columns);
        for (uint32_t k = 0; k < type->super_columns; k++) out[k] = row[k];
        return;
    }
    uint8_t blocks[SUPER_K_MAX];
    panel_words_take(type, blocks, super, r, type->super_columns);
    for (uint32_t k = 0; k < type->super_columns; k++) {
        block_parts parts;
        const uint32_t at = k % type->block_len;
        if (at == 0) blocks_split(type, &parts, blocks + k / type->block_len * type->block_bytes);
        out[k] = (double)parts.codes[at] * parts.scales[at / 16] + parts.mins[at / 16];
    }
}

/* The weight at row r and column k of a superblock, as docs/format.md says. */
static double weight_at(const uint8_t *super, uint32_t type, uint32_t group, uint32_t r, uint32_t k) {
    const uint32_t quad = (k / 4 * 16 + r) * 4 + k % 4, pair = (k / 2 * 16 + r) * 2 + k % 2,
        scale = k / 32 * 16 + r;
    const uint32_t nibble = (k % 32 / 4 * 16 + r) * 4 + k % 4;
    switch (type) {
        case TYPE_F32: return float_at(super, k * 16 + r);
        case TYPE_F16: return half_at(super, pair);
        case TYPE_BF16: return bf16_at(super, pair);
        case TYPE_Q8_0: return (double)half_at(super, scale) * (super[64 + quad] - 128);
        case TYPE_INT8:
            return (double)float_at(super, k / group * 16 + r) * (super[SUPER_K / group * 64 + quad] - 128);
        case TYPE_Q4_0: return (double)half_at(super, scale) * ((super[64 + nibble] >> k / 32 * 4 & 15) - 8);
        default: return (double)half_at(super, scale) * (super[128 + nibble] >> k / 32 * 4 & 15) +
            half_at(super, 32 + scale);
    }
}

/* Q8_SUPER products of row r of a superblock pass through M * this, M = 1.5 * 2^23, on their way: the numbers of its groups, less by as
 * much as codes are taken too large, and, where there are mins, dmin. groups: how many. */
static double passed_through(const uint8_t *super, const type_info *type, uint32_t r, uint32_t *groups) {
    static const struct {
        uint32_t type, groups, factor, dmin_at;
    } kinds[] = {{TYPE_Q2_K, 16, 64, 82}, {TYPE_Q3_K, 16, 32, 0}, {TYPE_Q4_K, 8, 16, 2}, {TYPE_Q5_K, 8, 8, 2}, {TYPE_Q6_K, 16, 4, 0}};
    uint32_t i = 0;
    while (kinds[i].type != type->id) i++;
    uint8_t block[SUPER_K_MAX];
    block_parts parts;
    panel_words_take(type, block, super, r, type->super_columns);
    blocks_split(type, &parts, block);
    double numbers = 0;
    for (uint32_t g = 0; g < 16; g++) numbers += fabs(parts.scales[g]) * kinds[i].groups / 16;
    *groups = kinds[i].groups;
    return numbers / kinds[i].factor + (kinds[i].dmin_at ? fabs(f16_to_f32(load_u16(block + kinds[i].dmin_at))) : 0);
}

/* ---- activations ---- */

/* The value at column k of token t of a packed tile of n tokens. */
static double act_at(const uint8_t *act, act_kind kind, uint32_t n, uint32_t t, uint32_t k) {
    if (kind == ACT_F32) return float_at(act, (size_t)k * n + t);
    if (kind == ACT_BF16) return bf16_at(act, ((size_t)k / 2 * n + t) * 2 + k % 2);
    if (kind == ACT_Q8_SUPER) {
        const uint8_t *super = act + (size_t)k / 256 * n * ACT_SUPER_BYTES;
        return (double)(int8_t)super[k % 256 / 32 * n * 40 + t * 32 + k % 32] * float_at(super + n * 320, t);
    }
    const uint8_t *block = act + (size_t)k / 32 * n * ACT_Q8_BLOCK_BYTES;
    return (double)(int8_t)block[t * 32 + k % 32] * float_at(block + n * 32, t);
}

/* Equal bits; of Q8 blocks that are not finite only that the scale says so. */
static bool same_pack(const uint8_t *a, const uint8_t *b, act_kind kind, uint32_t n, uint32_t columns) {
    const size_t bytes = act_token_bytes(kind, columns) * n;
    if (kind == ACT_F32) return memcmp(a, b, bytes) == 0;
    if (kind == ACT_BF16) {
        for (size_t i = 0; i < bytes / 2; i++)
            if (load_u16(a + i * 2) != load_u16(b + i * 2) && !(isnan(bf16_at(a, i)) && isnan(bf16_at(b, i))))
                return false;
        return true;
    }
    if (kind == ACT_Q8_SUPER) {
        for (size_t at = 0; at < bytes; at += n * ACT_SUPER_BYTES)
            for (uint32_t t = 0; t < n; t++) {
                const bool nans = isnan(float_at(a + at + n * 320, t)) && isnan(float_at(b + at + n * 320, t));
                for (uint32_t i = 0; i < ACT_SUPER_BYTES / 4 && !nans; i++) {
                    const uint32_t in_block = i % 10;      /* words of a token: 8 of codes, 2 starts */
                    const size_t block = at + i / 10 * n * 40, code = block + t * 32 + in_block * 4;
                    const size_t start = block + n * 32 + ((in_block - 8) * n + t) * 4, rest = at + n * 320 + ((i - 80) * n + t) * 4;
                    const size_t place = i >= 80 ? rest : in_block < 8 ? code : start;
                    if (load_i32(a + place) != load_i32(b + place)) return false;
                }
            }
        return true;
    }
    for (size_t at = 0; at < bytes; at += n * ACT_Q8_BLOCK_BYTES)
        for (uint32_t t = 0; t < n; t++) {
            const float d_a = float_at(a + at + n * 32, t), d_b = float_at(b + at + n * 32, t);
            if (isnan(d_a) && isnan(d_b)) continue;
            if (memcmp(&d_a, &d_b, 4) != 0 || memcmp(a + at + t * 32, b + at + t * 32, 32) != 0) return false;
            if (load_i32(a + at + n * 36 + t * 4) != load_i32(b + at + n * 36 + t * 4)) return false;
        }
    return true;
}

static void check_pack(const kernel_table *table, const kernel_table *generic) {
    static const float odd[] = {0.0f, -0.0f, 1e-40f, -1e-44f, 3e-37f, 4e-37f, 3e38f, -3e38f, 127.0f, 0.5f,
                                63.5f, 1.17549435e-38f};
    for (uint32_t round = 0; round < 400; round++) {
        const uint32_t n = 1 + rng_below(TILE_TOKENS_MAX), columns = 1 + rng_below(round % 4 ? 150 : 700);
        const size_t ldx = columns + rng_below(40);
        guarded x = guarded_new(((n - 1) * ldx + columns) * 4);
        float *values = (float *)(void *)x.data;
        for (size_t i = 0; i < (n - 1) * ldx + columns; i++) {
            values[i] = rng_value();
            if (round % 5 == 1 && rng_below(3) == 0) values[i] = odd[rng_below(ARRAY_LEN(odd))];
            if (round % 5 == 2) values[i] = rng_below(40) ? 0.0f : rng_value();
            if (round % 5 == 3) values[i] = (float)((int)rng_below(255) - 127) * 0.5f;
            if (round % 20 == 4 && rng_below(50) == 0) values[i] = rng() & 1 ? NAN : -INFINITY;
        }
        for (act_kind kind = 0; kind < ACT_COUNT; kind++) {
            if (!IS_NEW(table, pack[kind])) continue;
            const size_t bytes = act_token_bytes(kind, columns) * n;
            guarded mine = guarded_new(bytes), theirs = guarded_new(bytes);
            outlier lists[2][TILE_TOKENS_MAX * OUTLIERS] = {{{0, 0}}};
            table->pack[kind](mine.data, lists[0], values, ldx, n, columns);
            generic->pack[kind](theirs.data, lists[1], values, ldx, n, columns);
            check(!memcmp(lists[0], lists[1], sizeof lists[0]), table->isa, "pack's outliers (kind, n, columns)", kind, n, columns,
                  (long)ldx);
            check(same_pack(mine.data, theirs.data, kind, n, columns) && guarded_whole(&mine), table->isa,
                  "pack (kind, n, columns)", kind, n, columns, (long)ldx);
            guarded_free(&mine);
            guarded_free(&theirs);
        }
        guarded_free(&x);
    }
}

/* ---- matrices ---- */

/* SUPERS_LONG: one superblock of 256 columns more than kernels keep sums of activations for at a time. */
enum { PANELS_MAX = 5, SUPERS_MAX = 12, SUPERS_LONG = 132 };

/* One problem: panels, x, and what each output is, computed one token and one panel at a time. */
typedef struct problem {
    uint32_t type, group, n_super;
    size_t panel_bytes;
    guarded panels, wide;
    double *weights;               /* (PANELS_MAX, 16, n_super * 64) */
    double largest;                /* term of a weight, about */
    float x[TILE_TOKENS_MAX][SUPERS_LONG * SUPER_K];
    float alone[TILE_TOKENS_MAX][PANELS_MAX * PANEL_ROWS];
} problem;

static guarded pack_rows(const kernel_table *table, act_kind kind, const problem *p, uint32_t first,
                         uint32_t n) {
    guarded act = guarded_new(act_token_bytes(kind, p->n_super * SUPER_K) * n);
    outlier lists[TILE_TOKENS_MAX * OUTLIERS];      /* the products here are those of the tile alone */
    table->pack[kind](act.data, lists, p->x[first], SUPERS_LONG * SUPER_K, n, p->n_super * SUPER_K);
    return act;
}

static double weight_of(const problem *p, uint32_t panel, uint32_t r, uint32_t k) {
    return p->weights[((size_t)panel * PANEL_ROWS + r) * p->n_super * SUPER_K + k];
}

/* What rounding may take from the product of a row with the one token of a Q8_SUPER tile: in each superblock half a place of what it
 * passes through, M * size * 2^-24, for every group, the mins, the start and its two parts. */
static double chain_error(const problem *p, const uint8_t *act, uint32_t panel, uint32_t r) {
    const type_info *type = type_by_id(p->type);
    const double half_place = 12582912.0 / (1 << 24);
    double error = 0;
    for (uint32_t i = 0; i < p->n_super / 4; i++) {
        uint32_t groups;
        const uint8_t *super = p->panels.data + panel * p->panel_bytes + i * super_bytes(p->type, p->group);
        const double size = passed_through(super, type, r, &groups);
        error += (groups + 4) * half_place * size * float_at(act + i * ACT_SUPER_BYTES + 320, 0);
    }
    return error;
}

/* Each output alone, checked against a sum in double. Of sums one term at a time, as the reference's are, the roundings go astray like the
 * root of their number. */
static void check_alone(const kernel_table *table, uint32_t row, problem *p) {
    const type_kernels *k = &table->types[row];
    const double allowed = 3e-6 * (p->n_super > SUPERS_MAX ? sqrt((double)p->n_super / SUPERS_MAX) : 1);
    for (uint32_t t = 0; t < k->nr; t++) {
        guarded act = pack_rows(table, k->act, p, t, 1);
        for (uint32_t panel = 0; panel < PANELS_MAX; panel++) {
            guarded out = guarded_new(PANEL_ROWS * 4);
            const uint8_t *w = p->panels.data + panel * p->panel_bytes;
            k->gemm(&(gemm_args){.out = (float *)(void *)out.data, .ldo = 16, .panels = w,
                                 .panel_bytes = p->panel_bytes, .n_panels = 1, .act = act.data, .n_tokens = 1,
                                 .n_super = p->n_super, .super_bytes = (uint32_t)super_bytes(p->type, p->group),
                                 .group_size = p->group});
            memcpy(p->alone[t] + panel * PANEL_ROWS, out.data, PANEL_ROWS * 4);
            check(guarded_whole(&out), table->isa, "gemm writes before out (row, t, panel)", row, t, panel,
                  0);
            guarded_free(&out);
            for (uint32_t r = 0; r < PANEL_ROWS; r++) {
                double sum = 0, size = 0;
                for (uint32_t i = 0; i < p->n_super * SUPER_K; i++) {
                    const double product = weight_of(p, panel, r, i) * act_at(act.data, k->act, 1, 0, i);
                    sum += product;
                    size += fabs(product);
                }
                const double error = fabs(p->alone[t][panel * PANEL_ROWS + r] - sum);
                const double chain = k->act == ACT_Q8_SUPER ? chain_error(p, act.data, panel, r) : 0;
                check(error <= allowed * size + chain + 1e-30, table->isa, "gemm against double (row, supers, t, r)",
                      row, p->n_super, t, r);
            }
        }
        guarded_free(&act);
    }
}

/* n tokens and n_panels panels together: the same bits, whatever the alignment of out, with and without
 * accumulate, whole and cut along k. */
static void check_together(const kernel_table *table, uint32_t row, const problem *p, uint32_t n,
                           uint32_t n_panels, bool wide) {
    const type_kernels *k = &table->types[row];
    const bool accumulate = rng() & 1;
    const size_t ldo = n_panels * PANEL_ROWS + rng_below(4) * 5;
    guarded act = pack_rows(table, k->act, p, 0, n);
    guarded out = guarded_new(((n - 1) * ldo + n_panels * PANEL_ROWS) * 4);
    float *values = (float *)(void *)out.data, *expected = calloc(n * ldo, 4);
    if (!expected) exit(1);
    memcpy(expected, values, ((n - 1) * ldo + n_panels * PANEL_ROWS) * 4);
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t r = 0; r < n_panels * PANEL_ROWS; r++) {
            if (accumulate) values[t * ldo + r] = rng_value();
            expected[t * ldo + r] = accumulate ? values[t * ldo + r] + p->alone[t][r] : p->alone[t][r];
        }
    /* of 64 columns; cuts lie where superblocks end */
    const uint32_t units = type_by_id(p->type)->super_columns / SUPER_K;
    const size_t bytes = wide ? k->wide_super_bytes : super_bytes(p->type, p->group) / units;
    const uint32_t cut = p->n_super > units && rng() & 1 ? units * (1 + rng_below((p->n_super - 1) / units)) : 0;
    const size_t ld_start = n_panels * PANEL_ROWS + rng_below(3) * 7;
    guarded start = guarded_new(n * ld_start * 4);
    gemm_args args = {
        .out = values, .ldo = ldo, .panels = wide ? p->wide.data : p->panels.data, .panel_bytes = wide ? p->n_super * bytes : p->panel_bytes,
        .n_panels = n_panels, .act = act.data, .n_tokens = n, .n_super = p->n_super, .super_bytes = (uint32_t)bytes,
        .group_size = p->group, .accumulate = accumulate, .foreseen = rng() & 1};
    kernel_gemm *const gemm = wide ? k->gemm_wide : k->gemm;
    if (cut) {
        gemm_args first = args;
        first.out = (float *)(void *)start.data;
        first.ldo = ld_start;
        first.n_super = cut;
        first.accumulate = false;
        gemm(&first);
        args.start = first.out;
        args.ld_start = ld_start;
        args.panels += cut * bytes;
        args.act += n * act_token_bytes(k->act, cut * SUPER_K);
        args.n_super -= cut;
    }
    gemm(&args);
    guarded_free(&start);
    check(memcmp(values, expected, ((n - 1) * ldo + n_panels * PANEL_ROWS) * 4) == 0 && guarded_whole(&out),
          table->isa, wide ? "gemm_wide the same bits (row, supers, n, panels)"
              : "gemm the same bits (row, supers, n, panels)", row, p->n_super,
          n, n_panels);
    free(expected);
    guarded_free(&act);
    guarded_free(&out);
}

/* A row's OUTLIERS largest values, ties going to the lowest column; its codes are those of the row without them. */
static void check_outliers_taken(const kernel_table *table, uint32_t n) {
    float x[300], rest[300];
    outlier list[OUTLIERS];
    const uint32_t style = rng_below(4);
    for (uint32_t i = 0; i < n; i++) x[i] = style == 0 ? 0.0f : style == 1 ? (rng() & 1 ? 2.0f : -2.0f) : rng_value();
    guarded act = guarded_new(act_token_bytes(ACT_Q8, n));
    table->pack[ACT_Q8](act.data, list, x, n, 1, n);
    memcpy(rest, x, sizeof rest);
    float smallest_taken = INFINITY;
    uint32_t n_taken = 0, n_larger = 0, n_nonzero = 0, n_before = 0;
    bool whole = true;
    for (uint32_t i = 0; i < OUTLIERS; i++) {
        whole = whole && (!i || list[i - 1].column <= list[i].column);
        if (list[i].value == 0) continue;
        n_taken++;
        whole = whole && list[i].column < n && x[list[i].column] == list[i].value && rest[list[i].column] != 0;
        rest[list[i].column] = 0;
        smallest_taken = fminf(smallest_taken, fabsf(list[i].value));
    }
    for (uint32_t i = 0; i < n; i++) n_larger += fabsf(x[i]) > smallest_taken, n_nonzero += x[i] != 0;
    if (style == 1)
        for (uint32_t i = 0; i < OUTLIERS; i++) n_before += n_taken == OUTLIERS && list[i].column >= OUTLIERS;
    check(whole && !n_before && n_larger < OUTLIERS && n_taken == (n_nonzero < OUTLIERS ? n_nonzero : OUTLIERS), table->isa,
          "pack's outliers are the largest (n, style)", n, style, 0, 0);
    bool same = true;
    for (uint32_t b = 0; b < (n + 31) / 32; b++) {
        const uint8_t *block = act.data + b * ACT_Q8_BLOCK_BYTES;
        float max = 0;
        for (uint32_t i = b * 32; i < n && i < b * 32 + 32; i++) max = fmaxf(max, fabsf(rest[i]));
        for (uint32_t i = b * 32; i < n && i < b * 32 + 32; i++)
            same = same && (int8_t)block[i - b * 32] == (max > 1e-30f ? (int)lrintf(rest[i] * (127.0f / max)) : 0);
        same = same && float_at(block + 32, 0) == (max > 1e-30f ? max / 127.0f : 0.0f);
    }
    check(same, table->isa, "pack without its outliers (n, style)", n, style, 0, 0);
    guarded_free(&act);
}

/* Superblocks of a row without its outliers: the codes, the scale, and the sums in both of their forms. */
static void check_super_pack(const kernel_table *table, uint32_t n) {
    float x[600], rest[3 * SUPER_K_MAX] = {0};
    outlier list[OUTLIERS], list_q8[OUTLIERS];
    for (uint32_t i = 0; i < n; i++) rest[i] = x[i] = rng_below(8) ? rng_value() : 0.0f;
    guarded act = guarded_new(act_token_bytes(ACT_Q8_SUPER, n)), q8 = guarded_new(act_token_bytes(ACT_Q8, n));
    table->pack[ACT_Q8_SUPER](act.data, list, x, n, 1, n);
    table->pack[ACT_Q8](q8.data, list_q8, x, n, 1, n);
    bool same = !memcmp(list, list_q8, sizeof list);
    for (uint32_t i = 0; i < OUTLIERS; i++)
        if (list[i].value != 0) rest[list[i].column] = 0;
    for (uint32_t super = 0; super * SUPER_K_MAX < n; super++) {
        const uint8_t *at = act.data + super * ACT_SUPER_BYTES;
        const float *values = rest + super * SUPER_K_MAX;
        float max = 0;
        int32_t sums[16] = {0};
        for (uint32_t i = 0; i < SUPER_K_MAX; i++) max = fmaxf(max, fabsf(values[i]));
        for (uint32_t i = 0; i < SUPER_K_MAX; i++) {
            const int code = max > 1e-30f ? (int)lrintf(values[i] * (127.0f / max)) : 0;
            same = same && (int8_t)at[i / 32 * 40 + i % 32] == code;
            sums[i / 16] += code;
        }
        same = same && float_at(at + 320, 0) == (max > 1e-30f ? max / 127.0f : 0.0f);
        for (uint32_t g = 0; g < 16; g++) same = same && load_i32(at + g / 2 * 40 + 32 + g % 2 * 4) == SUPER_START - 128 * sums[g];
        for (uint32_t p = 0; p < 8; p++) {
            const uint32_t g = p / 2 * 4 + p % 2;
            same = same && (int16_t)load_u16(at + 324 + p * 4) == sums[g] && (int16_t)load_u16(at + 326 + p * 4) == sums[g + 2];
            if (p >= 4) continue;
            same = same && (int16_t)load_u16(at + 356 + p * 4) == sums[2 * g] + sums[2 * g + 1] &&
                   (int16_t)load_u16(at + 358 + p * 4) == sums[2 * g + 4] + sums[2 * g + 5];
        }
    }
    check(same && guarded_whole(&act), table->isa, "pack of superblocks (n)", n, 0, 0, 0);
    guarded_free(&act);
    guarded_free(&q8);
}

/* The products of a few columns, against sums in double; the same bits however many tokens and panels share the call. */
static void check_outliers(const kernel_table *table, uint32_t row, const problem *p) {
    enum { TOKENS = 5 };
    outlier lists[TOKENS][OUTLIERS];
    for (uint32_t t = 0; t < TOKENS; t++)
        for (uint32_t i = 0; i < OUTLIERS; i++)
            lists[t][i] = (outlier){rng_below(p->n_super * SUPER_K), t == 4 ? 0.0f : 30.0f * rng_float()};
    const size_t ldo = PANELS_MAX * PANEL_ROWS;
    guarded all = guarded_new(TOKENS * ldo * 4), one = guarded_new(PANEL_ROWS * 4);
    for (size_t i = 0; i < TOKENS * ldo; i++) put_float(all.data, i, 1.0f);
    outliers_args a = {(float *)(void *)all.data, ldo, p->panels.data, p->panel_bytes, PANELS_MAX, lists[0], TOKENS,
                       p->group};
    table->outliers[row](&a);
    check(guarded_whole(&all), table->isa, "outliers write before out (row)", row, 0, 0, 0);
    if (table->types[row].outliers_wide) {
        guarded wide = guarded_new(TOKENS * ldo * 4);
        for (size_t i = 0; i < TOKENS * ldo; i++) put_float(wide.data, i, 1.0f);
        outliers_args b = a;
        b.out = (float *)(void *)wide.data;
        b.panels = p->wide.data;
        b.panel_bytes = (size_t)p->n_super * table->types[row].wide_super_bytes;
        table->types[row].outliers_wide(&b);
        check(!memcmp(wide.data, all.data, TOKENS * ldo * 4) && guarded_whole(&wide), table->isa, "outliers_wide the same bits (row)", row,
              p->n_super, 0, 0);
        guarded_free(&wide);
    }
    for (uint32_t t = 0; t < TOKENS; t++)
        for (uint32_t panel = 0; panel < PANELS_MAX; panel++) {
            for (uint32_t r = 0; r < PANEL_ROWS; r++) put_float(one.data, r, 1.0f);
            outliers_args b = {(float *)(void *)one.data, PANEL_ROWS, p->panels.data + panel * p->panel_bytes, p->panel_bytes,
                               1, lists[t], 1, p->group};
            table->outliers[row](&b);
            const uint8_t *mine = all.data + (t * ldo + panel * PANEL_ROWS) * 4;
            check(!memcmp(mine, one.data, PANEL_ROWS * 4), table->isa, "outliers together (row, token, panel)", row, t, panel, 0);
            for (uint32_t r = 0; r < PANEL_ROWS; r++) {
                double sum = 1, size = 1;
                for (uint32_t i = 0; i < OUTLIERS; i++) {
                    const uint32_t k = lists[t][i].column;
                    const double term = weight_of(p, panel, r, k) * lists[t][i].value;
                    sum += term;
                    size += fabs(term);
                }
                /* Where a weight is d * q + m it may cancel: its own rounding is of the size of d * q. */
                const bool cancels = p->type == TYPE_Q4_1 || p->type == TYPE_Q5_1 || p->type == TYPE_Q2_K ||
                                     p->type == TYPE_Q4_K || p->type == TYPE_Q5_K;
                const double bound = 8e-7 * size + (cancels ? 30 * p->largest * 3e-7 : 0);
                check(fabs(float_at(mine, r) - sum) <= bound, table->isa, "outliers (row, token, panel, r)", row, t, panel, r);
            }
        }
    guarded_free(&all);
    guarded_free(&one);
}

static void check_problem(const kernel_table *table, uint32_t row, uint32_t group, uint32_t n_super,
                          uint32_t style) {
    static problem p;
    const type_kernels *k = &table->types[row];
    const type_info *type = type_by_id(kernel_row_type(row));
    const uint32_t n_blocks = (uint32_t)div_up((uint64_t)n_super * SUPER_K, type->super_columns);
    p.type = type->id;
    p.group = group;
    p.n_super = n_super;
    p.panel_bytes = n_blocks * super_bytes(p.type, group);
    p.panels = guarded_new(PANELS_MAX * p.panel_bytes);
    for (uint32_t i = 0; i < PANELS_MAX * n_blocks; i++)
        fill_super(p.panels.data + i * super_bytes(p.type, group), p.type, group,
                   rng_below(8) == 0 ? 2 : style);
    if (!(p.weights = calloc((size_t)PANELS_MAX * PANEL_ROWS * n_super * SUPER_K, sizeof *p.weights))) exit(1);
    for (uint32_t i = 0; i < PANELS_MAX * PANEL_ROWS; i++)
        for (uint32_t at = 0; at < n_super * SUPER_K; at++) {
            const uint8_t *super = p.panels.data + i / PANEL_ROWS * p.panel_bytes +
                                   at / type->super_columns * super_bytes(p.type, group);
            static double words[SUPER_K_MAX];
            const uint32_t within = at % type->super_columns;
            if (panel_is_words(type) && within == 0)
                weights_of_words(words, super, type, i % PANEL_ROWS, k->act == ACT_F32);
            p.weights[(size_t)i * n_super * SUPER_K + at] = panel_is_words(type) ? words[within]
                : weight_at(super, p.type, group, i % PANEL_ROWS, at % SUPER_K);
        }
    p.largest = style == 1 ? 10.0 * 63 * 31 : 0.01 * 63 * 31;
    if (p.type == TYPE_Q4_1) p.largest = style == 1 ? 100.0 * 15 : 0.01 * 15;
    for (uint32_t t = 0; t < k->nr; t++)
        for (uint32_t i = 0; i < n_super * SUPER_K; i++)
            p.x[t][i] = i / 32 % 5 == 4 ? 0.0f : style == 1 ? (rng() & 1 ? 3.0f : -3.0f) : rng_value();
    check_alone(table, row, &p);
    if (k->unpack) {
        const size_t wide_bytes = (size_t)n_super * k->wide_super_bytes;
        p.wide = guarded_new(PANELS_MAX * wide_bytes);
        for (uint32_t i = 0; i < PANELS_MAX; i++)
            k->unpack(p.wide.data + i * wide_bytes, p.panels.data + i * p.panel_bytes, n_super, group);
        check(guarded_whole(&p.wide), table->isa, "unpack writes before dst (row)", row, 0, 0, 0);
    }
    if (act_is_q8(k->act)) check_outliers(table, row, &p);
    for (uint32_t n = 1; n <= k->nr; n++)
        for (uint32_t n_panels = 1; n_panels <= PANELS_MAX; n_panels++) {
            check_together(table, row, &p, n, n_panels, false);
            if (k->unpack) check_together(table, row, &p, n, n_panels, true);
        }
    free(p.weights);
    guarded_free(&p.panels);
    if (k->unpack) guarded_free(&p.wide);
}

static void check_matrices(const kernel_table *table) {
    for (uint32_t row = 0; row < KERNEL_TYPES; row++) {
        const uint32_t unit = type_by_id(kernel_row_type(row))->super_columns == 256 ? 4 : 1;
        check(kernel_type_row(kernel_row_type(row)) == (int)row && table->types[row].nr <= TILE_TOKENS_MAX,
              table->isa, "row", row, 0, 0, 0);
        if (!IS_NEW(table, types[row]) && !IS_NEW(table, outliers[row]) && !IS_NEW(table, pack[table->types[row].act])) continue;
        for (uint32_t n_super = 1; n_super <= SUPERS_MAX; n_super++) {
            if (n_super % unit) continue;
            if (row > KERNEL_Q4_1 && unit == 1 && n_super > 5 && n_super < SUPERS_MAX) continue;
            if (row != KERNEL_INT8) check_problem(table, row, 0, n_super, n_super % 3 == 2);
            else
                for (uint32_t group = 4; group <= 64; group *= 2)
                    if (n_super < 4 || n_super == SUPERS_MAX)
                        check_problem(table, row, group, n_super, n_super % 3 == 2);
        }
        if (row == KERNEL_Q8_0) check_problem(table, row, 0, SUPERS_MAX, 1);
        check_problem(table, row, row == KERNEL_INT8 ? 64 : 0, SUPERS_LONG, false);
    }
}

/* ---- encoders ---- */

/* The bytes are those of plain C, and what they decode to is near: within the step of two codes of the widest weight, and, where d is so
 * small that its f16 is subnormal, half a step of that times the largest scale and code (Q6_K: 2^-25 * 127 * 32). */
static void check_encode(const kernel_table *table, const kernel_table *generic) {
    static const struct { uint32_t type; double off; } types[] = {
        {TYPE_Q2_K, 0.5}, {TYPE_Q3_K, 0.3}, {TYPE_Q4_K, 0.12}, {TYPE_Q5_K, 0.06}, {TYPE_Q6_K, 0.04}, {TYPE_IQ4_NL, 0.15},
        {TYPE_IQ4_XS, 0.15}};
    enum { N = 8 * 256 };
    static float x[N], back[N];
    static uint8_t mine[N], theirs[N];
    for (uint32_t i = 0; i < N; i++) {
        x[i] = i < 256 ? 0.0f : i < 512 ? 0.25f : i < 768 ? fabsf(rng_float()) : rng_float() * (i < 1024 ? 1e-3f : 1.0f);
        if (i % 97 == 5) x[i] *= 3.0f;
    }
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        const type_info *type = type_by_id(types[i].type);
        const size_t bytes = N / type->block_len * type->block_bytes;
        memset(mine, 0xa5, sizeof mine);
        check(table->encode(type, mine, x, N) && generic->encode(type, theirs, x, N) && !memcmp(mine, theirs, bytes), table->isa,
              "encode (type)", type->id, 0, 0, 0);
        quant_decode(type, back, mine, N);
        for (uint32_t at = 0; at < N; at += 32) {
            float largest = 0.0f;
            bool near = true;
            for (uint32_t k = at; k < at + 32; k++) largest = fmaxf(largest, fabsf(x[k]));
            for (uint32_t k = at / 256 * 256; k < at / 256 * 256 + 256; k++) largest = fmaxf(largest, fabsf(x[k]));
            for (uint32_t k = at; k < at + 32; k++) near &= fabs(back[k] - x[k]) <= types[i].off * largest + 1.3e-4;
            check(near, table->isa, "encoded weights (type, block)", type->id, at, 0, 0);
        }
        check(table->encode(type, mine, x, 0), table->isa, "encode nothing (type)", type->id, 0, 0, 0);
    }
    check(!table->encode(type_by_id(TYPE_Q8_0), mine, x, 256), table->isa, "encode of another type", 0, 0, 0, 0);
}

/* ---- vectors ---- */

static bool close_to(float x, double y, double relative, double absolute) {
    return isnan(y) ? isnan(x) : fabs(x - y) <= relative * fabs(y) + absolute;
}

static void check_rmsnorm(const kernel_table *table, uint32_t n) {
    guarded x = guarded_new(n * 4), weight = guarded_new(n * 4), out = guarded_new(n * 4);
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        put_float(x.data, i, n % 7 == 0 ? 0.0f : rng_value());
        put_float(weight.data, i, rng_value());
        sum += (double)float_at(x.data, i) * float_at(x.data, i);
    }
    table->rmsnorm((float *)(void *)out.data, (float *)(void *)x.data, (float *)(void *)weight.data, n,
                   1e-5f);
    bool right = guarded_whole(&out);
    for (uint32_t i = 0; i < n; i++) {
        const double y = float_at(x.data, i) / sqrt(sum / n + (double)1e-5f) * float_at(weight.data, i);
        right &= close_to(float_at(out.data, i), y, 1e-6, 1e-30);
    }
    check(right, table->isa, "rmsnorm (n)", n, 0, 0, 0);
    guarded_free(&x);
    guarded_free(&weight);
    guarded_free(&out);
}

static void check_rope(const kernel_table *table, uint32_t n_heads, uint32_t head_dim, uint32_t rotary_dim,
                       uint32_t layout) {
    const uint32_t half = rotary_dim / 2;
    guarded x = guarded_new(n_heads * head_dim * 4), c = guarded_new(half * 4), s = guarded_new(half * 4);
    double *y = calloc(n_heads * head_dim, sizeof *y);
    if (!y) exit(1);
    for (uint32_t i = 0; i < n_heads * head_dim; i++) {
        put_float(x.data, i, rng_value());
        y[i] = float_at(x.data, i);
    }
    for (uint32_t i = 0; i < half; i++) {
        const float angle = rng_float() * 3.2f;
        put_float(c.data, i, cosf(angle));
        put_float(s.data, i, sinf(angle));
    }
    for (uint32_t h = 0; h < n_heads; h++)
        for (uint32_t i = 0; i < half; i++) {
            double *a = y + h * head_dim + (layout == ROPE_LAYOUT_INTERLEAVED ? 2 * i : i);
            double *b = a + (layout == ROPE_LAYOUT_INTERLEAVED ? 1 : half),
                real = *a * float_at(c.data, i) - *b * float_at(s.data, i);
            *b = *a * float_at(s.data, i) + *b * float_at(c.data, i);
            *a = real;
        }
    table->rope((float *)(void *)x.data, (float *)(void *)c.data, (float *)(void *)s.data, n_heads, head_dim,
                rotary_dim, layout);
    bool right = guarded_whole(&x);
    for (uint32_t i = 0; i < n_heads * head_dim; i++)
        right &= close_to(float_at(x.data, i), y[i], 1e-6, 1e-5);
    check(right, table->isa, "rope (heads, head_dim, rotary_dim, layout)", n_heads, head_dim, rotary_dim,
          layout);
    free(y);
    guarded_free(&x);
    guarded_free(&c);
    guarded_free(&s);
}

/* silu_mul over all magnitudes; it shows the exponential: silu(x) = x e^x / (1 + e^x). In place too. */
static void check_silu(const kernel_table *table, uint32_t n, bool in_place) {
    guarded gate = guarded_new(n * 4), up = guarded_new(n * 4), out = guarded_new(n * 4),
        kept = guarded_new(n * 4);
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t kind = rng_below(8);
        put_float(gate.data, i, kind == 0 ? 0.0f : kind == 1 ? rng_float() * 1e-20f : kind < 5
                  ? rng_float() * 100.0f : rng_float() * 8.0f);
        put_float(up.data, i, rng_value());
    }
    memcpy(kept.data, gate.data, n * 4);
    guarded *target = in_place ? &gate : &out;
    table->silu_mul((float *)(void *)target->data, (float *)(void *)gate.data, (float *)(void *)up.data, n);
    bool right = guarded_whole(target);
    for (uint32_t i = 0; i < n; i++) {
        const double g = float_at(kept.data, i);
        /* e^89 overflows */
        right &= close_to(float_at(target->data, i), g / (1 + exp(-g)) * float_at(up.data, i), 6e-7, 1e-34);
    }
    check(right, table->isa, "silu_mul (n, in place)", n, in_place, 0, 0);
    guarded_free(&gate);
    guarded_free(&up);
    guarded_free(&out);
    guarded_free(&kept);
}

/* gelu_mul and gelu_tanh_mul over all magnitudes, against their definitions. The exact one subtracts near -1, so its small values
 * are off by a rounding of 1. In place too. */
static void check_gelu(const kernel_table *table, uint32_t n, bool in_place) {
    guarded gate = guarded_new(n * 4), up = guarded_new(n * 4), out = guarded_new(n * 4);
    for (int exact = 0; exact < 2; exact++) {
        guarded kept = guarded_new(n * 4);
        for (uint32_t i = 0; i < n; i++) {
            const uint32_t kind = rng_below(8);
            put_float(gate.data, i, kind == 0 ? 0.0f : kind == 1 ? rng_float() * 1e-20f : kind < 5
                      ? rng_float() * 100.0f : rng_float() * 4.0f);
            put_float(up.data, i, rng_value());
        }
        memcpy(kept.data, gate.data, n * 4);
        guarded *target = in_place ? &gate : &out;
        kernel_silu_mul *const kernel = exact ? table->gelu_mul : table->gelu_tanh_mul;
        kernel((float *)(void *)target->data, (float *)(void *)gate.data, (float *)(void *)up.data, n);
        bool right = guarded_whole(target);
        for (uint32_t i = 0; i < n; i++) {
            const double g = float_at(kept.data, i), u = float_at(up.data, i);
            const double inner = sqrt(2 / acos(-1)) * (g + 0.044715 * g * g * g);
            const double truth = exact ? 0.5 * g * (1 + erf(g / sqrt(2))) : g / (1 + exp(-2 * inner));
            /* e^-2u has the relative error of its argument, which is up to 88 */
            right &= close_to(float_at(target->data, i), truth * u, 2e-5, 1e-7 * fabs(g * u) + 1e-34);
        }
        check(right, table->isa, "gelu (n, in place, exact)", n, in_place, (uint32_t)exact, 0);
        guarded_free(&kept);
    }
    guarded_free(&gate);
    guarded_free(&up);
    guarded_free(&out);
}

static void check_cap(const kernel_table *table, uint32_t n, float cap) {
    guarded x = guarded_new(n * 4), out = guarded_new(n * 4);
    const float factor = 0.7f;
    for (uint32_t i = 0; i < n; i++) put_float(x.data, i, rng_below(4) ? rng_float() * 40.0f : rng_float() * 1e4f);
    table->cap((float *)(void *)out.data, (float *)(void *)x.data, factor, cap, n);
    bool right = guarded_whole(&out);
    for (uint32_t i = 0; i < n; i++) {
        const double scaled = (double)float_at(x.data, i) * factor;
        const double truth = cap > 0 ? cap * tanh(scaled / cap) : scaled;
        right &= close_to(float_at(out.data, i), truth, 4e-7, 4e-7 * cap + 1e-30);
    }
    table->cap((float *)(void *)x.data, (float *)(void *)x.data, factor, cap, n);
    check(right && memcmp(x.data, out.data, n * 4) == 0, table->isa, "cap (n, cap)", n, (uint32_t)cap, 0, 0);
    guarded_free(&x);
    guarded_free(&out);
}

static void check_scale(const kernel_table *table, uint32_t n) {
    guarded x = guarded_new(n * 4), out = guarded_new(n * 4);
    for (uint32_t i = 0; i < n; i++) put_float(x.data, i, rng_value());
    table->scale((float *)(void *)out.data, (float *)(void *)x.data, 0.37f, n);
    bool right = guarded_whole(&out);
    for (uint32_t i = 0; i < n; i++) right &= float_at(out.data, i) == float_at(x.data, i) * 0.37f;
    table->scale((float *)(void *)x.data, (float *)(void *)x.data, 0.37f, n);
    check(right && memcmp(x.data, out.data, n * 4) == 0, table->isa, "scale (n)", n, 0, 0, 0);
    guarded_free(&x);
    guarded_free(&out);
}

static void check_merge(const kernel_table *table, uint32_t head_dim) {
    guarded o = guarded_new(head_dim * 4), o_chunk = guarded_new(head_dim * 4);
    float m = -INFINITY, l = 0.0f;
    double m_true = -INFINITY, l_true = 0, o_true[264] = {0};
    memset(o.data, 0, head_dim * 4);
    bool right = true;
    for (uint32_t step = 0; step < 12; step++) {
        const bool nothing = step % 4 == 0;
        const float m_chunk = nothing ? -INFINITY : rng_value() * 5.0f,
            l_chunk = nothing ? 0.0f : 1.0f + (float)rng_below(100);
        for (uint32_t d = 0; d < head_dim; d++) put_float(o_chunk.data, d, nothing ? 0.0f : rng_value());
        table->attn_merge(&m, &l, (float *)(void *)o.data, m_chunk, l_chunk, (float *)(void *)o_chunk.data,
                          head_dim);
        const double m_new = m_true > m_chunk ? m_true : m_chunk;
        if (!nothing) {
            l_true = l_true * exp(m_true - m_new) + l_chunk * exp(m_chunk - m_new);
            for (uint32_t d = 0; d < head_dim; d++)
                o_true[d] = o_true[d] * exp(m_true - m_new) +
                    float_at(o_chunk.data, d) * exp(m_chunk - m_new);
            m_true = m_new;
        }
        right &= (nothing && m_true == -INFINITY ? m == -INFINITY : m == (float)m_true) &&
            close_to(l, l_true, 2e-6, 0);
        for (uint32_t d = 0; d < head_dim; d++) right &= close_to(float_at(o.data, d), o_true[d], 2e-6, 1e-5);
    }
    check(right && guarded_whole(&o), table->isa, "attn_merge (head_dim)", head_dim, 0, 0, 0);
    guarded_free(&o);
    guarded_free(&o_chunk);
}

static void check_read_and_peaks(const kernel_table *table, const kernel_table *generic) {
    guarded data = guarded_new(3 * 4096);
    for (uint32_t i = 0; i < 3 * 4096; i++) data.data[i] = (uint8_t)rng();
    const bool foreseen = rng() & 1;
    check(table->read(data.data, 3 * 4096, foreseen) == generic->read(data.data, 3 * 4096, foreseen), table->isa, "read", 0, 0, 0, 0);
    guarded_free(&data);
    kernel_peak *const peaks[] = {table->peak_f32, table->peak_bf16, table->peak_int8};
    for (uint32_t i = 0; i < ARRAY_LEN(peaks); i++) {
        float sink = 0.5f;
        if (peaks[i]) check(peaks[i](1000, &sink) > 1000 && isfinite(sink), table->isa, "peak", i, 0, 0, 0);
    }
}

static void check_vectors(const kernel_table *table, const kernel_table *generic) {
    const bool rmsnorm = IS_NEW(table, rmsnorm), silu = IS_NEW(table, silu_mul), cap = IS_NEW(table, cap), scale = IS_NEW(table, scale);
    const bool gelu = IS_NEW(table, gelu_mul) || IS_NEW(table, gelu_tanh_mul), merge = IS_NEW(table, attn_merge);
    for (uint32_t n = 1; n <= 150; n++) {
        if (rmsnorm) check_rmsnorm(table, n);
        if (silu) check_silu(table, n, n % 2);
        if (gelu) check_gelu(table, n, n % 2);
        if (cap) check_cap(table, n, n % 3 ? 30.0f : 0.0f);
        if (scale) check_scale(table, n);
        if (merge) check_merge(table, n);
    }
    if (rmsnorm) check_rmsnorm(table, 576);
    if (rmsnorm) check_rmsnorm(table, 4096);
    if (silu) check_silu(table, 100000, false);
    if (gelu) check_gelu(table, 20000, false);
    if (cap) check_cap(table, 20000, 50.0f);
    for (uint32_t rotary = 2; rotary <= 136 && IS_NEW(table, rope); rotary += 2)
        for (uint32_t layout = 0; layout < 2; layout++)
            check_rope(table, 1 + rng_below(5), rotary + rng_below(3) * 2, rotary, layout);
    check_read_and_peaks(table, generic);
}

static int run_bench(int argc, char **argv) {
    kernel_table table;
    ak42_error err;
    if (kernels_select(&table, argc > 2 ? argv[2] : "auto", &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    bench(&table, argc > 3 ? argv[3] : NULL);
    return 0;
}

/* AMD's processors foresee what is read in order, for one row; of others that is not said. */
static void check_foreseen(const kernel_table *table) {
#if defined(__GNUC__) && defined(__x86_64__)
    const bool amd = __builtin_cpu_is("amd");
#else
    const bool amd = false;
#endif
    check(table->foresees == amd, table->isa, "foresees", table->foresees, amd, 0, 0);
    for (uint32_t row = 0; row < KERNEL_TYPES; row++) {
        const type_kernels *type = &table->types[row];
        check(kernel_foreseen(table, type, 1) == (amd && type->in_order), table->isa, "foreseen, one row", row, 0, 0, 0);
        check(!kernel_foreseen(table, type, 2), table->isa, "foreseen, two rows", row, 0, 0, 0);
    }
}

/* part: NULL for all. */
static void check_table(const kernel_table *table, const kernel_table *generic, const char *part) {
    if (!part || !strcmp(part, "pack")) {
        if (IS_NEW(table, pack)) check_pack(table, generic);
        if (IS_NEW(table, encode)) check_encode(table, generic);
        for (uint32_t n = 1; n <= 300 && IS_NEW(table, pack[ACT_Q8]); n++) check_outliers_taken(table, n);
        for (uint32_t n = 1; n <= 600 && IS_NEW(table, pack[ACT_Q8_SUPER]); n++) check_super_pack(table, n);
    }
    if (!part || !strcmp(part, "matrices")) check_matrices(table);
    if (!part || !strcmp(part, "matrices")) check_foreseen(table);
    for (ak42_kv_type type = AK42_KV_TYPE_F32; type <= AK42_KV_TYPE_INT8; type++)
        if ((!part || !strcmp(part, "attention")) && IS_NEW(table, kv[type])) check_attention(table, generic, type);
    if (!part || !strcmp(part, "vectors")) check_vectors(table, generic);
}

int main(int argc, char **argv) {
    static const char *const isas[] = {"reference", "generic", "avx2", "avx2_vnni", "avx512", "avx512_vnni",
                                       "avx512_vbmi", "avx512_vnni_bf16", "neon", "neon_dot", "neon_i8mm"};
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) return run_bench(argc, argv);
    kernel_table generic, table = {0};
    ak42_error err;
    if (kernels_select(&generic, "generic", &err)) return 1;
    if (argc > 2 && strcmp(argv[1], "--beyond") == 0) {
        if (kernels_select(&seen[n_seen++], argv[2], &err)) {
            printf("skipped: %s\n", err.text);
            return 1;
        }
        argc -= 2;
        argv += 2;
    }
    const char *part = NULL;
    if (argc > 2 && strcmp(argv[1], "--part") == 0) {
        part = argv[2];
        argc -= 2;
        argv += 2;
    }
    for (uint32_t i = 0; i < ARRAY_LEN(isas); i++) {
        bool wanted = argc == 1;
        for (int k = 1; k < argc; k++) wanted |= strcmp(argv[k], isas[i]) == 0;
        if (!wanted) continue;
        const ak42_status status = kernels_select(&table, isas[i], &err);
        if (status == AK42_STATUS_ARG) continue;       /* not in this build */
        if (status) {
            printf("skipped: %s\n", err.text);
            continue;
        }
        check_table(&table, &generic, part);
        seen[n_seen++] = table;
    }
    printf("%d passed, %d failed\n", n_passed, n_failed);
    return n_failed != 0;
}

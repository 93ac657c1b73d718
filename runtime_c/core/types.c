/* types.c: the table of weight types and the arithmetic of their sizes. What the bytes mean is quant.c's
 * and panel.c's business. Used by the readers, model.c, panel.c and the public quantiser. */
#include "types.h"

/* Superblocks: docs/format.md, panel16. */
static const type_info table[] = {
    /* id         name      block_len  bytes  super_bytes    quantised, super_columns, panels */
    {TYPE_F32,    "f32",    1,         4,     16 * 64 * 4,   false, 64,  LAYOUT_PANEL16},
    {TYPE_F16,    "f16",    1,         2,     16 * 64 * 2,   false, 64,  LAYOUT_PANEL16},
    {TYPE_BF16,   "bf16",   1,         2,     16 * 64 * 2,   false, 64,  LAYOUT_PANEL16},
    {TYPE_Q8_0,   "q8_0",   32,        34,    2 * 32 + 1024, true,  64,  LAYOUT_PANEL16},
    {TYPE_Q4_0,   "q4_0",   32,        18,    2 * 32 + 512,  true,  64,  LAYOUT_PANEL16},
    {TYPE_Q4_1,   "q4_1",   32,        20,    4 * 32 + 512,  true,  64,  LAYOUT_PANEL16},
    {TYPE_INT8,   "int8",   1,         1,     1024,          true,  64,  LAYOUT_PANEL16},      /* without scales */
    /* words of 16 rows: 64 bytes each */
    {TYPE_Q5_0,   "q5_0",   32,        22,    11 * 64,       true,  64,  LAYOUT_PANEL16},
    {TYPE_Q5_1,   "q5_1",   32,        24,    12 * 64,       true,  64,  LAYOUT_PANEL16},
    {TYPE_Q2_K,   "q2_k",   256,       84,    21 * 64,       true,  256, LAYOUT_PANEL16},
    {TYPE_Q3_K,   "q3_k",   256,       110,   28 * 64,       true,  256, LAYOUT_PANEL16},
    {TYPE_Q4_K,   "q4_k",   256,       144,   36 * 64,       true,  256, LAYOUT_PANEL16},
    {TYPE_Q5_K,   "q5_k",   256,       176,   44 * 64,       true,  256, LAYOUT_STREAM16},
    {TYPE_Q6_K,   "q6_k",   256,       210,   53 * 64,       true,  256, LAYOUT_STREAM16},
    {TYPE_IQ4_NL, "iq4_nl", 32,        18,    9 * 64,        true,  64,  LAYOUT_PANEL16},
    {TYPE_IQ4_XS, "iq4_xs", 256,       136,   34 * 64,       true,  256, LAYOUT_STREAM16},
    {TYPE_MXFP4,  "mxfp4",  32,        17,    17 * 64,       true,  128, LAYOUT_PANEL16},
    {TYPE_NF4,    "nf4",    64,        36,    9 * 64,        true,  64,  LAYOUT_PANEL16},
    {TYPE_NF4_DQ, "nf4-dq", 64,        33,    0,             true,  64,  LAYOUT_PANEL16},      /* without its tables */
};

const type_info *type_by_id(uint32_t id) {
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (table[i].id == id) return &table[i];
    return NULL;
}

const type_info *type_by_name(const char *name) {
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (!strcmp(table[i].name, name)) return &table[i];
    return NULL;
}

/* Groups are what the kernels know: 4, 8, 16, 32 or 64; 0 for every type but INT8. */
static bool group_fits(const type_info *type, uint32_t group_size) {
    if (type->id != TYPE_INT8) return group_size == 0;
    return group_size >= 4 && group_size <= SUPER_K && (group_size & (group_size - 1)) == 0;
}

uint64_t type_super_bytes(const type_info *type, uint32_t group_size) {
    return type->super_bytes + (type->id == TYPE_INT8 ? SUPER_K / group_size * PANEL_ROWS * sizeof(float)
                                : 0);
}

uint64_t type_panel_bytes(const type_info *type, uint32_t group_size, uint64_t columns) {
    return div_up(columns, type->super_columns) * type_super_bytes(type, group_size);
}

const type_info *type_in_memory(const type_info *type) {
    return type->id == TYPE_NF4_DQ ? type_by_id(TYPE_NF4) : type;
}

/* The tables behind the rows of an NF4_DQ matrix: the offset and every nested absmax, f32. */
static bool add_nested(uint64_t *bytes, uint64_t rows, uint64_t columns) {
    uint64_t n_blocks;
    if (!mul_u64(&n_blocks, rows, columns / NF4_BLOCK) || n_blocks > UINT64_MAX / 8) return false;
    return add_u64(bytes, *bytes, (1 + div_up(n_blocks, NF4_NESTED)) * sizeof(float));
}

bool type_bytes(uint64_t *bytes, const type_info *type, uint32_t group_size, layout layout, uint64_t rows,
                uint64_t columns) {
    if (!group_fits(type, group_size)) return false;
    if (columns % (type->id == TYPE_INT8 ? group_size : type->block_len)) return false;
    uint64_t row, result;
    if (layout == LAYOUT_STREAM16 && type->panels != LAYOUT_STREAM16) return false;
    if (layout != LAYOUT_ROWS) {
        /* No roundings up may wrap: bounds far above any real matrix. */
        if (!type->super_bytes || columns > UINT64_MAX / 8192 || rows > UINT64_MAX - PANEL_ROWS) return false;
        if (!mul_u64(&result, div_up(rows, PANEL_ROWS), type_panel_bytes(type, group_size, columns)))
            return false;
    } else if (type->id == TYPE_INT8) {
        if (!mul_u64(&row, columns / group_size, sizeof(float)) || !add_u64(&row, row, columns) ||
            !mul_u64(&result, rows, row))
            return false;
    } else {
        if (!mul_u64(&row, columns / type->block_len, type->block_bytes) || !mul_u64(&result, rows, row))
            return false;
        if (type->id == TYPE_NF4_DQ && !add_nested(&result, rows, columns)) return false;
    }
    *bytes = result;
    return true;
}

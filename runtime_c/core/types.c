/* types.c: the table of weight types and the arithmetic of their sizes. What the bytes mean is quant.c's
 * and panel.c's business. Used by the readers, model.c, panel.c and the public quantiser. */
#include "types.h"

/* Superblocks of 16 rows x 64 columns: docs/format.md, panel16. */
static const type_info table[] = {
    /* id        name    block_len  bytes  super_bytes         quantised */
    {TYPE_F32,  "f32",   1,         4,     16 * 64 * 4,        false},
    {TYPE_F16,  "f16",   1,         2,     16 * 64 * 2,        false},
    {TYPE_BF16, "bf16",  1,         2,     16 * 64 * 2,        false},
    {TYPE_Q8_0, "q8_0",  32,        34,    2 * 32 + 1024,      true},
    {TYPE_Q4_0, "q4_0",  32,        18,    2 * 32 + 512,       true},
    {TYPE_Q4_1, "q4_1",  32,        20,    4 * 32 + 512,       true},
    {TYPE_INT8, "int8",  1,         1,     1024,               true},     /* without scales */
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
    return div_up(columns, SUPER_K) * type_super_bytes(type, group_size);
}

bool type_bytes(uint64_t *bytes, const type_info *type, uint32_t group_size, layout layout, uint64_t rows,
                uint64_t columns) {
    if (!group_fits(type, group_size)) return false;
    if (columns % (type->id == TYPE_INT8 ? group_size : type->block_len)) return false;
    uint64_t row, result;
    if (layout == LAYOUT_PANEL16) {
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
    }
    *bytes = result;
    return true;
}

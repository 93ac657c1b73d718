/* types.h: the table of weight types: one row says everything that size arithmetic needs.
 * Ids are GGUF's; ids from 0x1000 on are ak42's own. */
#ifndef AK42_TYPES_H
#define AK42_TYPES_H

#include "base.h"

typedef enum type_id {
    TYPE_F32 = 0,
    TYPE_F16 = 1,
    TYPE_Q4_0 = 2,
    TYPE_Q4_1 = 3,
    TYPE_Q8_0 = 8,
    TYPE_BF16 = 30,
    TYPE_INT8 = 0x1000             /* groups of group_size int8 with an f32 scale, as in ak42 v2 */
} type_id;

typedef enum layout { LAYOUT_ROWS = 0, LAYOUT_PANEL16 = 1 } layout;

enum { PANEL_ROWS = 16, SUPER_K = 64 };   /* rows of a panel, columns of a superblock */

typedef struct type_info {
    uint32_t id;
    const char *name;              /* as on the command line: "q8_0" */
    uint32_t block_len;            /* weights of a block; INT8: 1 (the group is the tensor's) */
    uint32_t block_bytes;          /* bytes of a row-major block */
    uint32_t super_bytes;          /* bytes of a panel16 superblock (16 rows x 64 columns) without group scales; 0: no panel16 */
    bool quantised;
} type_info;

/* NULL where the id or name is unknown. */
const type_info *type_by_id(uint32_t id);
const type_info *type_by_name(const char *name);

/* Bytes of rows x columns in a layout; false where the block or group does not divide the row, the layout has no form for the
 * type, or the product overflows. group_size is 0 but for INT8. */
bool type_bytes(uint64_t *bytes, const type_info *type, uint32_t group_size, layout layout, uint64_t rows, uint64_t columns);
/* Bytes of one panel (16 rows) of panel16, and of one superblock of it; columns > 0. */
uint64_t type_panel_bytes(const type_info *type, uint32_t group_size, uint64_t columns);
uint64_t type_super_bytes(const type_info *type, uint32_t group_size);

#endif

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
    TYPE_Q5_0 = 6,
    TYPE_Q5_1 = 7,
    TYPE_Q8_0 = 8,
    TYPE_Q2_K = 10,
    TYPE_Q3_K = 11,
    TYPE_Q4_K = 12,
    TYPE_Q5_K = 13,
    TYPE_Q6_K = 14,
    TYPE_IQ4_NL = 20,
    TYPE_IQ4_XS = 23,
    TYPE_BF16 = 30,
    TYPE_MXFP4 = 39,
    TYPE_INT8 = 0x1000,            /* groups of group_size int8 with an f32 scale, as in ak42 v2 */
    TYPE_NF4 = 0x1001,             /* bitsandbytes' NF4: blocks of 64 with an f32 absmax */
    TYPE_NF4_DQ = 0x1002           /* the same, the absmax itself in 8 bits: two tables follow the rows */
} type_id;

typedef enum layout { LAYOUT_ROWS = 0, LAYOUT_PANEL16 = 1, LAYOUT_STREAM16 = 2 } layout;

/* Rows of a panel; columns of a superblock of most types, and what kernels count columns in. */
enum { PANEL_ROWS = 16, SUPER_K = 64 };
enum { SUPER_K_MAX = 256 };               /* columns of the longest superblock */
enum { NF4_BLOCK = 64, NF4_NESTED = 256 };/* weights of a block, blocks that share a nested absmax */

typedef struct type_info {
    uint32_t id;
    const char *name;              /* as on the command line: "q8_0" */
    uint32_t block_len;            /* weights of a block; INT8: 1 (the group is the tensor's) */
    uint32_t block_bytes;          /* bytes of a row-major block */
    uint32_t super_bytes;          /* bytes of a panel's superblock (16 rows) without group scales; 0: no panels */
    bool quantised;
    uint32_t super_columns;        /* columns of a superblock: 64, 128 or 256 */
    layout panels;                 /* of its panels in memory: LAYOUT_STREAM16 where it has that, else LAYOUT_PANEL16 */
} type_info;

/* NULL where the id or name is unknown. */
const type_info *type_by_id(uint32_t id);
const type_info *type_by_name(const char *name);

/* Bytes of rows x columns in a layout; false where the block or group does not divide the row, the layout has no form for the
 * type, or the product overflows. group_size is 0 but for INT8. */
bool type_bytes(uint64_t *bytes, const type_info *type, uint32_t group_size, layout layout, uint64_t rows, uint64_t columns);
/* The type whose panels a matrix has in memory: its own but for NF4_DQ, which becomes NF4. */
const type_info *type_in_memory(const type_info *type);
/* Bytes of one panel (16 rows), and of one superblock of it; columns > 0. */
uint64_t type_panel_bytes(const type_info *type, uint32_t group_size, uint64_t columns);
uint64_t type_super_bytes(const type_info *type, uint32_t group_size);

#endif

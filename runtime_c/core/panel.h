/* panel.h: the layouts panel16 and stream16 (docs/format.md): row-major blocks to panels and back, and single rows as f32. Panels are
 * in the layout that their type has in memory (type_info.panels). Portable C; it is the definition that the kernels read. Used at load
 * (packing), for embeddings (gathering) and by tests. */
#ifndef AK42_PANEL_H
#define AK42_PANEL_H

#include "types.h"

/* Packs panels [panel_begin, panel_end) of a row-major matrix (rows, columns) to dst, which points at panel_begin's bytes.
 * src points at the whole matrix (INT8: the quants, the scales follow after rows * columns bytes); any alignment. */
void panel_pack(const type_info *type, uint32_t group_size, uint8_t *dst, const uint8_t *src, uint64_t rows, uint64_t columns,
                uint64_t panel_begin, uint64_t panel_end);
/* The same from NF4_DQ, whose panels in memory are NF4's. */
void panel_pack_nf4_dq(uint8_t *dst, const uint8_t *src, uint64_t rows, uint64_t columns, uint64_t panel_begin, uint64_t panel_end);
/* n_panels panels of panel16 into the layout of memory, of any type. */
void panel_from_panel16(const type_info *type, uint32_t group_size, uint8_t *dst, const uint8_t *src, uint64_t n_panels, uint64_t columns);
/* The reverse of panel_pack: whole matrix, rows in file order. */
void panel_unpack(const type_info *type, uint32_t group_size, uint8_t *dst, const uint8_t *src, uint64_t rows, uint64_t columns);
/* One row of a matrix in panels as f32 (columns). */
void panel_row(const type_info *type, uint32_t group_size, float *out, const uint8_t *panels, uint64_t row, uint64_t columns);

#endif

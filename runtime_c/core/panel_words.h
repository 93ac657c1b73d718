/* panel_words.h: panels of the types whose superblock is words of 16 rows side by side (docs/format.md): every block type but Q8_0,
 * Q4_0 and Q4_1, in the layout that each has in memory (type_info.panels). One superblock at a time. Private to panel.c and the plain
 * kernels. */
#ifndef AK42_PANEL_WORDS_H
#define AK42_PANEL_WORDS_H

#include "types.h"

bool panel_is_words(const type_info *type);
/* The first `rows` rows and `columns` columns of a superblock, src at its first row's first block, rows stride apart; the rest becomes
 * zeros. */
void panel_words_pack(const type_info *type, uint8_t *dst, const uint8_t *src, uint64_t stride, uint32_t rows, uint32_t columns);
/* One row's blocks of a superblock. */
void panel_words_take(const type_info *type, uint8_t *dst, const uint8_t *super, uint32_t row, uint32_t columns);
/* A superblock of panel16 to stream16, of a type that has it. */
void panel_words_stream(const type_info *type, uint8_t *dst, const uint8_t *super);

#endif

/* quant.h: row-major blocks of every type to f32 and back: the definition of what a type's bytes mean. Byte-equal to gguf-py for
 * GGUF's types. Single-threaded; api.c cuts rows over threads. */
#ifndef AK42_QUANT_H
#define AK42_QUANT_H

#include "types.h"

/* n weights (a whole number of blocks or groups). INT8: codes and scales are separate arrays. No alignment is needed of blocks. */
void quant_decode(const type_info *type, float *out, const uint8_t *blocks, uint64_t n);
void quant_decode_int8(float *out, const int8_t *codes, const uint8_t *scales, uint32_t group_size, uint64_t n);
/* NF4_DQ: tables is what follows the rows (the offset, then each nested absmax), first_block the number of the first block in the matrix. */
void quant_decode_nf4_dq(float *out, const uint8_t *blocks, const uint8_t *tables, uint64_t first_block, uint64_t n);
/* The absmax of a block: value[code] * nested absmax + offset. */
float quant_nf4_absmax(uint8_t code, const uint8_t *tables, uint64_t block);
/* false where the type cannot be written, or only by a kernel_encode. */
bool quant_encode(const type_info *type, uint8_t *blocks, const float *src, uint64_t n);
void quant_encode_int8(int8_t *codes, uint8_t *scales, const float *src, uint32_t group_size, uint64_t n);

#endif

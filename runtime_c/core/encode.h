/* encode.h: f32 weights to the blocks whose scales are searched for: Q2_K to Q6_K, IQ4_NL, IQ4_XS. Single-threaded; quant.c calls it. */
#ifndef AK42_ENCODE_H
#define AK42_ENCODE_H

#include "types.h"

/* n weights, a whole number of blocks. false where the type is not one of these. */
bool encode_blocks(const type_info *type, uint8_t *blocks, const float *src, uint64_t n);

#endif

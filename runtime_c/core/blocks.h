/* blocks.h: quantised blocks taken apart into int8 codes, scales and mins: weight = code * scale + min. It says what the bytes of
 * Q5_0, Q5_1, the K types, IQ4_NL, IQ4_XS and MXFP4 mean, once, for quant.c and for the plain kernels; NF4's sixteen values it gives as
 * int8 kernels see them. It computes no weight. */
#ifndef AK42_BLOCKS_H
#define AK42_BLOCKS_H

#include "types.h"

enum { PARTS_LEN = 256, PARTS_GROUP = 16, PARTS_GROUPS = PARTS_LEN / PARTS_GROUP };

typedef struct block_parts {
    int8_t codes[PARTS_LEN];
    float scales[PARTS_GROUPS];    /* of 16 codes each */
    float mins[PARTS_GROUPS];      /* 0 where the type has none */
    bool has_mins;
} block_parts;

/* Fills the first block_len codes and their groups. false where the type is not one of these. */
bool blocks_split(const type_info *type, block_parts *parts, const uint8_t *block);

/* The values of IQ4_NL's and IQ4_XS's codes, MXFP4's (twice the value), NF4's as f32 and as int8. */
extern const int8_t blocks_iq4_values[16], blocks_mxfp4_values[16], blocks_nf4_codes[16];
extern const float blocks_nf4_values[16];
/* What one of NF4's int8 codes is worth, in parts of the absmax. */
#define NF4_UNIT 0.00892616313f

/* bitsandbytes' dynamic 8-bit values, ascending: 0, 1 and for each decade from 1e-6 on twice as many as for the last. */
float blocks_nested_value(uint8_t code);
/* 2^(e - 128): MXFP4's exponent with the half that its doubled values want. */
float blocks_e8m0_half(uint8_t e);
/* Scale and min of sub-block 0..7 of Q4_K and Q5_K from their 12 bytes. */
void blocks_scale_min(uint8_t *scale, uint8_t *min, const uint8_t *scales, uint32_t sub_block);

#endif

/* k_plain.h: what the plain C kernel files lend each other and the ISA files: matrix products on exact f32 activations, and how floats
 * become int8. Private to cpu/. */
#ifndef AK42_K_PLAIN_H
#define AK42_K_PLAIN_H

#include "kernels.h"

/* Dequantise weights to f32, multiply with ACT_F32 tiles, k ascending. Defined in k_reference.c. */
void plain_gemm_f32(const gemm_args *args);
void plain_gemm_f16(const gemm_args *args);
void plain_gemm_bf16(const gemm_args *args);

/* The scale d of n floats to be quantised, and *inverse, by which they are multiplied. Magnitudes are
 * compared as integers, so that a NaN counts as the largest: a NaN or an infinity makes d NaN. What is so
 * small that 127 / max overflows counts as zero. */
float plain_quant_scale(float *inverse, const float *x, uint32_t n);
int8_t plain_quant_code(float x, float inverse);
void pack_fill_plain(kernel_table *table);         /* k_pack_plain.c */

/* Set the slots of core/blocks.h's types: exact, and on ACT_Q8. Defined in k_blocks_plain.c. */
void blocks_fill_reference(kernel_table *table);
void blocks_fill_generic(kernel_table *table);
void encode_fill_plain(kernel_table *table);       /* k_encode_plain.c */

#endif

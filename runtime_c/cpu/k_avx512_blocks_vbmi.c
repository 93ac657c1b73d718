/* k_avx512_blocks_vbmi.c: matrix products on the types of which codes are looked up (IQ4_NL, IQ4_XS, MXFP4, NF4) for x86-64 with
 * AVX-512 VNNI and VBMI, whose lookup needs no mask before it: k_blocks.h's body with that one word changed. */
#include "kernels.h"

#if defined(__x86_64__)

#include "k_avx512.h"

#define BLOCKS_TARGET AK42_TARGET(AVX512_TARGET ",avx512vnni,avx512vbmi")
#define BLOCKS_NR 8
#define BLOCKS_STRAIGHT 8
#define BLOCKS_WIDE_FROM 64
#define BLOCKS_VNNI 1
#define BLOCKS_LOOKUP_ANY 1
#define BLOCKS_TYPES(TYPE) BLOCKS_LOOKUPS(TYPE)
#include "k_avx512_blocks.h"

void kernels_fill_avx512_vbmi(kernel_table *table) { blocks_fill(table); }

#endif

/* k_avx2_blocks.c: matrix products on the types of core/blocks.h for x86-64 with AVX2: k_blocks.h's body on 16-bit multiply-adds. */
#if defined(__x86_64__)

#include "k_avx2.h"

#define BLOCKS_TARGET AK42_TARGET(AVX2_TARGET)
#define BLOCKS_NR 4
#define BLOCKS_WIDE_FROM 24
#define BLOCKS_VNNI 0
#include "k_avx2_blocks.h"

void avx2_fill_blocks(kernel_table *table) { blocks_fill(table); }

#else
typedef int k_avx2_blocks_is_empty;
#endif

/* k_avx512_blocks.c: matrix products on the types of core/blocks.h for x86-64 with AVX-512 but no dot instruction: k_blocks.h's body on
 * 16-bit multiply-adds. */
#if defined(__x86_64__)

#include "k_avx512.h"

#define BLOCKS_TARGET AVX512
#define BLOCKS_NR 4
#define BLOCKS_WIDE_FROM 24
#define BLOCKS_VNNI 0
#include "k_avx512_blocks.h"

void avx512_fill_blocks(kernel_table *table) { blocks_fill(table); }

#else
typedef int k_avx512_blocks_is_empty;
#endif

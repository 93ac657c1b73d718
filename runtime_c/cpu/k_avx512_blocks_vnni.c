/* k_avx512_blocks_vnni.c: matrix products on the types of core/blocks.h for x86-64 with AVX-512 VNNI: k_blocks.h's body on its dot
 * instruction, and k_supers.h's for the K types, of which packed panels' outliers remain those of k_avx512_blocks.c. */
#if defined(__x86_64__)

#include "k_avx512.h"

#define BLOCKS_TARGET AK42_TARGET(AVX512_TARGET ",avx512vnni")
#define BLOCKS_NR 8
#define BLOCKS_STRAIGHT 8
#define BLOCKS_WIDE_FROM 64
#define BLOCKS_VNNI 1
#define BLOCKS_TYPES(TYPE) BLOCKS_PLAIN(TYPE) BLOCKS_LOOKUPS(TYPE)
#include "k_avx512_blocks.h"

/* sum + the products of 2 i16 of w with 2 of a. */
W_FN words w_dot_pairs(words sum, words w, words a) { return _mm512_dpwssd_epi32(sum, w, a); }
#include "k_supers.h"

void avx512_vnni_fill_blocks(kernel_table *table) {
    blocks_fill(table);
    supers_fill(table);
}

#else
typedef int k_avx512_blocks_vnni_is_empty;
#endif

/* k_neon_blocks_i8mm.c: matrix products on the types of core/blocks.h for aarch64 with int8 matrix multiplies: k_blocks.h's body on
 * usdot for one or two tokens, and k_neon_blocks_pairs.h's tiles for more. */
#if defined(__aarch64__)

#include "k_neon.h"

#define PAIR_TARGET AK42_TARGET(NEON_I8MM_TARGET)
#include "k_neon_pairs.h"

#define BLOCKS_TARGET PAIR_TARGET
#define BLOCKS_NR 8
#define BLOCKS_WIDE_FROM 24
#define BLOCKS_SIGNED 0
#define BLOCKS_TILE "k_neon_blocks_pairs.h"

static AK42_INLINE BLOCKS_TARGET uint32x4_t w_dot(uint32x4_t sum, uint32x4_t w, uint32x4_t a, bool large) {
    (void)large;
    return vreinterpretq_u32_s32(
        vusdotq_s32(vreinterpretq_s32_u32(sum), vreinterpretq_u8_u32(w), vreinterpretq_s8_u32(a)));
}

#include "k_neon_blocks.h"

void neon_i8mm_fill_blocks(kernel_table *table) { blocks_fill(table); }

#else
typedef int k_neon_blocks_i8mm_is_empty;
#endif

/* k_neon_blocks_dot.c: matrix products on the types of core/blocks.h for aarch64 with the dot product instructions: k_blocks.h's body
 * on sdot. */
#if defined(__aarch64__)

#include "k_neon.h"

#define BLOCKS_TARGET AK42_TARGET(NEON_DOT_TARGET)
#define BLOCKS_NR 4
#define BLOCKS_WIDE_FROM 24
#define BLOCKS_SIGNED 1
#define BLOCKS_TILE "k_neon_blocks_tile.h"

static AK42_INLINE BLOCKS_TARGET uint32x4_t w_dot(uint32x4_t sum, uint32x4_t w, uint32x4_t a, bool large) {
    (void)large;
    return vreinterpretq_u32_s32(
        vdotq_s32(vreinterpretq_s32_u32(sum), vreinterpretq_s8_u32(w), vreinterpretq_s8_u32(a)));
}

#include "k_neon_blocks.h"

void neon_dot_fill_blocks(kernel_table *table) { blocks_fill(table); }

#else
typedef int k_neon_blocks_dot_is_empty;
#endif

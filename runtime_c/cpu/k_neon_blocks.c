/* k_neon_blocks.c: matrix products on the types of core/blocks.h for aarch64 without dot product instructions: k_blocks.h's body on
 * 8-bit multiplies. */
#if defined(__aarch64__)

#include "k_neon.h"

#define BLOCKS_TARGET
#define BLOCKS_NR 4
#define BLOCKS_WIDE_FROM 24
#define BLOCKS_SIGNED 1
#define BLOCKS_TILE "k_neon_blocks_tile.h"

/* Two products of neighbours fit 16 bits: 2 * 128 * 127 < 2^15. */
NEON_FN uint32x4_t w_dot(uint32x4_t sum, uint32x4_t w, uint32x4_t a, bool large) {
    (void)large;
    const int8x16_t codes = vreinterpretq_s8_u32(w), x = vreinterpretq_s8_u32(a);
    const int16x8_t low = vmull_s8(vget_low_s8(codes), vget_low_s8(x)), high = vmull_high_s8(codes, x);
    return vreinterpretq_u32_s32(vpadalq_s16(vreinterpretq_s32_u32(sum), vpaddq_s16(low, high)));
}

#include "k_neon_blocks.h"

void neon_fill_blocks(kernel_table *table) { blocks_fill(table); }

#else
typedef int k_neon_blocks_is_empty;
#endif

/* k_neon_blocks.h: k_blocks.h's vectors for NEON, 4 rows of a panel, for three files: before the #include they define BLOCKS_TARGET,
 * BLOCKS_NR, BLOCKS_WIDE_FROM, BLOCKS_SIGNED, BLOCKS_TILE and w_dot. */
#define BLOCKS_ROWS 4
#define BLOCKS_PANELS 1
#define BLOCKS_VNNI 0
#define W_FN static AK42_INLINE BLOCKS_TARGET

typedef uint32x4_t words;
typedef float32x4_t floats;

#define w_load(p) vreinterpretq_u32_u8(vld1q_u8(p))
#define w_store(p, w) vst1q_u8(p, vreinterpretq_u8_u32(w))
#define w_set1(x) vdupq_n_u32(x)
#define w_and(a, b) vandq_u32(a, b)
#define w_or(a, b) vorrq_u32(a, b)
#define w_xor(a, b) veorq_u32(a, b)
#define w_add(a, b) vaddq_u32(a, b)
#define w_sub(a, b) vsubq_u32(a, b)
/* The compiler's own shifts: they may be by 0, and where n is a constant they are the immediate form. */
#define w_shr(w, n) ((w) >> (n))
#define w_shl(w, n) ((w) << (n))
#define w_shr_by(w, n) w_shr(w, n)                     /* by a number that need not be constant */
#define w_shl_by(w, n) w_shl(w, n)
/* (w & mask) | rest */
#define w_merge(w, mask, rest) vorrq_u32(vandq_u32(w, mask), rest)
W_FN words w_lookup(words w, const uint8_t table[16]) {
    return vreinterpretq_u32_u8(vqtbl1q_u8(vld1q_u8(table), vreinterpretq_u8_u32(w)));
}
#define w_keep(w) (void)(w)
#define w_cast(x) vreinterpretq_u32_f32(x)
#define f_cast(w) vreinterpretq_f32_u32(w)
#define f_of_int(w) vcvtq_f32_s32(vreinterpretq_s32_u32(w))
W_FN floats f_half(words w, int second) {
    return vcvt_f32_f16(vreinterpret_f16_u16(second ? vshrn_n_u32(w, 16) : vmovn_u32(w)));
}
#define f_set1(x) vdupq_n_f32(x)
#define f_load(p) neon_load(p)
#define f_store(p, x) vst1q_u8(p, vreinterpretq_u8_f32(x))
#define f_add(a, b) vaddq_f32(a, b)
#define f_mul(a, b) vmulq_f32(a, b)
#define f_fma(a, b, c) vfmaq_f32(c, a, b)
#define f_neg(x) vnegq_f32(x)
/* The sum of 16 i8. */
#define w_sum16(q) vaddlvq_s8(vreinterpretq_s8_u8(vld1q_u8(q)))

#include "k_blocks.h"

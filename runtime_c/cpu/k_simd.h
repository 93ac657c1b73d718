/* k_simd.h: the few compiler words that ISA files need. Private to cpu/. */
#ifndef AK42_K_SIMD_H
#define AK42_K_SIMD_H

#if defined(__GNUC__)
/* The function may use these instructions; the file is built without flags. */
#define AK42_TARGET(isa) __attribute__((target(isa)))
/* Copied into its caller whatever its size: tile shapes are arguments that must become constants. */
#define AK42_INLINE __attribute__((always_inline)) inline
/* Keeps a loaded vector in its register: gcc would rather load it again for each of its two or three uses,
 * and loads are what such loops run out of. Emits nothing. */
#if defined(__x86_64__)
#define AK42_KEEP(vector) __asm__("" : "+v"(vector))
#else
#define AK42_KEEP(vector) (void)0
#endif
#else
#define AK42_TARGET(isa)
#define AK42_INLINE inline
#define AK42_KEEP(vector) (void)0
#endif

#if defined(__clang__)
#define AK42_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define AK42_UNROLL _Pragma("GCC unroll 64")
#else
#define AK42_UNROLL
#endif

#endif

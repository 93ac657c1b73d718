/* k_simd.h: the few compiler words that ISA files need. Private to cpu/. */
#ifndef AK42_K_SIMD_H
#define AK42_K_SIMD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
/* The function may use these instructions; the file is built without flags. */
#define AK42_TARGET(isa) __attribute__((target(isa)))
/* Of functions that a body defines for all who include it. */
#define AK42_UNUSED __attribute__((unused))
/* Copied into its caller whatever its size: tile shapes are arguments that must become constants. */
#define AK42_INLINE __attribute__((always_inline)) inline
/* Keeps a loaded vector in its register: gcc would rather load it again for each of its two or three uses,
 * and loads are what such loops run out of. Emits nothing. */
#if defined(__x86_64__)
#define AK42_KEEP(vector) __asm__("" : "+v"(vector))
/* The same, and in order with the others of its kind. */
#define AK42_KEEP_HERE(vector) __asm__ volatile("" : "+v"(vector))
#else
#define AK42_KEEP(vector) (void)0
#define AK42_KEEP_HERE(vector) (void)0
#endif
/* Compilers move no load over it, nor do they take what was loaded before it for what is loaded after it. */
#define AK42_IN_ORDER() __asm__ volatile("" ::: "memory")
#else
#define AK42_TARGET(isa)
#define AK42_UNUSED
#define AK42_INLINE inline
#define AK42_KEEP(vector) (void)0
#define AK42_KEEP_HERE(vector) (void)0
#define AK42_IN_ORDER() (void)0
#endif

/* Weights are read once, from memory. Each of their lines is asked for twice: far ahead into the second-level cache, which can wait
 * for many lines at once, and shortly before its use into the first, whose few open requests are then soon answered. So reading goes on
 * while there is arithmetic, and over the pages at which processors stop asking by themselves. Addresses past the end do no harm.
 * far: how far ahead the farther request is; 0: none of both, where the processor asks better by itself (gemm_args.foreseen). Such a
 * processor foresees lines that are loaded in order: compilers move no loads over ask_line's branch, nor over ask_if. */
enum { AHEAD_NEAR = 2048, AHEAD_FAR = 16384 };
/* Where a constant says whether lines are asked for. */
static AK42_INLINE void ask_if(bool asks, const uint8_t *line, size_t far) {
#if defined(__GNUC__)
    if (asks) {
        __builtin_prefetch((const void *)((uintptr_t)line + AHEAD_NEAR), 0, 3);
        __builtin_prefetch((const void *)((uintptr_t)line + far), 0, 2);
    }
#else
    (void)asks, (void)line, (void)far;
#endif
    AK42_IN_ORDER();       /* else compilers gather the requests of an unrolled piece at its head */
}
static AK42_INLINE void ask_line(const uint8_t *line, size_t far) {
    if (far) ask_if(true, line, far);
}
static AK42_INLINE void ask_ahead(const uint8_t *line) { ask_line(line, AHEAD_FAR); }
/* For a line that is written soon. */
static AK42_INLINE void ask_to_write(const void *line) {
#if defined(__GNUC__)
    __builtin_prefetch(line, 1, 3);
#else
    (void)line;
#endif
}
/* A line's `far`. left: the bytes from the line to the end of what lies together; jump: from that end to what is read after it. */
static AK42_INLINE size_t ahead_far(size_t left, size_t jump, bool foreseen) {
    return foreseen ? 0 : AHEAD_FAR + (left > AHEAD_FAR ? 0 : jump);
}
/* For how many of the bytes left that stays so. */
static AK42_INLINE size_t ahead_bytes(size_t left) { return left > AHEAD_FAR ? left - AHEAD_FAR : left; }

#if defined(__clang__)
#define AK42_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define AK42_UNROLL _Pragma("GCC unroll 64")
#else
#define AK42_UNROLL
#endif

#endif

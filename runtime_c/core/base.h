/* base.h: the small things that every core file uses: checked arithmetic, little-endian loads, CRC-32C, memory.
 * It knows nothing of models. All functions are thread-safe. */
#ifndef AK42_BASE_H
#define AK42_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../include/ak42.h"

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define CACHE_LINE 64u

/* Checked u64 arithmetic: false, and *out untouched, on overflow. */
static inline bool mul_u64(uint64_t *out, uint64_t a, uint64_t b) {
    if (a && b > UINT64_MAX / a) return false;
    *out = a * b;
    return true;
}
static inline bool add_u64(uint64_t *out, uint64_t a, uint64_t b) {
    if (b > UINT64_MAX - a) return false;
    *out = a + b;
    return true;
}
/* Rounds up to a multiple of a power of two; the caller has checked that it fits. */
static inline uint64_t round_up(uint64_t value, uint64_t multiple) { return (value + multiple - 1) & ~(multiple - 1); }
static inline uint64_t div_up(uint64_t value, uint64_t divisor) { return (value + divisor - 1) / divisor; }

/* Little-endian loads from any alignment. */
static inline uint16_t load_u16(const void *p) {
    const uint8_t *b = p;
    return (uint16_t)(b[0] | b[1] << 8);
}
static inline uint32_t load_u32(const void *p) {
    const uint8_t *b = p;
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}
static inline uint64_t load_u64(const void *p) {
    const uint8_t *b = p;
    return (uint64_t)load_u32(b) | (uint64_t)load_u32(b + 4) << 32;
}
static inline int32_t load_i32(const void *p) { return (int32_t)load_u32(p); }
static inline float load_f32(const void *p) {
    uint32_t bits = load_u32(p);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* IEEE half <-> float, exact; float to half rounds to nearest even, overflow gives infinity. */
float f16_to_f32(uint16_t half);
uint16_t f32_to_f16(float value);
static inline float bf16_to_f32(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}
/* Rounds to nearest even; NaN stays NaN. */
uint16_t f32_to_bf16(float value);

/* CRC-32C (Castagnoli, reflected, all ones in and out); crc 0 at first. */
uint32_t crc32c(uint32_t crc, const void *data, size_t size);

/* The bookkeeping allocator that a model's options may replace. Memory is aligned as malloc's. */
typedef struct allocator {
    ak42_realloc_fn realloc;       /* never NULL once initialised by allocator_init */
    void *user;
} allocator;
void allocator_init(allocator *a, ak42_realloc_fn fn, void *user);
/* count * size bytes, zeroed; NULL on overflow or where there is no memory. */
void *mem_zalloc(const allocator *a, uint64_t count, uint64_t size);
void *mem_resize(const allocator *a, void *memory, uint64_t size);
void mem_free(const allocator *a, void *memory);

/* Zeroed anonymous pages, 2 MiB aligned with huge pages asked for where size is large; NULL where there is no memory.
 * page_free accepts NULL and needs the same size. */
void *page_alloc(uint64_t size);
/* The same with ordinary pages, for memory that is touched little by little (KV caches): only what is touched is spent. */
void *page_reserve(uint64_t size);
void page_free(void *memory, uint64_t size);
/* Asks for huge pages in memory that is mapped already; of a file, for the parts that are still to be read from it. */
void page_wish_huge(void *memory, size_t size);

#endif

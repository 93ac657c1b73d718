/* base.c: number conversions, CRC-32C, and the two allocators. Knows nothing of files or models; everybody
 * above uses it. The functions keep no state. */
#include "base.h"

#include <stdlib.h>
#include <sys/mman.h>

/* ---- half and bfloat16 ---- */

static float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t bits_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

float f16_to_f32(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t exponent = (half >> 10) & 31u;
    const uint32_t fraction = half & 0x3ffu;
    /* Infinity and NaN; then normal numbers, whose exponent's bias grows from 15 to 127. */
    if (exponent == 31) return float_of_bits(sign | 0x7f800000u | fraction << 13);
    if (exponent) return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
    /* Zero and subnormals are fraction * 2^-24, which f32 holds exactly. */
    const float magnitude = (float)fraction * 0x1p-24f;
    return sign ? -magnitude : magnitude;
}

uint16_t f32_to_f16(float value) {
    const uint32_t bits = bits_of_float(value);
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    const uint32_t magnitude = bits & 0x7fffffffu;
    /* A quiet NaN; then 65520 and above, which round to infinity. */
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x1ffu));
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);
    uint32_t kept, rest, half_way;
    if (magnitude >= 0x38800000u) {                      /* at least 2^-14: a normal half */
        kept = (magnitude >> 13) - (112u << 10);
        rest = magnitude & 0x1fffu;
        half_way = 0x1000u;
    } else if (magnitude >= 0x33000000u) {               /* at least 2^-25: becomes a subnormal half */
        const uint32_t shift = 126u - (magnitude >> 23); /* 14 to 24 */
        const uint32_t fraction = (magnitude & 0x7fffffu) | 0x800000u;
        kept = fraction >> shift;
        rest = fraction & ((1u << shift) - 1);
        half_way = 1u << (shift - 1);
    } else {
        return sign;
    }
    /* To nearest, ties to even; a carry out of the fraction is the next exponent, as it should be. */
    if (rest > half_way || (rest == half_way && (kept & 1u))) kept++;
    return (uint16_t)(sign | kept);
}

uint16_t f32_to_bf16(float value) {
    const uint32_t bits = bits_of_float(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u);     /* a quiet NaN */
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/* ---- CRC-32C ---- */

/* Eight tables of 256 for eight bytes a step (slicing by 8; Kounavis and Berry 2005). Entries are linear
 * over the bits of their index, so each table is spelled out from its eight powers of two: TABLE's
 * arguments are the entries at 128, 64, ..., 1. The 64 constants together are the reflected polynomial
 * 0x82f63b78 shifted through the register 0 to 63 times. */
#define ENTRY(n, a, b, c, d, e, f, g, h)                                                                  \
    (((n) & 128 ? (a) : 0u) ^ ((n) & 64 ? (b) : 0u) ^ ((n) & 32 ? (c) : 0u) ^ ((n) & 16 ? (d) : 0u) ^      \
     ((n) & 8 ? (e) : 0u) ^ ((n) & 4 ? (f) : 0u) ^ ((n) & 2 ? (g) : 0u) ^ ((n) & 1 ? (h) : 0u))
#define FOUR(n, ...)                                                                                      \
    ENTRY(n, __VA_ARGS__), ENTRY(n + 1, __VA_ARGS__), ENTRY(n + 2, __VA_ARGS__), ENTRY(n + 3, __VA_ARGS__)
#define SIXTEEN(n, ...)                                                                                   \
    FOUR(n, __VA_ARGS__), FOUR(n + 4, __VA_ARGS__), FOUR(n + 8, __VA_ARGS__), FOUR(n + 12, __VA_ARGS__)
#define SIXTY_FOUR(n, ...)                                                                                \
    SIXTEEN(n, __VA_ARGS__), SIXTEEN(n + 16, __VA_ARGS__), SIXTEEN(n + 32, __VA_ARGS__),                   \
    SIXTEEN(n + 48, __VA_ARGS__)
#define TABLE(...)                                                                                        \
    {                                                                                                     \
        SIXTY_FOUR(0, __VA_ARGS__), SIXTY_FOUR(64, __VA_ARGS__), SIXTY_FOUR(128, __VA_ARGS__),             \
        SIXTY_FOUR(192, __VA_ARGS__)                                                                      \
    }

/* crc_table[k][b]: the register after byte b and then k zero bytes. */
static const uint32_t crc_table[8][256] = {
    TABLE(0x82f63b78u, 0x417b1dbcu, 0x20bd8edeu, 0x105ec76fu,
          0x8ad958cfu, 0xc79a971fu, 0xe13b70f7u, 0xf26b8303u),
    TABLE(0xfbc3faf9u, 0xff17c604u, 0x7f8be302u, 0x3fc5f181u,
          0x9d14c3b8u, 0x4e8a61dcu, 0x274530eeu, 0x13a29877u),
    TABLE(0x8b277743u, 0xc76580d9u, 0xe144fb14u, 0x70a27d8au,
          0x38513ec5u, 0x9edea41au, 0x4f6f520du, 0xa541927eu),
    TABLE(0x52a0c93fu, 0xaba65fe7u, 0xd725148bu, 0xe964b13du,
          0xf64463e6u, 0x7b2231f3u, 0xbf672381u, 0xdd45aab8u),
    TABLE(0x6ea2d55cu, 0x37516aaeu, 0x1ba8b557u, 0x8f2261d3u,
          0xc5670b91u, 0xe045beb0u, 0x7022df58u, 0x38116facu),
    TABLE(0x1c08b7d6u, 0x0e045bebu, 0x85f4168du, 0xc00c303eu,
          0x6006181fu, 0xb2f53777u, 0xdb8ca0c3u, 0xef306b19u),
    TABLE(0xf56e0ef4u, 0x7ab7077au, 0x3d5b83bdu, 0x9c5bfaa6u,
          0x4e2dfd53u, 0xa5e0c5d1u, 0xd0065990u, 0x68032cc8u),
    TABLE(0x34019664u, 0x1a00cb32u, 0x0d006599u, 0x847609b4u,
          0x423b04dau, 0x211d826du, 0x9278fa4eu, 0x493c7d27u),
};

uint32_t crc32c(uint32_t crc, const void *data, size_t size) {
    const uint8_t *p = data;
    crc = ~crc;
    for (; size >= 8; size -= 8, p += 8) {
        const uint32_t low = crc ^ load_u32(p), high = load_u32(p + 4);
        crc = crc_table[7][low & 255] ^ crc_table[6][low >> 8 & 255] ^ crc_table[5][low >> 16 & 255] ^
              crc_table[4][low >> 24] ^ crc_table[3][high & 255] ^ crc_table[2][high >> 8 & 255] ^
              crc_table[1][high >> 16 & 255] ^ crc_table[0][high >> 24];
    }
    while (size--) crc = crc >> 8 ^ crc_table[0][(crc ^ *p++) & 255];
    return ~crc;
}

/* ---- memory ---- */

static void *default_realloc(void *user, void *memory, size_t size) {
    (void)user;
    if (size) return realloc(memory, size);
    free(memory);
    return NULL;
}

void allocator_init(allocator *a, ak42_realloc_fn fn, void *user) {
    a->realloc = fn ? fn : default_realloc;
    a->user = fn ? user : NULL;
}

void *mem_resize(const allocator *a, void *memory, uint64_t size) {
    if (size > PTRDIFF_MAX) return NULL;
    return a->realloc(a->user, memory, size ? (size_t)size : 1);    /* size 0 would free */
}

void *mem_zalloc(const allocator *a, uint64_t count, uint64_t size) {
    uint64_t bytes;
    if (!mul_u64(&bytes, count, size)) return NULL;
    void *memory = mem_resize(a, NULL, bytes);
    if (memory) memset(memory, 0, (size_t)bytes);
    return memory;
}

void mem_free(const allocator *a, void *memory) {
    if (memory) a->realloc(a->user, memory, 0);
}

enum { PAGE = 4096, HUGE_PAGE = 2 << 20, HUGE_FROM = 4 << 20 };

/* What page_alloc maps for a size; 0 where that is more than there can be. */
static size_t page_extent(uint64_t size) {
    if (size > PTRDIFF_MAX - 2 * HUGE_PAGE) return 0;
    if (size == 0) size = 1;
    return (size_t)round_up(size, size >= HUGE_FROM ? HUGE_PAGE : PAGE);
}

/* Wishes: nothing depends on them, and kernels without huge pages refuse them. */
#ifdef MADV_HUGEPAGE
void page_wish_huge(void *memory, size_t size) { madvise(memory, size, MADV_HUGEPAGE); }
static void wish_small(void *memory, size_t size) { madvise(memory, size, MADV_NOHUGEPAGE); }
#else
void page_wish_huge(void *memory, size_t size) { (void)memory, (void)size; }
static void wish_small(void *memory, size_t size) { (void)memory, (void)size; }
#endif

static void *page_map(uint64_t size, bool huge) {
    const size_t extent = page_extent(size);
    if (!extent) return NULL;
    const size_t slack = extent >= HUGE_FROM ? HUGE_PAGE : 0;
    uint8_t *base = mmap(NULL, extent + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return NULL;
    if (!slack) return base;
    /* Give back what lies outside the aligned part. */
    uint8_t *aligned = base + (size_t)(round_up((uintptr_t)base, HUGE_PAGE) - (uintptr_t)base);
    const size_t before = (size_t)(aligned - base);
    if (before) munmap(base, before);
    if (slack - before) munmap(aligned + extent, slack - before);
    if (huge) page_wish_huge(aligned, extent);
    else wish_small(aligned, extent);
    return aligned;
}

void *page_alloc(uint64_t size) { return page_map(size, true); }

void *page_reserve(uint64_t size) { return page_map(size, false); }

void page_free(void *memory, uint64_t size) {
    if (memory) munmap(memory, page_extent(size));
}

/* kernel_checks.h: what check_kernels.c and attention_checks.h share: counting, random numbers, and memory
 * that ends at a page that nobody may touch. */
#ifndef AK42_KERNEL_CHECKS_H
#define AK42_KERNEL_CHECKS_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../runtime_c/cpu/kernels.h"

static int n_passed, n_failed;

static void check(bool ok, const char *isa, const char *what, long a, long b, long c, long d) {
    if (ok) {
        n_passed++;
        return;
    }
    if (n_failed++ < 40) printf("FAILED %s: %s (%ld, %ld, %ld, %ld)\n", isa, what, a, b, c, d);
}

static uint64_t rng_state = 88172645463325252u;
static uint32_t rng(void) {
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return (uint32_t)(rng_state >> 32);
}
static uint32_t rng_below(uint32_t n) { return rng() % n; }
static float rng_float(void) { return (float)rng() / 2147483648.0f - 1.0f; }       /* [-1, 1) */
/* Roughly normal, now and then large. */
static float rng_value(void) {
    float x = rng_float() + rng_float() + rng_float();
    return rng_below(64) == 0 ? x * 30.0f : x;
}

/* ---- memory that ends at a page that nobody may touch ---- */

typedef struct guarded {
    uint8_t *pages, *data;
    size_t pages_bytes;
} guarded;

static size_t up(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

/* size bytes, filled with 0xa5, whose last byte is the last before the guard page. */
static guarded guarded_new(size_t size) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = up(size, page) + page;
    guarded g = {.pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
                 .pages_bytes = bytes};
    if (g.pages == MAP_FAILED || mprotect(g.pages + bytes - page, page, PROT_NONE) != 0) {
        perror("check_kernels: mmap");
        exit(1);
    }
    memset(g.pages, 0xa5, bytes - page);
    g.data = g.pages + bytes - page - size;
    return g;
}
static void guarded_free(guarded *g) { munmap(g->pages, g->pages_bytes); }
static bool still(const uint8_t *p, size_t n) {        /* the fill of guarded_new */
    for (size_t i = 0; i < n; i++)
        if (p[i] != 0xa5) return false;
    return true;
}
/* The bytes before data. */
static bool guarded_whole(const guarded *g) { return still(g->pages, (size_t)(g->data - g->pages)); }

/* Equal bytes, also before data, where nothing may have been written. */
static bool guarded_same(const guarded *a, const guarded *b) {
    const size_t bytes = a->pages_bytes - (size_t)sysconf(_SC_PAGESIZE);
    return a->pages_bytes == b->pages_bytes && memcmp(a->pages, b->pages, bytes) == 0;
}

static float float_at(const uint8_t *p, size_t i) { return load_f32(p + i * 4); }
static float half_at(const uint8_t *p, size_t i) { return f16_to_f32(load_u16(p + i * 2)); }
static float bf16_at(const uint8_t *p, size_t i) { return bf16_to_f32(load_u16(p + i * 2)); }
static void put_float(uint8_t *p, size_t i, float x) { memcpy(p + i * 4, &x, 4); }
static void put_u16(uint8_t *p, size_t i, uint16_t x) { memcpy(p + i * 2, &x, 2); }

#endif

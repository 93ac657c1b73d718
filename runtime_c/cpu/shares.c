/* shares.c: panels drawn from a thread's own hand and taken out of others'. No maths, no waiting.
 *
 * A hand is one word: [begin, end), and the turn of its product, 0 or 1 in turns. A hand of the other turn was not opened yet and stands for
 * the whole slice of its thread: so nobody waits until the hands are dealt, and one bit is enough, as a barrier parts the products
 * and each thread opens its own hand in each. Words are exchanged whole, and equal words mean the same panels, all of them free,
 * however often the word has changed meanwhile. An empty hand is its thread's alone to fill. */
#include "shares.h"

enum { PANEL_BITS = 31 };
#define PANEL_MASK ((UINT64_C(1) << PANEL_BITS) - 1)

typedef struct range {
    uint32_t begin, end;
} range;

static uint64_t word_of(const share *s, range r) { return s->turn << 63 | (uint64_t)r.begin << PANEL_BITS | r.end; }

/* The panels that a thread has at first. */
static range slice_of(const share *s, uint32_t thread) {
    const uint64_t n = div_up(s->n_panels, s->least);
    const uint64_t begin = n * thread / s->n_threads * s->least, end = n * (thread + 1) / s->n_threads * s->least;
    return (range){(uint32_t)begin, end < s->n_panels ? (uint32_t)end : s->n_panels};
}

static range range_in(const share *s, uint32_t thread, uint64_t word) {
    if (word >> 63 != s->turn) return slice_of(s, thread);
    return (range){(uint32_t)(word >> PANEL_BITS & PANEL_MASK), (uint32_t)(word & PANEL_MASK)};
}

/* Half of n panels, in steps of `least`, the odd one with it. */
static uint32_t half_of(const share *s, uint32_t n) {
    const uint32_t half = (uint32_t)(div_up(div_up(n, s->least), 2) * s->least);
    return half < n ? half : n;
}

static bool draw_own(share *s) {
    hand *own = &s->hands[s->thread];
    uint64_t word = atomic_load_explicit(own, memory_order_relaxed);
    for (;;) {
        const range r = range_in(s, s->thread, word);
        const uint32_t n = half_of(s, r.end - r.begin);
        if (!atomic_compare_exchange_weak_explicit(own, &word, word_of(s, (range){r.begin + n, r.end}), memory_order_relaxed,
                                                   memory_order_relaxed)) continue;
        s->begin = r.begin;
        s->end = r.begin + n;
        s->next = s->end < r.end ? s->end : s->n_panels;
        return n > 0;
    }
}

/* Whose hand holds most, and its word; n_threads: all are empty. */
static uint32_t fullest(const share *s, uint64_t *word) {
    uint32_t found = s->n_threads, most = 0;
    for (uint32_t i = 1; i < s->n_threads; i++) {
        const uint32_t thread = (s->thread + i) % s->n_threads;
        const uint64_t seen = atomic_load_explicit(&s->hands[thread], memory_order_relaxed);
        const range r = range_in(s, thread, seen);
        if (r.end - r.begin <= most) continue;
        most = r.end - r.begin;
        found = thread;
        *word = seen;
    }
    return found;
}

/* Fills the own hand, which is empty; false where there is nothing to take. */
static bool take_from_others(share *s) {
    uint64_t word = 0;
    for (uint32_t thread; (thread = fullest(s, &word)) < s->n_threads;) {
        const range r = range_in(s, thread, word);
        /* from the front: half, or all that is one step */
        const uint32_t middle = r.begin + half_of(s, r.end - r.begin), from = middle < r.end ? middle : r.begin;
        if (!atomic_compare_exchange_strong_explicit(&s->hands[thread], &word, word_of(s, (range){r.begin, from}), memory_order_relaxed,
                                                     memory_order_relaxed)) continue;
        atomic_store_explicit(&s->hands[s->thread], word_of(s, (range){from, r.end}), memory_order_relaxed);
        return true;
    }
    return false;
}

void shares_reset(hand *hands, uint32_t n_threads) {
    for (uint32_t i = 0; i < n_threads; i++) atomic_store_explicit(&hands[i], UINT64_C(1) << 63, memory_order_relaxed);
}

share share_open(hand *hands, const team *team, uint32_t index, uint32_t n_panels, uint32_t least) {
    share s = {.hands = hands, .thread = team->thread, .n_threads = team->n_threads, .n_panels = n_panels, .least = least,
               .turn = index & 1};
    const range own = slice_of(&s, s.thread);
    s.next = own.begin < own.end ? own.begin : n_panels;
    return s;
}

bool share_draw(share *s) {
    while (!draw_own(s))
        if (!take_from_others(s)) return false;
    return true;
}

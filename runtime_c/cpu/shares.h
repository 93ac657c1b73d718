/* shares.h: the panels of a product, shared out to threads. Each thread has a hand, panels that lie together, and draws from its front,
 * half of it at a time: what it reads is one stream, which processors foresee and which is asked for without gaps. Whose hand is empty
 * takes the back half of the fullest. So all end together, whatever a neighbour takes from one of them. */
#ifndef AK42_SHARES_H
#define AK42_SHARES_H

#include <stdatomic.h>

#include "threads.h"

/* What is left in a thread's hand; shares.c's. */
typedef atomic_uint_least64_t hand;

/* One product as one thread sees it. */
typedef struct share {
    hand *hands;                       /* (n_threads) */
    uint32_t thread, n_threads;
    uint32_t n_panels, least;
    uint64_t turn;
    uint32_t begin, end;               /* what this thread has drawn */
    uint32_t next;                     /* where it will most likely go on; n_panels: in the next product */
} share;

/* Before the first product of a run, by one thread. */
void shares_reset(hand *hands, uint32_t n_threads);
/* The index-th product of a run, the same for all threads, which must all take part in each; a barrier parts it from the next. Drawn are
 * multiples of least panels, but for the last ones. next is then where this thread will begin. */
share share_open(hand *hands, const team *team, uint32_t index, uint32_t n_panels, uint32_t least);
/* Goes on to panels [begin, end); false when none are left to draw. */
bool share_draw(share *s);

#endif

/* pace.c: two running means. A draw that took far longer than usual says that the thread was interrupted, not how it reads: it counts as
 * twice the mean. */
#include "pace.h"

#include "threads.h"

enum { PACE_BYTES = 128 * 1024, PACE_EVERY = 256, PACE_RECENT = 4 };
#define PACE_MARGIN 1.05f             /* by so much requests must be faster: trying has its price, too */

pace_draw pace_begin(pace *p, size_t bytes) {
    pace_draw draw = {.bytes = bytes, .foreseen = p->foreseen <= PACE_MARGIN * p->asked};
    if (bytes < PACE_BYTES) return draw;
    if (!p->foreseen || !p->asked) draw.foreseen = !p->foreseen;
    else if (++p->n_draws % PACE_EVERY == 0) draw.foreseen = !draw.foreseen;
    draw.began = clock_ns();
    return draw;
}

void pace_end(pace *p, const pace_draw *draw) {
    if (draw->bytes < PACE_BYTES) return;
    float *mean = draw->foreseen ? &p->foreseen : &p->asked;
    const float took = (float)(clock_ns() - draw->began) / (float)draw->bytes;
    if (!*mean) *mean = took;
    else *mean += ((took < 2 * *mean ? took : 2 * *mean) - *mean) / PACE_RECENT;
}

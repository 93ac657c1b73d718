/* pace.h: whether a thread asks for the weights that it reads once, or leaves that to the processor: what was faster lately. Both give the
 * same bits. A processor that foresees what is read in order mostly does better alone; but while another machine keeps the core's
 * other thread busy, it has half the room for instructions that wait, and then may fall to half the rate that requests keep. That changes
 * within a second, core by core, so each thread measures, of each type of weights. */
#ifndef AK42_PACE_H
#define AK42_PACE_H

#include "../core/base.h"

/* One thread's, of one type; all zeros at first. */
typedef struct pace {
    float asked, foreseen;             /* nanoseconds a byte, recent means; 0: not known */
    uint32_t n_draws;                  /* that were long enough to be measured */
} pace;

/* What is under way. */
typedef struct pace_draw {
    size_t bytes;
    int64_t began;
    bool foreseen;                     /* what to do: not to ask */
} pace_draw;

/* For a draw of so many bytes. Now and then it is what was slower, to learn whether that has changed. */
pace_draw pace_begin(pace *p, size_t bytes);
void pace_end(pace *p, const pace_draw *draw);

#endif

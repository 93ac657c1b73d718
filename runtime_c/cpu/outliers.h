/* outliers.h: what the int8 activations leave out. An int8 code is a fraction of its block's largest value, so a block loses most
 * where one value dwarfs the other 31; so a row's OUTLIERS largest values count as zero when it is quantised, and their products are
 * added in f32. What that gains and costs: docs/performance.md. Called by the ISA files' packing; k_outliers.h gives the products. */
#ifndef AK42_OUTLIERS_H
#define AK42_OUTLIERS_H

#include "kernels.h"

/* The OUTLIERS blocks whose largest magnitudes are largest, in falling order; start from all zeros. */
typedef struct outlier_blocks {
    uint32_t bits[OUTLIERS], block[OUTLIERS];
} outlier_blocks;

/* Blocks are noted in ascending order; bits are those of the largest magnitude in it, as an integer. */
static inline void outliers_note(outlier_blocks *found, uint32_t block, uint32_t bits) {
    uint32_t at = OUTLIERS;
    while (at > 0 && bits > found->bits[at - 1]) at--;
    for (uint32_t i = OUTLIERS - 1; i > at && at < OUTLIERS; i--) {
        found->bits[i] = found->bits[i - 1];
        found->block[i] = found->block[i - 1];
    }
    if (at < OUTLIERS) {
        found->bits[at] = bits;
        found->block[at] = block;
    }
}

/* The outliers of a row of which all blocks were noted, columns ascending: the largest magnitudes, compared as integers (so a NaN is
 * the largest), ties going to the lowest column. Where fewer differ from zero, zeros at column 0 come first. */
void outliers_choose(outlier *list, const outlier_blocks *found, const float *x, uint32_t columns);

/* A block as it is to be quantised: ACT_BLOCK values, with zeros in place of outliers and past the row's end. */
void outliers_block(float *values, const outlier *list, uint32_t block, const float *x, uint32_t columns);

#endif

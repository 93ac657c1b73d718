/* outliers.h: the few largest activations of a row, kept exact. Blocks of int8 activations lose most where one value dwarfs the other 31 of
 * its block; so before a row is quantised its OUTLIERS largest values are taken out, and their products are added in f32. What that gains
 * and costs: docs/performance.md. Called by cpu_matmul.c; k_*.c give the products. */
#ifndef AK42_OUTLIERS_H
#define AK42_OUTLIERS_H

#include "kernels.h"

/* Copies a row of n values to out without its OUTLIERS largest, which go to list in ascending order of column; where fewer values
 * differ from zero the list is filled with zeros at column 0. Ties: the lowest column. */
void outliers_take(outlier *list, float *out, const float *x, uint32_t n);

#endif

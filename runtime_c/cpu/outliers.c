/* outliers.c: choosing a row's largest activations. Plain C that compilers vectorise; the same choice on every ISA. */
#include "outliers.h"

#include <math.h>

enum { LANES = 16 };

static uint32_t smallest(const outlier *list) {
    uint32_t at = 0;
    for (uint32_t i = 1; i < OUTLIERS; i++)
        if (fabsf(list[i].value) < fabsf(list[at].value)) at = i;
    return at;
}

/* A value that no more than OUTLIERS - 1 values of the row exceed for sure: of LANES different values, each the largest of its lane, the
 * OUTLIERS-th. */
static float lower_bound(const float *x, uint32_t n) {
    float lanes[LANES] = {0};
    for (uint32_t i = 0; i + LANES <= n; i += LANES)
        for (uint32_t j = 0; j < LANES; j++) {
            const float a = fabsf(x[i + j]);
            lanes[j] = a > lanes[j] ? a : lanes[j];
        }
    float bound = 0;
    for (uint32_t rank = 0; rank < OUTLIERS; rank++) {
        uint32_t at = 0;
        for (uint32_t j = 1; j < LANES; j++)
            if (lanes[j] > lanes[at]) at = j;
        bound = lanes[at];
        lanes[at] = 0;
    }
    return bound;
}

static void consider(outlier *list, uint32_t column, float value) {
    const uint32_t at = smallest(list);
    if (fabsf(value) > fabsf(list[at].value)) list[at] = (outlier){column, value};
}

void outliers_take(outlier *list, float *out, const float *x, uint32_t n) {
    const float bound = lower_bound(x, n);
    for (uint32_t i = 0; i < OUTLIERS; i++) list[i] = (outlier){0, 0};
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        uint32_t any = 0;
        for (uint32_t j = 0; j < LANES; j++) {
            any |= (uint32_t)(fabsf(x[i + j]) >= bound);
            out[i + j] = x[i + j];
        }
        if (!any) continue;
        for (uint32_t j = 0; j < LANES; j++)
            if (fabsf(x[i + j]) >= bound) consider(list, i + j, x[i + j]);
    }
    for (; i < n; i++) {
        out[i] = x[i];
        consider(list, i, x[i]);
    }
    for (i = 0; i < OUTLIERS; i++) {
        for (uint32_t j = i; j > 0 && list[j].column < list[j - 1].column; j--) {
            const outlier swap = list[j];
            list[j] = list[j - 1];
            list[j - 1] = swap;
        }
    }
    for (i = 0; i < OUTLIERS; i++)
        if (list[i].value != 0) out[list[i].column] = 0;
}

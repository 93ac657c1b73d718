/* outliers.c: choosing a row's largest activations, the same on every ISA. Plain C: it looks at a few blocks of a row only. */
#include "outliers.h"

static uint32_t magnitude(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x7fffffffu;
}

/* The list in falling order of magnitude. */
static void consider(outlier *list, uint32_t column, float value) {
    uint32_t at = OUTLIERS;
    while (at > 0 && magnitude(value) > magnitude(list[at - 1].value)) at--;
    if (at == OUTLIERS) return;
    for (uint32_t i = OUTLIERS - 1; i > at; i--) list[i] = list[i - 1];
    list[at] = (outlier){column, value};
}

/* Empty places first. */
static bool precedes(outlier a, outlier b) { return b.value != 0 && (a.value == 0 || a.column < b.column); }

static void sort_by_column(outlier *list) {
    for (uint32_t i = 1; i < OUTLIERS; i++)
        for (uint32_t j = i; j > 0 && precedes(list[j], list[j - 1]); j--) {
            const outlier swap = list[j];
            list[j] = list[j - 1];
            list[j - 1] = swap;
        }
}

void outliers_choose(outlier *list, const outlier_blocks *found, const float *x, uint32_t columns) {
    uint32_t blocks[OUTLIERS], n = 0;
    for (uint32_t i = 0; i < OUTLIERS; i++) {
        list[i] = (outlier){0, 0};
        if (!found->bits[i]) continue;
        uint32_t at = n++;
        for (; at > 0 && blocks[at - 1] > found->block[i]; at--) blocks[at] = blocks[at - 1];
        blocks[at] = found->block[i];
    }
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t begin = blocks[i] * ACT_BLOCK, end = begin + ACT_BLOCK < columns ? begin + ACT_BLOCK : columns;
        for (uint32_t column = begin; column < end; column++) consider(list, column, x[column]);
    }
    sort_by_column(list);
}

void outliers_block(float *values, const outlier *list, uint32_t block, const float *x, uint32_t columns) {
    const uint32_t begin = block * ACT_BLOCK;
    for (uint32_t i = 0; i < ACT_BLOCK; i++) values[i] = begin + i < columns ? x[begin + i] : 0.0f;
    for (uint32_t i = 0; i < OUTLIERS; i++)
        if (list[i].column / ACT_BLOCK == block && list[i].value != 0) values[list[i].column - begin] = 0;
}

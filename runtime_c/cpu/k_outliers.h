/* k_outliers.h: the products of a row's outliers with panels of each int8-activated type. Included by the ISA files, which name the
 * functions, their target, and a function (float *out, const uint8_t *in) that widens 16 halves: OUTLIERS_NAME(type), OUTLIERS_TARGET,
 * OUTLIERS_HALVES. Plain C over 16 lanes, which compilers vectorise for the target. The order for an output: outliers ascending, one sum, one add. */
#include "../core/base.h"

/* 16 rows of column k of a panel as f32, before the block's scale: quants of 4 columns lie together, as bytes. */
OUTLIERS_TARGET static inline void OUTLIERS_NAME(bytes)(float *w, const uint8_t *quants, uint32_t k, float offset) {
    const uint32_t shift = k % 4 * 8;
    for (uint32_t r = 0; r < PANEL_ROWS; r++) {
        uint32_t word;
        memcpy(&word, quants + k / 4 * 64 + r * 4, sizeof word);
        w[r] = (float)(int32_t)(word >> shift & 255u) - offset;
    }
}

/* The same for nibbles: k-group j in the low ones, k-group j + 8 in the high ones. */
OUTLIERS_TARGET static inline void OUTLIERS_NAME(nibbles)(float *w, const uint8_t *quants, uint32_t k, float offset) {
    const uint32_t shift = k % 4 * 8 + (k >= 32 ? 4 : 0);
    for (uint32_t r = 0; r < PANEL_ROWS; r++) {
        uint32_t word;
        memcpy(&word, quants + k / 4 % 8 * 64 + r * 4, sizeof word);
        w[r] = (float)(int32_t)(word >> shift & 15u) - offset;
    }
}

enum { OUTLIERS_NAME(Q8_0_BYTES) = 1088, OUTLIERS_NAME(Q4_0_BYTES) = 576, OUTLIERS_NAME(Q4_1_BYTES) = 640 };

#define OUTLIERS_KERNEL(type, weights_of_column) \
    OUTLIERS_TARGET static void OUTLIERS_NAME(type)(const outliers_args *a) { \
        for (uint32_t panel = 0; panel < a->n_panels; panel++) \
            for (uint32_t t = 0; t < a->n_tokens; t++) { \
                float sum[PANEL_ROWS] = {0}, w[PANEL_ROWS], scale[PANEL_ROWS], least[PANEL_ROWS] = {0}; \
                (void)least; \
                for (uint32_t i = 0; i < OUTLIERS; i++) { \
                    const outlier o = a->lists[t * OUTLIERS + i]; \
                    const uint32_t k = o.column % SUPER_K; \
                    const uint8_t *p = a->panels + panel * a->panel_bytes; \
                    weights_of_column \
                    for (uint32_t r = 0; r < PANEL_ROWS; r++) sum[r] += (w[r] * scale[r] + least[r]) * o.value; \
                } \
                float *out = a->out + t * a->ldo + panel * PANEL_ROWS; \
                for (uint32_t r = 0; r < PANEL_ROWS; r++) out[r] += sum[r]; \
            } \
    }

OUTLIERS_KERNEL(q8_0, {
    p += o.column / SUPER_K * OUTLIERS_NAME(Q8_0_BYTES);
    OUTLIERS_HALVES(scale, p + k / 32 * 32);
    OUTLIERS_NAME(bytes)(w, p + 64, k, 128.0f);
})

OUTLIERS_KERNEL(int8, {
    const uint32_t scales = SUPER_K / a->group_size * 64;
    p += o.column / SUPER_K * (scales + 1024);
    memcpy(scale, p + k / a->group_size * 64, sizeof scale);
    OUTLIERS_NAME(bytes)(w, p + scales, k, 128.0f);
})

OUTLIERS_KERNEL(q4_0, {
    p += o.column / SUPER_K * OUTLIERS_NAME(Q4_0_BYTES);
    OUTLIERS_HALVES(scale, p + k / 32 * 32);
    OUTLIERS_NAME(nibbles)(w, p + 64, k, 8.0f);
})

OUTLIERS_KERNEL(q4_1, {
    p += o.column / SUPER_K * OUTLIERS_NAME(Q4_1_BYTES);
    OUTLIERS_HALVES(scale, p + k / 32 * 32);
    OUTLIERS_HALVES(least, p + 64 + k / 32 * 32);
    OUTLIERS_NAME(nibbles)(w, p + 128, k, 0.0f);
})

/* Sets the slots of the types whose activations are int8. */
static void OUTLIERS_NAME(fill)(kernel_table *table) {
    table->outliers[KERNEL_Q8_0] = OUTLIERS_NAME(q8_0);
    table->outliers[KERNEL_INT8] = OUTLIERS_NAME(int8);
    table->outliers[KERNEL_Q4_0] = OUTLIERS_NAME(q4_0);
    table->outliers[KERNEL_Q4_1] = OUTLIERS_NAME(q4_1);
}

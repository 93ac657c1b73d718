/* k_blocks_plain.c: matrix products on the types of core/blocks.h in plain C: exact ones for the ISA "reference", and those on int8
 * activations that define what the fast kernels compute. What the bytes mean it asks core/panel.h and core/blocks.h. Never tuned. */
#include "../core/blocks.h"
#include "../core/panel.h"
#include "../core/panel_words.h"
#include "k_plain.h"

/* ---- reference: weights as f32 ---- */

static void multiply_exact(const gemm_args *a, const type_info *type) {
    for (uint32_t panel = 0; panel < a->n_panels; panel++) {
        const uint8_t *super = a->panels + panel * a->panel_bytes;
        float sum[TILE_TOKENS_MAX][PANEL_ROWS] = {{0}};
        for (uint32_t t = 0; t < a->n_tokens && a->start; t++)
            memcpy(sum[t], a->start + t * a->ld_start + panel * PANEL_ROWS, sizeof sum[t]);
        for (uint32_t k = 0; k < a->n_super * SUPER_K; k += type->super_columns, super += type->super_bytes) {
            float w[PANEL_ROWS][SUPER_K_MAX];
            for (uint32_t r = 0; r < PANEL_ROWS; r++) panel_row(type, 0, w[r], super, r, type->super_columns);
            for (uint32_t i = 0; i < type->super_columns && k + i < a->n_super * SUPER_K; i++)
                for (uint32_t t = 0; t < a->n_tokens; t++) {
                    const float x = load_f32(a->act + ((size_t)(k + i) * a->n_tokens + t) * 4);
                    for (uint32_t r = 0; r < PANEL_ROWS; r++) sum[t][r] += w[r][i] * x;
                }
        }
        for (uint32_t t = 0; t < a->n_tokens; t++) {
            float *out = a->out + t * a->ldo + panel * PANEL_ROWS;
            for (uint32_t r = 0; r < PANEL_ROWS; r++) out[r] = a->accumulate ? out[r] + sum[t][r] : sum[t][r];
        }
    }
}

/* ---- generic: int8 activations ---- */

/* One row's codes, scales and mins of a superblock. */
static void take_row(const type_info *type, block_parts parts[SUPER_K_MAX / ACT_BLOCK], const uint8_t *super, uint32_t r) {
    uint8_t blocks[SUPER_K_MAX];
    panel_words_take(type, blocks, super, r, type->super_columns);
    for (uint32_t i = 0; i < type->super_columns / type->block_len; i++)
        blocks_split(type, &parts[i], blocks + i * type->block_bytes);
}

/* sum += d * (sum over the groups of scale * integer dot + min * sum of q), for 32 columns from k of a block on. */
static float add_block(float sum, const block_parts *p, uint32_t k, const int8_t *q, float d) {
    float part = 0;
    for (uint32_t g = k / PARTS_GROUP; g < (k + ACT_BLOCK) / PARTS_GROUP; g++, q += PARTS_GROUP) {
        int32_t dot = 0, total = 0;
        for (uint32_t i = 0; i < PARTS_GROUP; i++) {
            dot += p->codes[g * PARTS_GROUP + i] * q[i];
            total += q[i];
        }
        part += p->scales[g] * (float)dot + p->mins[g] * (float)total;
    }
    return sum + part * d;
}

static void multiply(const gemm_args *a, const type_info *type) {
    for (uint32_t panel = 0; panel < a->n_panels; panel++)
        for (uint32_t r = 0; r < PANEL_ROWS; r++) {
            const uint8_t *super = a->panels + panel * a->panel_bytes, *act = a->act;
            float sum[TILE_TOKENS_MAX] = {0};
            for (uint32_t t = 0; t < a->n_tokens && a->start; t++) sum[t] = a->start[t * a->ld_start + panel * PANEL_ROWS + r];
            for (uint32_t k = 0; k < a->n_super * SUPER_K; k += type->super_columns, super += type->super_bytes) {
                block_parts parts[SUPER_K_MAX / ACT_BLOCK];
                take_row(type, parts, super, r);
                for (uint32_t i = 0; i < type->super_columns && k + i < a->n_super * SUPER_K; i += ACT_BLOCK) {
                    for (uint32_t t = 0; t < a->n_tokens; t++)
                        sum[t] = add_block(sum[t], &parts[i / type->block_len], i % type->block_len,
                                           (const int8_t *)act + t * ACT_BLOCK,
                                           load_f32(act + a->n_tokens * ACT_BLOCK + t * 4));
                    act += a->n_tokens * ACT_Q8_BLOCK_BYTES;
                }
            }
            for (uint32_t t = 0; t < a->n_tokens; t++) {
                float *out = a->out + t * a->ldo + panel * PANEL_ROWS + r;
                *out = a->accumulate ? *out + sum[t] : sum[t];
            }
        }
}

static void add_outliers(const outliers_args *a, const type_info *type) {
    for (uint32_t panel = 0; panel < a->n_panels; panel++)
        for (uint32_t t = 0; t < a->n_tokens; t++)
            for (uint32_t r = 0; r < PANEL_ROWS; r++) {
                float sum = 0;
                for (uint32_t i = 0; i < OUTLIERS; i++) {
                    const outlier o = a->lists[t * OUTLIERS + i];
                    const uint32_t k = o.column % type->super_columns, at = k % type->block_len;
                    block_parts parts[SUPER_K_MAX / ACT_BLOCK];
                    take_row(type, parts, a->panels + panel * a->panel_bytes + o.column / type->super_columns * type->super_bytes, r);
                    const block_parts *p = &parts[k / type->block_len];
                    sum += ((float)p->codes[at] * p->scales[at / PARTS_GROUP] + p->mins[at / PARTS_GROUP]) * o.value;
                }
                a->out[t * a->ldo + panel * PANEL_ROWS + r] += sum;
            }
}

/* ---- the table ---- */

#define BLOCKS_KERNELS(name, id)                                                               \
    static void exact_##name(const gemm_args *a) { multiply_exact(a, type_by_id(id)); }        \
    static void gemm_##name(const gemm_args *a) { multiply(a, type_by_id(id)); }               \
    static void outliers_##name(const outliers_args *a) { add_outliers(a, type_by_id(id)); }
BLOCKS_KERNELS(q5_0, TYPE_Q5_0)
BLOCKS_KERNELS(q5_1, TYPE_Q5_1)
BLOCKS_KERNELS(q2_k, TYPE_Q2_K)
BLOCKS_KERNELS(q3_k, TYPE_Q3_K)
BLOCKS_KERNELS(q4_k, TYPE_Q4_K)
BLOCKS_KERNELS(q5_k, TYPE_Q5_K)
BLOCKS_KERNELS(q6_k, TYPE_Q6_K)
BLOCKS_KERNELS(iq4_nl, TYPE_IQ4_NL)
BLOCKS_KERNELS(iq4_xs, TYPE_IQ4_XS)
BLOCKS_KERNELS(mxfp4, TYPE_MXFP4)
BLOCKS_KERNELS(nf4, TYPE_NF4)

static const struct blocks_row {
    uint32_t row;
    kernel_gemm *exact, *gemm;
    kernel_outliers *outliers;
} rows[] = {
    {KERNEL_Q5_0, exact_q5_0, gemm_q5_0, outliers_q5_0},         {KERNEL_Q5_1, exact_q5_1, gemm_q5_1, outliers_q5_1},
    {KERNEL_Q2_K, exact_q2_k, gemm_q2_k, outliers_q2_k},         {KERNEL_Q3_K, exact_q3_k, gemm_q3_k, outliers_q3_k},
    {KERNEL_Q4_K, exact_q4_k, gemm_q4_k, outliers_q4_k},         {KERNEL_Q5_K, exact_q5_k, gemm_q5_k, outliers_q5_k},
    {KERNEL_Q6_K, exact_q6_k, gemm_q6_k, outliers_q6_k},         {KERNEL_IQ4_NL, exact_iq4_nl, gemm_iq4_nl, outliers_iq4_nl},
    {KERNEL_IQ4_XS, exact_iq4_xs, gemm_iq4_xs, outliers_iq4_xs}, {KERNEL_MXFP4, exact_mxfp4, gemm_mxfp4, outliers_mxfp4},
    {KERNEL_NF4, exact_nf4, gemm_nf4, outliers_nf4},
};

void blocks_fill_reference(kernel_table *table) {
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        table->types[rows[i].row] = (type_kernels){.act = ACT_F32, .nr = TILE_TOKENS_MAX, .gemm = rows[i].exact};
}

void blocks_fill_generic(kernel_table *table) {
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        table->types[rows[i].row] = (type_kernels){.act = ACT_Q8, .nr = TILE_TOKENS_MAX, .gemm = rows[i].gemm};
        table->outliers[rows[i].row] = rows[i].outliers;
    }
}

/* k_reference.c: matrix products in plain C with exact f32 activations and weights dequantised to f32, for
 * every weight type: the yardstick for what quantised activations cost. It does no attention and no vector
 * steps (k_generic.c) and is never tuned. kernels.c puts it in the table for the ISA "reference". */
#include "k_plain.h"

/* Writes one superblock as f32, w[k][row]. */
typedef void decode_fn(float (*w)[PANEL_ROWS], const uint8_t *super, uint32_t group_size);

static void decode_f32(float (*w)[PANEL_ROWS], const uint8_t *super, uint32_t group_size) {
    (void)group_size;
    for (uint32_t k = 0; k < SUPER_K; k++)
        for (uint32_t r = 0; r < PANEL_ROWS; r++) w[k][r] = load_f32(super + (k * PANEL_ROWS + r) * 4);
}

static void decode_f16(float (*w)[PANEL_ROWS], const uint8_t *super, uint32_t group_size) {
    (void)group_size;
    for (uint32_t k = 0; k < SUPER_K; k++)
        for (uint32_t r = 0; r < PANEL_ROWS; r++)
            w[k][r] = f16_to_f32(load_u16(super + ((k / 2 * PANEL_ROWS + r) * 2 + k % 2) * 2));
}

static void decode_bf16(float (*w)[PANEL_ROWS], const uint8_t *super, uint32_t group_size) {
    (void)group_size;
    for (uint32_t k = 0; k < SUPER_K; k++)
        for (uint32_t r = 0; r < PANEL_ROWS; r++)
            w[k][r] = bf16_to_f32(load_u16(super + ((k / 2 * PANEL_ROWS + r) * 2 + k % 2) * 2));
}

/* 8-bit quants: k-groups of 4, 16 rows x 4 k of u8 = q + 128 each. */
static int32_t quant8(const uint8_t *quants, uint32_t k, uint32_t r) {
    return (int32_t)quants[(k / 4 * PANEL_ROWS + r) * 4 + k % 4] - 128;
}
/* 4-bit quants: k 0..31 in the low nibbles, k 32..63 in the high ones. */
static int32_t quant4(const uint8_t *quants, uint32_t k, uint32_t r) {
    uint8_t byte = quants[(k % 32 / 4 * PANEL_ROWS + r) * 4 + k % 4];
    return k < 32 ? byte & 15 : byte >> 4;
}

static void load_f16_row(float *row, const uint8_t *p) {
    for (uint32_t r = 0; r < PANEL_ROWS; r++) row[r] = f16_to_f32(load_u16(p + r * 2));
}

static void decode_q8_0(float (*w)[PANEL_ROWS], const uint8_t *super, uint32_t group_size) {
    float d[PANEL_ROWS];
    (void)group_size;
    for (uint32_t k = 0; k < SUPER_K; k++) {
        if (k % 32 == 0) load_f16_row(d, super + k / 32 * PANEL_ROWS * 2);
        for (uint32_t r = 0; r < PANEL_ROWS; r++) w[k][r] = d[r] * (float)quant8(super + 64, k, r);
    }
}

static void decode_int8(float (*w)[PANEL_ROWS], const uint8_t *super, uint32_t group_size) {
    const uint8_t *quants = super + SUPER_K / group_size * PANEL_ROWS * 4;
    for (uint32_t k = 0; k < SUPER_K; k++)
        for (uint32_t r = 0; r < PANEL_ROWS; r++)
            w[k][r] = load_f32(super + (k / group_size * PANEL_ROWS + r) * 4) * (float)quant8(quants, k, r);
}

static void decode_q4_0(float (*w)[PANEL_ROWS], const uint8_t *super, uint32_t group_size) {
    float d[PANEL_ROWS];
    (void)group_size;
    for (uint32_t k = 0; k < SUPER_K; k++) {
        if (k % 32 == 0) load_f16_row(d, super + k / 32 * PANEL_ROWS * 2);
        for (uint32_t r = 0; r < PANEL_ROWS; r++) w[k][r] = d[r] * (float)(quant4(super + 64, k, r) - 8);
    }
}

static void decode_q4_1(float (*w)[PANEL_ROWS], const uint8_t *super, uint32_t group_size) {
    float d[PANEL_ROWS], m[PANEL_ROWS];
    (void)group_size;
    for (uint32_t k = 0; k < SUPER_K; k++) {
        if (k % 32 == 0) load_f16_row(d, super + k / 32 * PANEL_ROWS * 2);
        if (k % 32 == 0) load_f16_row(m, super + 64 + k / 32 * PANEL_ROWS * 2);
        for (uint32_t r = 0; r < PANEL_ROWS; r++) w[k][r] = d[r] * (float)quant4(super + 128, k, r) + m[r];
    }
}

/* sum[r] += w[r] * x[t], for one k. */
static void add_products(float (*sum)[TILE_TOKENS_MAX], const float *w, const float *x, uint32_t n_tokens) {
    for (uint32_t r = 0; r < PANEL_ROWS; r++)
        for (uint32_t t = 0; t < n_tokens; t++) sum[r][t] += w[r] * x[t];
}

/* y = W x, one superblock of one panel at a time. */
static void gemm(const gemm_args *args, decode_fn *decode) {
    const size_t k_bytes = args->n_tokens * sizeof(float);
    for (uint32_t panel = 0; panel < args->n_panels; panel++) {
        float sum[PANEL_ROWS][TILE_TOKENS_MAX] = {{0}};
        for (uint32_t t = 0; t < args->n_tokens && args->start; t++)
            for (uint32_t r = 0; r < PANEL_ROWS; r++)
                sum[r][t] = args->start[t * args->ld_start + panel * PANEL_ROWS + r];
        for (uint32_t super = 0; super < args->n_super; super++) {
            float w[SUPER_K][PANEL_ROWS], x[TILE_TOKENS_MAX];
            decode(w, args->panels + panel * args->panel_bytes + (size_t)super * args->super_bytes, args->group_size);
            for (uint32_t k = 0; k < SUPER_K; k++) {
                memcpy(x, args->act + ((size_t)super * SUPER_K + k) * k_bytes, k_bytes);
                add_products(sum, w[k], x, args->n_tokens);
            }
        }
        for (uint32_t t = 0; t < args->n_tokens; t++) {
            float *out = args->out + t * args->ldo + panel * PANEL_ROWS;
            for (uint32_t r = 0; r < PANEL_ROWS; r++)
                out[r] = args->accumulate ? out[r] + sum[r][t] : sum[r][t];
        }
    }
}

void plain_gemm_f32(const gemm_args *args) { gemm(args, decode_f32); }
void plain_gemm_f16(const gemm_args *args) { gemm(args, decode_f16); }
void plain_gemm_bf16(const gemm_args *args) { gemm(args, decode_bf16); }
static void gemm_q8_0(const gemm_args *args) { gemm(args, decode_q8_0); }
static void gemm_int8(const gemm_args *args) { gemm(args, decode_int8); }
static void gemm_q4_0(const gemm_args *args) { gemm(args, decode_q4_0); }
static void gemm_q4_1(const gemm_args *args) { gemm(args, decode_q4_1); }

void kernels_fill_reference(kernel_table *table) {
    kernel_gemm *const gemms[KERNEL_Q4_1 + 1] = {
        [KERNEL_F32] = plain_gemm_f32, [KERNEL_F16] = plain_gemm_f16, [KERNEL_BF16] = plain_gemm_bf16,
        [KERNEL_Q8_0] = gemm_q8_0, [KERNEL_INT8] = gemm_int8,
        [KERNEL_Q4_0] = gemm_q4_0, [KERNEL_Q4_1] = gemm_q4_1,
    };
    for (uint32_t i = 0; i <= KERNEL_Q4_1; i++)
        table->types[i] = (type_kernels){.act = ACT_F32, .nr = TILE_TOKENS_MAX, .gemm = gemms[i]};
    blocks_fill_reference(table);
}

/* k_generic.c: every kernel as the simplest loop in plain C: the definition that each ISA file is checked
 * against. Never tuned. It knows no threads and no dispatch; kernels.c starts every table from it. */
#include "k_plain.h"

#include <math.h>

#include "../core/config.h"
#include "outliers.h"

/* ---- matrices ---- */

/* A superblock of quantised weights, taken apart: weight[k][r] = codes[k][r] * scales[k / group][r] +
 * mins[k / 32][r]. */
typedef struct quant_super {
    int8_t codes[SUPER_K][PANEL_ROWS];
    /* 4, 8, 16 or 32: weights that share a scale, within one activation block */
    uint32_t group;
    float scales[SUPER_K / 4][PANEL_ROWS];
    float mins[SUPER_K / ACT_BLOCK][PANEL_ROWS];
} quant_super;

typedef void split_fn(quant_super *super, const uint8_t *bytes, uint32_t group_size);

static float load_f16(const uint8_t *p) { return f16_to_f32(load_u16(p)); }

static void split_codes8(quant_super *super, const uint8_t *quants) {
    for (uint32_t k = 0; k < SUPER_K; k++)
        for (uint32_t r = 0; r < PANEL_ROWS; r++)
            super->codes[k][r] = (int8_t)(quants[(k / 4 * PANEL_ROWS + r) * 4 + k % 4] - 128);
}

static void split_codes4(quant_super *super, const uint8_t *quants, int32_t zero) {
    for (uint32_t k = 0; k < SUPER_K; k++)
        for (uint32_t r = 0; r < PANEL_ROWS; r++) {
            uint8_t byte = quants[(k % 32 / 4 * PANEL_ROWS + r) * 4 + k % 4];
            super->codes[k][r] = (int8_t)((k < 32 ? byte & 15 : byte >> 4) - zero);
        }
}

static void split_q8_0(quant_super *super, const uint8_t *bytes, uint32_t group_size) {
    (void)group_size;
    super->group = 32;
    for (uint32_t i = 0; i < 32; i++) super->scales[i / 16][i % 16] = load_f16(bytes + i * 2);
    split_codes8(super, bytes + 64);
}

static void split_int8(quant_super *super, const uint8_t *bytes, uint32_t group_size) {
    super->group = group_size < 32 ? group_size : 32;
    for (uint32_t g = 0; g < SUPER_K / super->group; g++)
        for (uint32_t r = 0; r < PANEL_ROWS; r++)
            super->scales[g][r] = load_f32(bytes + (g * super->group / group_size * PANEL_ROWS + r) * 4);
    split_codes8(super, bytes + SUPER_K / group_size * PANEL_ROWS * 4);
}

static void split_q4_0(quant_super *super, const uint8_t *bytes, uint32_t group_size) {
    (void)group_size;
    super->group = 32;
    for (uint32_t i = 0; i < 32; i++) super->scales[i / 16][i % 16] = load_f16(bytes + i * 2);
    split_codes4(super, bytes + 64, 8);
}

static void split_q4_1(quant_super *super, const uint8_t *bytes, uint32_t group_size) {
    (void)group_size;
    super->group = 32;
    for (uint32_t i = 0; i < 32; i++) {
        super->scales[i / 16][i % 16] = load_f16(bytes + i * 2);
        super->mins[i / 16][i % 16] = load_f16(bytes + 64 + i * 2);
    }
    split_codes4(super, bytes + 128, 0);
}

/* One activation block of one token against 16 rows: sum += d * (sum over groups of scale * integer dot +
 * min * sum of q). */
static void dot_block(float *sum, const quant_super *super, uint32_t block, const int8_t *q, float d,
                      int32_t q_sum) {
    float part[PANEL_ROWS];
    for (uint32_t r = 0; r < PANEL_ROWS; r++) part[r] = super->mins[block][r] * (float)q_sum;
    for (uint32_t k = 0; k < ACT_BLOCK; k += super->group) {
        const float *scales = super->scales[(block * ACT_BLOCK + k) / super->group];
        int32_t dot[PANEL_ROWS] = {0};
        for (uint32_t i = k; i < k + super->group; i++)
            for (uint32_t r = 0; r < PANEL_ROWS; r++) dot[r] += super->codes[block * ACT_BLOCK + i][r] * q[i];
        for (uint32_t r = 0; r < PANEL_ROWS; r++) part[r] += scales[r] * (float)dot[r];
    }
    for (uint32_t r = 0; r < PANEL_ROWS; r++) sum[r] += part[r] * d;
}

static void gemm_quantised(const gemm_args *args, split_fn *split) {
    uint32_t n = args->n_tokens;
    for (uint32_t panel = 0; panel < args->n_panels; panel++) {
        float sum[TILE_TOKENS_MAX][PANEL_ROWS] = {{0}};
        for (uint32_t t = 0; t < n && args->start; t++)
            memcpy(sum[t], args->start + t * args->ld_start + panel * PANEL_ROWS, sizeof sum[t]);
        for (uint32_t i = 0; i < args->n_super; i++) {
            quant_super super = {.mins = {{0}}};
            split(&super, args->panels + panel * args->panel_bytes + (size_t)i * args->super_bytes, args->group_size);
            for (uint32_t block = 0; block < SUPER_K / ACT_BLOCK; block++) {
                const uint8_t *act = args->act + ((size_t)i * 2 + block) * n * ACT_Q8_BLOCK_BYTES;
                for (uint32_t t = 0; t < n; t++)
                    dot_block(sum[t], &super, block, (const int8_t *)act + t * ACT_BLOCK,
                              load_f32(act + n * ACT_BLOCK + t * 4),
                              load_i32(act + n * (ACT_BLOCK + 4) + t * 4));
            }
        }
        for (uint32_t t = 0; t < n; t++) {
            float *out = args->out + t * args->ldo + panel * PANEL_ROWS;
            for (uint32_t r = 0; r < PANEL_ROWS; r++)
                out[r] = args->accumulate ? out[r] + sum[t][r] : sum[t][r];
        }
    }
}

static void gemm_q8_0(const gemm_args *args) { gemm_quantised(args, split_q8_0); }
static void gemm_int8(const gemm_args *args) { gemm_quantised(args, split_int8); }
static void gemm_q4_0(const gemm_args *args) { gemm_quantised(args, split_q4_0); }
static void gemm_q4_1(const gemm_args *args) { gemm_quantised(args, split_q4_1); }

/* ---- attention ---- */

/* Places in the cache, in elements. */
static size_t k_at_f32(uint32_t p, uint32_t d, uint32_t head_dim) {
    return ((size_t)(p / KV_BLOCK) * head_dim + d) * KV_BLOCK + p % KV_BLOCK;
}
static size_t k_at_16(uint32_t p, uint32_t d, uint32_t head_dim) {
    return (((size_t)(p / KV_BLOCK) * (head_dim / 2) + d / 2) * KV_BLOCK + p % KV_BLOCK) * 2 + d % 2;
}
static size_t k_at_int8(uint32_t p, uint32_t d, uint32_t head_dim) {
    return (((size_t)(p / KV_BLOCK) * ((head_dim + 3) / 4) + d / 4) * KV_BLOCK + p % KV_BLOCK) * 4 + d % 4;
}

static void store_f32(const kv_head *kv, uint32_t p, const float *k, const float *v, uint32_t head_dim) {
    for (uint32_t d = 0; d < head_dim; d++) {
        memcpy(kv->k + k_at_f32(p, d, head_dim) * 4, &k[d], 4);
        memcpy(kv->v + ((size_t)p * head_dim + d) * 4, &v[d], 4);
    }
}

static void store_f16(const kv_head *kv, uint32_t p, const float *k, const float *v, uint32_t head_dim) {
    for (uint32_t d = 0; d < head_dim; d++) {
        uint16_t k16 = f32_to_f16(k[d]), v16 = f32_to_f16(v[d]);
        memcpy(kv->k + k_at_16(p, d, head_dim) * 2, &k16, 2);
        memcpy(kv->v + ((size_t)p * head_dim + d) * 2, &v16, 2);
    }
}

static void store_bf16(const kv_head *kv, uint32_t p, const float *k, const float *v, uint32_t head_dim) {
    for (uint32_t d = 0; d < head_dim; d++) {
        uint16_t k16 = f32_to_bf16(k[d]), v16 = f32_to_bf16(v[d]);
        memcpy(kv->k + k_at_16(p, d, head_dim) * 2, &k16, 2);
        memcpy(kv->v + ((size_t)p * head_dim + d) * 2, &v16, 2);
    }
}

static void store_int8(const kv_head *kv, uint32_t p, const float *k, const float *v, uint32_t head_dim) {
    float inverse;
    kv->k_scale[p] = plain_quant_scale(&inverse, k, head_dim);
    for (uint32_t d = 0; d < round_up(head_dim, 4); d++)
        kv->k[k_at_int8(p, d, head_dim)] = (uint8_t)(128 + (d < head_dim ? plain_quant_code(k[d], inverse) : 0));
    kv->v_scale[p] = plain_quant_scale(&inverse, v, head_dim);
    for (uint32_t d = 0; d < head_dim; d++)
        kv->v[(size_t)p * head_dim + d] = (uint8_t)plain_quant_code(v[d], inverse);
}

/* One element of k or v at position p. */
typedef float element_fn(const kv_head *kv, uint32_t p, uint32_t d, uint32_t head_dim);

static float k_f32(const kv_head *kv, uint32_t p, uint32_t d, uint32_t head_dim) {
    return load_f32(kv->k + k_at_f32(p, d, head_dim) * 4);
}
static float v_f32(const kv_head *kv, uint32_t p, uint32_t d, uint32_t head_dim) {
    return load_f32(kv->v + ((size_t)p * head_dim + d) * 4);
}
static float k_f16(const kv_head *kv, uint32_t p, uint32_t d, uint32_t head_dim) {
    return load_f16(kv->k + k_at_16(p, d, head_dim) * 2);
}
static float v_f16(const kv_head *kv, uint32_t p, uint32_t d, uint32_t head_dim) {
    return load_f16(kv->v + ((size_t)p * head_dim + d) * 2);
}
static float k_bf16(const kv_head *kv, uint32_t p, uint32_t d, uint32_t head_dim) {
    return bf16_to_f32(load_u16(kv->k + k_at_16(p, d, head_dim) * 2));
}
static float v_bf16(const kv_head *kv, uint32_t p, uint32_t d, uint32_t head_dim) {
    return bf16_to_f32(load_u16(kv->v + ((size_t)p * head_dim + d) * 2));
}
static float k_int8(const kv_head *kv, uint32_t p, uint32_t d, uint32_t head_dim) {
    return kv->k_scale[p] * (float)(kv->k[k_at_int8(p, d, head_dim)] - 128);
}
static float v_int8(const kv_head *kv, uint32_t p, uint32_t d, uint32_t head_dim) {
    return kv->v_scale[p] * (float)(int8_t)kv->v[(size_t)p * head_dim + d];
}

/* One query row over positions [begin, end), all inside one chunk. */
static void attn_row(const attn_args *args, uint32_t row, uint32_t begin, uint32_t end, element_fn *k_at,
                     element_fn *v_at) {
    const float *q = args->q[row];
    float *o = args->o + (size_t)row * args->head_dim;
    float score[ATTN_CHUNK], max = -INFINITY, sum = 0.0f;
    for (uint32_t p = begin; p < end; p++) {
        float dot = 0.0f;
        for (uint32_t d = 0; d < args->head_dim; d++) dot += q[d] * k_at(args->kv, p, d, args->head_dim);
        if (args->softcap > 0.0f) dot = args->softcap * tanhf(dot / args->softcap);
        score[p - begin] = dot;
        if (dot > max) max = dot;
    }
    for (uint32_t d = 0; d < args->head_dim; d++) o[d] = 0.0f;
    for (uint32_t p = begin; p < end; p++) {
        float weight = expf(score[p - begin] - max);
        sum += weight;
        for (uint32_t d = 0; d < args->head_dim; d++) o[d] += weight * v_at(args->kv, p, d, args->head_dim);
    }
    args->m[row] = max;
    args->l[row] = sum;
}

static inline void attn(const attn_args *args, element_fn *k_at, element_fn *v_at) {
    for (uint32_t row = 0; row < args->n_rows; row++) {
        uint32_t begin = args->begin[row] > args->chunk ? args->begin[row] : args->chunk;
        uint32_t end = args->end[row] < args->chunk + ATTN_CHUNK ? args->end[row] : args->chunk + ATTN_CHUNK;
        attn_row(args, row, begin, end > begin ? end : begin, k_at, v_at);
    }
}

static void attn_f32(const attn_args *args) { attn(args, k_f32, v_f32); }
static void attn_f16(const attn_args *args) { attn(args, k_f16, v_f16); }
static void attn_bf16(const attn_args *args) { attn(args, k_bf16, v_bf16); }
static void attn_int8(const attn_args *args) { attn(args, k_int8, v_int8); }

/* With m' = max(m, m_chunk) every sum is brought to the same base: l' = l e^(m - m') + l_chunk e^(m_chunk
 * - m'), o alike. */
static void attn_merge(float *m, float *l, float *o, float m_chunk, float l_chunk, const float *o_chunk,
                       uint32_t head_dim) {
    if (m_chunk == -INFINITY) return;
    float m_new = *m > m_chunk ? *m : m_chunk, old = expf(*m - m_new), add = expf(m_chunk - m_new);
    *m = m_new;
    *l = *l * old + l_chunk * add;
    for (uint32_t d = 0; d < head_dim; d++) o[d] = o[d] * old + o_chunk[d] * add;
}

/* ---- vectors ---- */

static void rmsnorm(float *out, const float *x, const float *weight, uint32_t n, float eps) {
    double sum = 0.0;
    for (uint32_t i = 0; i < n; i++) sum += (double)x[i] * x[i];
    float factor = (float)(1.0 / sqrt(sum / n + eps));
    for (uint32_t i = 0; i < n; i++) out[i] = x[i] * factor * weight[i];
}

static void rope(float *x, const float *cosine, const float *sine, uint32_t n_heads, uint32_t head_dim,
                 uint32_t rotary_dim, uint32_t rope_layout) {
    bool interleaved = rope_layout == ROPE_LAYOUT_INTERLEAVED;
    uint32_t half = rotary_dim / 2;
    for (uint32_t h = 0; h < n_heads; h++)
        for (uint32_t i = 0; i < half; i++) {
            float *a = x + (size_t)h * head_dim + (interleaved ? 2 * i : i);
            float *b = a + (interleaved ? 1 : half);
            float real = *a * cosine[i] - *b * sine[i], imaginary = *a * sine[i] + *b * cosine[i];
            *a = real;
            *b = imaginary;
        }
}

static void silu_mul(float *out, const float *gate, const float *up, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) out[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

static void gelu_mul(float *out, const float *gate, const float *up, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) out[i] = 0.5f * gate[i] * (1.0f + erff(gate[i] * 0.70710678f)) * up[i];
}

/* 1.5957692 = 2 sqrt(2 / pi) */
static void gelu_tanh_mul(float *out, const float *gate, const float *up, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        float g = gate[i], inner = 1.5957692f * g * (1.0f + 0.044715f * g * g);
        out[i] = g / (1.0f + expf(-inner)) * up[i];
    }
}

static void cap(float *out, const float *x, float factor, float cap, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) out[i] = cap > 0.0f ? cap * tanhf(x[i] * factor / cap) : x[i] * factor;
}

static void scale(float *out, const float *x, float factor, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) out[i] = x[i] * factor;
}

static uint64_t read_sum(const uint8_t *data, size_t size, bool foreseen) {
    (void)foreseen;
    uint64_t sum = 0;
    for (size_t i = 0; i < size; i += 8) {
        uint64_t word;
        memcpy(&word, data + i, 8);
        sum += word;
    }
    return sum;
}

static void widen_halves(float *out, const uint8_t *in) {
    for (uint32_t r = 0; r < PANEL_ROWS; r++) out[r] = f16_to_f32(load_u16(in + 2 * r));
}

#define OUTLIERS_NAME(name) outliers_##name
#define OUTLIERS_TARGET
#define OUTLIERS_HALVES widen_halves
#include "k_outliers.h"

void kernels_fill_generic(kernel_table *table) {
    *table = (kernel_table){
        .isa = "generic",
        .kv_default = AK42_KV_TYPE_F32,
        .types = {
            [KERNEL_F32] = {.act = ACT_F32, .nr = TILE_TOKENS_MAX, .gemm = plain_gemm_f32},
            [KERNEL_F16] = {.act = ACT_F32, .nr = TILE_TOKENS_MAX, .gemm = plain_gemm_f16},
            [KERNEL_BF16] = {.act = ACT_F32, .nr = TILE_TOKENS_MAX, .gemm = plain_gemm_bf16},
            [KERNEL_Q8_0] = {.act = ACT_Q8, .nr = TILE_TOKENS_MAX, .gemm = gemm_q8_0},
            [KERNEL_INT8] = {.act = ACT_Q8, .nr = TILE_TOKENS_MAX, .gemm = gemm_int8},
            [KERNEL_Q4_0] = {.act = ACT_Q8, .nr = TILE_TOKENS_MAX, .gemm = gemm_q4_0},
            [KERNEL_Q4_1] = {.act = ACT_Q8, .nr = TILE_TOKENS_MAX, .gemm = gemm_q4_1},
        },
        .kv = {
            [AK42_KV_TYPE_F32] = {store_f32, attn_f32},
            [AK42_KV_TYPE_F16] = {store_f16, attn_f16},
            [AK42_KV_TYPE_BF16] = {store_bf16, attn_bf16},
            [AK42_KV_TYPE_INT8] = {store_int8, attn_int8},
        },
        .attn_merge = attn_merge,
        .rmsnorm = rmsnorm,
        .rope = rope,
        .silu_mul = silu_mul,
        .gelu_mul = gelu_mul,
        .gelu_tanh_mul = gelu_tanh_mul,
        .cap = cap,
        .scale = scale,
        .read = read_sum,
    };
    pack_fill_plain(table);
    outliers_fill(table);
    blocks_fill_generic(table);
    encode_fill_plain(table);
}

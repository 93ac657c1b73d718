/* k_neon_attn.c: the KV cache and attention for aarch64 with NEON. A block of up to 6 query rows walks a
 * chunk of positions twice: scores of 16 positions at a time from the key panels, then weighted values.
 * Between the two stands the softmax, row by row. */
#include "kernels.h"

#if defined(__aarch64__)

#include <math.h>

#include "k_neon.h"

typedef enum cache_form { CACHE_F32, CACHE_F16, CACHE_BF16, CACHE_INT8 } cache_form;

enum { ROWS = 6 };

/* ---- writing ---- */

static void store_f32(const kv_head *kv, uint32_t position, const float *k, const float *v,
                      uint32_t head_dim) {
    float *lane = (float *)(void *)kv->k + (size_t)(position / KV_BLOCK) * KV_BLOCK * head_dim +
                  position % KV_BLOCK;
    for (size_t d = 0; d < head_dim; d++) lane[d * KV_BLOCK] = k[d];
    memcpy(kv->v + (size_t)position * head_dim * 4, v, head_dim * sizeof(float));
}

/* To nearest even; NaN stays NaN. */
NEON_FN uint16x4_t to_bf16(float32x4_t v) {
    const uint32x4_t bits = vreinterpretq_u32_f32(v), high = vshrq_n_u32(bits, 16);
    const uint32x4_t up = vaddq_u32(vandq_u32(high, vdupq_n_u32(1)), vdupq_n_u32(0x7fff));
    const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(bits, up), 16);
    const uint32x4_t quiet = vorrq_u32(high, vdupq_n_u32(0x40));
    return vmovn_u32(vbslq_u32(vceqq_f32(v, v), rounded, quiet));
}

/* n <= 4 floats to halves. */
NEON_FN void to_halves(uint16_t out[4], const float *x, uint32_t n, cache_form form) {
    float padded[4] = { 0 };
    if (n < 4) {
        memcpy(padded, x, n * sizeof(float));
        x = padded;
    }
    const float32x4_t v = vld1q_f32(x);
    vst1_u16(out, form == CACHE_F16 ? vreinterpret_u16_f16(vcvt_f16_f32(v)) : to_bf16(v));
}

NEON_FN void store_half(const kv_head *kv, uint32_t position, const float *k, const float *v,
                        uint32_t head_dim, cache_form form) {
    uint8_t *lane = kv->k + (size_t)(position / KV_BLOCK) * KV_BLOCK * head_dim * 2 + position % KV_BLOCK * 4;
    uint8_t *row = kv->v + (size_t)position * head_dim * 2;
    for (uint32_t d = 0; d < head_dim; d += 4) {
        const uint32_t n = head_dim - d < 4 ? head_dim - d : 4;
        uint16_t halves[4];
        to_halves(halves, k + d, n, form);
        for (uint32_t i = 0; i < n; i += 2) memcpy(lane + (size_t)(d + i) / 2 * KV_BLOCK * 4, halves + i, 4);
        to_halves(halves, v + d, n, form);
        memcpy(row + d * 2, halves, n * 2);
    }
}

static void store_f16(const kv_head *kv, uint32_t position, const float *k, const float *v,
                      uint32_t head_dim) {
    store_half(kv, position, k, v, head_dim, CACHE_F16);
}
static void store_bf16(const kv_head *kv, uint32_t position, const float *k, const float *v,
                       uint32_t head_dim) {
    store_half(kv, position, k, v, head_dim, CACHE_BF16);
}

/* ---- scores ---- */

/* As neon_tile, for keys of u8 = q + 128 in words of 4; n_k is even. */
NEON_FN void int8_tile(float32x4_t *sum, const uint8_t *panels, size_t panel_bytes, uint32_t n_k,
                       const float *const *x, int np, int n) {
    float32x4_t acc[NEON_TILE_MAX];
    AK42_UNROLL for (int i = 0; i < np * n * 4; i++) acc[i] = vdupq_n_f32(0.0f);
    for (uint32_t k = 0; k < n_k; k += 4, panels += 64) {
        AK42_UNROLL for (int i = 0; i < np * 4; i++) {
            const uint8_t *p = panels + (size_t)(i / 4) * panel_bytes + i % 4 * 16;
            const uint8x16_t codes = veorq_u8(vld1q_u8(p), vdupq_n_u8(0x80));
            int32x4_t words = vreinterpretq_s32_u8(codes), each[4];
            each[0] = vshrq_n_s32(vshlq_n_s32(words, 24), 24);
            each[1] = vshrq_n_s32(vshlq_n_s32(words, 16), 24);
            each[2] = vshrq_n_s32(vshlq_n_s32(words, 8), 24);
            each[3] = vshrq_n_s32(words, 24);
            AK42_UNROLL for (int j = 0; j < 4; j++) {
                if (j == 2 && k + 2 == n_k) break;
                const float32x4_t w = vcvtq_f32_s32(each[j]);
                AK42_UNROLL for (int t = 0; t < n; t++) {
                    float32x4_t *s = &acc[(i / 4 * n + t) * 4 + i % 4];
                    *s = vfmaq_n_f32(*s, w, x[t][k + (uint32_t)j]);
                }
            }
        }
    }
    AK42_UNROLL for (int i = 0; i < np * n * 4; i++) sum[i] = acc[i];
}

/* A block of rows at work on a chunk. Positions count from the chunk's start. */
typedef struct rows {
    _Alignas(32) float score[ROWS][ATTN_CHUNK];        /* then weights */
    const float *q[ROWS];
    float *o[ROWS];
    uint32_t begin[ROWS], end[ROWS];                   /* begin < end */
    float k_scale[ATTN_CHUNK], v_scale[ATTN_CHUNK];    /* INT8: the cache's, where any row sees it, else 0 */
} rows;

static float32x4_t cap(float32x4_t s, float softcap) {
    float each[4];
    vst1q_f32(each, s);
    for (int i = 0; i < 4; i++) each[i] = softcap * tanhf(each[i] / softcap);
    return vld1q_f32(each);
}

/* 4 scores of positions from `at` on: scaled, capped, those that the row does not see at -infinity. */
NEON_FN float32x4_t finish_scores(float32x4_t s, const attn_args *args, const rows *r, int t, uint32_t at,
                                  cache_form form) {
    static const uint32_t LANES[4] = { 0, 1, 2, 3 };
    if (form == CACHE_INT8) s = vmulq_f32(s, vld1q_f32(r->k_scale + at));
    if (args->softcap > 0.0f) s = cap(s, args->softcap);
    const uint32x4_t position = vaddq_u32(vdupq_n_u32(at), vld1q_u32(LANES));
    const uint32x4_t seen = vandq_u32(vcgeq_u32(position, vdupq_n_u32(r->begin[t])),
                                      vcltq_u32(position, vdupq_n_u32(r->end[t])));
    return vbslq_f32(seen, s, vdupq_n_f32(-INFINITY));
}

/* Scores of n rows for np blocks of 16 positions from block `b` of the chunk on. */
NEON_FN void score_blocks(const attn_args *args, rows *r, uint32_t b, int np, int n, cache_form form) {
    const uint32_t head_dim = args->head_dim;
    const size_t block_bytes = form == CACHE_F32    ? (size_t)head_dim * KV_BLOCK * 4
                               : form == CACHE_INT8 ? round_up(head_dim, 4) * KV_BLOCK
                                                    : (size_t)head_dim * KV_BLOCK * 2;
    const uint8_t *k = args->kv->k + (args->chunk / KV_BLOCK + b) * block_bytes;
    float32x4_t sum[NEON_TILE_MAX];
    AK42_UNROLL for (int i = 0; i < np * n * 4; i++) sum[i] = vdupq_n_f32(0.0f);
    if (form == CACHE_INT8)
        int8_tile(sum, k, block_bytes, head_dim, r->q, np, n);
    else
        neon_tile(sum, k, block_bytes, head_dim, r->q, 1, np, n,
                  form == CACHE_F32 ? NEON_F32 : form == CACHE_F16 ? NEON_F16 : NEON_BF16);
    for (int i = 0; i < np * n * 4; i++) {
        const uint32_t at = (b + (uint32_t)(i / 4 / n)) * KV_BLOCK + (uint32_t)(i % 4) * 4;
        const int t = i / 4 % n;
        vst1q_f32(r->score[t] + at, finish_scores(sum[i], args, r, t, at, form));
    }
}

/* Scores to weights e^(score - m), over blocks [first, last); times v_scale, where there is one (one of
 * each position). */
static void softmax(float *m, float *l, float *score, uint32_t first, uint32_t last, const float *v_scale) {
    float32x4_t max = vdupq_n_f32(-INFINITY), sum = vdupq_n_f32(0.0f);
    for (uint32_t at = first * KV_BLOCK; at < last * KV_BLOCK; at += 4)
        max = vmaxq_f32(max, vld1q_f32(score + at));
    *m = vmaxvq_f32(max);
    for (uint32_t at = first * KV_BLOCK; at < last * KV_BLOCK; at += 4) {
        const float32x4_t s = vld1q_f32(score + at);
        const uint32x4_t hidden = vceqq_f32(s, vdupq_n_f32(-INFINITY));
        float32x4_t weight = vbslq_f32(hidden, vdupq_n_f32(0.0f), neon_exp(vsubq_f32(s, vdupq_n_f32(*m))));
        sum = vaddq_f32(sum, weight);
        if (v_scale) weight = vmulq_f32(weight, vld1q_f32(v_scale + at));
        vst1q_f32(score + at, weight);
    }
    *l = vaddvq_f32(sum);
}

/* ---- values ---- */

static const size_t VALUE_BYTES[] = { [CACHE_F32] = 4, [CACHE_F16] = 2, [CACHE_BF16] = 2, [CACHE_INT8] = 1 };

NEON_FN float32x4_t load_values(const uint8_t *v, cache_form form) {
    uint32_t codes;
    switch (form) {
        case CACHE_F32: return neon_load(v);
        case CACHE_F16: return neon_load_f16(v);
        case CACHE_BF16: return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(v)), 16));
        default:
            memcpy(&codes, v, 4);
            return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(codes))))));
    }
}
NEON_FN float load_value(const uint8_t *v, cache_form form) {
    switch (form) {
        case CACHE_F32: return load_f32(v);
        case CACHE_F16: return f16_to_f32(load_u16(v));
        case CACHE_BF16: return bf16_to_f32(load_u16(v));
        default: return (float)(int8_t)*v;
    }
}

/* o[t][d ..] += weight * v over positions [begin, end), for n rows from row t on and 4 * nd dimensions. */
NEON_FN void value_tile(const attn_args *args, rows *r, int t, uint32_t d, uint32_t begin, uint32_t end,
                        int nd, int n, cache_form form) {
    const size_t bytes = VALUE_BYTES[form], stride = args->head_dim * bytes;
    const uint8_t *v = args->kv->v + ((size_t)args->chunk + begin) * stride + d * bytes;
    float32x4_t acc[NEON_TILE_MAX];
    AK42_UNROLL for (int i = 0; i < nd * n; i++) acc[i] = vld1q_f32(r->o[t + i / nd] + d + i % nd * 4);
    for (uint32_t p = begin; p < end; p++, v += stride) {
        float32x4_t value[16];
        AK42_UNROLL for (int j = 0; j < nd; j++) value[j] = load_values(v + (size_t)j * 4 * bytes, form);
        AK42_UNROLL for (int i = 0; i < n; i++) {
            const float weight = r->score[t + i][p];
            AK42_UNROLL for (int j = 0; j < nd; j++)
                acc[i * nd + j] = vfmaq_n_f32(acc[i * nd + j], value[j], weight);
        }
    }
    AK42_UNROLL for (int i = 0; i < nd * n; i++) vst1q_f32(r->o[t + i / nd] + d + i % nd * 4, acc[i]);
}

/* All dimensions; nd groups of 4 at a time while they last. */
NEON_FN void value_rows(const attn_args *args, rows *r, int t, uint32_t begin, uint32_t end, int nd, int n,
                        cache_form form) {
    if (begin >= end) return;
    const size_t bytes = VALUE_BYTES[form], stride = args->head_dim * bytes;
    const uint8_t *v = args->kv->v + args->chunk * stride;
    uint32_t d = 0;
    for (; d + 4 * (uint32_t)nd <= args->head_dim; d += 4 * (uint32_t)nd)
        value_tile(args, r, t, d, begin, end, nd, n, form);
    for (; d + 4 <= args->head_dim; d += 4) value_tile(args, r, t, d, begin, end, 1, n, form);
    for (; d < args->head_dim; d++)
        for (int i = 0; i < n; i++)
            for (uint32_t p = begin; p < end; p++)
                r->o[t + i][d] = fmaf(r->score[t + i][p],
                                      load_value(v + (size_t)p * stride + d * bytes, form), r->o[t + i][d]);
}

/* One row by itself. */
static void value_row(const attn_args *args, rows *r, int t, uint32_t begin, uint32_t end, cache_form form) {
    switch (form) {
        case CACHE_F32: value_rows(args, r, t, begin, end, 8, 1, CACHE_F32); break;
        case CACHE_F16: value_rows(args, r, t, begin, end, 8, 1, CACHE_F16); break;
        case CACHE_BF16: value_rows(args, r, t, begin, end, 8, 1, CACHE_BF16); break;
        default: value_rows(args, r, t, begin, end, 8, 1, CACHE_INT8); break;
    }
}

/* The positions that all rows see are walked together, what single rows see before and after by
 * themselves, in order: no row meets a value that it does not see. */
NEON_FN void values(const attn_args *args, rows *r, int nd, int n, cache_form form) {
    uint32_t begin = r->begin[0], end = r->end[0];
    for (int t = 1; t < n; t++) {
        begin = r->begin[t] > begin ? r->begin[t] : begin;
        end = r->end[t] < end ? r->end[t] : end;
    }
    if (n == 1 || begin >= end) {
        for (int t = 0; t < n; t++) value_row(args, r, t, r->begin[t], r->end[t], form);
        return;
    }
    for (int t = 0; t < n; t++) value_row(args, r, t, r->begin[t], begin, form);
    value_rows(args, r, 0, begin, end, nd, n, form);
    for (int t = 0; t < n; t++) value_row(args, r, t, end, r->end[t], form);
}

/* ---- a chunk ---- */

/* The scales of the blocks [first, last); the cache need not go on past the last position that is seen. */
static void copy_scales(const attn_args *args, rows *r, int n, uint32_t first, uint32_t last) {
    uint32_t begin = first * KV_BLOCK, end = begin;
    for (int t = 0; t < n; t++) end = r->end[t] > end ? r->end[t] : end;
    memcpy(r->k_scale + begin, args->kv->k_scale + args->chunk + begin, (end - begin) * sizeof(float));
    memcpy(r->v_scale + begin, args->kv->v_scale + args->chunk + begin, (end - begin) * sizeof(float));
    memset(r->k_scale + end, 0, (last * KV_BLOCK - end) * sizeof(float));
    memset(r->v_scale + end, 0, (last * KV_BLOCK - end) * sizeof(float));
}

/* n rows, whose numbers are index[0 .. n-1]; np blocks of scores and nd groups of values go with n
 * accumulator rows. */
NEON_FN void attend(const attn_args *args, const uint32_t *index, int np, int nd, int n, cache_form form) {
    rows r;
    uint32_t first = ATTN_CHUNK / KV_BLOCK, last = 0;
    for (int t = 0; t < n; t++) {
        const uint32_t row = index[t];
        r.q[t] = args->q[row];
        r.o[t] = args->o + (size_t)row * args->head_dim;
        r.begin[t] = args->begin[row] > args->chunk ? args->begin[row] - args->chunk : 0;
        r.end[t] = args->end[row] - args->chunk < ATTN_CHUNK ? args->end[row] - args->chunk : ATTN_CHUNK;
        const uint32_t begin = r.begin[t] / KV_BLOCK, end = (r.end[t] + KV_BLOCK - 1) / KV_BLOCK;
        first = begin < first ? begin : first;
        last = end > last ? end : last;
    }
    if (form == CACHE_INT8) copy_scales(args, &r, n, first, last);
    uint32_t b = first;
    for (; b + (uint32_t)np <= last; b += (uint32_t)np) score_blocks(args, &r, b, np, n, form);
    for (; b < last; b++) score_blocks(args, &r, b, 1, n, form);
    for (int t = 0; t < n; t++)
        softmax(&args->m[index[t]], &args->l[index[t]], r.score[t], first, last,
                form == CACHE_INT8 ? r.v_scale : NULL);
    values(args, &r, nd, n, form);
}

NEON_FN void attn(const attn_args *args, cache_form form) {
    uint32_t index[ATTN_ROWS_MAX], n = 0;
    for (uint32_t row = 0; row < args->n_rows; row++) {
        const uint32_t begin = args->begin[row] > args->chunk ? args->begin[row] : args->chunk;
        const uint32_t limit = args->chunk + ATTN_CHUNK;
        const uint32_t end = args->end[row] < limit ? args->end[row] : limit;
        memset(args->o + (size_t)row * args->head_dim, 0, args->head_dim * sizeof(float));
        args->m[row] = -INFINITY;
        args->l[row] = 0.0f;
        if (begin < end) index[n++] = row;
    }
    for (uint32_t i = 0; i < n;) {
        switch (n - i) {
            case 1: attend(args, index + i, 4, 8, 1, form); i += 1; break;
            case 2: attend(args, index + i, 2, 4, 2, form); i += 2; break;
            case 3: attend(args, index + i, 2, 4, 3, form); i += 3; break;
            case 4:
            case 5: attend(args, index + i, 1, 4, 4, form); i += 4; break;
            default: attend(args, index + i, 1, 4, ROWS, form); i += ROWS;
        }
    }
}

static void attn_f32(const attn_args *args) { attn(args, CACHE_F32); }
static void attn_f16(const attn_args *args) { attn(args, CACHE_F16); }
static void attn_bf16(const attn_args *args) { attn(args, CACHE_BF16); }
static void attn_int8(const attn_args *args) { attn(args, CACHE_INT8); }

static void attn_merge(float *m, float *l, float *o, float m_chunk, float l_chunk, const float *o_chunk,
                       uint32_t head_dim) {
    if (m_chunk == -INFINITY) return;
    const float m_new = *m > m_chunk ? *m : m_chunk, old = expf(*m - m_new), add = expf(m_chunk - m_new);
    *m = m_new;
    *l = fmaf(*l, old, l_chunk * add);
    uint32_t d = 0;
    for (; d + 4 <= head_dim; d += 4)
        vst1q_f32(o + d, vfmaq_n_f32(vmulq_n_f32(vld1q_f32(o + d), old), vld1q_f32(o_chunk + d), add));
    for (; d < head_dim; d++) o[d] = fmaf(o_chunk[d], add, o[d] * old);
}

void neon_fill_attention(kernel_table *table) {
    table->kv[AK42_KV_TYPE_F32] = (kv_kernels){ store_f32, attn_f32 };
    table->kv[AK42_KV_TYPE_F16] = (kv_kernels){ store_f16, attn_f16 };
    table->kv[AK42_KV_TYPE_BF16] = (kv_kernels){ store_bf16, attn_bf16 };
    table->kv[AK42_KV_TYPE_INT8].attn = attn_int8;
    table->attn_merge = attn_merge;
}

#endif

/* k_avx2_attn.c: the KV cache and attention for x86-64 with AVX2. A block of up to 6 query rows walks a
 * chunk of positions twice: scores of 16 positions at a time from the key panels, then weighted values.
 * Between the two stands the softmax, row by row. */
#include "kernels.h"

#if defined(__x86_64__)

#include <math.h>

#include "k_avx2.h"

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

AVX2_FN __m128i to_f16(__m256 v) { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }

/* To nearest even; NaN stays NaN. */
AVX2_FN __m128i to_bf16(__m256 v) {
    const __m256i bits = _mm256_castps_si256(v), one = _mm256_set1_epi32(1);
    const __m256i up = _mm256_add_epi32(_mm256_and_si256(_mm256_srli_epi32(bits, 16), one),
                                        _mm256_set1_epi32(0x7fff));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, up), 16);
    const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i words = _mm256_blendv_epi8(rounded, quiet, nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

/* n <= 8 floats to halves. */
AVX2_FN void to_halves(uint16_t out[8], const float *x, uint32_t n, cache_form form) {
    float padded[8] = { 0 };
    if (n < 8) {
        memcpy(padded, x, n * sizeof(float));
        x = padded;
    }
    const __m256 v = _mm256_loadu_ps(x);
    _mm_storeu_si128((__m128i *)(void *)out, form == CACHE_F16 ? to_f16(v) : to_bf16(v));
}

AVX2_FN void store_half(const kv_head *kv, uint32_t position, const float *k, const float *v,
                        uint32_t head_dim, cache_form form) {
    uint8_t *lane = kv->k + (size_t)(position / KV_BLOCK) * KV_BLOCK * head_dim * 2 + position % KV_BLOCK * 4;
    uint8_t *row = kv->v + (size_t)position * head_dim * 2;
    for (uint32_t d = 0; d < head_dim; d += 8) {
        const uint32_t n = head_dim - d < 8 ? head_dim - d : 8;
        uint16_t halves[8];
        to_halves(halves, k + d, n, form);
        for (uint32_t i = 0; i < n; i += 2) memcpy(lane + (size_t)(d + i) / 2 * KV_BLOCK * 4, halves + i, 4);
        to_halves(halves, v + d, n, form);
        memcpy(row + d * 2, halves, n * 2);
    }
}

static AK42_TARGET(AVX2_TARGET) void store_f16(const kv_head *kv, uint32_t position, const float *k,
                                               const float *v, uint32_t head_dim) {
    store_half(kv, position, k, v, head_dim, CACHE_F16);
}
static AK42_TARGET(AVX2_TARGET) void store_bf16(const kv_head *kv, uint32_t position, const float *k,
                                                const float *v, uint32_t head_dim) {
    store_half(kv, position, k, v, head_dim, CACHE_BF16);
}

/* ---- scores ---- */

/* As avx2_tile, for keys of u8 = q + 128 in words of 4; n_k is even. */
AVX2_FN void int8_tile(__m256 *sum, const uint8_t *panels, size_t panel_bytes, uint32_t n_k,
                       const float *const *x, int np, int n) {
    __m256 acc[AVX2_TILE_MAX];
    AK42_UNROLL for (int i = 0; i < np * n * 2; i++) acc[i] = _mm256_setzero_ps();
    for (uint32_t k = 0; k < n_k; k += 4, panels += 64) {
        AK42_UNROLL for (int i = 0; i < np * 2; i++) {
            const uint8_t *p = panels + (size_t)(i / 2) * panel_bytes + i % 2 * 32;
            const __m256i codes = _mm256_xor_si256(avx2_load(p), _mm256_set1_epi8((char)0x80));
            AK42_UNROLL for (int j = 0; j < 4; j++) {
                if (j == 2 && k + 2 == n_k) break;
                const __m256i each = _mm256_srai_epi32(_mm256_slli_epi32(codes, 24 - 8 * j), 24);
                const __m256 w = _mm256_cvtepi32_ps(each);
                AK42_UNROLL for (int t = 0; t < n; t++) {
                    __m256 *s = &acc[(i / 2 * n + t) * 2 + i % 2];
                    *s = _mm256_fmadd_ps(w, _mm256_broadcast_ss(x[t] + k + j), *s);
                }
            }
        }
    }
    AK42_UNROLL for (int i = 0; i < np * n * 2; i++) sum[i] = acc[i];
}

/* A block of rows at work on a chunk. Positions count from the chunk's start. */
typedef struct rows {
    _Alignas(32) float score[ROWS][ATTN_CHUNK];        /* then weights */
    const float *q[ROWS];
    float *o[ROWS];
    uint32_t begin[ROWS], end[ROWS];                   /* begin < end */
} rows;

static AK42_TARGET(AVX2_TARGET) __m256 cap(__m256 s, float softcap) {
    float each[8];
    _mm256_storeu_ps(each, s);
    for (int i = 0; i < 8; i++) each[i] = softcap * tanhf(each[i] / softcap);
    return _mm256_loadu_ps(each);
}

/* 8 scores of positions from `at` on: scaled, capped, those that the row does not see at -infinity. */
AVX2_FN __m256 finish_scores(__m256 s, const attn_args *args, const rows *r, int t, uint32_t at,
                             cache_form form) {
    const __m256i position = _mm256_add_epi32(_mm256_set1_epi32((int32_t)at),
                                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    const __m256i before = _mm256_cmpgt_epi32(_mm256_set1_epi32((int32_t)r->begin[t]), position);
    const __m256i inside = _mm256_cmpgt_epi32(_mm256_set1_epi32((int32_t)r->end[t]), position);
    const __m256i seen = _mm256_andnot_si256(before, inside);
    if (form == CACHE_INT8)
        s = _mm256_mul_ps(s, _mm256_maskload_ps(args->kv->k_scale + args->chunk + at, seen));
    if (args->softcap > 0.0f) s = cap(s, args->softcap);
    return _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), s, _mm256_castsi256_ps(seen));
}

/* Scores of n rows for np blocks of 16 positions from block `b` of the chunk on. */
AVX2_FN void score_blocks(const attn_args *args, rows *r, uint32_t b, int np, int n, cache_form form) {
    const uint32_t head_dim = args->head_dim;
    const size_t block_bytes = form == CACHE_F32    ? (size_t)head_dim * KV_BLOCK * 4
                               : form == CACHE_INT8 ? round_up(head_dim, 4) * KV_BLOCK
                                                    : (size_t)head_dim * KV_BLOCK * 2;
    const uint8_t *k = args->kv->k + (args->chunk / KV_BLOCK + b) * block_bytes;
    __m256 sum[AVX2_TILE_MAX];
    AK42_UNROLL for (int i = 0; i < np * n * 2; i++) sum[i] = _mm256_setzero_ps();
    if (form == CACHE_INT8)
        int8_tile(sum, k, block_bytes, head_dim, r->q, np, n);
    else
        avx2_tile(sum, k, block_bytes, head_dim, r->q, 1, np, n,
                  form == CACHE_F32 ? AVX2_F32 : form == CACHE_F16 ? AVX2_F16 : AVX2_BF16, n < 4);
    for (int i = 0; i < np * n * 2; i++) {
        const uint32_t at = (b + (uint32_t)(i / 2 / n)) * KV_BLOCK + (uint32_t)(i % 2) * 8;
        const int t = i / 2 % n;
        _mm256_store_ps(r->score[t] + at, finish_scores(sum[i], args, r, t, at, form));
    }
}

/* Scores to weights e^(score - m), over blocks [first, last); times v_scale, where there is one (one of
 * each position). */
static AK42_TARGET(AVX2_TARGET) void softmax(float *m, float *l, float *score, uint32_t first, uint32_t last,
                                             const float *v_scale) {
    __m256 max = _mm256_set1_ps(-INFINITY), sum = _mm256_setzero_ps();
    for (uint32_t at = first * KV_BLOCK; at < last * KV_BLOCK; at += 8)
        max = _mm256_max_ps(max, _mm256_load_ps(score + at));
    *m = avx2_max(max);
    for (uint32_t at = first * KV_BLOCK; at < last * KV_BLOCK; at += 8) {
        const __m256 s = _mm256_load_ps(score + at);
        const __m256 seen = _mm256_cmp_ps(s, _mm256_set1_ps(-INFINITY), _CMP_NEQ_UQ);
        __m256 weight = _mm256_and_ps(seen, avx2_exp(_mm256_sub_ps(s, _mm256_set1_ps(*m))));
        sum = _mm256_add_ps(sum, weight);
        if (v_scale)
            weight = _mm256_mul_ps(weight, _mm256_maskload_ps(v_scale + at, _mm256_castps_si256(seen)));
        _mm256_store_ps(score + at, weight);
    }
    *l = avx2_sum(sum);
}

/* ---- values ---- */

static const size_t VALUE_BYTES[] = { [CACHE_F32] = 4, [CACHE_F16] = 2, [CACHE_BF16] = 2, [CACHE_INT8] = 1 };

AVX2_FN __m256 load_values(const uint8_t *v, cache_form form) {
    switch (form) {
        case CACHE_F32: return _mm256_loadu_ps((const float *)(const void *)v);
        case CACHE_F16: return avx2_load_f16(v);
        case CACHE_BF16:
            return _mm256_castsi256_ps(_mm256_slli_epi32(
                _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)v)), 16));
        default:
            return _mm256_cvtepi32_ps(
                _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)v)));
    }
}
AVX2_FN float load_value(const uint8_t *v, cache_form form) {
    switch (form) {
        case CACHE_F32: return load_f32(v);
        case CACHE_F16: return _cvtsh_ss(load_u16(v));
        case CACHE_BF16: return bf16_to_f32(load_u16(v));
        default: return (float)(int8_t)*v;
    }
}

/* o[t][d ..] += weight * v over positions [begin, end), for n rows from row t on and 8 * nd dimensions. */
AVX2_FN void value_tile(const attn_args *args, rows *r, int t, uint32_t d, uint32_t begin, uint32_t end,
                        int nd, int n, cache_form form) {
    const size_t bytes = VALUE_BYTES[form], stride = args->head_dim * bytes;
    const uint8_t *v = args->kv->v + ((size_t)args->chunk + begin) * stride + d * bytes;
    __m256 acc[AVX2_TILE_MAX];
    AK42_UNROLL for (int i = 0; i < nd * n; i++) acc[i] = _mm256_loadu_ps(r->o[t + i / nd] + d + i % nd * 8);
    for (uint32_t p = begin; p < end; p++, v += stride) {
        __m256 value[8];
        AK42_UNROLL for (int j = 0; j < nd; j++) value[j] = load_values(v + (size_t)j * 8 * bytes, form);
        AK42_UNROLL for (int i = 0; i < n; i++) {
            const __m256 weight = _mm256_broadcast_ss(&r->score[t + i][p]);
            AK42_UNROLL for (int j = 0; j < nd; j++)
                acc[i * nd + j] = _mm256_fmadd_ps(weight, value[j], acc[i * nd + j]);
        }
    }
    AK42_UNROLL for (int i = 0; i < nd * n; i++) _mm256_storeu_ps(r->o[t + i / nd] + d + i % nd * 8, acc[i]);
}

/* All dimensions; nd groups of 8 at a time while they last. */
AVX2_FN void value_rows(const attn_args *args, rows *r, int t, uint32_t begin, uint32_t end, int nd, int n,
                        cache_form form) {
    if (begin >= end) return;
    const size_t bytes = VALUE_BYTES[form], stride = args->head_dim * bytes;
    const uint8_t *v = args->kv->v + args->chunk * stride;
    uint32_t d = 0;
    for (; d + 8 * (uint32_t)nd <= args->head_dim; d += 8 * (uint32_t)nd)
        value_tile(args, r, t, d, begin, end, nd, n, form);
    for (; d + 8 <= args->head_dim; d += 8) value_tile(args, r, t, d, begin, end, 1, n, form);
    for (; d < args->head_dim; d++)
        for (int i = 0; i < n; i++)
            for (uint32_t p = begin; p < end; p++)
                r->o[t + i][d] = fmaf(r->score[t + i][p],
                                      load_value(v + (size_t)p * stride + d * bytes, form), r->o[t + i][d]);
}

/* One row by itself. */
static AK42_TARGET(AVX2_TARGET) void value_row(const attn_args *args, rows *r, int t, uint32_t begin,
                                               uint32_t end, cache_form form) {
    switch (form) {
        case CACHE_F32: value_rows(args, r, t, begin, end, 8, 1, CACHE_F32); break;
        case CACHE_F16: value_rows(args, r, t, begin, end, 8, 1, CACHE_F16); break;
        case CACHE_BF16: value_rows(args, r, t, begin, end, 8, 1, CACHE_BF16); break;
        default: value_rows(args, r, t, begin, end, 8, 1, CACHE_INT8); break;
    }
}

/* The positions that all rows see are walked together, what single rows see before and after by
 * themselves, in order: no row meets a value that it does not see. */
AVX2_FN void values(const attn_args *args, rows *r, int nd, int n, cache_form form) {
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

/* n rows, whose numbers are index[0 .. n-1]; np blocks of scores and nd groups of values go with n
 * accumulator rows. */
AVX2_FN void attend(const attn_args *args, const uint32_t *index, int np, int nd, int n, cache_form form) {
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
    uint32_t b = first;
    for (; b + (uint32_t)np <= last; b += (uint32_t)np) score_blocks(args, &r, b, np, n, form);
    for (; b < last; b++) score_blocks(args, &r, b, 1, n, form);
    for (int t = 0; t < n; t++)
        softmax(&args->m[index[t]], &args->l[index[t]], r.score[t], first, last,
                form == CACHE_INT8 ? args->kv->v_scale + args->chunk : NULL);
    values(args, &r, nd, n, form);
}

AVX2_FN void attn(const attn_args *args, cache_form form) {
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
            case 5: attend(args, index + i, 1, 2, 4, form); i += 4; break;
            default: attend(args, index + i, 1, 2, ROWS, form); i += ROWS;
        }
    }
}

static AK42_TARGET(AVX2_TARGET) void attn_f32(const attn_args *args) { attn(args, CACHE_F32); }
static AK42_TARGET(AVX2_TARGET) void attn_f16(const attn_args *args) { attn(args, CACHE_F16); }
static AK42_TARGET(AVX2_TARGET) void attn_bf16(const attn_args *args) { attn(args, CACHE_BF16); }
static AK42_TARGET(AVX2_TARGET) void attn_int8(const attn_args *args) { attn(args, CACHE_INT8); }

static AK42_TARGET(AVX2_TARGET) void attn_merge(float *m, float *l, float *o, float m_chunk, float l_chunk,
                                                const float *o_chunk,
                                                uint32_t head_dim) {
    if (m_chunk == -INFINITY) return;
    const float m_new = *m > m_chunk ? *m : m_chunk, old = expf(*m - m_new), add = expf(m_chunk - m_new);
    *m = m_new;
    *l = fmaf(*l, old, l_chunk * add);
    uint32_t d = 0;
    for (; d + 8 <= head_dim; d += 8) {
        const __m256 sum = _mm256_mul_ps(_mm256_loadu_ps(o + d), _mm256_set1_ps(old));
        _mm256_storeu_ps(o + d, _mm256_fmadd_ps(_mm256_loadu_ps(o_chunk + d), _mm256_set1_ps(add), sum));
    }
    for (; d < head_dim; d++) o[d] = fmaf(o_chunk[d], add, o[d] * old);
}

void avx2_fill_attention(kernel_table *table) {
    table->kv[AK42_KV_TYPE_F32] = (kv_kernels){ store_f32, attn_f32 };
    table->kv[AK42_KV_TYPE_F16] = (kv_kernels){ store_f16, attn_f16 };
    table->kv[AK42_KV_TYPE_BF16] = (kv_kernels){ store_bf16, attn_bf16 };
    table->kv[AK42_KV_TYPE_INT8].attn = attn_int8;
    table->attn_merge = attn_merge;
}

#endif

/* k_avx512_attn.c: attention over a chunk of the cache for x86-64 with AVX-512: scores, softmax, weighted
 * sum of values, for F32, F16, BF16 and INT8 caches. Keys and values of 16 or 8 bits become f32, exactly,
 * in a small scratch that all rows of the call share; the rest is f32. Each score is one chain over the
 * dims, each output one chain over the positions, whatever rows are computed together. An ISA with its own
 * scores (BF16 dots) brings them to avx512_attn. */
#if defined(__x86_64__)

#include "k_avx512.h"

/* ---- scores: rows x groups of 16 positions ---- */

enum { SCORE_DIMS = 128 };             /* dims of a slice: its keys (4 groups) fill the scratch */

/* n_groups groups of keys as f32 [dim][16], group_floats apart, against rows of q [dim][n_rows]: score
 * (n_rows, ATTN_CHUNK). The sums go on from what score holds where more. */
typedef void score_fn(float *score, const float *k, size_t group_floats, const float *q, uint32_t n_dims,
                      bool more);

AVX512_FN void score_tile(float *score, const float *k, size_t group_floats, const float *q, uint32_t n_dims,
                          bool more, int n_rows, int n_groups) {
    __m512 sum[24];
    AK42_UNROLL for (int r = 0; r < n_rows; r++)
        AK42_UNROLL for (int g = 0; g < n_groups; g++)
            sum[r * n_groups + g] =
                more ? _mm512_load_ps(score + r * ATTN_CHUNK + g * 16) : _mm512_setzero_ps();
    for (uint32_t d = 0; d < n_dims; d++, k += 16, q += n_rows) {
        __m512 key[4];
        AK42_UNROLL for (int g = 0; g < n_groups; g++) {
            key[g] = _mm512_load_ps(k + (size_t)g * group_floats);
            if (n_rows > 1) AK42_KEEP(key[g]);
        }
        AK42_UNROLL for (int r = 0; r < n_rows; r++) {
            const __m512 value = _mm512_set1_ps(q[r]);
            AK42_UNROLL for (int g = 0; g < n_groups; g++)
                sum[r * n_groups + g] = _mm512_fmadd_ps(key[g], value, sum[r * n_groups + g]);
        }
    }
    AK42_UNROLL for (int r = 0; r < n_rows; r++)
        AK42_UNROLL for (int g = 0; g < n_groups; g++)
            _mm512_store_ps(score + r * ATTN_CHUNK + g * 16, sum[r * n_groups + g]);
}

#define SCORE_TILE(n_rows, n_groups)                                                                  \
    AVX512 static void score_##n_rows##x##n_groups(float *score, const float *k, size_t group_floats, \
                                                   const float *q, uint32_t n_dims, bool more) {      \
        score_tile(score, k, group_floats, q, n_dims, more, n_rows, n_groups);                        \
    }
#define SCORE_TILES(n_rows, n_groups) SCORE_TILE(n_rows, n_groups) SCORE_TILE(n_rows, 1)
SCORE_TILES(1, 4)
SCORE_TILES(2, 4)
SCORE_TILES(3, 4)
SCORE_TILES(4, 4)
SCORE_TILES(5, 4)
SCORE_TILES(6, 4)
SCORE_TILES(7, 2)
SCORE_TILES(8, 2)
SCORE_TILES(9, 2)
SCORE_TILES(10, 2)
SCORE_TILES(11, 2)
SCORE_TILES(12, 2)

/* By rows: how many groups a tile takes at once, that tile, and the tile of one group. */
static const struct {
    uint32_t n_groups;
    score_fn *many, *one;
} score_tiles[SCORE_ROWS + 1] = {
    [1] = {4, score_1x4, score_1x1}, [2] = {4, score_2x4, score_2x1}, [3] = {4, score_3x4, score_3x1},
    [4] = {4, score_4x4, score_4x1}, [5] = {4, score_5x4, score_5x1}, [6] = {4, score_6x4, score_6x1},
    [7] = {2, score_7x2, score_7x1}, [8] = {2, score_8x2, score_8x1}, [9] = {2, score_9x2, score_9x1},
    [10] = {2, score_10x2, score_10x1}, [11] = {2, score_11x2, score_11x1}, [12] = {2, score_12x2, score_12x1},
};

/* Dims [dim, dim + n_dims) of the query rows, each tile of rows as (dims, rows). */
AVX512 static void scores_pack(attn_work *work, const attn_args *args, uint32_t dim, uint32_t n_dims) {
    for (uint32_t first = 0, n; first < args->n_rows; first += n) {
        n = avx512_tile_rows(args->n_rows, first, SCORE_ROWS);
        float *q = work->q + (size_t)first * n_dims;
        if (n == 1) memcpy(q, args->q[first] + dim, n_dims * sizeof(float));
        for (uint32_t d = 0; n > 1 && d < n_dims; d += 16) {
            __m512i w[16];
            AK42_UNROLL for (uint32_t r = 0; r < 16; r++)
                w[r] = r < n ? avx512_words_f32(args->q[first + r] + dim, d, n_dims) : _mm512_setzero_si512();
            avx512_transpose(w);
            AK42_UNROLL for (uint32_t i = 0; i < 16; i++)
                if (d + i < n_dims) _mm512_mask_storeu_epi32(q + (size_t)(d + i) * n, avx512_lanes(n), w[i]);
        }
    }
}

/* All rows against n_groups groups of keys that stand at k, the first being group `group` of the chunk. */
AVX512 static void scores_rows(attn_work *work, const attn_args *args, const float *k, size_t group_floats,
                               uint32_t group, uint32_t n_groups, uint32_t n_dims, bool more) {
    for (uint32_t first = 0, n; first < args->n_rows; first += n) {
        n = avx512_tile_rows(args->n_rows, first, SCORE_ROWS);
        const float *q = work->q + (size_t)first * n_dims;
        uint32_t g = 0;
        for (; g + score_tiles[n].n_groups <= n_groups; g += score_tiles[n].n_groups)
            score_tiles[n].many(&work->score[first][(group + g) * 16], k + g * group_floats, group_floats, q,
                                n_dims, more);
        for (; g < n_groups; g++)
            score_tiles[n].one(&work->score[first][(group + g) * 16], k + g * group_floats, group_floats, q,
                               n_dims, more);
    }
}

AVX512 static void scores_f32(attn_work *work, const attn_args *args) {
    const size_t group_floats = (size_t)args->head_dim * 16;
    const float *k = (const float *)(const void *)args->kv->k + (size_t)args->chunk / 16 * group_floats;
    for (uint32_t dim = 0; dim < args->head_dim; dim += SCORE_DIMS) {
        const uint32_t n_dims = args->head_dim - dim < SCORE_DIMS ? args->head_dim - dim : SCORE_DIMS;
        scores_pack(work, args, dim, n_dims);
        scores_rows(work, args, k + work->first * group_floats + dim * 16, group_floats, work->first,
                    work->last - work->first, n_dims, dim > 0);
    }
}

/* Writes n_dims dims of one group of keys as f32 [dim][16]; `group` counts from the cache's start. */
typedef void keys_fn(float *dst, const attn_args *args, uint32_t group, uint32_t dim, uint32_t n_dims);

/* Keys through the scratch, as many groups at a time as the tiles take, so that the scratch stays in the
 * first-level cache. */
AVX512_FN void scores_converted(attn_work *work, const attn_args *args, keys_fn *keys) {
    for (uint32_t dim = 0; dim < args->head_dim; dim += SCORE_DIMS) {
        const uint32_t n_dims = args->head_dim - dim < SCORE_DIMS ? args->head_dim - dim : SCORE_DIMS;
        const size_t group_floats = round_up(n_dims, 4) * 16;
        scores_pack(work, args, dim, n_dims);
        const uint32_t step = args->n_rows > 6 ? 2 : 4;
        for (uint32_t group = work->first; group < work->last; group += step) {
            const uint32_t n_groups = work->last - group < step ? work->last - group : step;
            for (uint32_t g = 0; g < n_groups; g++)
                keys(work->scratch + g * group_floats, args, args->chunk / 16 + group + g, dim, n_dims);
            scores_rows(work, args, work->scratch, group_floats, group, n_groups, n_dims, dim > 0);
        }
    }
}

AVX512 static void keys_f16(float *dst, const attn_args *args, uint32_t group, uint32_t dim,
                            uint32_t n_dims) {
    const uint8_t *k = args->kv->k + ((size_t)group * args->head_dim + dim) * 32;
    for (uint32_t d = 0; d < n_dims; d += 2) {
        __m512 first, second;
        avx512_part_f16(&first, &second, k + d * 32);
        _mm512_store_ps(dst + d * 16, first);
        _mm512_store_ps(dst + d * 16 + 16, second);
    }
}
AVX512 static void keys_bf16(float *dst, const attn_args *args, uint32_t group, uint32_t dim,
                             uint32_t n_dims) {
    const uint8_t *k = args->kv->k + ((size_t)group * args->head_dim + dim) * 32;
    for (uint32_t d = 0; d < n_dims; d += 2) {
        const __m512i both = _mm512_load_si512(k + d * 32);
        _mm512_store_ps(dst + d * 16, avx512_bf16_first(both));
        _mm512_store_ps(dst + d * 16 + 16, avx512_bf16_second(both));
    }
}
/* The top byte of each lane, signed. */
AVX512_FN __m512 byte_as_float(__m512i lanes) { return _mm512_cvtepi32_ps(_mm512_srai_epi32(lanes, 24)); }

/* q - 128 as floats; the scales come after the sums. Writes whole fours of dims. */
AVX512 static void keys_int8(float *dst, const attn_args *args, uint32_t group, uint32_t dim,
                             uint32_t n_dims) {
    const uint8_t *k = args->kv->k + ((size_t)group * round_up(args->head_dim, 4) + dim) * 16;
    for (uint32_t d = 0; d < n_dims; d += 4) {
        const __m512i four = _mm512_xor_si512(_mm512_load_si512(k + d * 16), _mm512_set1_epi8((char)128));
        _mm512_store_ps(dst + d * 16, byte_as_float(_mm512_slli_epi32(four, 24)));
        _mm512_store_ps(dst + d * 16 + 16, byte_as_float(_mm512_slli_epi32(four, 16)));
        _mm512_store_ps(dst + d * 16 + 32, byte_as_float(_mm512_slli_epi32(four, 8)));
        _mm512_store_ps(dst + d * 16 + 48, byte_as_float(four));
    }
}

AVX512 static void scores_f16(attn_work *work, const attn_args *args) {
    scores_converted(work, args, keys_f16);
}
AVX512 static void scores_bf16(attn_work *work, const attn_args *args) {
    scores_converted(work, args, keys_bf16);
}
AVX512 static void scores_int8(attn_work *work, const attn_args *args) {
    scores_converted(work, args, keys_int8);
}

/* ---- softmax ---- */

/* Lanes of group g that lie in [begin, end). */
AVX512_FN __mmask16 seen(uint32_t g, uint32_t begin, uint32_t end) {
    const uint32_t from = g * 16 < begin ? begin - g * 16 : 0, to = end - g * 16 < 16 ? end - g * 16 : 16;
    return avx512_lanes(to) & (__mmask16)(0xffffu << from);
}

/* cap * tanh(x / cap), tanh(y) = 1 - 2 / (e^2y + 1) */
AVX512_FN __m512 softcapped(__m512 x, float cap) {
    const __m512 one = _mm512_set1_ps(1.0f), e = avx512_exp_any(_mm512_mul_ps(x, _mm512_set1_ps(2.0f / cap)));
    const __m512 rest = _mm512_div_ps(_mm512_set1_ps(2.0f), _mm512_add_ps(e, one));
    return _mm512_mul_ps(_mm512_set1_ps(cap), _mm512_sub_ps(one, rest));
}

/* Makes the scores of row i in group g final: -infinity in the lanes that it does not see. */
AVX512_FN void score_finish(attn_work *work, const attn_args *args, uint32_t i, uint32_t g, bool scaled) {
    const __mmask16 lanes = seen(g, work->begin[i], work->end[i]);
    __m512 s = _mm512_load_ps(work->score[i] + g * 16);
    if (scaled) s = _mm512_mul_ps(s, _mm512_maskz_loadu_ps(lanes, args->kv->k_scale + args->chunk + g * 16));
    if (args->softcap > 0.0f) s = softcapped(s, args->softcap);
    _mm512_store_ps(work->score[i] + g * 16, _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), lanes, s));
}

/* Row i's scores become e^(score - m), times v's scale where the cache has scales; m and l are written.
 * Four running maxima and sums hide the latency of their chains. */
AVX512_FN void softmax_row(attn_work *work, const attn_args *args, uint32_t i, bool scaled) {
    const uint32_t first = work->begin[i] / 16, last = (work->end[i] + 15) / 16;
    float *score = work->score[i];
    __m512 max[4], sum[4];
    AK42_UNROLL for (int j = 0; j < 4; j++) {
        max[j] = _mm512_set1_ps(-INFINITY);
        sum[j] = _mm512_setzero_ps();
    }
    if (scaled || args->softcap > 0.0f) {
        for (uint32_t g = first; g < last; g++) score_finish(work, args, i, g, scaled);
    } else if (first < last) {
        score_finish(work, args, i, first, false);
        if (last - 1 > first) score_finish(work, args, i, last - 1, false);
    }
    for (uint32_t g = first; g < last; g += 4)
        AK42_UNROLL for (uint32_t j = 0; j < 4; j++)
            if (g + j < last) max[j] = _mm512_max_ps(max[j], _mm512_load_ps(score + (g + j) * 16));
    const float m = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(max[0], max[1]),
                                                       _mm512_max_ps(max[2], max[3])));
    for (uint32_t g = first; g < last; g += 4)
        AK42_UNROLL for (uint32_t j = 0; j < 4; j++) {
            if (g + j >= last) break;
            __m512 p = avx512_exp(_mm512_sub_ps(_mm512_load_ps(score + (g + j) * 16), _mm512_set1_ps(m)));
            sum[j] = _mm512_add_ps(sum[j], p);
            if (scaled) {
                const __mmask16 lanes = seen(g + j, work->begin[i], work->end[i]);
                const float *v_scale = args->kv->v_scale + args->chunk + (g + j) * 16;
                p = _mm512_mul_ps(p, _mm512_maskz_loadu_ps(lanes, v_scale));
            }
            _mm512_store_ps(score + (g + j) * 16, p);
        }
    args->m[i] = m;
    args->l[i] = _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sum[0], sum[1]),
                                                    _mm512_add_ps(sum[2], sum[3])));
}
AVX512 static void softmax_plain(attn_work *work, const attn_args *args) {
    for (uint32_t i = 0; i < args->n_rows; i++) softmax_row(work, args, i, false);
}
AVX512 static void softmax_scaled(attn_work *work, const attn_args *args) {
    for (uint32_t i = 0; i < args->n_rows; i++) softmax_row(work, args, i, true);
}

/* ---- weighted sums of values: rows x 16 dims ---- */

enum { VALUE_ROWS = 6 };               /* of a tile, with 4 vectors of dims 24 chains */
enum { VALUE_SCRATCH = 4096 };         /* floats of converted values: they stay in the first-level cache */

/* o (rows, ldo) += p (rows, ATTN_CHUNK) x v (n, ldv), for n positions and the lanes of the last vector of
 * dims. */
typedef void value_fn(float *o, size_t ldo, const float *p, const float *v, size_t ldv, uint32_t n,
                      __mmask16 lanes);

AVX512_FN void value_tile(float *o, size_t ldo, const float *p, const float *v, size_t ldv, uint32_t n,
                          __mmask16 lanes, int n_rows, int n_vectors) {
    __m512 sum[24];
    AK42_UNROLL for (int r = 0; r < n_rows; r++)
        AK42_UNROLL for (int j = 0; j < n_vectors; j++)
            sum[r * n_vectors + j] = n_vectors > 1 ? _mm512_loadu_ps(o + (size_t)r * ldo + j * 16)
                                                   : _mm512_maskz_loadu_ps(lanes, o + (size_t)r * ldo);
    for (uint32_t i = 0; i < n; i++, v += ldv, p++) {
        __m512 value[4];
        AK42_UNROLL for (int j = 0; j < n_vectors; j++) {
            value[j] = n_vectors > 1 ? _mm512_loadu_ps(v + j * 16) : _mm512_maskz_loadu_ps(lanes, v);
            if (n_rows > 1) AK42_KEEP(value[j]);
        }
        AK42_UNROLL for (int r = 0; r < n_rows; r++) {
            const __m512 weight = _mm512_set1_ps(p[r * ATTN_CHUNK]);
            AK42_UNROLL for (int j = 0; j < n_vectors; j++)
                sum[r * n_vectors + j] = _mm512_fmadd_ps(value[j], weight, sum[r * n_vectors + j]);
        }
    }
    AK42_UNROLL for (int r = 0; r < n_rows; r++)
        AK42_UNROLL for (int j = 0; j < n_vectors; j++) {
            if (n_vectors > 1) _mm512_storeu_ps(o + (size_t)r * ldo + j * 16, sum[r * n_vectors + j]);
            else _mm512_mask_storeu_ps(o + (size_t)r * ldo, lanes, sum[r]);
        }
}

#define VALUE_TILE(n_rows, n_vectors)                                                                     \
    AVX512 static void value_##n_rows##x##n_vectors(float *o, size_t ldo, const float *p, const float *v, \
                                                    size_t ldv, uint32_t n, __mmask16 lanes) {            \
        value_tile(o, ldo, p, v, ldv, n, lanes, n_rows, n_vectors);                                       \
    }
#define VALUE_TILES(n_rows) VALUE_TILE(n_rows, 4) VALUE_TILE(n_rows, 1)
VALUE_TILES(1)
VALUE_TILES(2)
VALUE_TILES(3)
VALUE_TILES(4)
VALUE_TILES(5)
VALUE_TILES(6)

static value_fn *const value_tiles[VALUE_ROWS + 1][2] = {
    [1] = {value_1x4, value_1x1}, [2] = {value_2x4, value_2x1}, [3] = {value_3x4, value_3x1},
    [4] = {value_4x4, value_4x1}, [5] = {value_5x4, value_5x1}, [6] = {value_6x4, value_6x1},
};

/* A stretch of values: positions [begin, end) from the chunk's start, dims [dim, dim + n_dims). */
typedef struct stretch {
    const float *v;                    /* (positions, ldv) */
    size_t ldv;
    uint32_t begin, end, dim, n_dims;
} stretch;

/* Rows [first, first + n) all take the positions [begin, end) of the stretch. */
AVX512 static void values_rows(attn_work *work, const attn_args *args, const stretch *s, uint32_t first,
                               uint32_t n, uint32_t begin, uint32_t end) {
    if (begin >= end) return;
    float *o = args->o + (size_t)first * args->head_dim + s->dim;
    const float *v = s->v + (begin - s->begin) * s->ldv, *p = &work->score[first][begin];
    uint32_t d = 0;
    for (; d + 64 <= s->n_dims; d += 64)
        value_tiles[n][0](o + d, args->head_dim, p, v + d, s->ldv, end - begin, 0xffff);
    for (; d < s->n_dims; d += 16)
        value_tiles[n][1](o + d, args->head_dim, p, v + d, s->ldv, end - begin,
                          avx512_lanes(s->n_dims - d < 16 ? s->n_dims - d : 16));
}

static uint32_t larger(uint32_t a, uint32_t b) { return a > b ? a : b; }
static uint32_t smaller(uint32_t a, uint32_t b) { return a < b ? a : b; }

/* All rows over a stretch: what all rows of a tile see together, what only some see row by row; positions
 * ascending for each. */
AVX512 static void values_stretch(attn_work *work, const attn_args *args, const stretch *s) {
    for (uint32_t first = 0, n; first < args->n_rows; first += n) {
        n = avx512_tile_rows(args->n_rows, first, VALUE_ROWS);
        uint32_t begin = s->begin, end = s->end;
        for (uint32_t i = first; i < first + n; i++) {
            begin = larger(begin, work->begin[i]);
            end = smaller(end, work->end[i]);
        }
        if (begin > end) begin = end = s->end;
        for (uint32_t i = first; i < first + n; i++)
            values_rows(work, args, s, i, 1, larger(s->begin, work->begin[i]), smaller(begin, work->end[i]));
        values_rows(work, args, s, first, n, begin, end);
        for (uint32_t i = first; i < first + n; i++)
            values_rows(work, args, s, i, 1, end, smaller(s->end, work->end[i]));
    }
}

AVX512 static void values_all(attn_work *work, const attn_args *args, avx512_values_fn *values) {
    const uint32_t hd = args->head_dim, first = work->first * 16;
    uint32_t last = 0;
    for (uint32_t i = 0; i < args->n_rows; i++) last = larger(last, work->end[i]);
    if (!values) {
        const float *v = (const float *)(const void *)args->kv->v + ((size_t)args->chunk + first) * hd;
        values_stretch(work, args, &(stretch){v, hd, first, last, 0, hd});
        return;
    }
    for (uint32_t dim = 0; dim < hd; dim += 256) {
        const uint32_t n_dims = smaller(hd - dim, 256), step = VALUE_SCRATCH / (uint32_t)round_up(n_dims, 16);
        for (uint32_t begin = first; begin < last; begin += step) {
            const uint32_t end = smaller(begin + step, last);
            values(work->scratch, args, args->chunk + begin, end - begin, dim, n_dims);
            values_stretch(work, args, &(stretch){work->scratch, n_dims, begin, end, dim, n_dims});
        }
    }
}

/* 16 values at p as f32; those of lanes alone. */
typedef __m512 load_fn(const uint8_t *p, __mmask16 lanes);

AVX512_FN __m256i load_halves(const uint8_t *p, __mmask16 lanes) {
    if (lanes == 0xffff) return _mm256_loadu_si256((const __m256i *)(const void *)p);
    return _mm256_maskz_loadu_epi16(lanes, p);
}
AVX512_FN __m512 load_bf16(const uint8_t *p, __mmask16 lanes) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_halves(p, lanes)), 16));
}
AVX512_FN __m512 load_f16(const uint8_t *p, __mmask16 lanes) {
    return _mm512_cvtph_ps(load_halves(p, lanes));
}
AVX512_FN __m512 load_int8(const uint8_t *p, __mmask16 lanes) {
    __m128i codes;
    if (lanes == 0xffff) codes = _mm_loadu_si128((const __m128i *)(const void *)p);
    else codes = _mm_maskz_loadu_epi8(lanes, p);
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
}

/* Values of positions that no row sees may be unwritten: they are converted and not used. */
AVX512_FN void convert(float *dst, const uint8_t *v, size_t row_bytes, uint32_t n, uint32_t n_dims,
                       size_t element, load_fn *load) {
    for (uint32_t i = 0; i < n; i++, dst += n_dims, v += row_bytes) {
        uint32_t d = 0;
        for (; d + 32 <= n_dims; d += 32) {
            _mm512_storeu_ps(dst + d, load(v + d * element, 0xffff));
            _mm512_storeu_ps(dst + d + 16, load(v + (d + 16) * element, 0xffff));
        }
        for (; d < n_dims; d += 16) {
            const __mmask16 lanes = avx512_lanes(smaller(n_dims - d, 16));
            _mm512_mask_storeu_ps(dst + d, lanes, load(v + d * element, lanes));
        }
    }
}

#define VALUES(name, element, load)                                                                       \
    AVX512 void name(float *dst, const attn_args *args, uint32_t position, uint32_t n, uint32_t dim,      \
                     uint32_t n_dims) {                                                                   \
        const size_t row_bytes = (size_t)args->head_dim * (element);                                      \
        convert(dst, args->kv->v + position * row_bytes + dim * (element), row_bytes, n, n_dims, element, \
                load);                                                                                    \
    }
VALUES(avx512_values_bf16, 2, load_bf16)
static VALUES(values_f16, 2, load_f16)
static VALUES(values_int8, 1, load_int8)

/* ---- the frame ---- */

/* What row i sees, from the chunk's start; false where it sees nothing. */
static bool row_range(attn_work *work, const attn_args *args, uint32_t i) {
    const uint32_t begin = larger(args->begin[i], args->chunk);
    const uint32_t end = smaller(args->end[i], args->chunk + ATTN_CHUNK);
    work->begin[i] = begin < end ? begin - args->chunk : 0;
    work->end[i] = begin < end ? end - args->chunk : 0;
    return begin < end;
}

AVX512 void avx512_attn(const attn_args *args, const avx512_attn_form *form) {
    attn_work work;
    work.first = ATTN_CHUNK / 16;
    work.last = 0;
    for (uint32_t i = 0; i < args->n_rows; i++)
        if (row_range(&work, args, i)) {
            work.first = smaller(work.first, work.begin[i] / 16);
            work.last = larger(work.last, (work.end[i] + 15) / 16);
        }
    memset(args->o, 0, (size_t)args->n_rows * args->head_dim * sizeof(float));
    if (work.first < work.last) form->scores(&work, args);
    if (form->scaled) softmax_scaled(&work, args);
    else softmax_plain(&work, args);
    if (work.first < work.last) values_all(&work, args, form->values);
}

static void attn_f32(const attn_args *args) {
    avx512_attn(args, &(avx512_attn_form){scores_f32, NULL, false});
}
static void attn_f16(const attn_args *args) {
    avx512_attn(args, &(avx512_attn_form){scores_f16, values_f16, false});
}
static void attn_bf16(const attn_args *args) {
    avx512_attn(args, &(avx512_attn_form){scores_bf16, avx512_values_bf16, false});
}
static void attn_int8(const attn_args *args) {
    avx512_attn(args, &(avx512_attn_form){scores_int8, values_int8, true});
}

void avx512_fill_attn(kernel_table *table) {
    table->kv[AK42_KV_TYPE_F32].attn = attn_f32;
    table->kv[AK42_KV_TYPE_F16].attn = attn_f16;
    table->kv[AK42_KV_TYPE_BF16].attn = attn_bf16;
    table->kv[AK42_KV_TYPE_INT8].attn = attn_int8;
}

#else
typedef int k_avx512_attn_is_empty;
#endif

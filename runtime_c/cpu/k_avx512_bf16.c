/* k_avx512_bf16.c: BF16 matrix products and BF16 attention scores for x86-64 with AVX-512 BF16, whose one
 * instruction multiplies and adds two pairs a lane. Activations and queries are rounded to bf16. It pays
 * where that instruction is as fast as a fused multiply-add (AMD); kernels.c sees to that. */
#if defined(__x86_64__)

#include "k_avx512.h"

#define BF16 AK42_TARGET(AVX512_TARGET ",avx512bf16")
#define BF16_FN static AK42_INLINE BF16

BF16_FN __m512 dot_pairs(__m512 sum, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}
BF16_FN __m512i pair_at(const uint8_t *p) {
    int32_t word;
    memcpy(&word, p, 4);
    return _mm512_set1_epi32(word);
}

/* ---- matrices ---- */

enum { BF16_NR = 12 };

/* out for n tokens and np panels from panel on: one chain over the pairs of k, ascending. */
BF16_FN void bf16_tile(const gemm_args *args, uint32_t panel, int np, int n) {
    const uint8_t *w = args->panels + panel * args->panel_bytes, *x = args->act;
    __m512 sum[24];
    AK42_UNROLL for (int p = 0; p < np; p++)
        AK42_UNROLL for (int t = 0; t < n; t++)
            sum[p * n + t] = avx512_start(args, (size_t)t, panel + (size_t)p);
    for (size_t left = args->n_super * (SUPER_K * 32), bytes; left; left -= bytes) {
        size_t far[4];
        AK42_UNROLL for (int p = 0; p < np; p++)
            far[p] = ahead_far(left, gemm_jump(args, panel, (uint32_t)np, (uint32_t)p), args->foreseen);
        bytes = ahead_bytes(left);
        for (size_t i = 0; i < bytes; i += 128, w += 128, x += 8 * n)
            AK42_UNROLL for (int pair = 0; pair < 2; pair++) {
                __m512i line[4];
                AK42_UNROLL for (int p = 0; p < np; p++) {
                    const uint8_t *at = w + (size_t)p * args->panel_bytes + pair * 64;
                    if (n < BF16_NR) ask_line(at, far[p]);
                    line[p] = _mm512_load_si512(at);
                    if (n > 1) AK42_KEEP(line[p]);
                }
                AK42_UNROLL for (int t = 0; t < n; t++) {
                    const __m512i a = pair_at(x + (pair * n + t) * 4);
                    AK42_UNROLL for (int p = 0; p < np; p++)
                        sum[p * n + t] = dot_pairs(sum[p * n + t], line[p], a);
                }
            }
    }
    AK42_UNROLL for (int p = 0; p < np; p++)
        AK42_UNROLL for (int t = 0; t < n; t++) {
            float *out = args->out + (size_t)t * args->ldo + (panel + (uint32_t)p) * PANEL_ROWS;
            const __m512 old = args->accumulate ? _mm512_loadu_ps(out) : _mm512_setzero_ps();
            _mm512_storeu_ps(out, args->accumulate ? _mm512_add_ps(old, sum[p * n + t]) : sum[p * n + t]);
        }
}

BF16_FN void bf16_panels(const gemm_args *args, int np, int n) {
    uint32_t panel = 0;
    for (; panel + (uint32_t)np <= args->n_panels; panel += (uint32_t)np) bf16_tile(args, panel, np, n);
    for (; panel < args->n_panels; panel++) bf16_tile(args, panel, 1, n);
}

#define BF16_GEMM(n, np) \
    BF16 static void gemm_##n(const gemm_args *args) { bf16_panels(args, np, n); }
BF16_GEMM(1, 4)
BF16_GEMM(2, 4)
BF16_GEMM(3, 4)
BF16_GEMM(4, 4)
BF16_GEMM(5, 2)
BF16_GEMM(6, 2)
BF16_GEMM(7, 2)
BF16_GEMM(8, 2)
BF16_GEMM(9, 2)
BF16_GEMM(10, 2)
BF16_GEMM(11, 2)
BF16_GEMM(12, 2)
static void gemm_bf16(const gemm_args *args) {
    kernel_gemm *const by_tokens[BF16_NR] = {gemm_1, gemm_2, gemm_3, gemm_4,  gemm_5,  gemm_6,
                                             gemm_7, gemm_8, gemm_9, gemm_10, gemm_11, gemm_12};
    by_tokens[args->n_tokens - 1](args);
}

/* ---- attention scores ---- */

/* n_groups groups of keys [pair][16][2], group_bytes apart, against rows of q [pair][n_rows][2]: score
 * (n_rows, ATTN_CHUNK). */
typedef void score_fn(float *score, const uint8_t *k, size_t group_bytes, const uint8_t *q, uint32_t n_pairs,
                      bool more);

BF16_FN void score_tile(float *score, const uint8_t *k, size_t group_bytes, const uint8_t *q,
                        uint32_t n_pairs, bool more, int n_rows, int n_groups) {
    __m512 sum[24];
    AK42_UNROLL for (int r = 0; r < n_rows; r++)
        AK42_UNROLL for (int g = 0; g < n_groups; g++)
            sum[r * n_groups + g] =
                more ? _mm512_load_ps(score + r * ATTN_CHUNK + g * 16) : _mm512_setzero_ps();
    for (uint32_t i = 0; i < n_pairs; i++, k += 64, q += n_rows * 4) {
        __m512i key[4];
        AK42_UNROLL for (int g = 0; g < n_groups; g++) {
            key[g] = _mm512_load_si512(k + (size_t)g * group_bytes);
            if (n_rows > 1) AK42_KEEP(key[g]);
        }
        AK42_UNROLL for (int r = 0; r < n_rows; r++) {
            const __m512i a = pair_at(q + r * 4);
            AK42_UNROLL for (int g = 0; g < n_groups; g++)
                sum[r * n_groups + g] = dot_pairs(sum[r * n_groups + g], key[g], a);
        }
    }
    AK42_UNROLL for (int r = 0; r < n_rows; r++)
        AK42_UNROLL for (int g = 0; g < n_groups; g++)
            _mm512_store_ps(score + r * ATTN_CHUNK + g * 16, sum[r * n_groups + g]);
}

#define SCORE_TILE(n_rows, n_groups)                                                                 \
    BF16 static void score_##n_rows##x##n_groups(float *score, const uint8_t *k, size_t group_bytes, \
                                                 const uint8_t *q, uint32_t n_pairs, bool more) {    \
        score_tile(score, k, group_bytes, q, n_pairs, more, n_rows, n_groups);                       \
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

/* Dims [dim, dim + n_dims) of rows [first, first + n) as bf16, (pairs, rows). */
BF16 static void scores_pack(uint8_t *q, const attn_args *args, uint32_t first, uint32_t n, uint32_t dim,
                             uint32_t n_dims) {
    for (uint32_t pair = 0; pair < n_dims / 2; pair += 16) {
        __m512i w[16];
        AK42_UNROLL for (uint32_t r = 0; r < 16; r++)
            w[r] = r < n ? avx512_words_bf16(args->q[first + r] + dim, pair, n_dims) : _mm512_setzero_si512();
        avx512_transpose(w);
        AK42_UNROLL for (uint32_t i = 0; i < 16; i++)
            if (pair + i < n_dims / 2)
                _mm512_mask_storeu_epi32(q + (size_t)(pair + i) * n * 4, avx512_lanes(n), w[i]);
    }
}

/* Slices of 256 dims: as bf16 pairs their queries fill work->q. */
enum { SCORE_DIMS = 256 };

BF16 static void scores_bf16(attn_work *work, const attn_args *args) {
    const size_t group_bytes = (size_t)args->head_dim * 32;
    const uint8_t *k = args->kv->k + (size_t)args->chunk / 16 * group_bytes;
    for (uint32_t dim = 0; dim < args->head_dim; dim += SCORE_DIMS) {
        const uint32_t n_dims = args->head_dim - dim < SCORE_DIMS ? args->head_dim - dim : SCORE_DIMS;
        for (uint32_t first = 0, n; first < args->n_rows; first += n) {
            n = avx512_tile_rows(args->n_rows, first, SCORE_ROWS);
            uint8_t *q = (uint8_t *)work->q;
            scores_pack(q, args, first, n, dim, n_dims);
            uint32_t g = work->first;
            for (; g + score_tiles[n].n_groups <= work->last; g += score_tiles[n].n_groups)
                score_tiles[n].many(&work->score[first][g * 16], k + g * group_bytes + dim * 32, group_bytes,
                                    q, n_dims / 2, dim > 0);
            for (; g < work->last; g++)
                score_tiles[n].one(&work->score[first][g * 16], k + g * group_bytes + dim * 32, group_bytes,
                                   q, n_dims / 2, dim > 0);
        }
    }
}

static void attn_bf16(const attn_args *args) {
    avx512_attn(args, &(avx512_attn_form){scores_bf16, avx512_values_bf16, false});
}

/* ---- the table ---- */

BF16 static double peak_bf16(uint64_t n, float *sink) {
    const __m512i a = _mm512_set1_epi32((int)(n % 8)), b = _mm512_set1_epi16(0x3f00);
    __m512 sum[16], all = _mm512_setzero_ps();
    AK42_UNROLL for (int i = 0; i < 16; i++) sum[i] = _mm512_set1_ps((float)i);
    const uint64_t rounds = n / 16;
    for (uint64_t r = 0; r < rounds; r++)
        AK42_UNROLL for (int i = 0; i < 16; i++) sum[i] = dot_pairs(sum[i], a, b);
    AK42_UNROLL for (int i = 0; i < 16; i++) all = _mm512_add_ps(all, sum[i]);
    *sink = _mm512_reduce_add_ps(all);
    return (double)rounds * 16 * 64;
}

void kernels_fill_avx512_vnni_bf16(kernel_table *table) {
    table->kv_default = AK42_KV_TYPE_BF16;
    table->types[KERNEL_BF16] = (type_kernels){.act = ACT_BF16, .nr = BF16_NR, .gemm = gemm_bf16, .in_order = true};
    table->kv[AK42_KV_TYPE_BF16].attn = attn_bf16;
    table->peak_bf16 = peak_bf16;
}

#else
typedef int k_avx512_bf16_is_empty;
#endif

/* k_avx512_pack.c: packs tiles of activations for x86-64 with AVX-512: bit for bit what k_generic.c packs. */
#if defined(__x86_64__)

#include "k_avx512.h"
#include "outliers.h"

/* ---- F32 and BF16: words of 4 bytes, of n tokens, side by side ---- */

AVX512_FN void pack_words(uint8_t *act, const float *x, size_t ldx, uint32_t n, uint32_t columns,
                          size_t n_words, avx512_words_fn *words) {
    for (size_t at = 0; at < n_words; at += 16) {
        if (n == 1) {
            _mm512_storeu_si512(act + at * 4, words(x, at, columns));
            continue;
        }
        __m512i w[16];
        AK42_UNROLL for (uint32_t t = 0; t < 16; t++)
            w[t] = t < n ? words(x + t * ldx, at, columns) : _mm512_setzero_si512();
        avx512_transpose(w);
        AK42_UNROLL for (uint32_t i = 0; i < 16; i++)
            _mm512_mask_storeu_epi32(act + (at + i) * n * 4, avx512_lanes(n), w[i]);
    }
}

AVX512 static void pack_f32(uint8_t *act, outlier *lists, const float *x, size_t ldx, uint32_t n_tokens,
                            uint32_t columns) {
    (void)lists;
    pack_words(act, x, ldx, n_tokens, columns, round_up(columns, SUPER_K), avx512_words_f32);
}
AVX512 static void pack_bf16(uint8_t *act, outlier *lists, const float *x, size_t ldx, uint32_t n_tokens,
                             uint32_t columns) {
    (void)lists;
    pack_words(act, x, ldx, n_tokens, columns, round_up(columns, SUPER_K) / 2, avx512_words_bf16);
}

/* ---- Q8: 16 blocks of one token at a time, so that sums across lanes are shared ---- */

enum { SIXTEEN = 16 };

/* Columns of 16 blocks that lie within the row need no look at its end. */
AVX512_FN __m512 load_column(const float *x, size_t at, size_t columns, bool inside) {
    return inside ? _mm512_loadu_ps(x + at) : avx512_load_row(x, at, columns);
}

/* Lane b: the largest magnitude in block b, compared as integers, so that NaN counts as the largest. */
AVX512_FN __m512i block_maxima(const float *x, size_t at, size_t columns, bool inside) {
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i m[SIXTEEN], pairs[8], quads[4];
    AK42_UNROLL for (uint32_t b = 0; b < SIXTEEN; b++) {
        const __m512i low = _mm512_castps_si512(load_column(x, at + b * 32, columns, inside));
        const __m512i high = _mm512_castps_si512(load_column(x, at + b * 32 + 16, columns, inside));
        m[b] = _mm512_max_epi32(_mm512_and_si512(low, magnitude), _mm512_and_si512(high, magnitude));
    }
    AK42_UNROLL for (int i = 0; i < 8; i++)
        pairs[i] = _mm512_max_epi32(_mm512_unpacklo_epi32(m[2 * i], m[2 * i + 1]),
                                    _mm512_unpackhi_epi32(m[2 * i], m[2 * i + 1]));
    AK42_UNROLL for (int i = 0; i < 4; i++)
        quads[i] = _mm512_max_epi32(_mm512_unpacklo_epi64(pairs[2 * i], pairs[2 * i + 1]),
                                    _mm512_unpackhi_epi64(pairs[2 * i], pairs[2 * i + 1]));
    const __m512i first = _mm512_max_epi32(_mm512_shuffle_i32x4(quads[0], quads[1], 0x44),
                                           _mm512_shuffle_i32x4(quads[0], quads[1], 0xee));
    const __m512i last = _mm512_max_epi32(_mm512_shuffle_i32x4(quads[2], quads[3], 0x44),
                                          _mm512_shuffle_i32x4(quads[2], quads[3], 0xee));
    return _mm512_max_epi32(_mm512_shuffle_i32x4(first, last, 0x88), _mm512_shuffle_i32x4(first, last, 0xdd));
}

/* d and the factor that quantises; zeros where a block is zero or too small, d NaN where it is not finite. */
AVX512_FN __m512 block_scales(__m512 *inverse, __m512i maxima) {
    const __m512 max = _mm512_castsi512_ps(maxima), divided = _mm512_div_ps(_mm512_set1_ps(127.0f), max);
    const __mmask16 finite = _mm512_cmplt_epi32_mask(maxima, _mm512_set1_epi32(0x7f800000));
    const __mmask16 useful = finite & _mm512_cmp_ps_mask(divided, _mm512_set1_ps(INFINITY), _CMP_LT_OQ);
    *inverse = _mm512_maskz_mov_ps(useful, divided);
    return _mm512_mask_mov_ps(_mm512_maskz_div_ps(useful, max, _mm512_set1_ps(127.0f)), (__mmask16)~finite,
                              _mm512_set1_ps(NAN));
}

AVX512_FN __m512i quantise(const float *x, size_t at, size_t columns, float inverse, bool inside) {
    return _mm512_cvtps_epi32(_mm512_mul_ps(load_column(x, at, columns, inside), _mm512_set1_ps(inverse)));
}
/* Two blocks of codes. */
AVX512_FN __m512i quantise_blocks(const float *x, size_t at, size_t columns, const float inverse[2],
                                  bool inside) {
    const __m512i first = _mm512_packs_epi32(quantise(x, at, columns, inverse[0], inside),
                                             quantise(x, at + 16, columns, inverse[0], inside));
    const __m512i second = _mm512_packs_epi32(quantise(x, at + 32, columns, inverse[1], inside),
                                              quantise(x, at + 48, columns, inverse[1], inside));
    /* packs works by 128 bits */
    const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    return _mm512_permutexvar_epi32(order, _mm512_packs_epi16(first, second));
}

/* Lane b: the sum of the codes of block b, of which codes[b / 2] holds 32. */
AVX512_FN __m512i block_sums(const __m512i codes[8]) {
    __m512i s[8], pairs[4], quads[2];
    AK42_UNROLL for (int i = 0; i < 8; i++)
        s[i] = _mm512_madd_epi16(_mm512_maddubs_epi16(_mm512_set1_epi8(1), codes[i]), _mm512_set1_epi16(1));
    AK42_UNROLL for (int i = 0; i < 4; i++)
        pairs[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(s[2 * i], s[2 * i + 1]),
                                    _mm512_unpackhi_epi32(s[2 * i], s[2 * i + 1]));
    AK42_UNROLL for (int i = 0; i < 2; i++)
        quads[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(pairs[2 * i], pairs[2 * i + 1]),
                                    _mm512_unpackhi_epi64(pairs[2 * i], pairs[2 * i + 1]));
    const __m512i sums = _mm512_add_epi32(_mm512_shuffle_i32x4(quads[0], quads[1], 0x88),
                                          _mm512_shuffle_i32x4(quads[0], quads[1], 0xdd));
    /* even blocks, odd blocks */
    const __m512i order = _mm512_set_epi32(15, 11, 14, 10, 13, 9, 12, 8, 7, 3, 6, 2, 5, 1, 4, 0);
    return _mm512_permutexvar_epi32(order, sums);
}

/* Up to 16 blocks of token t, from column `at` on; returns the bits of their largest magnitudes. */
AVX512_FN __m512i pack_q8_blocks(uint8_t *act, const float *x, size_t at, uint32_t columns, uint32_t n_blocks,
                                 uint32_t t, uint32_t n, bool inside) {
    _Alignas(64) float d[SIXTEEN], inverse[SIXTEEN];
    _Alignas(64) int32_t s[SIXTEEN];
    __m512i codes[8];
    __m512 inverses;
    const __m512i maxima = block_maxima(x, at, columns, inside);
    _mm512_store_ps(d, block_scales(&inverses, maxima));
    _mm512_store_ps(inverse, inverses);
    AK42_UNROLL for (uint32_t b = 0; b < SIXTEEN; b += 2)
        codes[b / 2] = quantise_blocks(x, at + b * 32, columns, inverse + b, inside);
    _mm512_store_si512(s, block_sums(codes));
    AK42_UNROLL for (uint32_t b = 0; b < SIXTEEN; b++) {
        if (!inside && b >= n_blocks) break;
        uint8_t *block = act + ((at / ACT_BLOCK + b) * n) * ACT_Q8_BLOCK_BYTES;
        const __m256i half = b % 2 ? _mm512_extracti64x4_epi64(codes[b / 2], 1)
            : _mm512_castsi512_si256(codes[b / 2]);
        _mm256_storeu_si256((__m256i *)(void *)(block + t * ACT_BLOCK), half);
        memcpy(block + n * ACT_BLOCK + t * 4, &d[b], 4);
        memcpy(block + n * (ACT_BLOCK + 4) + t * 4, &s[b], 4);
    }
    return maxima;
}

/* Block b, of which the columns in zeros count as zeros; returns the bits of its largest magnitude. */
AVX512_FN uint32_t pack_q8_block(uint8_t *act, const float *x, uint32_t columns, uint32_t b, uint32_t zeros, uint32_t t, uint32_t n) {
    const uint32_t at = b * ACT_BLOCK, left = columns > at ? columns - at : 0;
    const uint32_t lanes = (left < ACT_BLOCK ? (1u << left) - 1u : UINT32_MAX) & ~zeros;
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    const __m512 low = _mm512_maskz_loadu_ps((__mmask16)lanes, x + at);
    const __m512 high = _mm512_maskz_loadu_ps((__mmask16)(lanes >> 16), x + at + 16);
    const __m512i both = _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(low), magnitude),
                                          _mm512_and_si512(_mm512_castps_si512(high), magnitude));
    __m512 inverse;
    const int32_t max = _mm512_reduce_max_epi32(both);
    const __m512 d = block_scales(&inverse, _mm512_set1_epi32(max));
    const __m512i first = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse));
    const __m512i second = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
    const int32_t s = _mm512_reduce_add_epi32(_mm512_add_epi32(first, second));
    uint8_t *block = act + (size_t)b * n * ACT_Q8_BLOCK_BYTES;
    _mm_storeu_si128((__m128i *)(void *)(block + t * ACT_BLOCK), _mm512_cvtsepi32_epi8(first));
    _mm_storeu_si128((__m128i *)(void *)(block + t * ACT_BLOCK + 16), _mm512_cvtsepi32_epi8(second));
    _mm_store_ss((float *)(void *)(block + n * ACT_BLOCK + t * 4), _mm512_castps512_ps128(d));
    memcpy(block + n * (ACT_BLOCK + 4) + t * 4, &s, 4);
    return (uint32_t)max;
}

/* Notes those of 16 blocks that may matter. */
AVX512_FN void note_blocks(outlier_blocks *found, uint32_t first, __m512i maxima) {
    uint32_t wanted = _mm512_cmpgt_epi32_mask(maxima, _mm512_set1_epi32((int32_t)found->bits[OUTLIERS - 1]));
    if (!wanted) return;
    _Alignas(64) uint32_t bits[SIXTEEN];
    _mm512_store_si512(bits, maxima);
    for (; wanted; wanted &= wanted - 1) {
        const uint32_t b = (uint32_t)__builtin_ctz(wanted);
        outliers_note(found, first + b, bits[b]);
    }
}

/* The lanes of block b of which the magnitude is at least one of which the bits are given. */
AVX512_FN uint32_t lanes_from(const float *x, uint32_t columns, uint32_t b, uint32_t bits) {
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff), least = _mm512_set1_epi32((int32_t)bits);
    const __m512i low = _mm512_castps_si512(avx512_load_row(x, b * ACT_BLOCK, columns));
    const __m512i high = _mm512_castps_si512(avx512_load_row(x, b * ACT_BLOCK + 16, columns));
    return _mm512_cmpge_epi32_mask(_mm512_and_si512(low, magnitude), least) |
           (uint32_t)_mm512_cmpge_epi32_mask(_mm512_and_si512(high, magnitude), least) << 16;
}

/* Chooses the outliers. Mostly they are the largest of two blocks, which two comparisons show: where the first block has none but its
 * largest that reaches the second block's, and none is as large as another. */
AVX512_FN void take_outliers(outlier *list, const outlier_blocks *found, const float *x, uint32_t columns) {
    const uint32_t *b = found->block;
    const uint32_t first = found->bits[1] ? lanes_from(x, columns, b[0], found->bits[1]) : 0;
    const uint32_t second = found->bits[1] ? lanes_from(x, columns, b[1], found->bits[1]) : 0;
    if (!first || (first & (first - 1)) || (second & (second - 1))) {
        outliers_choose(list, found, x, columns);
        return;
    }
    const uint32_t c0 = b[0] * ACT_BLOCK + (uint32_t)__builtin_ctz(first), c1 = b[1] * ACT_BLOCK + (uint32_t)__builtin_ctz(second);
    list[c0 > c1] = (outlier){c0, x[c0]};
    list[c0 < c1] = (outlier){c1, x[c1]};
}
_Static_assert(OUTLIERS == 2, "take_outliers is for two");

/* Packs the outliers' blocks without them. */
AVX512_FN void pack_q8_outliers(uint8_t *act, const outlier *list, const float *x, uint32_t columns, uint32_t t, uint32_t n) {
    for (uint32_t i = 0; i < OUTLIERS; i++) {
        const uint32_t block = list[i].column / ACT_BLOCK;
        uint32_t zeros = 0;
        for (uint32_t j = 0; j < OUTLIERS; j++)
            if (list[j].value != 0 && list[j].column / ACT_BLOCK == block) zeros |= 1u << list[j].column % ACT_BLOCK;
        pack_q8_block(act, x, columns, block, zeros, t, n);
    }
}

enum { FEW = 4 };                      /* blocks that are packed faster one by one */

/* Rows whole, and then once more the blocks in which outliers were found. */
AVX512 static void pack_q8(uint8_t *act, outlier *lists, const float *x, size_t ldx, uint32_t n_tokens,
                           uint32_t columns) {
    const uint32_t n_blocks = (uint32_t)round_up(columns, SUPER_K) / ACT_BLOCK;
    for (uint32_t t = 0; t < n_tokens; t++, x += ldx, lists += OUTLIERS) {
        outlier_blocks found = {{0}, {0}};
        uint32_t b = 0;
        for (; (b + SIXTEEN) * ACT_BLOCK <= columns; b += SIXTEEN)
            note_blocks(&found, b, pack_q8_blocks(act, x, (size_t)b * ACT_BLOCK, columns, SIXTEEN, t, n_tokens, true));
        for (; b + FEW < n_blocks; b += SIXTEEN)
            note_blocks(&found, b,
                        pack_q8_blocks(act, x, (size_t)b * ACT_BLOCK, columns, n_blocks - b, t, n_tokens, false));
        for (; b < n_blocks; b++) outliers_note(&found, b, pack_q8_block(act, x, columns, b, 0, t, n_tokens));
        take_outliers(lists, &found, x, columns);
        pack_q8_outliers(act, lists, x, columns, t, n_tokens);
    }
}

/* ---- Q8_SUPER: two superblocks of one token at a time ---- */

/* In each half of the lanes the largest of the half. */
AVX512_FN __m512i half_maxima(__m512i m) {
    m = _mm512_max_epi32(m, _mm512_permutex_epi64(m, 0x4e));
    m = _mm512_max_epi32(m, _mm512_shuffle_epi32(m, _MM_PERM_BADC));
    return _mm512_max_epi32(m, _mm512_shuffle_epi32(m, _MM_PERM_CDAB));
}

/* Lane g: the sum of the codes of columns 16 * g .. 16 * g + 15 of the superblock of which codes hold 64 columns each. */
AVX512_FN __m512i super_sums(const __m512i codes[4]) {
    __m512i s[4], pairs[2];
    AK42_UNROLL for (int i = 0; i < 4; i++)
        s[i] = _mm512_madd_epi16(_mm512_maddubs_epi16(_mm512_set1_epi8(1), codes[i]), _mm512_set1_epi16(1));
    AK42_UNROLL for (int i = 0; i < 2; i++)
        pairs[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(s[2 * i], s[2 * i + 1]), _mm512_unpackhi_epi32(s[2 * i], s[2 * i + 1]));
    const __m512i sums = _mm512_add_epi32(_mm512_unpacklo_epi64(pairs[0], pairs[1]), _mm512_unpackhi_epi64(pairs[0], pairs[1]));
    /* place 4 * lane + i is of codes[i] */
    const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    return _mm512_permutexvar_epi32(order, sums);
}

/* Token t's starts and pairs of a superblock of a tile of n. */
AVX512_FN void store_sums(uint8_t *super, __m512i sums, uint32_t t, uint32_t n) {
    const __m512i starts = _mm512_sub_epi32(_mm512_set1_epi32(SUPER_START), _mm512_slli_epi32(sums, 7));
    const __m512i wide = _mm512_add_epi32(sums, _mm512_shuffle_epi32(sums, _MM_PERM_CDAB));        /* of 32 columns, each twice */
    const __m512i first = _mm512_set_epi32(0, 0, 0, 0, 26, 24, 18, 16, 13, 12, 9, 8, 5, 4, 1, 0);
    const __m512i second = _mm512_set_epi32(0, 0, 0, 0, 30, 28, 22, 20, 15, 14, 11, 10, 7, 6, 3, 2);
    const __m512i low = _mm512_permutex2var_epi32(sums, first, wide), high = _mm512_permutex2var_epi32(sums, second, wide);
    const __m512i pairs = _mm512_or_si512(_mm512_and_si512(low, _mm512_set1_epi32(0xffff)), _mm512_slli_epi32(high, 16));
    _Alignas(64) int32_t all[32];
    _mm512_store_si512(all, starts);
    _mm512_store_si512(all + 16, pairs);
    AK42_UNROLL for (uint32_t g = 0; g < 16; g++)
        memcpy(super + (g / 2 * ACT_SUPER_BLOCK_BYTES + ACT_BLOCK) * n + (g % 2 * n + t) * 4, &all[g], 4);
    AK42_UNROLL for (uint32_t p = 0; p < 12; p++) memcpy(super + SUPER_PAIRS_16 * n + (p * n + t) * 4, &all[16 + p], 4);
}
_Static_assert(SUPER_PAIRS_32 == SUPER_PAIRS_16 + 32, "one run of pairs");

/* n_supers superblocks, 1 or 2, of token t, from column `at` on; returns the bits of the largest magnitudes of 16 blocks. */
AVX512_FN __m512i pack_supers(uint8_t *act, const float *x, size_t at, size_t columns, uint32_t n_supers, uint32_t t, uint32_t n,
                              bool inside) {
    _Alignas(64) float d[SIXTEEN], inverse[SIXTEEN];
    __m512 inverses;
    const __m512i maxima = block_maxima(x, at, columns, inside);
    _mm512_store_ps(d, block_scales(&inverses, half_maxima(maxima)));
    _mm512_store_ps(inverse, inverses);
    for (uint32_t i = 0; i < n_supers; i++, act += (size_t)n * ACT_SUPER_BYTES) {
        __m512i codes[4];
        AK42_UNROLL for (uint32_t b = 0; b < 8; b += 2) {
            codes[b / 2] = quantise_blocks(x, at + i * SUPER_K_MAX + b * 32, columns, inverse + i * 8, inside);
            _mm256_storeu_si256((__m256i *)(void *)(act + b * n * ACT_SUPER_BLOCK_BYTES + t * ACT_BLOCK), _mm512_castsi512_si256(codes[b / 2]));
            _mm256_storeu_si256((__m256i *)(void *)(act + (b + 1) * n * ACT_SUPER_BLOCK_BYTES + t * ACT_BLOCK),
                                _mm512_extracti64x4_epi64(codes[b / 2], 1));
        }
        memcpy(act + (size_t)n * SUPER_D + t * 4, &d[i * 8], 4);
        store_sums(act, super_sums(codes), t, n);
    }
    return maxima;
}

/* Packs the superblocks of a token's outliers without them. */
AVX512_FN void pack_super_outliers(uint8_t *act, const outlier *list, const float *x, uint32_t columns, uint32_t t, uint32_t n) {
    for (uint32_t i = 0; i < OUTLIERS; i++) {
        const uint32_t super = list[i].column / SUPER_K_MAX, at = super * SUPER_K_MAX;
        const uint32_t width = columns - at < SUPER_K_MAX ? columns - at : SUPER_K_MAX;
        float values[SUPER_K_MAX];
        if (list[i].value == 0 || (i && super == list[i - 1].column / SUPER_K_MAX && list[i - 1].value != 0)) continue;
        memcpy(values, x + at, width * sizeof(float));
        for (uint32_t j = 0; j < OUTLIERS; j++)
            if (list[j].value != 0 && list[j].column / SUPER_K_MAX == super) values[list[j].column - at] = 0;
        pack_supers(act + (size_t)super * n * ACT_SUPER_BYTES, values, 0, width, 1, t, n, false);
    }
}

AVX512 static void pack_q8_super(uint8_t *act, outlier *lists, const float *x, size_t ldx, uint32_t n_tokens, uint32_t columns) {
    enum { TWO = 2 * SUPER_K_MAX };
    const size_t super_bytes = (size_t)n_tokens * ACT_SUPER_BYTES;
    for (uint32_t t = 0; t < n_tokens; t++, x += ldx, lists += OUTLIERS) {
        outlier_blocks found = {{0}, {0}};
        uint32_t at = 0;
        for (; at + TWO <= columns; at += TWO)
            note_blocks(&found, at / ACT_BLOCK, pack_supers(act + at / SUPER_K_MAX * super_bytes, x, at, columns, 2, t, n_tokens, true));
        for (; at < columns; at += TWO)
            note_blocks(&found, at / ACT_BLOCK, pack_supers(act + at / SUPER_K_MAX * super_bytes, x, at, columns,
                                                            columns - at > SUPER_K_MAX ? 2 : 1, t, n_tokens, false));
        take_outliers(lists, &found, x, columns);
        pack_super_outliers(act, lists, x, columns, t, n_tokens);
    }
}

void avx512_fill_pack(kernel_table *table) {
    table->pack[ACT_F32] = pack_f32;
    table->pack[ACT_BF16] = pack_bf16;
    table->pack[ACT_Q8] = pack_q8;
    table->pack[ACT_Q8_SUPER] = pack_q8_super;
}

#else
typedef int k_avx512_pack_is_empty;
#endif

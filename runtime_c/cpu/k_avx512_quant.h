/* k_avx512_quant.h: matrix products on quantised weights and ACT_Q8 tiles for AVX-512: a body that two
 * files include, each with its own instructions. Before the #include they define
 *     QUANT_TARGET                  the target string of every function
 *     QUANT_NR                      tokens of a full tile, 8 or 4
 *     QUANT_UNROLL                  AK42_UNROLL, or nothing where a dot is many instructions
 *     quant_dot(sum, w, a)          sum + the dot products of 4 u8 of w with 4 i8 of a, in each of 16 lanes
 *     quant_dot_at(sum, w, a)       the same with the 4 i8 at a
 * It defines quant_fill, which fills the rows of the four quantised types. No dispatch, no state.
 *
 * A block's integer dot c is accumulated on top of the bits of the float MAGIC = 1.5 * 2^23, whose last
 * place is one: read as a float the sum is MAGIC + c, exactly, while |c| < 2^22 (32 * 255 * 128 is less).
 * Then scale * c comes from one instruction, fma(MAGIC + c, scale, -MAGIC * scale), rounded once, as MAGIC
 * * scale is exact where scale has 22 significant bits: f16 has 11; f32 scales are cut to 22, which
 * changes a weight by less than 2^-21 of itself. So a block of a token takes two instructions beside its
 * dots: sum += d * (scale * c). */
#include "k_avx512.h"

#define QUANT_FN static AK42_INLINE AK42_TARGET(QUANT_TARGET)

enum { QUANT_MAGIC_BITS = 0x4b400000 };
#define QUANT_MAGIC 12582912.0f

/* How a superblock is laid out. WIDE forms are what unpack writes: f32 scales[2][16], then -MAGIC * scale
 * or, for 4_1, the mins, [2][16], then 1024 u8. */
typedef enum quant_form {
    QUANT_8_0, QUANT_INT8, QUANT_4_0, QUANT_4_1, QUANT_WIDE_8_0,
    QUANT_WIDE_4_0, QUANT_WIDE_4_1
} quant_form;

enum { QUANT_WIDE_BYTES = 128 + 128 + 1024 };

/* The quant that stands for zero. */
QUANT_FN int quant_zero(quant_form form) {
    if (form == QUANT_8_0 || form == QUANT_INT8 || form == QUANT_WIDE_8_0) return 128;
    return form == QUANT_4_0 || form == QUANT_WIDE_4_0 ? 8 : 0;
}
QUANT_FN bool quant_is_wide(quant_form form) { return form >= QUANT_WIDE_8_0; }
/* Where the quants begin, after the scales. group: INT8 only. */
QUANT_FN size_t quant_scale_bytes(quant_form form, uint32_t group) {
    if (form == QUANT_INT8) return SUPER_K / group * 64;
    return form == QUANT_8_0 || form == QUANT_4_0 ? 64 : form == QUANT_4_1 ? 128 : 256;
}
QUANT_FN size_t quant_super_bytes(quant_form form, uint32_t group) {
    return quant_scale_bytes(form, group) + (form == QUANT_4_0 || form == QUANT_4_1 ? 512 : 1024);
}

/* Whether a block's quants are taken 16 times too large: a superblock's second nibbles where they stand. A 16th of the scale makes
 * the same numbers of them. */
QUANT_FN bool quant_sixteenfold(quant_form form, int block) { return block && (form == QUANT_4_0 || form == QUANT_4_1); }
/* 16 rows x 4 k of u8: k-group g of a block of a superblock. */
QUANT_FN __m512i quant_load(quant_form form, uint32_t group, const uint8_t *super, int block, int g) {
    const uint8_t *quants = super + quant_scale_bytes(form, group);
    if (form != QUANT_4_0 && form != QUANT_4_1) return _mm512_loadu_si512(quants + (block * 8 + g) * 64);
    const __m512i both = _mm512_loadu_si512(quants + g * 64);
    return _mm512_and_si512(both, _mm512_set1_epi8((char)(block ? 0xf0 : 15)));
}

/* The same, never too large. */
QUANT_FN __m512i quant_one(quant_form form, uint32_t group, const uint8_t *super, int block, int g) {
    const __m512i quants = quant_load(form, group, super, block, g);
    return quant_sixteenfold(form, block) ? _mm512_srli_epi16(quants, 4) : quants;
}

QUANT_FN __m512 quant_halves(const uint8_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
QUANT_FN __m512 quant_scale(quant_form form, uint32_t group, const uint8_t *super, int block) {
    if (quant_is_wide(form)) return _mm512_loadu_ps(super + block * 64);
    if (form != QUANT_INT8) return quant_halves(super + block * 32);
    const int second = 2 * (64 - (int)group);          /* groups of 32: the second block has its own scale */
    const __m512i bits = _mm512_loadu_si512(super + block * second);
    return _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32((int)0xfffffffc)));
}
QUANT_FN __m512 quant_bias(quant_form form, const uint8_t *super, int block, __m512 scale) {
    if (quant_is_wide(form) && form != QUANT_WIDE_4_1) return _mm512_loadu_ps(super + 128 + block * 64);
    return _mm512_mul_ps(scale, _mm512_set1_ps(-QUANT_MAGIC));
}
QUANT_FN __m512 quant_min(quant_form form, const uint8_t *super, int block) {
    if (form == QUANT_WIDE_4_1) return _mm512_loadu_ps(super + 128 + block * 64);
    return quant_halves(super + 64 + block * 32);
}

QUANT_FN int32_t quant_word(const uint8_t *p) {
    int32_t word;
    memcpy(&word, p, 4);
    return word;
}
QUANT_FN float quant_float(const uint8_t *p) {
    float value;
    memcpy(&value, p, 4);
    return value;
}

/* A tile: m tokens from `first` on of an activation tile of n tokens. */
typedef struct quant_tokens {
    uint32_t n, first;
} quant_tokens;

/* What a piece of K needs of the activations' sums, per block and token: where the integer dots start,
 * MAGIC - zero * s, or, where zero is 0, s as a float. It goes through memory so that each value is loaded
 * as a broadcast, which costs no arithmetic port. */
enum { QUANT_PIECE = 16 };             /* superblocks */
typedef union quant_start {
    _Alignas(64) int32_t dot[QUANT_PIECE * 2][16];
    float s[QUANT_PIECE * 2][16];
} quant_start;

QUANT_FN void quant_prepare(quant_start *start, const uint8_t *act, uint32_t n_blocks, quant_tokens tokens,
                            int m, quant_form form) {
    const uint8_t *s = act + (size_t)tokens.n * (ACT_BLOCK + 4) + (size_t)tokens.first * 4;
    for (uint32_t i = 0; i < n_blocks; i++, s += (size_t)tokens.n * ACT_Q8_BLOCK_BYTES) {
        const __m512i sum = _mm512_maskz_loadu_epi32((__mmask16)((1u << m) - 1), s);
        if (quant_zero(form)) {
            const __m512i offset = _mm512_slli_epi32(sum, quant_zero(form) == 128 || (i % 2 && quant_sixteenfold(form, 1)) ? 7 : 3);
            _mm512_store_si512(start->dot[i], _mm512_sub_epi32(_mm512_set1_epi32(QUANT_MAGIC_BITS), offset));
        } else _mm512_store_ps(start->s[i], _mm512_cvtepi32_ps(sum));
    }
}

/* Cache lines of a superblock that are asked for: all but the last of INT8's where it has groups of 32. */
QUANT_FN int quant_lines(quant_form form) { return form == QUANT_4_0 ? 9 : form == QUANT_4_1 ? 10 : 17; }

/* Asks for the lines that come later, a few at each step. Not in unpacked panels, which are in the cache. */
QUANT_FN void quant_ask(const uint8_t *super, const size_t *far, size_t panel_bytes, int np, quant_form form, int step) {
    const int n_lines = quant_lines(form);
    if (quant_is_wide(form)) return;
    AK42_UNROLL for (int p = 0; p < np; p++) {
        const uint8_t *line = super + (size_t)p * panel_bytes + step * CACHE_LINE;
        if (step < n_lines) ask_line(line, far[p]);
        if (step + 16 < n_lines) ask_line(line + 16 * CACHE_LINE, far[p]);
    }
}

/* One activation block of m tokens against np panels; i is the block's index in the piece. */
QUANT_FN void quant_block(__m512 sum[16], const quant_start *start, uint32_t i, const uint8_t *super,
                          const size_t *far, size_t panel_bytes, const uint8_t *act, quant_tokens tokens, int np, int m,
                          quant_form form, uint32_t group, int block) {
    const uint8_t *q = act + (size_t)tokens.first * ACT_BLOCK;
    const uint8_t *d = act + (size_t)tokens.n * ACT_BLOCK + (size_t)tokens.first * 4;
    __m512i dot[16];
    AK42_UNROLL for (int t = 0; t < m; t++)
        AK42_UNROLL for (int p = 0; p < np; p++)
            dot[p * m + t] = _mm512_set1_epi32(quant_zero(form) ? start->dot[i][t] : QUANT_MAGIC_BITS);

    QUANT_UNROLL for (int g = 0; g < 8; g++) {
        __m512i w[2];
        quant_ask(super, far, panel_bytes, np, form, block * 8 + g);
        AK42_UNROLL for (int p = 0; p < np; p++)
            w[p] = quant_load(form, group, super + (size_t)p * panel_bytes, block, g);
        AK42_UNROLL for (int t = 0; t < m; t++) {
            const __m512i a = _mm512_set1_epi32(quant_word(q + t * ACT_BLOCK + g * 4));
            AK42_UNROLL for (int p = 0; p < np; p++) dot[p * m + t] = quant_dot(dot[p * m + t], w[p], a);
        }
    }

    __m512 scale[2], bias[2], min[2];
    AK42_UNROLL for (int p = 0; p < np; p++) {
        const uint8_t *at = super + (size_t)p * panel_bytes;
        scale[p] = quant_scale(form, group, at, block);
        if (quant_sixteenfold(form, block)) scale[p] = _mm512_mul_ps(scale[p], _mm512_set1_ps(1.0f / 16));
        bias[p] = quant_bias(form, at, block, scale[p]);
        if (!quant_zero(form)) min[p] = quant_min(form, at, block);
    }
    AK42_UNROLL for (int t = 0; t < m; t++) {
        const __m512 factor = _mm512_set1_ps(quant_float(d + t * 4));
        AK42_UNROLL for (int p = 0; p < np; p++) {
            __m512 part = _mm512_fmadd_ps(_mm512_castsi512_ps(dot[p * m + t]), scale[p], bias[p]);
            if (!quant_zero(form)) part = _mm512_fmadd_ps(min[p], _mm512_set1_ps(start->s[i][t]), part);
            sum[p * m + t] = _mm512_fmadd_ps(part, factor, sum[p * m + t]);
        }
    }
}

/* Columns ascending, blocks ascending: out for m tokens and np panels from panel on. */
QUANT_FN void quant_tile(const gemm_args *args, uint32_t panel, quant_tokens tokens, int np, int m,
                         quant_form form, uint32_t group) {
    const size_t super_bytes = quant_super_bytes(form, group);
    const size_t block_bytes = (size_t)tokens.n * ACT_Q8_BLOCK_BYTES;
    const uint8_t *super = args->panels + panel * args->panel_bytes, *act = args->act;
    const uint8_t *end = super + args->n_super * super_bytes;
    size_t jump[2];
    __m512 sum[16];
    AK42_UNROLL for (int p = 0; p < np; p++) jump[p] = gemm_jump(args, panel, (uint32_t)np, (uint32_t)p);
    AK42_UNROLL for (int p = 0; p < np; p++)
        AK42_UNROLL for (int t = 0; t < m; t++)
            sum[p * m + t] = avx512_start(args, tokens.first + (uint32_t)t, panel + (uint32_t)p);
    for (uint32_t left = args->n_super; left > 0;) {
        const uint32_t piece = left < QUANT_PIECE ? left : QUANT_PIECE;
        quant_start start;
        quant_prepare(&start, act, piece * 2, tokens, m, form);
        for (uint32_t i = 0; i < piece * 2; i += 2, super += super_bytes, act += 2 * block_bytes) {
            size_t far[2];
            AK42_UNROLL for (int p = 0; p < np; p++) far[p] = ahead_far((size_t)(end - super), jump[p], false);
            quant_block(sum, &start, i, super, far, args->panel_bytes, act, tokens, np, m, form, group, 0);
            quant_block(sum, &start, i + 1, super, far, args->panel_bytes, act + block_bytes, tokens, np, m, form,
                        group, 1);
        }
        left -= piece;
    }
    AK42_UNROLL for (int p = 0; p < np; p++)
        AK42_UNROLL for (int t = 0; t < m; t++) {
            float *out = args->out + (tokens.first + (uint32_t)t) * args->ldo +
                (panel + (uint32_t)p) * PANEL_ROWS;
            const __m512 old = args->accumulate ? _mm512_loadu_ps(out) : _mm512_setzero_ps();
            _mm512_storeu_ps(out, args->accumulate ? _mm512_add_ps(old, sum[p * m + t]) : sum[p * m + t]);
        }
}

/* ---- one token: one stream, few instructions a line (avx512_dot_at) ---- */

enum { QUANT_STREAM = 128 };           /* superblocks of which the dots' starts are kept */
typedef union quant_stream_start {
    int32_t dot[QUANT_STREAM * 2];
    float s[QUANT_STREAM * 2];
} quant_stream_start;

QUANT_FN void quant_stream_prepare(quant_stream_start *start, const uint8_t *act, uint32_t n_blocks, quant_form form) {
    for (uint32_t i = 0; i < n_blocks; i++, act += ACT_Q8_BLOCK_BYTES) {
        const int32_t sum = quant_word(act + ACT_BLOCK + 4), factor = i % 2 && quant_sixteenfold(form, 1) ? 16 : 1;
        if (quant_zero(form)) start->dot[i] = QUANT_MAGIC_BITS - sum * quant_zero(form) * factor;
        else start->s[i] = (float)sum;
    }
}

/* quant_block's sums of both blocks of a superblock, the i-th of those prepared. */
QUANT_FN __m512 quant_stream_super(__m512 sum, const quant_stream_start *start, uint32_t i, const uint8_t *super, bool asks, size_t far,
                                   const uint8_t *act, quant_form form, uint32_t group) {
    const bool nibbles = form == QUANT_4_0 || form == QUANT_4_1;
    const int n_lines = quant_lines(form);
    __m512i dot[2];
    AK42_UNROLL for (int block = 0; block < 2; block++)
        dot[block] = _mm512_set1_epi32(quant_zero(form) ? start->dot[2 * i + (uint32_t)block] : QUANT_MAGIC_BITS);
    AK42_UNROLL for (int step = 0; step < 16; step++) {
        const int block = nibbles ? step % 2 : step / 8, g = nibbles ? step / 2 : step % 8;
        AK42_UNROLL for (int line = step * n_lines / 16; line < (step + 1) * n_lines / 16; line++)
            ask_if(asks, super + line * CACHE_LINE, far);
        if (!nibbles) AK42_IN_ORDER();
        dot[block] = quant_dot_at(dot[block], quant_load(form, group, super, block, g), act + block * ACT_Q8_BLOCK_BYTES + g * 4);
    }
    AK42_UNROLL for (int block = 0; block < 2; block++) {
        const uint8_t *d = act + block * ACT_Q8_BLOCK_BYTES + ACT_BLOCK;
        const __m512 whole = quant_scale(form, group, super, block);
        const __m512 scale = quant_sixteenfold(form, block) ? _mm512_mul_ps(whole, _mm512_set1_ps(1.0f / 16)) : whole;
        __m512 part = _mm512_fmadd_ps(_mm512_castsi512_ps(dot[block]), scale, quant_bias(form, super, block, scale));
        if (!quant_zero(form))
            part = _mm512_fmadd_ps(quant_min(form, super, block), _mm512_set1_ps(start->s[2 * i + (uint32_t)block]), part);
        sum = _mm512_fmadd_ps(part, _mm512_set1_ps(quant_float(d)), sum);
    }
    return sum;
}

QUANT_FN void quant_stream(const gemm_args *args, bool asks, quant_form form) {
    const uint32_t group = form == QUANT_INT8 ? args->group_size : 32, super_bytes = (uint32_t)quant_super_bytes(form, group);
    quant_stream_start start;
    uint32_t prepared = UINT32_MAX;
    for (uint32_t panel = 0; panel < args->n_panels; panel++) {
        const uint8_t *super = args->panels + panel * args->panel_bytes, *end = super + args->n_super * super_bytes, *act = args->act;
        const size_t jump = gemm_jump(args, panel, 1, 0);
        __m512 sum = avx512_start(args, 0, panel);
        for (uint32_t first = 0; first < args->n_super; first += QUANT_STREAM) {
            const uint32_t n = args->n_super - first < QUANT_STREAM ? args->n_super - first : QUANT_STREAM;
            if (prepared != first) quant_stream_prepare(&start, act, n * 2, form);
            prepared = first;
            for (uint32_t i = 0; i < n; i++, super += super_bytes, act += 2 * ACT_Q8_BLOCK_BYTES) {
                const size_t far = ahead_far((size_t)(end - super), jump, false);
                sum = quant_stream_super(sum, &start, i, super, asks, far, act, form, group);
            }
        }
        float *out = args->out + panel * PANEL_ROWS;
        _mm512_storeu_ps(out, args->accumulate ? _mm512_add_ps(_mm512_loadu_ps(out), sum) : sum);
    }
}

/* ---- any ---- */

/* Panels in pairs: with 8 tokens 16 chains of dots, which is what keeps two dot units busy. */
QUANT_FN void quant_pairs(const gemm_args *args, int n, quant_form form) {
    const uint32_t group = form == QUANT_INT8 ? args->group_size : 32, paired = args->n_panels / 2 * 2;
    for (uint32_t panel = 0; panel < paired; panel += 2) quant_tile(args, panel, (quant_tokens){(uint32_t)n, 0}, 2, n, form, group);
}
QUANT_FN bool quant_is_stream(int n, quant_form form) { return n == 1 && !quant_is_wide(form); }
QUANT_FN void quant_panels(const gemm_args *args, int n, quant_form form) {
    if (!quant_is_stream(n, form)) quant_pairs(args, n, form);
    else if (args->foreseen) quant_stream(args, false, form);
    else quant_stream(args, true, form);
}
/* The last panel of an odd number. */
QUANT_FN void quant_last(const gemm_args *args, quant_form form) {
    if (quant_is_stream((int)args->n_tokens, form)) return;
    const uint32_t group = form == QUANT_INT8 ? args->group_size : 32, panel = args->n_panels - 1;
    uint32_t t = 0;
    for (; t + 4 <= args->n_tokens; t += 4)
        quant_tile(args, panel, (quant_tokens){args->n_tokens, t}, 1, 4, form, group);
    for (; t < args->n_tokens; t++)
        quant_tile(args, panel, (quant_tokens){args->n_tokens, t}, 1, 1, form, group);
}

/* One function for each number of tokens, so that all of a tile stays in registers. */
#define QUANT_GEMM_N(name, n, form) \
    AK42_TARGET(QUANT_TARGET) static void name##_##n(const gemm_args *args) { quant_panels(args, n, form); }
#define QUANT_GEMM_4(name, form) \
    QUANT_GEMM_N(name, 1, form)  \
    QUANT_GEMM_N(name, 2, form)  \
    QUANT_GEMM_N(name, 3, form)  \
    QUANT_GEMM_N(name, 4, form)  \
    AK42_TARGET(QUANT_TARGET) static void name##_last(const gemm_args *args) { quant_last(args, form); }
#define QUANT_GEMM_END(name, ...)                               \
    static void name(const gemm_args *args) {                   \
        kernel_gemm *const by_tokens[QUANT_NR] = {__VA_ARGS__}; \
        by_tokens[args->n_tokens - 1](args);                    \
        if (args->n_panels % 2) name##_last(args);              \
    }
#if QUANT_NR == 8
#define QUANT_GEMM(name, form)  \
    QUANT_GEMM_4(name, form)    \
    QUANT_GEMM_N(name, 5, form) \
    QUANT_GEMM_N(name, 6, form) \
    QUANT_GEMM_N(name, 7, form) \
    QUANT_GEMM_N(name, 8, form) \
    QUANT_GEMM_END(name, name##_1, name##_2, name##_3, name##_4, name##_5, name##_6, name##_7, name##_8)
#else
#define QUANT_GEMM(name, form) \
    QUANT_GEMM_4(name, form)   \
    QUANT_GEMM_END(name, name##_1, name##_2, name##_3, name##_4)
#endif

QUANT_GEMM(gemm_q8_0, QUANT_8_0)
QUANT_GEMM(gemm_int8_large, QUANT_INT8)
QUANT_GEMM(gemm_q4_0, QUANT_4_0)
QUANT_GEMM(gemm_q4_1, QUANT_4_1)
QUANT_GEMM(wide_q8_0, QUANT_WIDE_8_0)
QUANT_GEMM(wide_q4_0, QUANT_WIDE_4_0)
QUANT_GEMM(wide_q4_1, QUANT_WIDE_4_1)

/* INT8 where several groups share an activation block (groups of 4, 8 or 16): scaled group by group. Rare
 * and not tuned. */
AK42_TARGET(QUANT_TARGET) static __m512 small_block(__m512 sum, const uint8_t *super, const uint8_t *q,
                                                    float d, uint32_t group, uint32_t block) {
    const uint8_t *scales = super + block * ACT_BLOCK / group * 64;
    const uint8_t *quants = super + SUPER_K / group * 64 + block * 512;
    __m512 part = _mm512_setzero_ps();
    for (uint32_t k = 0; k < ACT_BLOCK; k += group) {
        __m512i dot = _mm512_setzero_si512(), zero = dot;
        for (uint32_t i = k; i < k + group; i += 4) {
            const __m512i a = _mm512_set1_epi32(quant_word(q + i));
            dot = quant_dot(dot, _mm512_loadu_si512(quants + i * 16), a);
            zero = quant_dot(zero, _mm512_set1_epi8((char)128), a);
        }
        part = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(dot, zero)),
                               _mm512_loadu_ps(scales + k / group * 64), part);
    }
    return _mm512_fmadd_ps(part, _mm512_set1_ps(d), sum);
}
AK42_TARGET(QUANT_TARGET) static void gemm_int8_small(const gemm_args *args) {
    const uint32_t n = args->n_tokens;
    for (uint32_t panel = 0; panel < args->n_panels; panel++)
        for (uint32_t t = 0; t < n; t++) {
            __m512 sum = avx512_start(args, t, panel);
            for (uint32_t i = 0; i < args->n_super * 2; i++) {
                const uint8_t *super = args->panels + panel * args->panel_bytes +
                    (size_t)(i / 2) * args->super_bytes;
                const uint8_t *act = args->act + (size_t)i * n * ACT_Q8_BLOCK_BYTES;
                sum = small_block(sum, super, act + t * ACT_BLOCK, quant_float(act + n * ACT_BLOCK + t * 4),
                                  args->group_size, i % 2);
            }
            float *out = args->out + t * args->ldo + panel * PANEL_ROWS;
            _mm512_storeu_ps(out, args->accumulate ? _mm512_add_ps(_mm512_loadu_ps(out), sum) : sum);
        }
}
static void gemm_int8(const gemm_args *args) {
    if (args->group_size < ACT_BLOCK) gemm_int8_small(args);
    else gemm_int8_large(args);
}

QUANT_FN void quant_unpack(uint8_t *dst, const uint8_t *panel, uint32_t n_super, quant_form form) {
    for (uint32_t i = 0; i < n_super; i++, panel += quant_super_bytes(form, 0), dst += QUANT_WIDE_BYTES)
        AK42_UNROLL for (int block = 0; block < 2; block++) {
            const __m512 scale = quant_scale(form, 0, panel, block);
            _mm512_store_ps(dst + block * 64, scale);
            _mm512_store_ps(dst + 128 + block * 64,
                            form == QUANT_4_1 ? quant_min(form, panel, block)
                                : quant_bias(form, panel, block, scale));
            AK42_UNROLL for (int g = 0; g < 8; g++)
                _mm512_store_si512(dst + 256 + (block * 8 + g) * 64, quant_one(form, 0, panel, block, g));
        }
}
AK42_TARGET(QUANT_TARGET) static void unpack_q8_0(uint8_t *dst, const uint8_t *panel, uint32_t n_super,
                                                  uint32_t group_size) {
    (void)group_size;
    quant_unpack(dst, panel, n_super, QUANT_8_0);
}
AK42_TARGET(QUANT_TARGET) static void unpack_q4_0(uint8_t *dst, const uint8_t *panel, uint32_t n_super,
                                                  uint32_t group_size) {
    (void)group_size;
    quant_unpack(dst, panel, n_super, QUANT_4_0);
}
AK42_TARGET(QUANT_TARGET) static void unpack_q4_1(uint8_t *dst, const uint8_t *panel, uint32_t n_super,
                                                  uint32_t group_size) {
    (void)group_size;
    quant_unpack(dst, panel, n_super, QUANT_4_1);
}

static void quant_fill(kernel_table *table) {
    table->types[KERNEL_INT8] = (type_kernels){.act = ACT_Q8, .nr = QUANT_NR, .gemm = gemm_int8, .in_order = true};
    table->types[KERNEL_Q8_0] = (type_kernels){
        .act = ACT_Q8, .nr = QUANT_NR, .gemm = gemm_q8_0, .unpack = unpack_q8_0, .gemm_wide = wide_q8_0,
        .in_order = true, .wide_super_bytes = QUANT_WIDE_BYTES, .wide_from = 96};
    table->types[KERNEL_Q4_0] = (type_kernels){
        .act = ACT_Q8, .nr = QUANT_NR, .gemm = gemm_q4_0, .unpack = unpack_q4_0, .gemm_wide = wide_q4_0,
        .in_order = true, .wide_super_bytes = QUANT_WIDE_BYTES, .wide_from = 36};
    table->types[KERNEL_Q4_1] = (type_kernels){
        .act = ACT_Q8, .nr = QUANT_NR, .gemm = gemm_q4_1, .unpack = unpack_q4_1, .gemm_wide = wide_q4_1,
        .in_order = true, .wide_super_bytes = QUANT_WIDE_BYTES, .wide_from = 36};
}

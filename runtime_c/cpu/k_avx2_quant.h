/* k_avx2_quant.h: matrix products on quantised weights and ACT_Q8 tiles with 256-bit registers, a body
 * that two files include, each with its own instructions: before the #include they define
 *     QUANT_TARGET                  the target string of every function
 *     QUANT_VNNI                    1: vpdpbusd on u8 weights; 0: AVX2's multiply-adds, which saturate
 * It defines gemm_* for the four quantised types. No dispatch, no state.
 *
 * Without VNNI, 8-bit weights are taken as signed: |w| times (a with w's sign) cannot saturate (2 * 128 *
 * 127 < 2^15), and 4-bit weights are summed over a whole block in 16 bits (8 * 2 * 15 * 127 < 2^15).
 *
 * A block's integer dot c is added to the bits of the float M = 1.5 * 2^23, whose last place is one: read
 * as a float that is M + c, exactly. Then scale * c, rounded once, is fma(M + c, scale, -M * scale), whose
 * last term is exact for scales that were f16. With f32 scales c is converted and multiplied, which rounds
 * alike. */
#include "k_avx2.h"

#define QUANT_FN static AK42_INLINE AK42_TARGET(QUANT_TARGET)

typedef enum quant_form { QUANT_8_0, QUANT_INT8, QUANT_4_0, QUANT_4_1 } quant_form;

enum { QUANT_MAGIC_BITS = 0x4b400000, QUANT_NR = 6 };
#define QUANT_MAGIC 12582912.0f

/* Set where whole panels are summed at once (12 accumulators); else the halves follow one another within a
 * block. */
enum { QUANT_HALVES = QUANT_VNNI ? 2 : 1 };

QUANT_FN bool quant_is_8(quant_form form) { return form == QUANT_8_0 || form == QUANT_INT8; }

QUANT_FN size_t quant_head_bytes(quant_form form, uint32_t group) {
    return form == QUANT_INT8 ? SUPER_K / group * 64 : form == QUANT_4_1 ? 128 : 64;
}

/* Codes of 8 rows x 4 k: k-group g of a block, half h of the panel. quants points behind the scales. */
QUANT_FN __m256i quant_codes(const uint8_t *quants, quant_form form, int block, int g, int h) {
    if (quant_is_8(form)) return avx2_load(quants + (block * 8 + g) * 64 + h * 32);
    const __m256i both = avx2_load(quants + g * 64 + h * 32);
    return _mm256_and_si256(block ? _mm256_srli_epi16(both, 4) : both, _mm256_set1_epi8(15));
}

/* Codes made ready for any number of tokens. */
typedef struct quant_word {
    __m256i codes;
    __m256i sign;                  /* 8-bit weights without VNNI: codes is |w|, this is w */
} quant_word;

#if QUANT_VNNI

QUANT_FN quant_word quant_ready(__m256i codes, quant_form form) {
    (void)form;
    return (quant_word){ codes, codes };
}
/* dot + the products of one k-group of one token. */
QUANT_FN __m256i quant_dot(__m256i dot, quant_word w, __m256i a, quant_form form) {
    (void)form;
    return _mm256_dpbusd_avx_epi32(dot, w.codes, a);
}
/* Codes stand for weights plus 2^7 or 2^3, so that times the sum of activations comes off. */
QUANT_FN int quant_zero_shift(quant_form form) { return quant_is_8(form) ? 7 : form == QUANT_4_0 ? 3 : 0; }
/* Whether dots are 16-bit sums. */
QUANT_FN bool quant_is_narrow(quant_form form) {
    (void)form;
    return false;
}

#else

QUANT_FN quant_word quant_ready(__m256i codes, quant_form form) {
    if (!quant_is_8(form)) return (quant_word){ codes, codes };
    const __m256i w = _mm256_xor_si256(codes, _mm256_set1_epi8((char)0x80));
    return (quant_word){ _mm256_abs_epi8(w), w };
}
QUANT_FN __m256i quant_dot(__m256i dot, quant_word w, __m256i a, quant_form form) {
    if (!quant_is_8(form)) return _mm256_add_epi16(dot, _mm256_maddubs_epi16(w.codes, a));
    const __m256i pairs = _mm256_maddubs_epi16(w.codes, _mm256_sign_epi8(a, w.sign));
    return _mm256_add_epi32(dot, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
QUANT_FN int quant_zero_shift(quant_form form) { return form == QUANT_4_0 ? 3 : 0; }
QUANT_FN bool quant_is_narrow(quant_form form) { return !quant_is_8(form); }

#endif

/* What a token's dots start from (16-bit ones: get at the end): M's bits, less what the codes' zero adds. */
QUANT_FN __m256i quant_start(const uint8_t *s, quant_form form) {
    const __m256i magic = form == QUANT_INT8 ? _mm256_setzero_si256() : _mm256_set1_epi32(QUANT_MAGIC_BITS);
    const int shift = quant_zero_shift(form);
    return shift ? _mm256_sub_epi32(magic, _mm256_slli_epi32(avx2_word(s), shift)) : magic;
}

/* sum[t][h] += d[t] * (scale * dot + min * sum of a) for one block of 32 k. */
QUANT_FN void quant_block(__m256 (*sum)[2], const uint8_t *super, const uint8_t *act, int n, quant_form form,
                          uint32_t group, int block) {
    const uint8_t *quants = super + quant_head_bytes(form, group), *d = act + n * ACT_BLOCK, *s = d + n * 4;
    const bool narrow = quant_is_narrow(form);
    for (int first = 0; first < 2; first += QUANT_HALVES) {
        __m256i dot[QUANT_HALVES][QUANT_NR];
        AK42_UNROLL for (int t = 0; t < n; t++) {
            const __m256i start = narrow ? _mm256_setzero_si256() : quant_start(s + t * 4, form);
            AK42_UNROLL for (int i = 0; i < QUANT_HALVES; i++) dot[i][t] = start;
        }
        AK42_UNROLL for (int g = 0; g < 8; g++) {
            AVX2_LOAD_ANEW();
            quant_word w[QUANT_HALVES];
            AK42_UNROLL for (int i = 0; i < QUANT_HALVES; i++)
                w[i] = quant_ready(quant_codes(quants, form, block, g, first + i), form);
            AK42_UNROLL for (int t = 0; t < n; t++) {
                const __m256i a = avx2_word(act + t * ACT_BLOCK + g * 4);
                AK42_UNROLL for (int i = 0; i < QUANT_HALVES; i++)
                    dot[i][t] = quant_dot(dot[i][t], w[i], a, form);
            }
        }
        AK42_UNROLL for (int i = 0; i < QUANT_HALVES; i++) {
            const int h = first + i;
            const __m256 scale = form == QUANT_INT8
                ? _mm256_castsi256_ps(avx2_load(super + block * 32 / (int)group * 64 + h * 32))
                : avx2_load_f16(super + block * 32 + h * 16);
            const __m256 bias = _mm256_mul_ps(scale, _mm256_set1_ps(-QUANT_MAGIC));
            AK42_UNROLL for (int t = 0; t < n; t++) {
                __m256i c = dot[i][t];
                if (narrow)
                    c = _mm256_add_epi32(_mm256_madd_epi16(c, _mm256_set1_epi16(1)),
                                         quant_start(s + t * 4, form));
                __m256 part = form == QUANT_INT8 ? _mm256_mul_ps(_mm256_cvtepi32_ps(c), scale)
                                                 : _mm256_fmadd_ps(_mm256_castsi256_ps(c), scale, bias);
                if (form == QUANT_4_1)
                    part = _mm256_fmadd_ps(avx2_load_f16(super + 64 + block * 32 + h * 16),
                                           _mm256_cvtepi32_ps(avx2_word(s + t * 4)), part);
                sum[t][h] = _mm256_fmadd_ps(part, avx2_float(d + t * 4), sum[t][h]);
            }
        }
    }
}

QUANT_FN void quant_panels(const gemm_args *args, int n, quant_form form) {
    const size_t super_bytes = quant_head_bytes(form, args->group_size) + (quant_is_8(form) ? 1024 : 512);
    for (uint32_t p = 0; p < args->n_panels; p++) {
        const uint8_t *super = args->panels + p * args->panel_bytes, *end = super + args->n_super * super_bytes, *act = args->act;
        const size_t jump = gemm_jump(args, p, 1, 0);
        __m256 sum[QUANT_NR][2];
        AK42_UNROLL for (int t = 0; t < n; t++) avx2_start(sum[t], args, (size_t)t, p);
        for (uint32_t i = 0; i < args->n_super; i++, super += super_bytes) {
            const size_t far = ahead_far((size_t)(end - super), jump, args->foreseen);
            for (size_t line = 0; line < super_bytes; line += CACHE_LINE) ask_line(super + line, far);
            AK42_UNROLL for (int block = 0; block < 2; block++, act += n * ACT_Q8_BLOCK_BYTES)
                quant_block(sum, super, act, n, form, args->group_size, block);
        }
        AK42_UNROLL for (int t = 0; t < n; t++)
            avx2_put(args->out + (size_t)t * args->ldo + p * PANEL_ROWS, sum[t][0], sum[t][1],
                     args->accumulate);
    }
}

QUANT_FN void quant_gemm(const gemm_args *args, quant_form form) {
    switch (args->n_tokens) {
        case 1: quant_panels(args, 1, form); break;
        case 2: quant_panels(args, 2, form); break;
        case 3: quant_panels(args, 3, form); break;
        case 4: quant_panels(args, 4, form); break;
        case 5: quant_panels(args, 5, form); break;
        default: quant_panels(args, QUANT_NR, form); break;
    }
}

static AK42_TARGET(QUANT_TARGET) void gemm_q8_0(const gemm_args *args) { quant_gemm(args, QUANT_8_0); }
static AK42_TARGET(QUANT_TARGET) void gemm_q4_0(const gemm_args *args) { quant_gemm(args, QUANT_4_0); }
static AK42_TARGET(QUANT_TARGET) void gemm_q4_1(const gemm_args *args) { quant_gemm(args, QUANT_4_1); }
/* Groups of 32 and 64. */
static AK42_TARGET(QUANT_TARGET) void gemm_int8_whole(const gemm_args *args) { quant_gemm(args, QUANT_INT8); }

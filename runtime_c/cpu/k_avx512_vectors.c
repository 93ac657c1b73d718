/* k_avx512_vectors.c: the vector steps (norm, rotation, gating, scaling, merging of attention chunks) for
 * x86-64 with AVX-512. Sums run in a fixed order that depends on the length alone. */
#if defined(__x86_64__)

#include <math.h>

#include "../core/config.h"
#include "k_avx512.h"

/* Stores the lanes of x that lie before n. */
AVX512_FN void store_row(float *out, size_t at, size_t n, __m512 x) {
    if (at + 16 <= n) _mm512_storeu_ps(out + at, x);
    else _mm512_mask_storeu_ps(out + at, avx512_lanes((uint32_t)(n - at)), x);
}

AVX512 static void rmsnorm(float *out, const float *x, const float *weight, uint32_t n, float eps) {
    __m512 sum[4];
    AK42_UNROLL for (int i = 0; i < 4; i++) sum[i] = _mm512_setzero_ps();
    for (size_t at = 0; at < n; at += 64)
        AK42_UNROLL for (size_t i = 0; i < 4; i++) {
            const __m512 part = avx512_load_row(x, at + i * 16, n);
            sum[i] = _mm512_fmadd_ps(part, part, sum[i]);
        }
    const float total = _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sum[0], sum[1]),
                                                           _mm512_add_ps(sum[2], sum[3])));
    const __m512 factor = _mm512_set1_ps(1.0f / sqrtf(total / (float)n + eps));
    for (size_t at = 0; at < n; at += 16)
        store_row(out, at, n, _mm512_mul_ps(_mm512_mul_ps(avx512_load_row(x, at, n), factor),
                                            avx512_load_row(weight, at, n)));
}

/* 8 pairs (a, b) side by side: (a cos - b sin, b cos + a sin). */
AVX512_FN void rotate_interleaved(float *x, const float *cosine, const float *sine, uint32_t n_heads,
                                  uint32_t head_dim, uint32_t half) {
    const __m512i twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    for (uint32_t i = 0; i < half; i += 8) {
        const __m512 c = _mm512_permutexvar_ps(twice, avx512_load_row(cosine, i, half));
        const __m512 s = _mm512_permutexvar_ps(twice, avx512_load_row(sine, i, half));
        for (uint32_t h = 0; h < n_heads; h++) {
            float *head = x + (size_t)h * head_dim;
            const __m512 ab = avx512_load_row(head, 2 * i, 2 * half), ba = _mm512_permute_ps(ab, 0xb1);
            store_row(head, 2 * i, 2 * half, _mm512_fmaddsub_ps(ab, c, _mm512_mul_ps(ba, s)));
        }
    }
}

AVX512_FN void rotate_halves(float *x, const float *cosine, const float *sine, uint32_t n_heads,
                             uint32_t head_dim, uint32_t half) {
    for (uint32_t i = 0; i < half; i += 16) {
        const __m512 c = avx512_load_row(cosine, i, half), s = avx512_load_row(sine, i, half);
        for (uint32_t h = 0; h < n_heads; h++) {
            float *head = x + (size_t)h * head_dim;
            const __m512 a = avx512_load_row(head, i, half), b = avx512_load_row(head + half, i, half);
            store_row(head, i, half, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
            store_row(head + half, i, half, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s)));
        }
    }
}

AVX512 static void rope(float *x, const float *cosine, const float *sine, uint32_t n_heads, uint32_t head_dim,
                        uint32_t rotary_dim, uint32_t rope_layout) {
    if (rope_layout == ROPE_LAYOUT_INTERLEAVED)
        rotate_interleaved(x, cosine, sine, n_heads, head_dim, rotary_dim / 2);
    else rotate_halves(x, cosine, sine, n_heads, head_dim, rotary_dim / 2);
}

AVX512 static void silu_mul(float *out, const float *gate, const float *up, uint32_t n) {
    const __m512 one = _mm512_set1_ps(1.0f);
    for (size_t at = 0; at < n; at += 16) {
        const __m512 g = avx512_load_row(gate, at, n);
        const __m512 e = avx512_exp_any(_mm512_sub_ps(_mm512_setzero_ps(), g));
        store_row(out, at, n, _mm512_mul_ps(_mm512_div_ps(g, _mm512_add_ps(one, e)),
                                            avx512_load_row(up, at, n)));
    }
}

/* gate / (1 + e^-2u) * up, u = sqrt(2 / pi) (gate + 0.044715 gate^3); 1.5957692 = 2 sqrt(2 / pi) */
AVX512 static void gelu_tanh_mul(float *out, const float *gate, const float *up, uint32_t n) {
    const __m512 one = _mm512_set1_ps(1.0f);
    for (size_t at = 0; at < n; at += 16) {
        const __m512 g = avx512_load_row(gate, at, n);
        const __m512 cube = _mm512_fmadd_ps(_mm512_mul_ps(g, g), _mm512_set1_ps(0.044715f), one);
        const __m512 inner = _mm512_mul_ps(_mm512_mul_ps(g, _mm512_set1_ps(-1.5957692f)), cube);
        const __m512 e = avx512_exp_any(inner);
        store_row(out, at, n, _mm512_mul_ps(_mm512_div_ps(g, _mm512_add_ps(one, e)), avx512_load_row(up, at, n)));
    }
}

/* cap * tanh(x * factor / cap), tanh(y) = 1 - 2 / (e^2y + 1) */
AVX512 static void cap(float *out, const float *x, float factor, float cap, uint32_t n) {
    const __m512 one = _mm512_set1_ps(1.0f), whole = _mm512_set1_ps(cap);
    const __m512 scale = _mm512_set1_ps(cap > 0.0f ? 2.0f * factor / cap : factor);
    for (size_t at = 0; at < n; at += 16) {
        __m512 y = _mm512_mul_ps(avx512_load_row(x, at, n), scale);
        if (cap > 0.0f) {
            const __m512 rest = _mm512_div_ps(_mm512_set1_ps(2.0f), _mm512_add_ps(avx512_exp_any(y), one));
            y = _mm512_mul_ps(whole, _mm512_sub_ps(one, rest));
        }
        store_row(out, at, n, y);
    }
}

AVX512 static void scale(float *out, const float *x, float factor, uint32_t n) {
    for (size_t at = 0; at < n; at += 16)
        store_row(out, at, n, _mm512_mul_ps(avx512_load_row(x, at, n), _mm512_set1_ps(factor)));
}

AVX512 static void attn_merge(float *m, float *l, float *o, float m_chunk, float l_chunk,
                              const float *o_chunk, uint32_t head_dim) {
    if (m_chunk == -INFINITY) return;
    const __m512 both = _mm512_mask_mov_ps(_mm512_set1_ps(m_chunk), 1, _mm512_set1_ps(*m));
    *m = *m > m_chunk ? *m : m_chunk;
    const __m512 e = avx512_exp(_mm512_sub_ps(both, _mm512_set1_ps(*m)));
    const __m512 old = _mm512_broadcastss_ps(_mm512_castps512_ps128(e));
    const __m512 add = _mm512_permutexvar_ps(_mm512_set1_epi32(1), e);
    *l = *l * _mm512_cvtss_f32(old) + l_chunk * _mm512_cvtss_f32(add);
    for (size_t at = 0; at < head_dim; at += 16) {
        const __m512 added = _mm512_mul_ps(avx512_load_row(o_chunk, at, head_dim), add);
        store_row(o, at, head_dim, _mm512_fmadd_ps(avx512_load_row(o, at, head_dim), old, added));
    }
}

void avx512_fill_vectors(kernel_table *table) {
    table->attn_merge = attn_merge;
    table->rmsnorm = rmsnorm;
    table->rope = rope;
    table->silu_mul = silu_mul;
    table->gelu_tanh_mul = gelu_tanh_mul;
    table->cap = cap;
    table->scale = scale;
}

#else
typedef int k_avx512_vectors_is_empty;
#endif

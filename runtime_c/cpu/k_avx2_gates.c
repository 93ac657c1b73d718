/* k_avx2_gates.c: the activations and the cap that only some models have, for x86-64 with AVX2. Called through the kernel table,
 * which k_avx2.c fills. */
#include "kernels.h"

#if defined(__x86_64__)

#include "k_avx2.h"

/* gate / (1 + e^-2u) * up, u = sqrt(2 / pi) (gate + 0.044715 gate^3); 1.5957692 = 2 sqrt(2 / pi) */
AVX2_FN __m256 gelu_tanh_times(__m256 gate, __m256 up) {
    const __m256 one = _mm256_set1_ps(1.0f);
    const __m256 cube = _mm256_fmadd_ps(_mm256_mul_ps(gate, gate), _mm256_set1_ps(0.044715f), one);
    const __m256 e = avx2_exp(_mm256_mul_ps(_mm256_mul_ps(gate, _mm256_set1_ps(-1.5957692f)), cube));
    return _mm256_mul_ps(_mm256_div_ps(gate, _mm256_add_ps(one, e)), up);
}

static AK42_TARGET(AVX2_TARGET) void gelu_tanh_mul(float *out, const float *gate, const float *up, uint32_t n) {
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, gelu_tanh_times(_mm256_loadu_ps(gate + i), _mm256_loadu_ps(up + i)));
    if (i == n) return;
    float a[8] = { 0 }, b[8] = { 0 };
    memcpy(a, gate + i, (n - i) * sizeof(float));
    memcpy(b, up + i, (n - i) * sizeof(float));
    _mm256_storeu_ps(a, gelu_tanh_times(_mm256_loadu_ps(a), _mm256_loadu_ps(b)));
    memcpy(out + i, a, (n - i) * sizeof(float));
}

/* tanh(y) = 1 - 2 / (e^2y + 1) */
AVX2_FN __m256 capped(__m256 x, float factor, float cap) {
    if (!(cap > 0.0f)) return _mm256_mul_ps(x, _mm256_set1_ps(factor));
    const __m256 one = _mm256_set1_ps(1.0f), e = avx2_exp(_mm256_mul_ps(x, _mm256_set1_ps(2.0f * factor / cap)));
    return _mm256_mul_ps(_mm256_set1_ps(cap), _mm256_sub_ps(one, _mm256_div_ps(_mm256_set1_ps(2.0f), _mm256_add_ps(e, one))));
}

static AK42_TARGET(AVX2_TARGET) void cap(float *out, const float *x, float factor, float cap, uint32_t n) {
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(out + i, capped(_mm256_loadu_ps(x + i), factor, cap));
    if (i == n) return;
    float a[8] = { 0 };
    memcpy(a, x + i, (n - i) * sizeof(float));
    _mm256_storeu_ps(a, capped(_mm256_loadu_ps(a), factor, cap));
    memcpy(out + i, a, (n - i) * sizeof(float));
}

void avx2_fill_gates(kernel_table *table) {
    table->gelu_tanh_mul = gelu_tanh_mul;
    table->cap = cap;
}

#else
typedef int k_avx2_gates_is_empty;
#endif

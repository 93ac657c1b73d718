/* k_neon_gates.c: the activations and the cap that only some models have, for aarch64. Called through the kernel table, which
 * k_neon.c fills. */
#include "kernels.h"

#if defined(__aarch64__)

#include "k_neon.h"

/* gate / (1 + e^-2u) * up, u = sqrt(2 / pi) (gate + 0.044715 gate^3); 1.5957692 = 2 sqrt(2 / pi) */
NEON_FN float32x4_t gelu_tanh_times(float32x4_t gate, float32x4_t up) {
    const float32x4_t one = vdupq_n_f32(1.0f), cube = vfmaq_f32(one, vmulq_f32(gate, gate), vdupq_n_f32(0.044715f));
    const float32x4_t e = neon_exp(vmulq_f32(vmulq_f32(gate, vdupq_n_f32(-1.5957692f)), cube));
    return vmulq_f32(vdivq_f32(gate, vaddq_f32(one, e)), up);
}

static void gelu_tanh_mul(float *out, const float *gate, const float *up, uint32_t n) {
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4) vst1q_f32(out + i, gelu_tanh_times(vld1q_f32(gate + i), vld1q_f32(up + i)));
    if (i == n) return;
    float a[4] = { 0 }, b[4] = { 0 };
    memcpy(a, gate + i, (n - i) * sizeof(float));
    memcpy(b, up + i, (n - i) * sizeof(float));
    vst1q_f32(a, gelu_tanh_times(vld1q_f32(a), vld1q_f32(b)));
    memcpy(out + i, a, (n - i) * sizeof(float));
}

/* tanh(y) = 1 - 2 / (e^2y + 1) */
NEON_FN float32x4_t capped(float32x4_t x, float factor, float cap) {
    if (!(cap > 0.0f)) return vmulq_n_f32(x, factor);
    const float32x4_t one = vdupq_n_f32(1.0f), e = neon_exp(vmulq_n_f32(x, 2.0f * factor / cap));
    return vmulq_n_f32(vsubq_f32(one, vdivq_f32(vdupq_n_f32(2.0f), vaddq_f32(e, one))), cap);
}

static void cap(float *out, const float *x, float factor, float cap, uint32_t n) {
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4) vst1q_f32(out + i, capped(vld1q_f32(x + i), factor, cap));
    if (i == n) return;
    float a[4] = { 0 };
    memcpy(a, x + i, (n - i) * sizeof(float));
    vst1q_f32(a, capped(vld1q_f32(a), factor, cap));
    memcpy(out + i, a, (n - i) * sizeof(float));
}

void neon_fill_gates(kernel_table *table) {
    table->gelu_tanh_mul = gelu_tanh_mul;
    table->cap = cap;
}

#else
typedef int k_neon_gates_is_empty;
#endif

/* k_avx2_encode.c: k_encode.h's search for x86-64 with AVX2; without its fused multiply-adds, which would change bytes. */
#if defined(__x86_64__)

#include "k_avx2.h"

#define ENCODE_TARGET AK42_TARGET("avx2")
#define V_FN static AK42_INLINE ENCODE_TARGET

typedef __m256 lanes;

V_FN lanes v_load(const float *p) { return _mm256_loadu_ps(p); }
V_FN void v_store(float *p, lanes v) { _mm256_storeu_ps(p, v); }
V_FN lanes v_set1(float x) { return _mm256_set1_ps(x); }
V_FN lanes v_add(lanes a, lanes b) { return _mm256_add_ps(a, b); }
V_FN lanes v_sub(lanes a, lanes b) { return _mm256_sub_ps(a, b); }
V_FN lanes v_mul(lanes a, lanes b) { return _mm256_mul_ps(a, b); }
V_FN lanes v_div(lanes a, lanes b) { return _mm256_div_ps(a, b); }
V_FN lanes v_max(lanes a, lanes b) { return _mm256_max_ps(a, b); }
V_FN lanes v_min(lanes a, lanes b) { return _mm256_min_ps(a, b); }
V_FN lanes v_above(lanes x, float bound, float value) {
    return _mm256_and_ps(_mm256_cmp_ps(x, _mm256_set1_ps(bound), _CMP_GT_OQ), _mm256_set1_ps(value));
}

V_FN lanes v_choose(lanes x, lanes y, lanes a, lanes b) { return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, y, _CMP_GT_OQ)); }

#include "k_encode.h"

void avx2_fill_encode(kernel_table *table) { table->encode = encode_search; }

#else
typedef int k_avx2_encode_is_empty;
#endif

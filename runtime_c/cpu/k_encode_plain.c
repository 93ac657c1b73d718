/* k_encode_plain.c: k_encode.h's search in plain C. */
#include "k_plain.h"

#define ENCODE_TARGET

typedef struct lanes {
    float at[8];
} lanes;

static inline lanes v_load(const float *p) {
    lanes v;
    memcpy(v.at, p, sizeof v.at);
    return v;
}
static inline void v_store(float *p, lanes v) { memcpy(p, v.at, sizeof v.at); }
static inline lanes v_set1(float x) { return (lanes){{x, x, x, x, x, x, x, x}}; }
#define V_EACH(name, expression)                          \
    static inline lanes name(lanes a, lanes b) {          \
        for (int i = 0; i < 8; i++) a.at[i] = expression; \
        return a;                                         \
    }
V_EACH(v_add, a.at[i] + b.at[i])
V_EACH(v_sub, a.at[i] - b.at[i])
V_EACH(v_mul, a.at[i] * b.at[i])
V_EACH(v_div, a.at[i] / b.at[i])
V_EACH(v_max, a.at[i] > b.at[i] ? a.at[i] : b.at[i])
V_EACH(v_min, a.at[i] < b.at[i] ? a.at[i] : b.at[i])
static inline lanes v_above(lanes x, float bound, float value) {
    for (int i = 0; i < 8; i++) x.at[i] = x.at[i] > bound ? value : 0.0f;
    return x;
}

static inline lanes v_choose(lanes x, lanes y, lanes a, lanes b) {
    for (int i = 0; i < 8; i++) a.at[i] = x.at[i] > y.at[i] ? a.at[i] : b.at[i];
    return a;
}

#include "k_encode.h"

void encode_fill_plain(kernel_table *table) { table->encode = encode_search; }

/* k_encode.h: weights to the blocks whose scales are searched for: Q2_K to Q6_K, IQ4_NL, IQ4_XS. A body that two files include. For each
 * group of 16 or 32 weights many scales (and mins) are tried: each gives codes, the codes give the scale and min of the least weighted
 * square error, and the best of all is kept; then the scales of a block are rounded to their few bits, and around each rounded one the
 * neighbours are tried again. Eight groups are searched side by side; every sum is over one group in its order, no product is fused with
 * a sum, and so the bytes are the same on every machine. What bytes mean is core/blocks.h's business. Before the #include a file defines
 *     ENCODE_TARGET         the target of every function; it must not hold fused multiply-adds
 *     lanes                 a type of 8 f32, and on it v_load, v_store, v_set1, v_add, v_sub, v_mul, v_max (the second where the first is
 *                           not larger), v_min (the second where the first is not smaller), v_div, v_above(x, bound, value): value or 0,
 *                           v_choose(x, y, a, b): a where x > y, else b
 * It defines encode_search. No dispatch, no state. */
#include "../core/blocks.h"
#include "k_simd.h"
#include "kernels.h"

#define ENCODE_FN ENCODE_TARGET static
#define ENCODE_INLINE static AK42_INLINE ENCODE_TARGET

enum { LANES = 8, GROUP_MAX = 32, BLOCK_WEIGHTS = 256 };
#define TO_WHOLE 12582912.0f               /* 1.5 * 2^23: adding it leaves no bits for a fraction */

/* Eight groups side by side. */
typedef struct groups {
    uint32_t n;                            /* weights of a group */
    float x[GROUP_MAX][LANES], w[GROUP_MAX][LANES];
} groups;

/* What codes may stand for: whole numbers from low to high, or the values of IQ4. */
typedef struct levels {
    float low, high;
    bool iq4;
} levels;

ENCODE_FN float whole(float v) { return (v + TO_WHOLE) - TO_WHOLE; }

/* The level nearest to each v: the same as level_near. */
ENCODE_INLINE lanes levels_near(lanes v, levels l) {
    if (!l.iq4) {
        v = v_min(v_max(v, v_set1(l.low)), v_set1(l.high));
        return v_sub(v_add(v, v_set1(TO_WHOLE)), v_set1(TO_WHOLE));
    }
    lanes value = v_set1(-127.0f);
    for (int i = 0; i < 15; i++) {
        const float lower = (float)blocks_iq4_values[i], upper = (float)blocks_iq4_values[i + 1];
        value = v_add(value, v_above(v, 0.5f * (lower + upper), upper - lower));
    }
    return value;
}
/* The level nearest to v. */
ENCODE_INLINE float level_near(float v, levels l) {
    if (!l.iq4) {
        v = v > l.low ? v : l.low;
        v = v < l.high ? v : l.high;
        return whole(v);
    }
    float value = -127.0f;
    for (int i = 0; i < 15; i++) {
        const float lower = (float)blocks_iq4_values[i], upper = (float)blocks_iq4_values[i + 1];
        value += v > 0.5f * (lower + upper) ? upper - lower : 0.0f;
    }
    return value;
}

typedef enum weighting { WEIGHT_SQUARE, WEIGHT_MAGNITUDE, WEIGHT_MEAN_AND_MAGNITUDE } weighting;

ENCODE_FN float magnitude_of(float x) { return x < 0.0f ? -x : x; }

/* Within a few units in the last place, and the same ones everywhere: from half the exponent on by Newton's steps. */
ENCODE_FN float square_root(float x) {
    if (!(x > 1e-30f)) return 0.0f;
    uint32_t bits;
    float y;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits >> 1) + 0x1fbd1df5u;
    memcpy(&y, &bits, sizeof y);
    for (int i = 0; i < 3; i++) y = 0.5f * (y + x / y);
    return y;
}

/* No type holds larger weights, and no sum of theirs overflows below; NaN counts as one. */
#define TOO_LARGE 1e9f

/* Groups first .. first + count - 1 of src; the lanes left over repeat the first. What is too large is so by little: the search goes its
 * usual way, and the half that is to hold its scale is infinite. */
ENCODE_FN void take_groups(groups *g, const float *src, uint32_t n, uint32_t count, weighting weighting) {
    g->n = n;
    for (uint32_t lane = 0; lane < LANES; lane++) {
        const float *taken = src + (lane < count ? lane : 0) * n;
        float from[GROUP_MAX], mean = 0.0f;
        for (uint32_t i = 0; i < n; i++) from[i] = magnitude_of(taken[i]) < TOO_LARGE ? taken[i] : TOO_LARGE;
        if (weighting == WEIGHT_MEAN_AND_MAGNITUDE) {
            for (uint32_t i = 0; i < n; i++) {
                const float square = from[i] * from[i];
                mean += square;
            }
            mean = square_root(mean / (float)n);
        }
        for (uint32_t i = 0; i < n; i++) {
            const float magnitude = magnitude_of(from[i]);
            g->x[i][lane] = from[i];
            g->w[i][lane] = weighting == WEIGHT_SQUARE ? from[i] * from[i] : mean + magnitude;
        }
    }
}

/* ---- without a min: x = scale * level ---- */

/* For scales 1 / inverse: the levels' sums, and the scale that fits them best; kept where its gain is the largest so far. The error is
 * the sum of w x^2 less the gain. */
ENCODE_FN void try_scales(const groups *g, const float *inverse, levels l, float *scale, float *gain) {
    lanes xl = v_set1(0.0f), l2 = xl;
    const lanes inverses = v_load(inverse);
    for (uint32_t i = 0; i < g->n; i++) {
        const lanes x = v_load(g->x[i]), level = levels_near(v_mul(x, inverses), l), wl = v_mul(v_load(g->w[i]), level);
        xl = v_add(xl, v_mul(wl, x));
        l2 = v_add(l2, v_mul(wl, level));
    }
    const lanes zero = v_set1(0.0f), fit = v_choose(l2, zero, v_div(xl, l2), zero), found = v_mul(fit, xl), before = v_load(gain);
    v_store(scale, v_choose(found, before, fit, v_load(scale)));
    v_store(gain, v_choose(found, before, found, before));
}

ENCODE_FN float inverse_of(float x) {
    const float inverse = 1.0f / x;
    return x != 0.0f && inverse - inverse == 0.0f ? inverse : 0.0f;
}

enum { SCALE_STEPS = 4 };
/* The largest weight lands about on either end of the levels. */
ENCODE_FN void search_scales(const groups *g, levels l, float *scale) {
    float largest[LANES] = {0}, inverse[LANES], gain[LANES] = {0};
    for (uint32_t i = 0; i < g->n; i++)
        for (uint32_t k = 0; k < LANES; k++)
            largest[k] = magnitude_of(g->x[i][k]) > magnitude_of(largest[k]) ? g->x[i][k] : largest[k];
    float range[LANES];
    for (uint32_t k = 0; k < LANES; k++) {
        scale[k] = 0.0f;
        range[k] = inverse_of(largest[k]);
    }
    const float step = l.iq4 ? 2.25f : 0.225f, ends[2] = {l.low, l.high};
    for (int end = 0; end < 2; end++)
        for (int s = -SCALE_STEPS; s <= SCALE_STEPS; s++) {
            const float top = ends[end] + (float)s * step;
            for (uint32_t k = 0; k < LANES; k++) inverse[k] = top * range[k];
            try_scales(g, inverse, l, scale, gain);
        }
    for (int again = 0; again < 2; again++) {
        for (uint32_t k = 0; k < LANES; k++) inverse[k] = inverse_of(scale[k]);
        try_scales(g, inverse, l, scale, gain);
    }
}

ENCODE_FN void scale_errors(const groups *g, const float *scale, levels l, float *error) {
    float inverse[LANES];
    for (uint32_t k = 0; k < LANES; k++) inverse[k] = inverse_of(scale[k]);
    lanes sum = v_set1(0.0f);
    const lanes inverses = v_load(inverse), scales = v_load(scale);
    for (uint32_t i = 0; i < g->n; i++) {
        const lanes x = v_load(g->x[i]), off = v_sub(v_mul(levels_near(v_mul(x, inverses), l), scales), x);
        sum = v_add(sum, v_mul(v_mul(v_load(g->w[i]), off), off));
    }
    v_store(error, sum);
}

/* Whole factors of d, within low and high, for the scales: the nearest, or a neighbour that is better. best: their errors. */
ENCODE_FN void round_scales(const groups *g, const float *scale, float d, float low, float high, levels l, float *factor, float *best) {
    float error[LANES], tried[LANES], product[LANES];
    const float inverse = inverse_of(d);
    for (int step = 0; step < 3; step++) {
        for (uint32_t k = 0; k < LANES; k++) {
            float f = whole(scale[k] * inverse) + (step == 0 ? 0.0f : step == 1 ? -1.0f : 1.0f);
            f = f > low ? f : low;
            tried[k] = f < high ? f : high;
            product[k] = d * tried[k];
        }
        scale_errors(g, product, l, error);
        for (uint32_t k = 0; k < LANES; k++) {
            const bool better = step == 0 || error[k] < best[k];
            best[k] = better ? error[k] : best[k];
            factor[k] = better ? tried[k] : factor[k];
        }
    }
}

/* ---- with a min: x = scale * level + min, min <= 0, levels from 0 ---- */

typedef struct affine {
    float scale[LANES], min[LANES], error[LANES];
    float sum_w[LANES], sum_x[LANES], sum_x2[LANES];
} affine;

/* Whole numbers from 0 to high. */
ENCODE_INLINE lanes codes_near(lanes v, float high) {
    v = v_min(v_max(v, v_set1(0.0f)), v_set1(high));
    return v_sub(v_add(v, v_set1(TO_WHOLE)), v_set1(TO_WHOLE));
}

/* For levels of (x - offset) * inverse: the scale and min that fit them best; kept where their error is the least so far. */
ENCODE_FN void try_affine(const groups *g, const float *offset, const float *inverse, float high, affine *best) {
    lanes one = v_set1(0.0f), two = one, cross = one;
    const lanes offsets = v_load(offset), inverses = v_load(inverse);
    for (uint32_t i = 0; i < g->n; i++) {
        const lanes x = v_load(g->x[i]), level = codes_near(v_mul(v_sub(x, offsets), inverses), high);
        const lanes wl = v_mul(v_load(g->w[i]), level);
        one = v_add(one, wl);
        two = v_add(two, v_mul(wl, level));
        cross = v_add(cross, v_mul(wl, x));
    }
    const lanes zero = v_set1(0.0f), sum_w = v_load(best->sum_w), sum_x = v_load(best->sum_x), before = v_load(best->error);
    const lanes det = v_sub(v_mul(sum_w, two), v_mul(one, one));
    lanes scale = v_div(v_sub(v_mul(sum_w, cross), v_mul(sum_x, one)), det);
    lanes min = v_div(v_sub(v_mul(two, sum_x), v_mul(one, cross)), det);
    scale = v_choose(min, zero, v_div(cross, two), scale);
    min = v_choose(min, zero, zero, min);
    /* sum of w (scale l + min - x)^2 */
    const lanes p = v_mul(v_mul(scale, scale), two), q = v_mul(v_mul(min, min), sum_w), r = v_mul(v_mul(scale, min), one);
    const lanes s = v_mul(scale, cross), t = v_mul(min, sum_x), twice = v_set1(2.0f);
    const lanes squares = v_add(v_load(best->sum_x2), v_add(p, q)), products = v_sub(v_sub(r, s), t);
    const lanes error = v_add(squares, v_mul(twice, products));
    /* what is no scale at all becomes no better */
    const lanes valid = v_choose(det, zero, v_choose(scale, zero, error, before), before);
    v_store(best->scale, v_choose(before, valid, scale, v_load(best->scale)));
    v_store(best->min, v_choose(before, valid, min, v_load(best->min)));
    v_store(best->error, v_choose(before, valid, valid, before));
}

/* The error of levels with scale and min, and the min that would fit those levels best. */
ENCODE_FN void affine_errors(const groups *g, const affine *a, const float *scale, const float *min, float high, float *error,
                          float *better_min) {
    float inverse[LANES], sum[LANES], sum_l[LANES];
    for (uint32_t k = 0; k < LANES; k++) inverse[k] = inverse_of(scale[k]);
    lanes squares = v_set1(0.0f), one = squares;
    const lanes inverses = v_load(inverse), scales = v_load(scale), mins = v_load(min);
    for (uint32_t i = 0; i < g->n; i++) {
        const lanes x = v_load(g->x[i]), w = v_load(g->w[i]), level = codes_near(v_mul(v_sub(x, mins), inverses), high);
        const lanes off = v_sub(v_add(v_mul(level, scales), mins), x);
        squares = v_add(squares, v_mul(v_mul(w, off), off));
        one = v_add(one, v_mul(w, level));
    }
    v_store(sum, squares);
    v_store(sum_l, one);
    for (uint32_t k = 0; k < LANES; k++) {
        const float part = scale[k] * sum_l[k];
        error[k] = sum[k];
        better_min[k] = a->sum_w[k] > 0.0f ? (a->sum_x[k] - part) / a->sum_w[k] : 0.0f;
    }
}

/* Takes a plain scale and min where they are better by their own error: try_affine's is a difference of sums, of which nothing is left
 * where weights lie close together and far from zero. */
ENCODE_FN void prefer_better(const groups *g, const float *min, const float *scale, float high, affine *best) {
    float plain[LANES], found[LANES], unused[LANES];
    affine_errors(g, best, scale, min, high, plain, unused);
    affine_errors(g, best, best->scale, best->min, high, found, unused);
    for (uint32_t k = 0; k < LANES; k++) {
        if (found[k] <= plain[k]) continue;
        best->scale[k] = scale[k];
        best->min[k] = min[k];
    }
}

enum { AFFINE_STEPS = 20 };
ENCODE_FN void search_affine(const groups *g, float high, float first, float step, affine *best) {
    float low[LANES] = {0}, top[LANES], range[LANES], inverse[LANES], first_scale[LANES];
    memset(best, 0, sizeof *best);
    memcpy(top, g->x[0], sizeof top);
    for (uint32_t i = 0; i < g->n; i++)
        for (uint32_t k = 0; k < LANES; k++) {
            const float x = g->x[i][k], wx = g->w[i][k] * x, wx2 = wx * x;
            low[k] = x < low[k] ? x : low[k];
            top[k] = x > top[k] ? x : top[k];
            best->sum_w[k] += g->w[i][k];
            best->sum_x[k] += wx;
            best->sum_x2[k] += wx2;
        }
    for (uint32_t k = 0; k < LANES; k++) {
        best->min[k] = low[k];
        best->error[k] = best->sum_x2[k] + 1.0f;
        best->scale[k] = first_scale[k] = (top[k] - low[k]) / high;
        range[k] = inverse_of(top[k] - low[k]);
    }
    for (int s = 0; s <= AFFINE_STEPS; s++) {
        const float levels_wide = high + (first + step * (float)s);
        for (uint32_t k = 0; k < LANES; k++) inverse[k] = levels_wide * range[k];
        try_affine(g, low, inverse, high, best);
    }
    for (int again = 0; again < 2; again++) {
        float offset[LANES];
        for (uint32_t k = 0; k < LANES; k++) {
            inverse[k] = inverse_of(best->scale[k]);
            offset[k] = best->min[k];
        }
        try_affine(g, offset, inverse, high, best);
    }
    prefer_better(g, low, first_scale, high, best);
}

ENCODE_FN float clamped(float v, float high) {
    v = v > 0.0f ? v : 0.0f;
    return v < high ? v : high;
}

/* Whole factors of d and m, up to `most`, for scales and mins. */
ENCODE_FN void round_affine(const groups *g, const affine *a, float d, float m, float most, float high, float *scale, float *min) {
    float best[LANES] = {0}, error[LANES], fit[LANES], s[LANES], f[LANES], factor[LANES], least[LANES];
    const float inverse_d = inverse_of(d), inverse_m = inverse_of(m);
    for (int step = 0; step < 3; step++) {
        for (uint32_t k = 0; k < LANES; k++) {
            const float nearest = whole(clamped(a->scale[k] * inverse_d, most));
            factor[k] = clamped(nearest + (step == 0 ? 0.0f : step == 1 ? -1.0f : 1.0f), most);
            s[k] = d * factor[k];
            least[k] = whole(clamped(-a->min[k] * inverse_m, most));
            f[k] = -(m * least[k]);
        }
        for (int pass = 0; pass < 2; pass++) {
            affine_errors(g, a, s, f, high, error, fit);
            for (uint32_t k = 0; k < LANES; k++) {
                const bool better = (step == 0 && pass == 0) || error[k] < best[k];
                best[k] = better ? error[k] : best[k];
                scale[k] = better ? factor[k] : scale[k];
                min[k] = better ? least[k] : min[k];
                least[k] = whole(clamped(-fit[k] * inverse_m, most));
                f[k] = -(m * least[k]);
            }
        }
    }
}

/* ---- the blocks ---- */

ENCODE_FN void put_half(uint8_t *p, uint16_t half) {
    p[0] = (uint8_t)half;
    p[1] = (uint8_t)(half >> 8);
}

static const levels WHOLE_Q6 = {-32.0f, 31.0f, false}, WHOLE_Q3 = {-4.0f, 3.0f, false}, LEVELS_IQ4 = {-127.0f, 113.0f, true};

/* f16 that holds d, as a float. */
ENCODE_FN float as_half(float d) { return f16_to_f32(f32_to_f16(d)); }

enum { SYMMETRIC_GROUPS = 16 };

/* Groups of a block without mins, whose scales are factors of one d. */
typedef struct symmetric {
    groups g[SYMMETRIC_GROUPS / LANES];
    uint32_t n_groups;                     /* 8 or 16 */
    levels l;
    float limit;                           /* factors lie within -limit and limit - 1 */
    float scales[SYMMETRIC_GROUPS];
} symmetric;

/* Factors of d for the scales; what is lost then. */
ENCODE_FN float round_symmetric(const symmetric *s, float d, float *factors) {
    float lost = 0.0f;
    for (uint32_t first = 0; first < s->n_groups; first += LANES) {
        const groups *g = &s->g[first / LANES];
        float error[LANES] = {0};
        round_scales(g, s->scales + first, d, -s->limit, s->limit - 1.0f, s->l, factors + first, error);
        for (uint32_t k = 0; k < LANES; k++) lost += error[k];
    }
    return lost;
}

/* The d that fits the levels best which another d gives with these factors; 0: there is none. */
ENCODE_FN float fit_symmetric(const symmetric *s, float d, const float *factors) {
    float above = 0.0f, below = 0.0f;
    for (uint32_t first = 0; first < s->n_groups; first += LANES) {
        const groups *g = &s->g[first / LANES];
        const lanes factor = v_load(factors + first);
        lanes xl = v_set1(0.0f), l2 = xl;
        float inverse[LANES], parts[2][LANES];
        for (uint32_t k = 0; k < LANES; k++) inverse[k] = inverse_of(d * factors[first + k]);
        const lanes inverses = v_load(inverse);
        for (uint32_t i = 0; i < g->n; i++) {
            const lanes x = v_load(g->x[i]), level = v_mul(levels_near(v_mul(x, inverses), s->l), factor);
            const lanes wl = v_mul(v_load(g->w[i]), level);
            xl = v_add(xl, v_mul(wl, x));
            l2 = v_add(l2, v_mul(wl, level));
        }
        v_store(parts[0], xl);
        v_store(parts[1], l2);
        for (uint32_t k = 0; k < LANES; k++) {
            above += parts[0][k];
            below += parts[1][k];
        }
    }
    return below > 0.0f ? above / below : 0.0f;
}

/* Scales of n_groups groups (8 or 16) as factors of *d, which lie within -limit and limit - 1; then each group's levels. The largest scale
 * takes the largest factor at first; then d is fitted to what came of it, where that is better. */
ENCODE_FN void encode_symmetric(const float *src, uint32_t n_groups, uint32_t n, levels l, float limit, weighting weighting, float *d,
                             float *factors, float *values) {
    symmetric s;
    float largest = 0.0f;
    s.n_groups = n_groups;
    s.l = l;
    s.limit = limit;
    for (uint32_t first = 0; first < n_groups; first += LANES) {
        take_groups(&s.g[first / LANES], src + first * n, n, LANES, weighting);
        search_scales(&s.g[first / LANES], l, s.scales + first);
    }
    for (uint32_t i = 0; i < n_groups; i++) largest = magnitude_of(s.scales[i]) > magnitude_of(largest) ? s.scales[i] : largest;
    *d = as_half(largest / -limit);
    const float lost = round_symmetric(&s, *d, factors), fit = as_half(fit_symmetric(&s, *d, factors));
    float others[SYMMETRIC_GROUPS];
    if (round_symmetric(&s, fit, others) < lost) {
        *d = fit;
        memcpy(factors, others, n_groups * sizeof *factors);
    }
    for (uint32_t i = 0; i < n_groups; i++) {
        const float inverse = inverse_of(*d * factors[i]);
        for (uint32_t k = 0; k < n; k++) values[i * n + k] = level_near(src[i * n + k] * inverse, l);
    }
}

/* u8 n[128]; u8 h[64]; i8 s[16]; f16 d */
ENCODE_FN void encode_q6_k(uint8_t *block, const float *src) {
    float d, factors[16], values[BLOCK_WEIGHTS];
    encode_symmetric(src, 16, 16, WHOLE_Q6, 128.0f, WEIGHT_SQUARE, &d, factors, values);
    memset(block, 0, 208);
    put_half(block + 208, f32_to_f16(d));
    for (uint32_t g = 0; g < 16; g++) block[192 + g] = (uint8_t)(int8_t)factors[g];
    for (uint32_t k = 0; k < BLOCK_WEIGHTS; k++) {
        const uint32_t code = (uint32_t)((int32_t)values[k] + 32), h = k / 128, c = k % 128 / 32, i = k % 32;
        block[64 * h + 32 * (c % 2) + i] |= (uint8_t)((code & 15) << 4 * (c / 2));
        block[128 + 32 * h + i] |= (uint8_t)(code >> 4 << 2 * c);
    }
}

/* u8 h[32]; u8 q[64]; u8 s[12]; f16 d */
ENCODE_FN void encode_q3_k(uint8_t *block, const float *src) {
    float d, factors[16], values[BLOCK_WEIGHTS];
    encode_symmetric(src, 16, 16, WHOLE_Q3, 32.0f, WEIGHT_MAGNITUDE, &d, factors, values);
    memset(block, 0, 108);
    put_half(block + 108, f32_to_f16(d));
    for (uint32_t g = 0; g < 16; g++) {
        const uint32_t s = (uint32_t)((int32_t)factors[g] + 32);
        block[96 + g % 8] |= (uint8_t)((s & 15) << 4 * (g / 8));
        block[104 + g % 4] |= (uint8_t)(s >> 4 << 2 * (g / 4));
    }
    for (uint32_t k = 0; k < BLOCK_WEIGHTS; k++) {
        const uint32_t code = (uint32_t)((int32_t)values[k] + 4);
        block[32 + k / 128 * 32 + k % 32] |= (uint8_t)((code & 3) << k % 128 / 32 * 2);
        block[k % 32] |= (uint8_t)(code >> 2 << k / 32);
    }
}

ENCODE_FN uint32_t iq4_code(float value) {
    uint32_t code = 0;
    while (code < 15 && (float)blocks_iq4_values[code] < value) code++;
    return code;
}
ENCODE_FN void put_iq4(uint8_t *nibbles, const float *values) {
    for (uint32_t i = 0; i < 16; i++) nibbles[i] = (uint8_t)(iq4_code(values[i]) | iq4_code(values[i + 16]) << 4);
}

/* f16 d; u16 h; u8 l[4]; u8 n[128] */
ENCODE_FN void encode_iq4_xs(uint8_t *block, const float *src) {
    float d, factors[8], values[BLOCK_WEIGHTS];
    encode_symmetric(src, 8, 32, LEVELS_IQ4, 32.0f, WEIGHT_MAGNITUDE, &d, factors, values);
    uint32_t high = 0;
    memset(block, 0, 8);
    put_half(block, f32_to_f16(d));
    for (uint32_t b = 0; b < 8; b++) {
        const uint32_t s = (uint32_t)((int32_t)factors[b] + 32);
        block[4 + b / 2] |= (uint8_t)((s & 15) << 4 * (b % 2));
        high |= s >> 4 << 2 * b;
        put_iq4(block + 8 + 16 * b, values + 32 * b);
    }
    put_half(block + 2, (uint16_t)high);
}

/* Up to 8 blocks of f16 d; u8 n[16]. */
ENCODE_FN void encode_iq4_nl(uint8_t *blocks, const float *src, uint32_t n_blocks) {
    groups g;
    float scales[LANES], values[GROUP_MAX];
    take_groups(&g, src, 32, n_blocks, WEIGHT_MAGNITUDE);
    search_scales(&g, LEVELS_IQ4, scales);
    for (uint32_t b = 0; b < n_blocks; b++, blocks += 18) {
        const float inverse = inverse_of(as_half(scales[b]));
        put_half(blocks, f32_to_f16(scales[b]));
        for (uint32_t i = 0; i < 32; i++) values[i] = level_near(src[b * 32 + i] * inverse, LEVELS_IQ4);
        put_iq4(blocks + 2, values);
    }
}

/* How a type with mins is searched and rounded. */
typedef struct affine_type {
    uint32_t n_groups, n;
    float high, most;                      /* of a code, of a factor */
    float first, step;                     /* of the search */
    weighting weighting;
} affine_type;
static const affine_type AFFINE_Q2 = {16, 16, 3.0f, 15.0f, -0.5f, 0.1f, WEIGHT_MAGNITUDE};
static const affine_type AFFINE_Q4 = {8, 32, 15.0f, 63.0f, -1.0f, 0.1f, WEIGHT_MEAN_AND_MAGNITUDE};
static const affine_type AFFINE_Q5 = {8, 32, 31.0f, 63.0f, -1.0f, 0.1f, WEIGHT_MEAN_AND_MAGNITUDE};

ENCODE_FN void encode_affine(const float *src, const affine_type *t, float *d, float *m, float *scales, float *mins, uint8_t *codes) {
    groups g[2];
    affine found[2];
    float largest = 0.0f, least = 0.0f;
    for (uint32_t i = 0; i < t->n_groups / LANES; i++) {
        take_groups(&g[i], src + i * LANES * t->n, t->n, LANES, t->weighting);
        search_affine(&g[i], t->high, t->first, t->step, &found[i]);
        for (uint32_t k = 0; k < LANES; k++) {
            largest = found[i].scale[k] > largest ? found[i].scale[k] : largest;
            least = found[i].min[k] < least ? found[i].min[k] : least;
        }
    }
    *d = as_half(largest / t->most);
    *m = as_half(-least / t->most);
    for (uint32_t i = 0; i < t->n_groups / LANES; i++)
        round_affine(&g[i], &found[i], *d, *m, t->most, t->high, scales + i * LANES, mins + i * LANES);
    for (uint32_t i = 0; i < t->n_groups; i++) {
        const float inverse = inverse_of(*d * scales[i]), min = *m * mins[i];
        for (uint32_t k = 0; k < t->n; k++) codes[i * t->n + k] = (uint8_t)whole(clamped((src[i * t->n + k] + min) * inverse, t->high));
    }
}

/* u8 s[16]; u8 q[64]; f16 d; f16 m */
ENCODE_FN void encode_q2_k(uint8_t *block, const float *src) {
    float d, m, scales[16], mins[16];
    uint8_t codes[BLOCK_WEIGHTS];
    encode_affine(src, &AFFINE_Q2, &d, &m, scales, mins, codes);
    memset(block, 0, 80);
    put_half(block + 80, f32_to_f16(d));
    put_half(block + 82, f32_to_f16(m));
    for (uint32_t g = 0; g < 16; g++) block[g] = (uint8_t)((uint32_t)scales[g] | (uint32_t)mins[g] << 4);
    for (uint32_t k = 0; k < BLOCK_WEIGHTS; k++)
        block[16 + k / 128 * 32 + k % 32] |= (uint8_t)(codes[k] << k % 128 / 32 * 2);
}

/* f16 d; f16 m; u8 s[12]; Q5_K: u8 h[32]; u8 n[128] */
ENCODE_FN void encode_q45_k(uint8_t *block, const float *src, bool five) {
    float d, m, scales[8], mins[8];
    uint8_t codes[BLOCK_WEIGHTS], *s = block + 4, *high = block + 16, *nibbles = block + (five ? 48 : 16);
    encode_affine(src, five ? &AFFINE_Q5 : &AFFINE_Q4, &d, &m, scales, mins, codes);
    memset(block, 0, five ? 176 : 144);
    put_half(block, f32_to_f16(d));
    put_half(block + 2, f32_to_f16(m));
    for (uint32_t b = 0; b < 8; b++) {
        const uint32_t scale = (uint32_t)scales[b], min = (uint32_t)mins[b];
        if (b < 4) {
            s[b] |= (uint8_t)scale;
            s[b + 4] |= (uint8_t)min;
        } else {
            s[b + 4] = (uint8_t)((scale & 15) | (min & 15) << 4);
            s[b - 4] |= (uint8_t)(scale >> 4 << 6);
            s[b] |= (uint8_t)(min >> 4 << 6);
        }
    }
    for (uint32_t k = 0; k < BLOCK_WEIGHTS; k++) {
        nibbles[k / 64 * 32 + k % 32] |= (uint8_t)((codes[k] & 15) << 4 * (k / 32 % 2));
        if (five) high[k % 32] |= (uint8_t)(codes[k] >> 4 << k / 32);
    }
}

ENCODE_FN bool encode_search(const type_info *type, uint8_t *blocks, const float *src, uint64_t n) {
    const uint64_t n_blocks = n / type->block_len;
    if (type->id == TYPE_IQ4_NL) {
        for (uint64_t b = 0; b < n_blocks; b += LANES)
            encode_iq4_nl(blocks + b * 18, src + b * 32, (uint32_t)(n_blocks - b < LANES ? n_blocks - b : LANES));
        return true;
    }
    for (uint64_t b = 0; b <= n_blocks; b++, blocks += type->block_bytes, src += type->block_len) {
        if (b == n_blocks) return type->block_len == BLOCK_WEIGHTS;
        switch (type->id) {
        case TYPE_Q2_K: encode_q2_k(blocks, src); break;
        case TYPE_Q3_K: encode_q3_k(blocks, src); break;
        case TYPE_Q4_K: encode_q45_k(blocks, src, false); break;
        case TYPE_Q5_K: encode_q45_k(blocks, src, true); break;
        case TYPE_Q6_K: encode_q6_k(blocks, src); break;
        case TYPE_IQ4_XS: encode_iq4_xs(blocks, src); break;
        default: return false;
        }
    }
    return true;
}

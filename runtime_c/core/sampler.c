/* sampler.c: one row of logits to a token. Two ways: the standard one (penalty, temperature, top-k, top-p,
 * min-p, in this order, as Hugging Face's GenerationConfig has them) and llama2.c's, for its seeds. No state,
 * no allocation, no full sort: candidates are kept in a heap, and equal logits go to the lower id, so that
 * the same input always gives the same token. */
#include <math.h>

#include "error.h"
#include "sampler.h"

size_t sampler_scratch_bytes(uint32_t n) { return (size_t)n * (sizeof(float) + sizeof(uint32_t)); }

ak42_status sampler_check(const ak42_sampler_opts *opts, ak42_error *err) {
    if (opts->sampler != AK42_SAMPLER_STANDARD && opts->sampler != AK42_SAMPLER_LLAMA2C)
        return error_set(err, AK42_STATUS_ARG, "sampler: expected 0 or 1, found %d", (int)opts->sampler);
    if (!(opts->temperature >= 0.0f && isfinite(opts->temperature)))
        return error_set(err, AK42_STATUS_ARG, "temperature: expected 0 or more, found %g",
                         (double)opts->temperature);
    if (opts->top_k < 0)
        return error_set(err, AK42_STATUS_ARG, "top_k: expected 0 or more, found %d", opts->top_k);
    if (!(opts->top_p >= 0.0f && opts->top_p <= 1.0f))
        return error_set(err, AK42_STATUS_ARG, "top_p: expected 0 to 1, found %g", (double)opts->top_p);
    if (!(opts->min_p >= 0.0f && opts->min_p <= 1.0f))
        return error_set(err, AK42_STATUS_ARG, "min_p: expected 0 to 1, found %g", (double)opts->min_p);
    if (!(opts->repetition_penalty >= 0.0f && isfinite(opts->repetition_penalty)))
        return error_set(err, AK42_STATUS_ARG, "repetition_penalty: expected more than 0, found %g",
                         (double)opts->repetition_penalty);
    return AK42_STATUS_OK;
}

/* ---- candidates: ids ordered by value, best first ---- */

/* Whether a stands before b: the larger value, then the lower id. Values are never NaN. */
static bool before(const float *values, uint32_t a, uint32_t b) {
    return values[a] != values[b] ? values[a] > values[b] : a < b;
}

/* worst: the heap's top is the candidate that all others stand before; else the one that stands before all
 * others. */
static void sift_down(uint32_t *heap, uint32_t n, uint32_t at, const float *values, bool worst) {
    uint32_t moving = heap[at];
    for (;;) {
        uint64_t child = (uint64_t)at * 2 + 1;
        if (child >= n) break;
        uint32_t next = (uint32_t)child;
        if (child + 1 < n && before(values, heap[next + 1], heap[next]) != worst) next++;
        if (before(values, heap[next], moving) == worst) break;
        heap[at] = heap[next];
        at = next;
    }
    heap[at] = moving;
}

static void heapify(uint32_t *heap, uint32_t n, const float *values, bool worst) {
    for (uint32_t i = n / 2; i-- > 0;) sift_down(heap, n, i, values, worst);
}

/* The best `keep` of n ids, in no order, in front of ids. */
static void select_best(uint32_t *ids, uint32_t n, uint32_t keep, const float *values) {
    heapify(ids, keep, values, true);
    for (uint32_t i = keep; i < n; i++) {
        if (!before(values, ids[i], ids[0])) continue;
        ids[0] = ids[i];
        sift_down(ids, keep, 0, values, true);
    }
}

/* Moves the best id of a best-on-top heap of n behind the heap, which then has n - 1. */
static uint32_t take_best(uint32_t *heap, uint32_t n, const float *values) {
    uint32_t best = heap[0];
    heap[0] = heap[n - 1];
    heap[n - 1] = best;
    sift_down(heap, n - 1, 0, values, false);
    return best;
}

/* The lowest id among the largest values; NaN is never it. */
static uint32_t best_of(const float *values, uint32_t n) {
    uint32_t best = 0;
    bool any = false;
    for (uint32_t i = 0; i < n; i++) {
        if (isnan(values[i]) || (any && !(values[i] > values[best]))) continue;
        best = i;
        any = true;
    }
    return best;
}

/* ---- the standard way ---- */

/* SplitMix64: the state is a counter, so that any value seeds it. */
static double next_uniform(uint64_t *rng) {
    uint64_t z = *rng += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

/* Positive logits are divided, others multiplied; each token of the history once, since the logit is taken
 * anew every time. */
static void penalise(float *values, const sampler_input *input, float penalty) {
    for (size_t i = 0; i < input->n_history; i++) {
        int64_t id = input->history[i];
        if (id < 0 || id >= input->n) continue;
        float logit = input->logits[id];
        values[id] = logit > 0.0f ? logit / penalty : logit * penalty;
    }
}

/* The n_kept ids of the smallest best part whose probability exceeds top_p, moved to the end of ids; weights
 * are by id and positive, total is their sum. */
static uint32_t keep_top_p(uint32_t *ids, uint32_t n, const float *weights, double total, float top_p) {
    double sum = 0.0;
    uint32_t left = n;
    heapify(ids, n, weights, false);
    do {
        sum += weights[take_best(ids, left, weights)];
        left--;
    } while (left && sum < (double)top_p * total);
    return n - left;
}

static int32_t sample_standard(const sampler_input *input, const ak42_sampler_opts *opts, uint64_t *rng) {
    uint32_t n = input->n, kept = 0;
    float *values = input->scratch, penalty = opts->repetition_penalty;
    uint32_t *ids = (uint32_t *)(void *)(values + n);
    memcpy(values, input->logits, n * sizeof *values);
    if (penalty != 1.0f && penalty > 0.0f) penalise(values, input, penalty);
    uint32_t best = best_of(values, n);
    if (opts->temperature == 0.0f) return (int32_t)best;
    double uniform = next_uniform(rng);
    for (uint32_t i = 0; i < n; i++)
        if (!isnan(values[i]) && values[i] > -INFINITY) ids[kept++] = i;
    if (!kept || values[best] == INFINITY) return (int32_t)best;
    if (opts->top_k > 0 && (uint32_t)opts->top_k < kept) {
        select_best(ids, kept, (uint32_t)opts->top_k, values);
        kept = (uint32_t)opts->top_k;
    }
    /* Logits to weights, the best one's 1, in place. Those that underflow to nothing cannot be drawn. */
    float top = values[best], min = opts->min_p;
    double total = 0.0;
    uint32_t n_weights = 0;
    for (uint32_t i = 0; i < kept; i++) {
        uint32_t id = ids[i];
        values[id] = expf((values[id] - top) / opts->temperature);
        if (!(values[id] > 0.0f)) continue;
        ids[n_weights++] = id;
        total += values[id];
    }
    uint32_t first = 0, end = n_weights;
    if (opts->top_p < 1.0f) first = end - keep_top_p(ids, n_weights, values, total, opts->top_p);
    total = 0.0;
    for (uint32_t i = first; i < end; i++)
        if (values[ids[i]] >= min) total += values[ids[i]];
    double drawn = uniform * total;
    uint32_t chosen = best;
    for (uint32_t i = first; i < end; i++) {
        if (!(values[ids[i]] >= min)) continue;
        chosen = ids[i];
        drawn -= values[ids[i]];
        if (drawn < 0.0) break;
    }
    return (int32_t)chosen;
}

/* ---- llama2.c's way: every float operation in its order ---- */

static float next_llama2c(uint64_t *rng) {
    *rng ^= *rng >> 12;
    *rng ^= *rng << 25;
    *rng ^= *rng >> 27;
    return (float)(uint32_t)((*rng * 0x2545F4914F6CDD1Du) >> 32 >> 8) / 16777216.0f;
}

static int32_t draw_in_order(const float *probabilities, uint32_t n, float coin) {
    float sum = 0.0f;
    for (uint32_t i = 0; i < n; i++) {
        sum += probabilities[i];
        if (coin < sum) return (int32_t)i;
    }
    return (int32_t)n - 1;
}

/* What is below the cutoff cannot be among the best that make up top_p. The best stand at the end of ids, in
 * reverse. */
static int32_t draw_top_p(const float *probabilities, uint32_t *ids, uint32_t n, float top_p, float coin) {
    const float cutoff = (1.0f - top_p) / (float)(n - 1);
    uint32_t kept = 0, left;
    for (uint32_t i = 0; i < n; i++)
        if (probabilities[i] >= cutoff) ids[kept++] = i;
    if (!kept) return (int32_t)best_of(probabilities, n);
    float sum = 0.0f;
    heapify(ids, kept, probabilities, false);
    for (left = kept; left && !(sum > top_p); left--)
        sum += probabilities[take_best(ids, left, probabilities)];
    float drawn = coin * sum, passed = 0.0f;
    for (uint32_t i = kept; i-- > left;) {
        passed += probabilities[ids[i]];
        if (drawn < passed) return (int32_t)ids[i];
    }
    return (int32_t)ids[left];
}

static int32_t sample_llama2c(const sampler_input *input, const ak42_sampler_opts *opts, uint64_t *rng) {
    uint32_t n = input->n;
    float *values = input->scratch, sum = 0.0f;
    uint32_t *ids = (uint32_t *)(void *)(values + n);
    uint32_t best = best_of(input->logits, n);
    if (opts->temperature == 0.0f) return (int32_t)best;
    float coin = next_llama2c(rng);
    for (uint32_t i = 0; i < n; i++) values[i] = input->logits[i] / opts->temperature;
    float top = values[best];
    for (uint32_t i = 0; i < n; i++) {
        values[i] = expf(values[i] - top);
        sum += values[i];
    }
    if (!isfinite(sum) || !(sum > 0.0f) || n == 1) return (int32_t)best;
    for (uint32_t i = 0; i < n; i++) values[i] /= sum;
    if (opts->top_p <= 0.0f || opts->top_p >= 1.0f) return draw_in_order(values, n, coin);
    return draw_top_p(values, ids, n, opts->top_p, coin);
}

int32_t sampler_sample(const sampler_input *input, const ak42_sampler_opts *opts, uint64_t *rng) {
    if (opts->sampler == AK42_SAMPLER_LLAMA2C) return sample_llama2c(input, opts, rng);
    return sample_standard(input, opts, rng);
}

/* check_sampler.c: the sampler against slow and obvious references that sort everything: which ids may be
 * drawn, with what frequency, llama2.c's generator and top-p number by number, and logits that are no
 * numbers. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "../../runtime_c/core/sampler.h"

enum { N_MAX = 512 };

static long n_passed, n_failed;

#define CHECK(ok, ...) \
    do { \
        if (ok) n_passed++; \
        else if (n_failed++ < 50) { \
            printf("FAILED line %d: ", __LINE__); \
            printf(__VA_ARGS__); \
            printf("\n"); \
        } \
    } while (0)

static uint64_t seed = 1;
static double uniform(void) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(seed >> 11) * 0x1p-53;
}

static float scratch[2 * N_MAX];

static int32_t sample(const float *logits, uint32_t n, const ak42_sampler_opts *opts, uint64_t *rng) {
    const sampler_input input = {.logits = logits, .n = n, .scratch = scratch};
    return sampler_sample(&input, opts, rng);
}

static ak42_sampler_opts options(float temperature, int32_t top_k, float top_p, float min_p) {
    return (ak42_sampler_opts){.struct_size = sizeof(ak42_sampler_opts), .temperature = temperature,
                               .top_k = top_k, .top_p = top_p,
                               .min_p = min_p, .repetition_penalty = 1.0f};
}

/* ---- the standard way against a full sort ---- */

static const double *sort_by;
static int compare(const void *a, const void *b) {
    uint32_t i = *(const uint32_t *)a, k = *(const uint32_t *)b;
    if (sort_by[i] != sort_by[k]) return sort_by[i] > sort_by[k] ? -1 : 1;
    return i < k ? -1 : 1;
}

/* Probability of every id after the filters, in double. */
static void reference(double *probabilities, const float *logits, uint32_t n, const ak42_sampler_opts *opts) {
    static double weights[N_MAX];
    static uint32_t order[N_MAX];
    double top = -INFINITY, total = 0, sum = 0;
    for (uint32_t i = 0; i < n; i++) top = fmax(top, (double)logits[i]);
    for (uint32_t i = 0; i < n; i++) {
        weights[i] = exp(((double)logits[i] - top) / (double)opts->temperature);
        order[i] = i;
        probabilities[i] = 0;
    }
    sort_by = weights;
    qsort(order, n, sizeof *order, compare);
    uint32_t kept = opts->top_k > 0 && (uint32_t)opts->top_k < n ? (uint32_t)opts->top_k : n;
    for (uint32_t i = 0; i < kept; i++) total += weights[order[i]];
    if (opts->top_p < 1.0f) {
        uint32_t i = 0;
        do sum += weights[order[i++]];
        while (i < kept && sum < (double)opts->top_p * total);
        kept = i;
    }
    sum = 0;
    for (uint32_t i = 0; i < kept; i++)
        if (weights[order[i]] >= (double)opts->min_p) sum += probabilities[order[i]] = weights[order[i]];
    for (uint32_t i = 0; i < n; i++) probabilities[i] /= sum;
}

static void check_standard(void) {
    static float logits[N_MAX];
    static double probabilities[N_MAX];
    static long counts[N_MAX];
    const ak42_sampler_opts all[] = {options(1.0f, 0, 1.0f, 0), options(0.7f, 5, 1.0f, 0),
                                     options(1.3f, 0, 0.9f, 0), options(1.0f, 0, 1.0f, 0.1f),
                                     options(0.8f, 40, 0.95f, 0.05f), options(1.0f, 1, 1.0f, 0),
                                         options(1.0f, 0, 0.0f, 0)};
    for (size_t c = 0; c < ARRAY_LEN(all) * 6; c++) {
        const ak42_sampler_opts *opts = &all[c % ARRAY_LEN(all)];
        const uint32_t n = 3 + (uint32_t)(c * 7);
        const long draws = 20000;
        uint64_t rng = c;
        for (uint32_t i = 0; i < n; i++) logits[i] = (float)(floor(uniform() * 20) / 3);    /* with ties */
        memset(counts, 0, sizeof counts);
        reference(probabilities, logits, n, opts);
        for (long d = 0; d < draws; d++) counts[sample(logits, n, opts, &rng)]++;
        for (uint32_t i = 0; i < n; i++) {
            double expected = probabilities[i] * (double)draws, slack = 5 * sqrt(expected) + 3;
            CHECK(probabilities[i] > 0 ? fabs((double)counts[i] - expected) < slack : !counts[i],
                  "case %zu id %u of %u: %ld draws, expected %g", c, i, n, counts[i], expected);
        }
    }
}

static void check_greedy_and_penalty(void) {
    const float logits[] = {-1.0f, 4.0f, 3.0f, 4.0f, -2.0f};
    const int32_t history[] = {1, 1, 3, 4, 99, -5};
    ak42_sampler_opts opts = options(0.0f, 0, 1.0f, 0);
    uint64_t rng = 5;
    CHECK(sample(logits, 5, &opts, &rng) == 1 && rng == 5,
          "greedy takes the lowest id among the maxima and no random number");
    sampler_input input = {.logits = logits, .n = 5, .history = history, .n_history = 6, .scratch = scratch};
    opts.repetition_penalty = 2.0f;
    CHECK(sampler_sample(&input, &opts, &rng) == 2,
          "4 / 2 is below 3: once for each token, though it stands there twice");
    opts.repetition_penalty = 1.3f;
    CHECK(sampler_sample(&input, &opts, &rng) == 1, "4 / 1.3 is above 3");
    const float negative[] = {-1.0f, -1.1f};
    const int32_t first[] = {0};
    input = (sampler_input){.logits = negative, .n = 2, .history = first, .n_history = 1, .scratch = scratch};
    opts.repetition_penalty = 1.2f;
    CHECK(sampler_sample(&input, &opts, &rng) == 1, "-1 * 1.2 is below -1.1");
}

/* ---- llama2.c ---- */

static void check_llama2c(void) {
    static float logits[N_MAX], p[N_MAX];
    static double sorted_by[N_MAX];
    static uint32_t order[N_MAX];
    for (int c = 0; c < 400; c++) {
        const uint32_t n = 2 + (uint32_t)(uniform() * 300);
        const float top_p = c % 4 == 0 ? 1.0f : (float)(0.05 + 0.9 * uniform()),
            temperature = (float)(0.3 + uniform());
        for (uint32_t i = 0; i < n; i++) logits[i] = (float)floor(uniform() * 12);
        uint64_t rng = 1234 + (uint64_t)c, state = rng;
        ak42_sampler_opts opts = options(temperature, 0, top_p, 0);
        opts.sampler = AK42_SAMPLER_LLAMA2C;
        int32_t found = sample(logits, n, &opts, &rng), expected = -1;

        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        float coin = (float)((uint32_t)((state * 0x2545F4914F6CDD1Dull) >> 32) >> 8) / 16777216.0f;
        CHECK(rng == state, "the generator's state");
        float top = -INFINITY, sum = 0;
        for (uint32_t i = 0; i < n; i++) p[i] = logits[i] / temperature;
        for (uint32_t i = 0; i < n; i++) top = p[i] > top ? p[i] : top;
        for (uint32_t i = 0; i < n; i++) sum += p[i] = expf(p[i] - top);
        for (uint32_t i = 0; i < n; i++) p[i] /= sum;
        uint32_t kept = 0, last;
        float cumulative = 0, cdf = 0;
        for (uint32_t i = 0; i < n; i++) {
            if (top_p >= 1.0f || p[i] >= (1.0f - top_p) / (float)(n - 1)) order[kept++] = i;
            sorted_by[i] = (double)p[i];
        }
        if (top_p < 1.0f) {
            sort_by = sorted_by;
            qsort(order, kept, sizeof *order, compare);
            for (last = 0; last + 1 < kept; last++)
                if ((cumulative += p[order[last]]) > top_p) break;
            if (last + 1 == kept && cumulative <= top_p) cumulative += p[order[last]];
            coin *= cumulative;
        } else last = kept - 1;
        for (uint32_t i = 0; i <= last && expected < 0; i++)
            if (coin < (cdf += p[order[i]])) expected = (int32_t)order[i];
        if (expected < 0) expected = (int32_t)order[last];
        CHECK(found == expected, "case %d: id %d, expected %d of %u", c, found, expected, n);
    }
}

/* ---- what is no number ---- */

static void check_strange(void) {
    static float logits[N_MAX];
    static const float strange[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 1e-45f, 0.0f};
    for (int c = 0; c < 200000; c++) {
        const uint32_t n = 1 + (uint32_t)(uniform() * 12);
        const float temperature = (float)(uniform() < 0.2 ? 0 : uniform() < 0.3 ? 1e-38 : uniform() * 3);
        const float top_p = (float)(uniform() < 0.5 ? uniform() : 1);
        ak42_sampler_opts opts = options(temperature, (int32_t)(uniform() * 15), top_p,
                                         (float)(uniform() < 0.3 ? uniform() : 0));
        opts.sampler = uniform() < 0.5 ? AK42_SAMPLER_STANDARD : AK42_SAMPLER_LLAMA2C;
        bool number = false;
        for (uint32_t i = 0; i < n; i++) {
            const float odd = strange[(size_t)(uniform() * ARRAY_LEN(strange))];
            logits[i] = uniform() < 0.5 ? odd : (float)(uniform() * 10);
            number |= !isnan(logits[i]) && logits[i] > -INFINITY;
        }
        uint64_t rng = (uint64_t)c + 1;
        int32_t id = sample(logits, n, &opts, &rng);
        if (id < 0 || (uint32_t)id >= n) CHECK(false, "id %d of %u", id, n);
        else if (opts.sampler == AK42_SAMPLER_STANDARD && number)
            CHECK(!isnan(logits[id]) && logits[id] > -INFINITY, "id %d has logit %g", id, (double)logits[id]);
        else n_passed++;
    }
    ak42_error err;
    static const float wrong[] = {NAN, -1.0f, INFINITY};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        ak42_sampler_opts opts = options(wrong[i], 0, 1, 0);
        CHECK(sampler_check(&opts, &err) == AK42_STATUS_ARG && strstr(err.text, "temperature"), "%s",
              err.text);
        opts = options(1, 0, wrong[i], 0);
        CHECK(sampler_check(&opts, &err) == AK42_STATUS_ARG && strstr(err.text, "top_p"), "%s", err.text);
        opts = options(1, 0, 1, wrong[i]);
        CHECK(sampler_check(&opts, &err) == AK42_STATUS_ARG && strstr(err.text, "min_p"), "%s", err.text);
        opts = options(1, 0, 1, 0);
        opts.repetition_penalty = wrong[i];
        CHECK(sampler_check(&opts, &err) == AK42_STATUS_ARG && strstr(err.text, "repetition_penalty"), "%s",
              err.text);
    }
    ak42_sampler_opts opts = options(1, -1, 1, 0);
    CHECK(sampler_check(&opts, &err) == AK42_STATUS_ARG && strstr(err.text, "top_k"), "%s", err.text);
    opts = options(0.8f, 40, 0.95f, 0);
    CHECK(sampler_check(&opts, &err) == AK42_STATUS_OK, "the defaults");
}

int main(void) {
    check_standard();
    check_greedy_and_penalty();
    check_llama2c();
    check_strange();
    printf("%ld passed, %ld failed\n", n_passed, n_failed);
    return n_failed != 0;
}

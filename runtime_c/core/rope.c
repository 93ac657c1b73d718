/* rope.c: the rotary frequencies: theta^(-2i/rotary_dim), changed by one of the scalings that models were trained with. It turns
 * nothing: the device does. Called when a model and when a session is opened. */
#include "rope.h"

#include <math.h>

#include "error.h"
#include "roles.h"

static const tensor *factors_of(const ak42_model *model, role role) {
    char name[TENSOR_NAME_MAX + 1];
    role_name(name, role, 0);
    return container_find(&model->file, name);
}

static float factor_at(const tensor *factors, uint32_t i) { return factors ? load_f32(factors->data + 4 * (size_t)i) : 1.0f; }

ak42_status rope_check(const ak42_model *model, ak42_error *err) {
    static const role roles[] = {ROLE_ROPE_FREQS, ROLE_ROPE_LONG, ROLE_ROPE_SHORT};
    const model_config *c = &model->config;
    if (c->rope_scaling == ROPE_SCALING_LLAMA3 && !factors_of(model, ROLE_ROPE_FREQS))
        return error_set(err, AK42_STATUS_FORMAT, "%s: rope scaling llama3: expected its factors in tensor "
                         "rope_freqs.weight, found none", model->file.name);
    if (c->rope_scaling != ROPE_SCALING_NONE && c->rope_scaling != ROPE_SCALING_LLAMA3 &&
        c->rope_scaling != ROPE_SCALING_LINEAR && factors_of(model, ROLE_ROPE_FREQS))
        return error_set(err, AK42_STATUS_UNSUPPORTED, "%s: rope scaling: expected tensor rope_freqs.weight with llama3, linear "
                         "or no scaling, found it with another", model->file.name);
    for (size_t r = 0; r < ARRAY_LEN(roles); r++) {
        const tensor *factors = factors_of(model, roles[r]);
        for (uint32_t i = 0; factors && i < c->rotary_dim / 2; i++) {
            const float factor = factor_at(factors, i);
            if (!(factor > 0.0f) || isinf(factor))
                return error_set(err, AK42_STATUS_FORMAT, "%s: tensor %s: element %u: expected a finite number above 0, found %g",
                                 model->file.name, factors->name, i, (double)factor);
        }
    }
    return AK42_STATUS_OK;
}

/* 1 / (factor * theta^(2i / rotary_dim)), in f32 and in that order, as the models were trained: a unit in the last place is a phase of
 * 5e-4 at position 8192. */
static float stretched_frequency(float theta, uint32_t i, uint32_t rotary_dim, float factor) {
    return 1.0f / (factor * powf(theta, (float)(2 * i) / (float)rotary_dim));
}
static float plain_frequency(float theta, uint32_t i, uint32_t rotary_dim) { return stretched_frequency(theta, i, rotary_dim, 1.0f); }

/* The pair, counted in fractions, that turns so often within the original context. */
static double yarn_pair(const model_config *c, double turns) {
    return c->rotary_dim * log(c->rope_original_ctx / (turns * 2.0 * 3.14159265358979323846)) / (2.0 * log((double)c->rope_theta));
}

/* Pairs that turn often keep their frequency, slow ones are interpolated, those between blended. */
static void yarn(float *inv_freq, const model_config *c) {
    double low = floor(yarn_pair(c, (double)c->rope_high_freq)), high = ceil(yarn_pair(c, (double)c->rope_low_freq));
    if (low < 0.0) low = 0.0;
    if (high > c->rotary_dim - 1.0) high = c->rotary_dim - 1.0;
    if (low == high) high += 0.001;
    for (uint32_t i = 0; i < c->rotary_dim / 2; i++) {
        const double ramp = (i - low) / (high - low);
        const float kept = 1.0f - (float)(ramp < 0.0 ? 0.0 : ramp > 1.0 ? 1.0 : ramp);
        const float freq = plain_frequency(c->rope_theta, i, c->rotary_dim);
        inv_freq[i] = freq / c->rope_factor * (1.0f - kept) + freq * kept;
    }
}

/* theta grows with the context, beyond the one trained for, so that the slowest pair is interpolated and the fastest kept. */
static float dynamic_theta(const model_config *c, uint32_t n_ctx) {
    if (n_ctx <= c->trained_ctx) return c->rope_theta;
    const double stretch = (double)c->rope_factor * n_ctx / c->trained_ctx - ((double)c->rope_factor - 1.0);
    return (float)(c->rope_theta * pow(stretch, (double)c->rotary_dim / (c->rotary_dim - 2.0)));
}

static void global_frequencies(float *inv_freq, const ak42_model *model, uint32_t n_ctx) {
    const model_config *c = &model->config;
    if (c->rope_scaling == ROPE_SCALING_YARN) {
        yarn(inv_freq, c);
        return;
    }
    const float theta = c->rope_scaling == ROPE_SCALING_DYNAMIC ? dynamic_theta(c, n_ctx) : c->rope_theta;
    const role by_length = n_ctx > c->rope_original_ctx ? ROLE_ROPE_LONG : ROLE_ROPE_SHORT;
    /* a file's own factors hold all scaling */
    const bool longrope = c->rope_scaling == ROPE_SCALING_LONGROPE;
    const tensor *factors = factors_of(model, longrope ? by_length : ROLE_ROPE_FREQS);
    const bool linear = c->rope_scaling == ROPE_SCALING_LINEAR && !factors;
    for (uint32_t i = 0; i < c->rotary_dim / 2; i++)
        inv_freq[i] = longrope ? stretched_frequency(theta, i, c->rotary_dim, factor_at(factors, i))
            : plain_frequency(theta, i, c->rotary_dim) / (linear ? c->rope_factor : factor_at(factors, i));
}

void rope_frequencies(float *inv_freq, const ak42_model *model, uint32_t n_ctx) {
    const model_config *c = &model->config;
    const uint32_t half = c->rotary_dim / 2;
    global_frequencies(inv_freq + LAYER_ROPE_GLOBAL * half, model, n_ctx);
    const float theta = c->rope_theta_local != 0.0f ? c->rope_theta_local : c->rope_theta;
    for (uint32_t i = 0; i < half; i++) inv_freq[LAYER_ROPE_LOCAL * half + i] = plain_frequency(theta, i, c->rotary_dim);
}

float rope_attn_factor(const ak42_model *model, layer_rope rope) {
    return rope == LAYER_ROPE_GLOBAL ? model->config.rope_attn_factor : 1.0f;
}

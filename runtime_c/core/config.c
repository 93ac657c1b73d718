/* config.c: the rules that a model's numbers obey, whatever file stated them. It reads no file: ak42.c and
 * gguf.c fill the struct and call this before they multiply any two of its fields. */
#include "config.h"

#include <math.h>

#include "error.h"

void config_init(model_config *config) {
    *config = (model_config){
        .architecture = "llama",
        .rope_theta = 10000.0f,
        .norm_eps = 1e-5f,
        .rope_factor = 1.0f,
        .rope_attn_factor = 1.0f,
        .embedding_scale = 1.0f,
        .residual_scale = 1.0f,
        .logit_scale = 1.0f,
        .bos_id = -1,
        .eos_ids = {-1, -1, -1, -1},
        .pad_id = -1,
    };
}

void config_layers_alike(model_config *config) {
    const int flags = (config->sliding_window ? LAYER_WINDOW : 0) | (config->n_experts ? LAYER_EXPERTS : 0);
    memset(config->layer_flags, flags, sizeof config->layer_flags);
}

typedef struct int_rule {
    const char *name;
    uint32_t value, min, max;
} int_rule;

static ak42_status check_ints(const model_config *c, const char *name, ak42_error *err) {
    const int_rule rules[] = {
        {"dim", c->dim, 1, CONFIG_MAX_DIM},
        {"hidden_dim", c->hidden_dim, 1, CONFIG_MAX_DIM},
        {"n_layers", c->n_layers, 1, CONFIG_MAX_LAYERS},
        {"n_heads", c->n_heads, 1, CONFIG_MAX_HEADS},
        {"n_kv_heads", c->n_kv_heads, 1, CONFIG_MAX_HEADS},
        {"head_dim", c->head_dim, 2, CONFIG_MAX_DIM},
        {"vocab_size", c->vocab_size, 1, CONFIG_MAX_VOCAB},
        {"seq_len", c->seq_len, 1, UINT32_MAX},
        {"trained_ctx", c->trained_ctx, 1, UINT32_MAX},
        {"rotary_dim", c->rotary_dim, 2, c->head_dim},
        {"n_experts", c->n_experts, 0, CONFIG_MAX_EXPERTS},
        {"n_experts_used", c->n_experts_used, c->n_experts ? 1 : 0, c->n_experts},
    };
    for (size_t i = 0; i < ARRAY_LEN(rules); i++)
        if (rules[i].value < rules[i].min || rules[i].value > rules[i].max)
            return error_set(err, AK42_STATUS_FORMAT, "%s: %s: expected %u to %u, found %u", name,
                             rules[i].name, rules[i].min, rules[i].max, rules[i].value);
    if (c->n_heads % c->n_kv_heads)
        return error_set(err, AK42_STATUS_FORMAT, "%s: n_heads: expected a multiple of n_kv_heads (%u), "
                         "found %u", name, c->n_kv_heads, c->n_heads);
    if (c->head_dim % 2)
        return error_set(err, AK42_STATUS_FORMAT, "%s: head_dim: expected an even number, found %u", name,
                         c->head_dim);
    if (c->rotary_dim % 2)
        return error_set(err, AK42_STATUS_FORMAT, "%s: rotary_dim: expected an even number, found %u", name,
                         c->rotary_dim);
    if ((uint64_t)c->n_heads * c->head_dim > CONFIG_MAX_DIM)
        return error_set(err, AK42_STATUS_FORMAT, "%s: n_heads * head_dim: expected at most %d, found %u * "
                         "%u", name, CONFIG_MAX_DIM, c->n_heads, c->head_dim);
    return AK42_STATUS_OK;
}

/* The negations refuse NaN too. */
static ak42_status check_floats(const model_config *c, const char *name, ak42_error *err) {
    if (!(c->norm_eps > 0.0f && c->norm_eps < 1.0f))
        return error_set(err, AK42_STATUS_FORMAT, "%s: norm_eps: expected above 0 and below 1, found %g",
                         name, (double)c->norm_eps);
    const struct {
        const char *name;
        float value;
        bool zero_fits;
    } rules[] = {
        {"rope_theta", c->rope_theta, false},
        {"rope_theta_local", c->rope_theta_local, true},
        {"rope_factor", c->rope_factor, c->rope_scaling == ROPE_SCALING_NONE},
        {"rope_attn_factor", c->rope_attn_factor, false},
        {"attention_scale", c->attention_scale, false},
        {"attn_softcap", c->attn_softcap, true},
        {"final_softcap", c->final_softcap, true},
        {"embedding_scale", c->embedding_scale, false},
        {"residual_scale", c->residual_scale, false},
        {"logit_scale", c->logit_scale, false},
    };
    for (size_t i = 0; i < ARRAY_LEN(rules); i++) {
        const float value = rules[i].value;
        if (!(value > 0.0f || (rules[i].zero_fits && value == 0.0f)) || isinf(value))
            return error_set(err, AK42_STATUS_FORMAT, "%s: %s: expected a finite number above 0, found %g",
                             name, rules[i].name, (double)value);
    }
    return AK42_STATUS_OK;
}

static ak42_status check_ids(const model_config *c, const char *name, ak42_error *err) {
    if (c->n_eos < 0 || c->n_eos > AK42_EOS_MAX)
        return error_set(err, AK42_STATUS_FORMAT, "%s: eos_id: expected 0 to %d ids, found %d", name,
                         AK42_EOS_MAX, c->n_eos);
    const struct {
        const char *name;
        int32_t id;
    } ids[] = {{"bos_id", c->bos_id},         {"pad_id", c->pad_id},         {"eos_id", c->eos_ids[0]},
               {"eos_id[1]", c->eos_ids[1]}, {"eos_id[2]", c->eos_ids[2]}, {"eos_id[3]", c->eos_ids[3]}};
    for (size_t i = 0; i < ARRAY_LEN(ids); i++)
        if (ids[i].id < -1 || ids[i].id >= (int32_t)c->vocab_size)
            return error_set(err, AK42_STATUS_FORMAT, "%s: %s: expected -1 or an id below vocab_size (%u), "
                             "found %d", name, ids[i].name, c->vocab_size, ids[i].id);
    return AK42_STATUS_OK;
}

/* The rotary scalings that need more than a factor. */
static ak42_status check_rope(const model_config *c, const char *name, ak42_error *err) {
    const bool needs_ctx = c->rope_scaling == ROPE_SCALING_YARN || c->rope_scaling == ROPE_SCALING_LONGROPE;
    if (needs_ctx && !c->rope_original_ctx)
        return error_set(err, AK42_STATUS_FORMAT, "%s: rope_original_ctx: expected 1 or more with rope_scaling "
                         "%s, found 0", name, c->rope_scaling == ROPE_SCALING_YARN ? "yarn" : "longrope");
    if (c->rope_scaling == ROPE_SCALING_YARN &&
        !(c->rope_low_freq > 0.0f && c->rope_high_freq > c->rope_low_freq && !isinf(c->rope_high_freq)))
        return error_set(err, AK42_STATUS_FORMAT, "%s: rope_low_freq, rope_high_freq: expected yarn's beta_slow "
                         "above 0 and beta_fast above it, found %g, %g", name, (double)c->rope_low_freq,
                         (double)c->rope_high_freq);
    if (c->rope_scaling == ROPE_SCALING_YARN && !(c->rope_theta > 1.0f))
        return error_set(err, AK42_STATUS_FORMAT, "%s: rope_theta: expected above 1 with rope_scaling yarn, "
                         "found %g", name, (double)c->rope_theta);
    if (c->rope_scaling == ROPE_SCALING_DYNAMIC && c->rotary_dim < 4)
        return error_set(err, AK42_STATUS_FORMAT, "%s: rotary_dim: expected 4 or more with rope_scaling "
                         "dynamic, found %u", name, c->rotary_dim);
    return AK42_STATUS_OK;
}

/* What forward.c and the kernels do not compute. */
static ak42_status check_supported(const model_config *c, const char *name, ak42_error *err) {
    if (c->rope_scaling > ROPE_SCALING_LONGROPE)
        return error_set(err, AK42_STATUS_UNSUPPORTED, "%s: rope_scaling: expected 0 to 5, found %u", name,
                         c->rope_scaling);
    if (c->rope_layout > ROPE_LAYOUT_HALF_SPLIT)
        return error_set(err, AK42_STATUS_UNSUPPORTED, "%s: rope_layout: expected 0 or 1, found %u", name,
                         c->rope_layout);
    if (c->activation >= ACTIVATION_COUNT)
        return error_set(err, AK42_STATUS_UNSUPPORTED, "%s: activation: expected 0 to 2, found %u", name,
                         c->activation);
    if (c->model_flags & ~(uint32_t)MODEL_FLAGS_KNOWN ||
        (c->model_flags & MODEL_NORM_AFTER && c->model_flags & MODEL_NORM_BOTH))
        return error_set(err, AK42_STATUS_UNSUPPORTED, "%s: model_flags: expected 1 or 2, and 4, found %u", name,
                         c->model_flags);
    for (uint32_t i = 0; i < c->n_layers; i++)
        if (c->layer_flags[i] & LAYER_EXPERTS && !c->n_experts)
            return error_set(err, AK42_STATUS_FORMAT, "%s: layer %u: expected no experts in a model without, "
                             "found flags 0x%x", name, i, c->layer_flags[i]);
    return AK42_STATUS_OK;
}

ak42_status config_check(const model_config *config, const char *name, ak42_error *err) {
    ak42_status status = check_ints(config, name, err);
    if (!status) status = check_floats(config, name, err);
    if (!status) status = check_ids(config, name, err);
    if (!status) status = check_supported(config, name, err);
    if (!status) status = check_rope(config, name, err);
    return status;
}

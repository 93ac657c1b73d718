/* gguf_keys.c: what GGUF's keys mean: the config of a model, the vocabulary's arrays, and the texts
 * that we keep beside them. The only place of the runtime that knows GGUF's words. Called by gguf.c, which
 * has checked that every value lies in the file. */
#include <float.h>
#include <math.h>
#include <stdio.h>

#include "error.h"
#include "gguf_file.h"

static const char *const type_names[GGUF_TYPES] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                                   "bool", "string", "array", "u64", "i64", "f64"};

static ak42_status fail_type(const gguf_file *g, const char *key, const char *expected, const gguf_value *v,
                             ak42_error *err) {
    return error_set(err, AK42_STATUS_FORMAT, "%s: key %s: expected %s, found %s%s%s", g->c->name, key,
                     expected, type_names[v->type], v->type == GGUF_ARRAY ? " of " : "",
                     v->type == GGUF_ARRAY ? type_names[v->element] : "");
}

/* ---- values by key; *out is untouched where the key is absent ---- */

/* The integer at p; false where the type is none, or its value is beyond i64. */
static bool load_integer(int64_t *out, gguf_type type, const uint8_t *p) {
    switch (type) {
    case GGUF_U8: *out = p[0]; return true;
    case GGUF_I8: *out = (int8_t)p[0]; return true;
    case GGUF_U16: *out = load_u16(p); return true;
    case GGUF_I16: *out = (int16_t)load_u16(p); return true;
    case GGUF_U32: *out = load_u32(p); return true;
    case GGUF_I32: *out = load_i32(p); return true;
    case GGUF_U64:
    case GGUF_I64: *out = (int64_t)load_u64(p); return type == GGUF_I64 || *out >= 0;
    default: return false;
    }
}

static ak42_status get_int(int64_t *out, const gguf_file *g, const char *key, int64_t min, int64_t max,
                           ak42_error *err) {
    const gguf_value *v = gguf_find(g, key);
    int64_t value = 0;
    if (!v) return AK42_STATUS_OK;
    if (!load_integer(&value, v->type, v->content.data)) return fail_type(g, key, "an integer", v, err);
    if (value < min || value > max)
        return error_set(err, AK42_STATUS_FORMAT, "%s: key %s: expected %lld to %lld, found %lld", g->c->name,
                         key, (long long)min, (long long)max, (long long)value);
    *out = value;
    return AK42_STATUS_OK;
}

static ak42_status get_float(float *out, const gguf_file *g, const char *key, ak42_error *err) {
    const gguf_value *v = gguf_find(g, key);
    if (!v) return AK42_STATUS_OK;
    if (v->type == GGUF_F32) {
        *out = load_f32(v->content.data);
    } else if (v->type == GGUF_F64) {
        const uint64_t bits = load_u64(v->content.data);
        double value;
        memcpy(&value, &bits, sizeof value);
        /* also NaN: nobody takes either */
        *out = fabs(value) <= (double)FLT_MAX ? (float)value : INFINITY;
    } else {
        return fail_type(g, key, "a float", v, err);
    }
    return AK42_STATUS_OK;
}

/* 0 or 1, whatever byte the file has. */
static ak42_status get_bool(int8_t *out, const gguf_file *g, const char *key, ak42_error *err) {
    const gguf_value *v = gguf_find(g, key);
    if (!v) return AK42_STATUS_OK;
    if (v->type != GGUF_BOOL) return fail_type(g, key, "a bool", v, err);
    *out = v->content.data[0] != 0;
    return AK42_STATUS_OK;
}

static ak42_status get_string(blob *out, const gguf_file *g, const char *key, ak42_error *err) {
    const gguf_value *v = gguf_find(g, key);
    if (!v) return AK42_STATUS_OK;
    if (v->type != GGUF_STRING) return fail_type(g, key, "a string", v, err);
    *out = v->content;
    return AK42_STATUS_OK;
}

static ak42_status get_array(blob *out, uint64_t *count, const gguf_file *g, const char *key,
                             gguf_type element, ak42_error *err) {
    const gguf_value *v = gguf_find(g, key);
    char expected[32];
    if (!v) return AK42_STATUS_OK;
    snprintf(expected, sizeof expected, "array of %s", type_names[element]);
    if (v->type != GGUF_ARRAY || v->element != element) return fail_type(g, key, expected, v, err);
    *out = v->content;
    *count = v->count;
    return AK42_STATUS_OK;
}

static bool equals(blob text, const char *word) {
    return text.size == strlen(word) && !memcmp(text.data, word, (size_t)text.size);
}

/* ---- the config ---- */

enum { KEY_MAX = 96 };
/* A window that no text reaches: how a file says that there is none where its architecture takes one for granted. */
enum { GGUF_NO_WINDOW = 1 << 28 };

/* The full name of an architecture's key: "llama.block_count". */
static const char *arch_key(char *key, const gguf_file *g, const char *suffix) {
    snprintf(key, KEY_MAX, "%s.%s", g->c->config.architecture, suffix);
    return key;
}

static ak42_status fail_absent(const gguf_file *g, const char *key, ak42_error *err) {
    return error_set(err, AK42_STATUS_FORMAT, "%s: key %s: expected it to be there, found none", g->c->name,
                     key);
}

/* A size. required: the key must be there; else *out keeps its default. */
static ak42_status config_int(uint32_t *out, const gguf_file *g, const char *suffix, bool required,
                              ak42_error *err) {
    char key[KEY_MAX];
    int64_t value = *out;
    arch_key(key, g, suffix);
    if (required && !gguf_find(g, key)) return fail_absent(g, key, err);
    const ak42_status status = get_int(&value, g, key, 0, UINT32_MAX, err);
    *out = (uint32_t)value;
    return status;
}

/* A size that may be given once for each layer; they must agree. n_layers is known. */
static ak42_status config_int_per_layer(uint32_t *out, const gguf_file *g, const char *suffix, bool required,
                                        ak42_error *err) {
    char key[KEY_MAX];
    const gguf_value *v = gguf_find(g, arch_key(key, g, suffix));
    if (!v || v->type != GGUF_ARRAY) return config_int(out, g, suffix, required, err);
    if (v->count != g->c->config.n_layers)
        return error_set(err, AK42_STATUS_FORMAT, "%s: key %s: expected one value for each of %u layers, "
                         "found %llu", g->c->name, key, g->c->config.n_layers, (unsigned long long)v->count);
    const uint64_t size = v->count ? v->content.size / v->count : 0;
    int64_t first = 0, value = 0;
    for (uint64_t i = 0; i < v->count; i++) {
        if (!load_integer(&value, v->element, v->content.data + i * size))
            return fail_type(g, key, "integers", v, err);
        if (value < 0 || value > UINT32_MAX)
            return error_set(err, AK42_STATUS_FORMAT, "%s: key %s: layer %llu: expected a size, found %lld",
                             g->c->name, key, (unsigned long long)i, (long long)value);
        if (i == 0) first = value;
        if (value != first)
            return error_set(err, AK42_STATUS_UNSUPPORTED, "%s: key %s: expected the same value in all "
                             "layers, found %lld and %lld", g->c->name, key, (long long)first,
                             (long long)value);
    }
    *out = (uint32_t)first;
    return AK42_STATUS_OK;
}

ak42_status gguf_read_architecture(gguf_file *g, ak42_error *err) {
    model_config *m = &g->c->config;
    blob name = {0};
    config_init(m);
    const ak42_status status = get_string(&name, g, "general.architecture", err);
    if (status) return status;
    if (!name.data) return fail_absent(g, "general.architecture", err);
    g->family = family_of_gguf((const char *)name.data, name.size);
    if (!g->family)
        return error_set(err, AK42_STATUS_UNSUPPORTED, "%s: architecture: expected one of %s, found %.*s", g->c->name,
                         family_architectures(), gguf_shown(name.size), (const char *)name.data);
    /* the name that the file's keys begin with */
    snprintf(m->architecture, sizeof m->architecture, "%.*s", (int)name.size, (const char *)name.data);
    return AK42_STATUS_OK;
}

static ak42_status read_sizes(const gguf_file *g, ak42_error *err) {
    model_config *m = &g->c->config;
    ak42_status status = config_int(&m->n_layers, g, "block_count", true, err);
    if (!status) status = config_int(&m->seq_len, g, "context_length", true, err);
    if (!status) status = config_int(&m->dim, g, "embedding_length", true, err);
    if (!status) status = config_int_per_layer(&m->hidden_dim, g, "feed_forward_length", true, err);
    if (!status) status = config_int_per_layer(&m->n_heads, g, "attention.head_count", true, err);
    m->n_kv_heads = m->n_heads;
    if (!status) status = config_int_per_layer(&m->n_kv_heads, g, "attention.head_count_kv", false, err);
    if (status) return status;
    m->trained_ctx = m->seq_len;

    /* Both default to dim / n_heads, as in the format's reference. */
    char key[KEY_MAX];
    const uint32_t head_dim = m->n_heads ? m->dim / m->n_heads : 0;
    uint32_t value_length = m->head_dim = head_dim;
    status = config_int(&m->head_dim, g, "attention.key_length", false, err);
    if (!status) status = config_int(&value_length, g, "attention.value_length", false, err);
    m->rotary_dim = m->head_dim;
    if (!status) status = config_int(&m->rotary_dim, g, "rope.dimension_count", false, err);
    if (!status) status = config_int(&m->sliding_window, g, "attention.sliding_window", false, err);
    if (m->sliding_window == GGUF_NO_WINDOW) m->sliding_window = 0;
    if (!status) status = config_int(&m->n_experts, g, "expert_count", false, err);
    if (!status) status = config_int(&m->n_experts_used, g, "expert_used_count", false, err);
    if (status) return status;
    if (!gguf_find(g, arch_key(key, g, "attention.key_length")) && m->n_heads && m->dim % m->n_heads)
        return error_set(err, AK42_STATUS_FORMAT, "%s: embedding_length: expected a multiple of head_count "
                         "(%u) or a key %s, found %u", g->c->name, m->n_heads, key, m->dim);
    if (value_length != m->head_dim)
        return error_set(err, AK42_STATUS_UNSUPPORTED, "%s: attention.value_length: expected "
                         "attention.key_length (%u), found %u", g->c->name, m->head_dim, value_length);
    return AK42_STATUS_OK;
}

/* How much longer than its original context a yarn model's context is decides how much its attention is sharpened
 * (Peng et al. 2023, arXiv 2309.00071): m = 0.1 ln(factor) + 1, unless the file says otherwise. */
static ak42_status read_yarn(const gguf_file *g, float factor, ak42_error *err) {
    model_config *m = &g->c->config;
    char key[KEY_MAX];
    float relative = 1.0f, extrapolation = 1.0f;
    m->rope_scaling = ROPE_SCALING_YARN;
    m->rope_factor = factor;
    m->rope_low_freq = 1.0f;
    m->rope_high_freq = 32.0f;
    if (!m->rope_original_ctx) m->rope_original_ctx = m->trained_ctx;
    ak42_status status = get_float(&m->rope_high_freq, g, arch_key(key, g, "rope.scaling.yarn_beta_fast"), err);
    if (!status) status = get_float(&m->rope_low_freq, g, arch_key(key, g, "rope.scaling.yarn_beta_slow"), err);
    if (!status) status = get_float(&relative, g, arch_key(key, g, "rope.scaling.attn_factor"), err);
    if (!status) status = get_float(&extrapolation, g, arch_key(key, g, "rope.scaling.yarn_ext_factor"), err);
    if (!status && extrapolation != 1.0f)
        return error_set(err, AK42_STATUS_UNSUPPORTED, "%s: key %s: expected 1, found %g", g->c->name, key,
                         (double)extrapolation);
    m->rope_attn_factor = (factor > 1.0f ? 0.1f * logf(factor) + 1.0f : 1.0f) * relative;
    if (!status) status = get_float(&m->rope_attn_factor, g, arch_key(key, g, "rope.scaling.yarn_attn_factor"), err);
    return status;
}

static ak42_status read_longrope(const gguf_file *g, ak42_error *err) {
    model_config *m = &g->c->config;
    char key[KEY_MAX];
    m->rope_scaling = ROPE_SCALING_LONGROPE;
    if (!m->rope_original_ctx)
        return fail_absent(g, arch_key(key, g, "rope.scaling.original_context_length"), err);
    return get_float(&m->rope_attn_factor, g, arch_key(key, g, "rope.scaling.attn_factor"), err);
}

static ak42_status read_rope(const gguf_file *g, ak42_error *err) {
    model_config *m = &g->c->config;
    char key[KEY_MAX];
    blob type = {0};
    float factor = 1.0f;
    int8_t has_rope = 1;
    ak42_status status = AK42_STATUS_OK;
    if (g->family->flags & FAMILY_ROPE_SWITCHED) status = get_bool(&has_rope, g, arch_key(key, g, "rope.scaling.finetuned"), err);
    if (!status && !has_rope)
        return error_set(err, AK42_STATUS_UNSUPPORTED, "%s: key %s: expected true, found false: no layer has rope", g->c->name, key);
    if (!status) status = get_float(&m->rope_theta, g, arch_key(key, g, "rope.freq_base"), err);
    if (!status) status = get_float(&m->rope_theta_local, g, arch_key(key, g, "rope.freq_base_swa"), err);
    if (!status) status = get_string(&type, g, arch_key(key, g, "rope.scaling.type"), err);
    /* The older key of the factor counts where the newer one is absent. */
    const bool has_factor = gguf_find(g, arch_key(key, g, "rope.scaling.factor")) ||
                            gguf_find(g, arch_key(key, g, "rope.scale_linear"));
    if (!status) status = get_float(&factor, g, arch_key(key, g, "rope.scale_linear"), err);
    if (!status) status = get_float(&factor, g, arch_key(key, g, "rope.scaling.factor"), err);
    if (!status)
        status = config_int(&m->rope_original_ctx, g, "rope.scaling.original_context_length", false, err);
    if (status) return status;
    const bool yarn = type.data && equals(type, "yarn"), longrope = type.data && equals(type, "longrope");
    arch_key(key, g, "rope.scaling.type");
    if (type.data && !yarn && !longrope && !equals(type, "none") && !equals(type, "linear"))
        return error_set(err, AK42_STATUS_UNSUPPORTED, "%s: key %s: expected none, linear, yarn or longrope, found %.*s",
                         g->c->name, key, gguf_shown(type.size), (const char *)type.data);
    if (type.data && (yarn || equals(type, "linear")) && !has_factor)
        return fail_absent(g, arch_key(key, g, "rope.scaling.factor"), err);
    if (!(factor > 0.0f) || isinf(factor))
        return error_set(err, AK42_STATUS_FORMAT, "%s: key %s: expected a finite number above 0, found %g",
                         g->c->name, arch_key(key, g, "rope.scaling.factor"), (double)factor);
    /* Its factors are tensors, and make it what it is. */
    if (longrope || container_find(g->c, "rope_factors_long.weight")) return read_longrope(g, err);
    if (gguf_find(g, arch_key(key, g, "rope.scaling.attn_factor")) && !yarn) {
        status = get_float(&m->rope_attn_factor, g, key, err);
        if (status || m->rope_attn_factor == 0.0f) m->rope_attn_factor = 1.0f;
        if (status) return status;
    }
    if (!yarn) m->rope_original_ctx = 0;
    /* No type means linear, as in the format's reference; a factor of 1 scales nothing. */
    if ((type.data && equals(type, "none")) || (factor == 1.0f && !yarn)) return AK42_STATUS_OK;
    if (container_find(g->c, "rope_freqs.weight"))
        return error_set(err, AK42_STATUS_UNSUPPORTED, "%s: rope scaling: expected a factor or "
                         "tensor rope_freqs.weight, found both", g->c->name);
    if (yarn) return read_yarn(g, factor, err);
    m->rope_scaling = ROPE_SCALING_LINEAR;
    m->rope_factor = factor;
    return AK42_STATUS_OK;
}

/* ---- scales, caps and experts ---- */

/* A scale, or a cap, that the family may have (allowed); 0 says nothing, as in the format's reference. */
static ak42_status read_scale(float *out, const gguf_file *g, const char *suffix, float neutral, bool allowed, ak42_error *err) {
    char key[KEY_MAX];
    float value = 0.0f;
    const ak42_status status = get_float(&value, g, arch_key(key, g, suffix), err);
    if (status || value == 0.0f) return status;
    if (!allowed && value != neutral)
        return error_set(err, AK42_STATUS_UNSUPPORTED, "%s: key %s: expected %g or none, found %g", g->c->name, key,
                         (double)neutral, (double)value);
    if (allowed) *out = value;
    return AK42_STATUS_OK;
}

/* A cap of the family's own where no key says one. */
static float default_cap(const gguf_file *g, const char *suffix, float cap) {
    char key[KEY_MAX];
    return gguf_find(g, "ak42.config") || gguf_find(g, arch_key(key, g, suffix)) ? 0.0f : cap;
}

static ak42_status read_scales(const gguf_file *g, ak42_error *err) {
    model_config *m = &g->c->config;
    const family *f = g->family;
    const bool scales = f->flags & FAMILY_SCALES, caps = f->flags & FAMILY_CAPS;
    float logit_scale = 1.0f;
    if (f->flags & FAMILY_EMBEDDING_SQRT) m->embedding_scale = sqrtf((float)m->dim);
    m->attention_scale = m->head_dim ? 1.0f / sqrtf((float)m->head_dim) : 1.0f;
    if (f->wide_layers && m->n_layers == f->wide_layers && m->n_heads && m->dim >= m->n_heads)
        m->attention_scale = 1.0f / sqrtf((float)(m->dim / m->n_heads));
    m->attn_softcap = default_cap(g, "attn_logit_softcapping", f->attn_softcap);
    m->final_softcap = default_cap(g, "final_logit_softcapping", f->final_softcap);
    ak42_status status = read_scale(&m->embedding_scale, g, "embedding_scale", 1.0f, scales, err);
    if (!status) status = read_scale(&m->residual_scale, g, "residual_scale", 1.0f, scales, err);
    if (!status) status = read_scale(&m->attention_scale, g, "attention.scale", 0.0f, scales || caps, err);
    if (!status) status = read_scale(&logit_scale, g, "logit_scale", 1.0f, scales, err);
    if (!status) status = read_scale(&m->attn_softcap, g, "attn_logit_softcapping", 0.0f, caps, err);
    if (!status) status = read_scale(&m->final_softcap, g, "final_logit_softcapping", 0.0f, caps, err);
    m->logit_scale = 1.0f / logit_scale;
    return status;
}

static ak42_status read_experts(const gguf_file *g, ak42_error *err) {
    model_config *m = &g->c->config;
    char key[KEY_MAX];
    int8_t renormalised = m->model_flags & MODEL_EXPERTS_NORM ? 1 : 0;
    const ak42_status status = get_bool(&renormalised, g, arch_key(key, g, "expert_weights_norm"), err);
    if (status) return status;
    if (!m->n_experts) m->n_experts_used = 0;
    if (m->n_experts && !(g->family->flags & FAMILY_EXPERTS))
        return error_set(err, AK42_STATUS_UNSUPPORTED, "%s: key %s: expected 0 in architecture %s, found %u", g->c->name,
                         arch_key(key, g, "expert_count"), g->family->gguf, m->n_experts);
    m->model_flags &= ~(uint32_t)MODEL_EXPERTS_NORM;
    if (m->n_experts && renormalised) m->model_flags |= MODEL_EXPERTS_NORM;
    return AK42_STATUS_OK;
}

/* Keys that would change the numbers and are not computed: present, they must say "nothing". converter/config_files.py has the same. */
static ak42_status check_neutral(const gguf_file *g, ak42_error *err) {
    static const struct {
        const char *suffix;
        double neutral;
        bool or_zero;                  /* which says nothing, in the format's reference too */
    } keys[] = {
        {"attention.clamp_kqv", 0, true}, {"attention.causal", 1, false}, {"attention.max_alibi_bias", 0, true},
        {"attention.output_scale", 1, true}, {"attention.value_scale", 1, true}, {"attention.temperature_scale", 0, true},
        {"attention.temperature_length", 0, true}, {"attention.chunk_size", 0, true}, {"attention.key_length_swa", 0, true},
        {"attention.value_length_swa", 0, true}, {"attention.kv_lora_rank", 0, true}, {"attention.q_lora_rank", 0, true},
        {"attention.shared_kv_layers", 0, true}, {"expert_shared_count", 0, true}, {"expert_group_count", 0, true},
        {"expert_group_used_count", 0, true}, {"expert_weights_scale", 1, true}, {"expert_gating_func", 1, true},
        {"router_logit_softcapping", 0, true}, {"leading_dense_block_count", 0, true}, {"interleave_moe_layer_step", 1, true},
        {"nextn_predict_layers", 0, true}, {"use_parallel_residual", 0, true}, {"swin_norm", 0, true},
        {"rope.dimension_sections", 0, true}, {"rope.dimension_count_swa", 0, true}, {"rope.scaling.alpha", 0, true},
        {"rope.scaling.yarn_log_multiplier", 0, true},
    };
    char key[KEY_MAX];
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        const gguf_value *v = gguf_find(g, arch_key(key, g, keys[i].suffix));
        int64_t integer = 0;
        float number = NAN;
        if (!v) continue;
        if (v->type == GGUF_BOOL) number = v->content.data[0] != 0;
        else if (load_integer(&integer, v->type, v->content.data)) number = (float)integer;
        else if (v->type == GGUF_F32) number = load_f32(v->content.data);
        if ((double)number == keys[i].neutral || (number == 0.0f && keys[i].or_zero)) continue;
        return error_set(err, AK42_STATUS_UNSUPPORTED, "%s: key %s: expected %g or none, found %s %g",
                         g->c->name, key, keys[i].neutral, type_names[v->type], (double)number);
    }
    return AK42_STATUS_OK;
}

/* vocab_size is stated by up to three: a key, the vocabulary, and the embedding's rows. */
static ak42_status read_vocab_size(const gguf_file *g, ak42_error *err) {
    model_config *m = &g->c->config;
    const tensor *embedding = container_find(g->c, "token_embd.weight");
    const uint64_t rows = embedding ? embedding->n_dims < 2 ? 1 : embedding->dims[embedding->n_dims - 2] : 0;
    const uint64_t tokens = g->c->has_vocab ? g->c->vocab.n_tokens : rows;
    m->vocab_size = rows <= CONFIG_MAX_VOCAB ? (uint32_t)rows : UINT32_MAX;
    /* Without an embedding, model.c will say what is missing. */
    if (!embedding) m->vocab_size = tokens && tokens <= CONFIG_MAX_VOCAB ? (uint32_t)tokens : 1;
    const ak42_status status = config_int(&m->vocab_size, g, "vocab_size", false, err);
    if (status) return status;
    if (embedding && (m->vocab_size != rows || tokens != rows))
        return error_set(err, AK42_STATUS_FORMAT, "%s: vocab_size: expected the same from key, tokens and "
                         "embedding, found %u, %llu and %llu", g->c->name, m->vocab_size,
                         (unsigned long long)tokens, (unsigned long long)rows);
    return AK42_STATUS_OK;
}

ak42_status gguf_read_config(const gguf_file *g, ak42_error *err) {
    container *c = g->c;
    model_config *m = &c->config;
    char key[KEY_MAX];
    if (!c->n_tensors)
        return error_set(err, AK42_STATUS_FORMAT, "%s: expected a model, found no tensors: a vocabulary only",
                         c->name);
    gguf_family_defaults(g);
    ak42_status status = read_sizes(g, err);
    arch_key(key, g, "attention.layer_norm_rms_epsilon");
    if (!status && !gguf_find(g, key)) status = fail_absent(g, key, err);
    if (!status) status = get_float(&m->norm_eps, g, key, err);
    if (!status) status = read_rope(g, err);
    if (!status) status = read_scales(g, err);
    if (!status) status = read_experts(g, err);
    if (!status) status = check_neutral(g, err);
    if (!status) status = read_vocab_size(g, err);
    if (!status) status = gguf_read_layers(g, err);
    if (!status) status = gguf_split_fused(g, err);
    if (!status) status = gguf_join_experts(g, err);
    if (status) return status;
    container_read_shapes(c);
    m->shared_classifier = !container_find(c, "output.weight");
    m->bos_id = c->vocab.bos_id;
    m->pad_id = c->vocab.pad_id;
    m->n_eos = c->vocab.n_eos;
    for (int i = 0; i < AK42_EOS_MAX; i++) m->eos_ids[i] = i < m->n_eos ? c->vocab.eos_ids[i] : -1;
    snprintf(m->architecture, sizeof m->architecture, "%s", g->family->gguf);
    return config_check(m, c->name, err);
}

/* ---- the vocabulary ---- */

static ak42_status get_id(int32_t *out, const gguf_file *g, const char *key, ak42_error *err) {
    int64_t id = -1;
    const gguf_value *v = gguf_find(g, key);
    /* "None" as an unsigned number. */
    if (v && v->type == GGUF_U32 && load_u32(v->content.data) == UINT32_MAX) return AK42_STATUS_OK;
    const ak42_status status = get_int(&id, g, key, -1, (int64_t)g->c->vocab.n_tokens - 1, err);
    *out = (int32_t)id;
    return status;
}

static ak42_status read_ids(const gguf_file *g, ak42_error *err) {
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    gguf_vocab *v = &g->c->vocab;
    ak42_status status = get_id(&v->bos_id, g, "tokenizer.ggml.bos_token_id", err);
    if (!status) status = get_id(&v->unk_id, g, "tokenizer.ggml.unknown_token_id", err);
    if (!status) status = get_id(&v->pad_id, g, "tokenizer.ggml.padding_token_id", err);
    for (size_t i = 0; i < ARRAY_LEN(ends) && !status; i++) {
        int32_t id = -1;
        status = get_id(&id, g, ends[i], err);
        bool known = id < 0;
        for (int k = 0; k < v->n_eos; k++) known |= v->eos_ids[k] == id;
        if (!known) v->eos_ids[v->n_eos++] = id;
    }
    return status;
}

static ak42_status check_count(const gguf_file *g, const char *key, blob array, uint64_t count,
                               ak42_error *err) {
    if (!array.data || count == g->c->vocab.n_tokens) return AK42_STATUS_OK;
    return error_set(err, AK42_STATUS_FORMAT, "%s: key %s: expected one for each of %llu tokens, found %llu",
                     g->c->name, key, (unsigned long long)g->c->vocab.n_tokens, (unsigned long long)count);
}

static ak42_status read_arrays(const gguf_file *g, ak42_error *err) {
    gguf_vocab *v = &g->c->vocab;
    ak42_status status = get_array(&v->merges, &v->n_merges, g, "tokenizer.ggml.merges", GGUF_STRING, err);
    if (!status) status = get_array(&v->scores, &v->n_scores, g, "tokenizer.ggml.scores", GGUF_F32, err);
    if (!status) status = get_array(&v->types, &v->n_types, g, "tokenizer.ggml.token_type", GGUF_I32, err);
    if (!status) status = check_count(g, "tokenizer.ggml.scores", v->scores, v->n_scores, err);
    if (!status) status = check_count(g, "tokenizer.ggml.token_type", v->types, v->n_types, err);
    return status;
}

static ak42_status read_flags(const gguf_file *g, ak42_error *err) {
    gguf_vocab *v = &g->c->vocab;
    ak42_status status = get_bool(&v->add_bos, g, "tokenizer.ggml.add_bos_token", err);
    if (!status) status = get_bool(&v->add_eos, g, "tokenizer.ggml.add_eos_token", err);
    if (!status) status = get_bool(&v->add_space_prefix, g, "tokenizer.ggml.add_space_prefix", err);
    if (!status)
        status = get_bool(&v->remove_extra_whitespaces, g, "tokenizer.ggml.remove_extra_whitespaces", err);
    return status;
}

ak42_status gguf_read_vocab(const gguf_file *g, ak42_error *err) {
    container *c = g->c;
    gguf_vocab *v = &c->vocab;
    *v = (gguf_vocab){.bos_id = -1, .unk_id = -1, .pad_id = -1, .eos_ids = {-1, -1, -1, -1}, .add_bos = -1,
                      .add_eos = -1,
                      .add_space_prefix = -1, .remove_extra_whitespaces = -1};
    ak42_status status = get_string(&v->model, g, "tokenizer.ggml.model", err);
    if (!status) status = get_string(&v->pre, g, "tokenizer.ggml.pre", err);
    if (!status) status = get_array(&v->tokens, &v->n_tokens, g, "tokenizer.ggml.tokens", GGUF_STRING, err);
    if (status || !v->tokens.data) return status;
    if (!v->n_tokens || v->n_tokens > CONFIG_MAX_VOCAB)
        return error_set(err, AK42_STATUS_FORMAT, "%s: key tokenizer.ggml.tokens: expected 1 to %d tokens, "
                         "found %llu", c->name, CONFIG_MAX_VOCAB, (unsigned long long)v->n_tokens);
    if (!v->model.data) return fail_absent(g, "tokenizer.ggml.model", err);
    status = read_arrays(g, err);
    if (!status) status = read_ids(g, err);
    if (!status) status = read_flags(g, err);
    c->has_vocab = !status;
    return status;
}

/* ---- texts ---- */

ak42_status gguf_read_sections(const gguf_file *g, ak42_error *err) {
    blob *sections = g->c->sections;
    uint64_t ignored;
    ak42_status status = get_string(&sections[SECTION_TMPL], g, "tokenizer.chat_template", err);
    if (!status) status = get_string(&sections[SECTION_CONF], g, "ak42.config", err);
    if (!status) status = get_string(&sections[SECTION_GENC], g, "ak42.generation_config", err);
    if (!status) status = get_array(&sections[SECTION_CHAT], &ignored, g, "ak42.chat", GGUF_U8, err);
    if (!status) status = get_array(&sections[SECTION_TOKN], &ignored, g, "ak42.tokenizer", GGUF_U8, err);
    return status;
}

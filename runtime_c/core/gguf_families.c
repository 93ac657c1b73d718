/* gguf_families.c: what a family's GGUF files mean beyond their keys one by one: constants that no key states, which layers
 * have a window, rope or experts, tensors that stand for several, and several that stand for one. Called by gguf_keys.c. */
#include <stdio.h>

#include "error.h"
#include "gguf_file.h"

void gguf_family_defaults(const gguf_file *g) {
    model_config *m = &g->c->config;
    const family *f = g->family;
    m->rope_layout = f->rope_layout;
    m->activation = f->activation;
    m->model_flags = f->model_flags;
    m->rope_theta_local = f->rope_theta_local;
    /* in the reference reader all families but that one may have them or not */
    m->qkv_bias = f->flags & FAMILY_QKV_BIAS || container_find(g->c, "blk.0.attn_q.bias") ||
                  container_find(g->c, "blk.0.attn_qkv.bias");
    m->qk_norm = f->flags & FAMILY_QK_NORM;
    m->sliding_window = gguf_find(g, "ak42.config") ? 0 : f->sliding_window;
}

/* ---- layers ---- */

/* One bool for each layer, or in place of them a period: every n-th is false. out (n_layers) keeps its values where there is
 * no such key. */
static ak42_status read_pattern(uint8_t *out, const gguf_file *g, const char *suffix, ak42_error *err) {
    const uint32_t n_layers = g->c->config.n_layers;
    char key[96];
    snprintf(key, sizeof key, "%s.%s", g->c->config.architecture, suffix);
    const gguf_value *v = gguf_find(g, key);
    if (!v) return AK42_STATUS_OK;
    if (v->type == GGUF_ARRAY && (v->element == GGUF_BOOL || v->element == GGUF_U8 || v->element == GGUF_I8)) {
        if (v->count != n_layers)
            return error_set(err, AK42_STATUS_FORMAT, "%s: key %s: expected one value for each of %u layers, found %llu",
                             g->c->name, key, n_layers, (unsigned long long)v->count);
        for (uint32_t i = 0; i < n_layers; i++) out[i] = v->content.data[i] != 0;
        return AK42_STATUS_OK;
    }
    if (v->type != GGUF_U32 && v->type != GGUF_I32)
        return error_set(err, AK42_STATUS_FORMAT, "%s: key %s: expected bools or a period, found another type", g->c->name,
                         key);
    const uint32_t period = load_u32(v->content.data);
    for (uint32_t i = 0; i < n_layers; i++) out[i] = !period || (i + 1) % period != 0;
    return AK42_STATUS_OK;
}

ak42_status gguf_read_layers(const gguf_file *g, ak42_error *err) {
    model_config *m = &g->c->config;
    const family *f = g->family;
    uint8_t windowed[CONFIG_MAX_LAYERS] = {0}, rotated[CONFIG_MAX_LAYERS] = {0};
    if (m->n_layers > CONFIG_MAX_LAYERS) return config_check(m, g->c->name, err);
    for (uint32_t i = 0; i < m->n_layers; i++) {
        windowed[i] = !f->full_period || (i + 1) % f->full_period != 0;
        rotated[i] = !f->no_rope_period || (i + 1) % f->no_rope_period != 0;
    }
    ak42_status status = read_pattern(windowed, g, "attention.sliding_window_pattern", err);
    if (!status) status = read_pattern(rotated, g, "attention.rope_pattern", err);
    bool any = false;
    for (uint32_t i = 0; i < m->n_layers; i++) {
        const bool window = m->sliding_window && windowed[i];
        char name[TENSOR_NAME_MAX + 1];
        snprintf(name, sizeof name, "blk.%u.ffn_gate_inp.weight", i);
        const bool experts = m->n_experts && container_find(g->c, name);
        any |= window;
        m->layer_flags[i] = (uint8_t)((window ? LAYER_WINDOW : 0) | (rotated[i] ? 0 : LAYER_NO_ROPE) |
                                      (experts ? LAYER_EXPERTS : 0));
    }
    if (f->flags & FAMILY_LOCAL_PLAIN && m->rope_theta_local == 0.0f) m->rope_theta_local = m->rope_theta;
    if (!any) m->sliding_window = 0, m->rope_theta_local = 0.0f;
    return status;
}

/* ---- fused tensors ---- */

typedef struct part {
    const char *name;              /* without "blk.N." */
    uint64_t rows;
} part;

/* Whether the tensor is one of a layer with this suffix; *layer. */
static bool is_of_layer(const tensor *t, const char *suffix, uint32_t *layer) {
    char name[TENSOR_NAME_MAX + 1];
    unsigned number;
    if (sscanf(t->name, "blk.%5u.", &number) != 1) return false;
    snprintf(name, sizeof name, "blk.%u.%s", number, suffix);
    *layer = number;
    return !strcmp(name, t->name);
}

/* Views of the rows of t, a matrix (n_dims 2) or a vector of biases (1), one part after another. */
static ak42_status add_parts(tensor *out, uint32_t *n, const container *c, const tensor *t, uint32_t layer, const part *parts,
                             uint32_t n_parts, uint32_t n_dims, ak42_error *err) {
    uint64_t rows = 0;
    for (uint32_t i = 0; i < n_parts; i++) rows += parts[i].rows;
    if (t->n_dims != n_dims || !rows || t->dims[0] != rows)
        return error_set(err, AK42_STATUS_FORMAT, "%s: tensor %s: expected %llu rows, found %llu", c->name, t->name,
                         (unsigned long long)rows, (unsigned long long)(t->n_dims == n_dims ? t->dims[0] : 1));
    const uint64_t row_bytes = t->nbytes / rows;
    uint64_t first = 0;
    for (uint32_t i = 0; i < n_parts; first += parts[i++].rows) {
        tensor *view = &out[(*n)++];
        *view = *t;
        snprintf(view->name, sizeof view->name, "blk.%u.%s", layer, parts[i].name);
        view->dims[0] = parts[i].rows;
        view->nbytes = parts[i].rows * row_bytes;
        view->offset = t->offset + first * row_bytes;
        view->data = t->data + first * row_bytes;
    }
    return AK42_STATUS_OK;
}

ak42_status gguf_split_fused(const gguf_file *g, ak42_error *err) {
    container *c = g->c;
    const model_config *m = &c->config;
    const bool fused = g->family->flags & FAMILY_FUSED;
    if (!fused && !container_find(c, "blk.0.attn_qkv.weight")) return AK42_STATUS_OK;
    const uint64_t q = (uint64_t)m->n_heads * m->head_dim, kv = (uint64_t)m->n_kv_heads * m->head_dim;
    const part qkv[] = {{"attn_q.weight", q}, {"attn_k.weight", kv}, {"attn_v.weight", kv}};
    const part biases[] = {{"attn_q.bias", q}, {"attn_k.bias", kv}, {"attn_v.bias", kv}};
    const part gate_up[] = {{"ffn_gate.weight", m->hidden_dim}, {"ffn_up.weight", m->hidden_dim}};
    tensor *split = mem_zalloc(c->alloc, 3 * (uint64_t)c->n_tensors, sizeof *split);
    if (!split)
        return error_set(err, AK42_STATUS_NOMEM, "%s: no memory for the list of %u tensors", c->name, c->n_tensors);
    ak42_status status = AK42_STATUS_OK;
    uint32_t n = 0, layer;
    for (uint32_t i = 0; i < c->n_tensors && !status; i++) {
        const tensor *t = &c->tensors[i];
        if (is_of_layer(t, "attn_qkv.weight", &layer)) status = add_parts(split, &n, c, t, layer, qkv, 3, 2, err);
        else if (is_of_layer(t, "attn_qkv.bias", &layer)) status = add_parts(split, &n, c, t, layer, biases, 3, 1, err);
        else if (fused && is_of_layer(t, "ffn_up.weight", &layer)) status = add_parts(split, &n, c, t, layer, gate_up, 2, 2, err);
        else split[n++] = *t;
    }
    mem_free(c->alloc, c->tensors);
    c->tensors = split;
    c->n_tensors = n;
    return status ? status : container_sort(c, err);
}

/* ---- experts that are tensors of their own ---- */

enum { EXPERT_KINDS = 3 };
static const char *const expert_kinds[EXPERT_KINDS] = {"gate", "up", "down"};

/* Whether the tensor is one expert's matrix; its layer, kind and number. */
static bool is_expert(const tensor *t, uint32_t *layer, uint32_t *kind, uint32_t *number) {
    char name[TENSOR_NAME_MAX + 1], word[8];
    unsigned l, e;
    if (sscanf(t->name, "blk.%5u.ffn_%7[a-z].%5u.", &l, word, &e) != 3) return false;
    snprintf(name, sizeof name, "blk.%u.ffn_%s.%u.weight", l, word, e);
    for (uint32_t k = 0; k < EXPERT_KINDS && !strcmp(name, t->name); k++) {
        if (strcmp(word, expert_kinds[k])) continue;
        *layer = l, *kind = k, *number = e;
        return true;
    }
    return false;
}

/* The matrices of one kind in one layer as a tensor that points to them; c->experts has room from n on. */
static ak42_status join(tensor *out, container *c, uint32_t n, uint32_t layer, uint32_t kind, ak42_error *err) {
    const uint32_t n_experts = c->config.n_experts;
    char name[TENSOR_NAME_MAX + 1];
    tensor *all = c->experts + n;
    for (uint32_t e = 0; e < n_experts; e++) {
        snprintf(name, sizeof name, "blk.%u.ffn_%s.%u.weight", layer, expert_kinds[kind], e);
        const tensor *t = container_find(c, name);
        if (!t)
            return error_set(err, AK42_STATUS_FORMAT, "%s: tensor %s: expected one for each of %u experts, found none", c->name, name,
                             n_experts);
        all[e] = *t;
        if (t->n_dims != 2 || t->type != all->type || t->dims[0] != all->dims[0] || t->dims[1] != all->dims[1])
            return error_set(err, AK42_STATUS_FORMAT, "%s: tensor %s: expected a matrix of the first expert's shape and type, found "
                             "another", c->name, name);
    }
    *out = *all;
    snprintf(out->name, sizeof out->name, "blk.%u.ffn_%s_exps.weight", layer, expert_kinds[kind]);
    out->n_dims = 3;
    out->dims[0] = n_experts, out->dims[1] = all->dims[0], out->dims[2] = all->dims[1];
    out->experts = all;
    return mul_u64(&out->nbytes, all->nbytes, n_experts) ? AK42_STATUS_OK
        : error_set(err, AK42_STATUS_FORMAT, "%s: tensor %s: expected less than 2^64 bytes, found more", c->name, out->name);
}

ak42_status gguf_join_experts(const gguf_file *g, ak42_error *err) {
    container *c = g->c;
    const uint32_t n_experts = c->config.n_experts;
    uint32_t n_single = 0, layer, kind, number;
    for (uint32_t i = 0; i < c->n_tensors; i++) n_single += is_expert(&c->tensors[i], &layer, &kind, &number);
    if (!n_single || !n_experts) return AK42_STATUS_OK;
    tensor *joined = mem_zalloc(c->alloc, c->n_tensors, sizeof *joined);
    c->experts = mem_zalloc(c->alloc, n_single, sizeof *c->experts);          /* each is found once */
    ak42_status status = joined && c->experts ? AK42_STATUS_OK
        : error_set(err, AK42_STATUS_NOMEM, "%s: no memory for the list of %u tensors", c->name, c->n_tensors);
    uint32_t n = 0, n_joined = 0;
    for (uint32_t i = 0; i < c->n_tensors && !status; i++) {
        if (!is_expert(&c->tensors[i], &layer, &kind, &number)) joined[n++] = c->tensors[i];
        else if (number >= n_experts)
            status = error_set(err, AK42_STATUS_FORMAT, "%s: tensor %s: expected experts 0 to %u, found %u", c->name,
                               c->tensors[i].name, n_experts - 1, number);
        else if (!number) status = join(&joined[n++], c, n_experts * n_joined++, layer, kind, err);
    }
    if (status) {
        mem_free(c->alloc, joined);
        return status;
    }
    mem_free(c->alloc, c->tensors);
    c->tensors = joined;
    c->n_tensors = n;
    return container_sort(c, err);
}

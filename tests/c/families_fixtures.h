/* families_fixtures.h: tiny models that ask for all that a family may ask for: experts, biases, norms of q and k and behind the
 * blocks, windows, caps, scales, layers without rope, longrope's and yarn's fields; their matrices of every type in turn. For
 * check_families.c. Like files_fixtures.h, from which it takes its bytes, it shares no code with the readers. */
#ifndef FAMILIES_FIXTURES_H
#define FAMILIES_FIXTURES_H

#include "files_fixtures.h"

/* Rows of 256 columns, so that every block fits; where a row is shorter, the next type that fits. */
enum { RICH_DIM = 256, RICH_WIDE = 64, RICH_LAYERS = 3, RICH_HEADS = 4, RICH_KV = 2, RICH_HEAD = 16, RICH_ROTARY = 8, RICH_VOCAB = 20,
       RICH_EXPERTS = 3, RICH_USED = 2, RICH_CTX = 24 };

static const uint32_t rich_types[] = {
    TYPE_Q2_K, TYPE_Q3_K, TYPE_Q4_K, TYPE_Q5_K, TYPE_Q6_K, TYPE_IQ4_XS, TYPE_NF4_DQ, TYPE_MXFP4, TYPE_Q5_0, TYPE_Q5_1, TYPE_IQ4_NL,
    TYPE_NF4, TYPE_Q8_0, TYPE_Q4_0, TYPE_Q4_1, TYPE_BF16, TYPE_F16,
};

typedef struct rich_tensor {
    char name[TENSOR_NAME_MAX + 1];
    uint32_t experts, rows, columns;           /* experts 0: two dimensions; rows 0: a vector */
    const type_info *type;
} rich_tensor;

typedef struct rich_list {
    rich_tensor all[96];
    size_t n;
    size_t turn;                               /* of rich_types */
    bool gguf;                                 /* without types of ak42's own */
} rich_list;

static rich_tensor *rich_add(rich_list *list, const char *name, uint32_t experts, uint32_t rows, uint32_t columns) {
    rich_tensor *t = &list->all[list->n++];
    *t = (rich_tensor){.experts = experts, .rows = rows, .columns = columns, .type = type_by_id(TYPE_F32)};
    snprintf(t->name, sizeof t->name, "%s", name);
    while (rows) {
        t->type = type_by_id(rich_types[list->turn++ % ARRAY_LEN(rich_types)]);
        if (columns % t->type->block_len == 0 && !(list->gguf && t->type->id >= TYPE_INT8)) break;
    }
    return t;
}

static void rich_layer(rich_list *list, uint32_t layer, const char *name, uint32_t experts, uint32_t rows, uint32_t columns) {
    char full[64];
    snprintf(full, sizeof full, "blk.%u.%s", layer, name);
    rich_tensor *t = rich_add(list, full, experts, rows, columns);
    if (!strcmp(name, "ffn_gate_inp.weight")) t->type = type_by_id(TYPE_F32);
}

/* What a list of tensors has beyond Llama's. */
typedef struct rich_parts {
    bool bias, qk_norm, after, longrope, fused, own_head;
    uint32_t expert_layers;                    /* a bit for each layer */
} rich_parts;

static void rich_model(rich_list *list, const rich_parts *parts) {
    const uint32_t q = RICH_HEADS * RICH_HEAD, kv = RICH_KV * RICH_HEAD;
    rich_add(list, "token_embd.weight", 0, RICH_VOCAB, RICH_DIM);
    if (parts->longrope) {
        rich_add(list, "rope_factors_long.weight", 0, 0, RICH_ROTARY / 2);
        rich_add(list, "rope_factors_short.weight", 0, 0, RICH_ROTARY / 2);
    }
    for (uint32_t l = 0; l < RICH_LAYERS; l++) {
        rich_layer(list, l, "attn_norm.weight", 0, 0, RICH_DIM);
        if (parts->fused) {
            rich_layer(list, l, "attn_qkv.weight", 0, q + 2 * kv, RICH_DIM);
        } else {
            rich_layer(list, l, "attn_q.weight", 0, q, RICH_DIM);
            rich_layer(list, l, "attn_k.weight", 0, kv, RICH_DIM);
            rich_layer(list, l, "attn_v.weight", 0, kv, RICH_DIM);
        }
        if (parts->bias) {
            rich_layer(list, l, "attn_q.bias", 0, 0, q);
            rich_layer(list, l, "attn_k.bias", 0, 0, kv);
            rich_layer(list, l, "attn_v.bias", 0, 0, kv);
        }
        if (parts->qk_norm) {
            rich_layer(list, l, "attn_q_norm.weight", 0, 0, RICH_HEAD);
            rich_layer(list, l, "attn_k_norm.weight", 0, 0, RICH_HEAD);
        }
        rich_layer(list, l, "attn_output.weight", 0, RICH_DIM, q);
        if (parts->after) rich_layer(list, l, "post_attention_norm.weight", 0, 0, RICH_DIM);
        rich_layer(list, l, "ffn_norm.weight", 0, 0, RICH_DIM);
        if (parts->expert_layers >> l & 1) {
            rich_layer(list, l, "ffn_gate_inp.weight", 0, RICH_EXPERTS, RICH_DIM);
            rich_layer(list, l, "ffn_gate_exps.weight", RICH_EXPERTS, RICH_WIDE, RICH_DIM);
            rich_layer(list, l, "ffn_up_exps.weight", RICH_EXPERTS, RICH_WIDE, RICH_DIM);
            rich_layer(list, l, "ffn_down_exps.weight", RICH_EXPERTS, RICH_DIM, RICH_WIDE);
        } else {
            if (!parts->fused) rich_layer(list, l, "ffn_gate.weight", 0, RICH_WIDE, RICH_DIM);
            rich_layer(list, l, "ffn_up.weight", 0, parts->fused ? 2 * RICH_WIDE : RICH_WIDE, RICH_DIM);
            rich_layer(list, l, "ffn_down.weight", 0, RICH_DIM, RICH_WIDE);
        }
        if (parts->after) rich_layer(list, l, "post_ffw_norm.weight", 0, 0, RICH_DIM);
    }
    rich_add(list, "output_norm.weight", 0, 0, RICH_DIM);
    if (parts->own_head) rich_add(list, "output.weight", 0, RICH_VOCAB, RICH_DIM);
}

/* The rows of a tensor: of experts, one matrix after another; rope factors and norms near 1. */
static void rich_rows(bytes *b, const rich_tensor *t) {
    if (!t->rows)
        for (uint32_t i = 0; i < t->columns; i++) put_f32(b, 1.0f + (float)(random_u32() % 100) / 200.0f);
    else
        for (uint32_t i = 0; i < (t->experts ? t->experts : 1); i++)
            put_weights(b, t->type, 0, (uint64_t)t->rows * t->columns);
}

/* ---- ak42 v3 ---- */

/* Panels of memory's layout as panel16 again: the reverse of panel_from_panel16, asked of it line by line. */
static void back_to_panel16(const type_info *type, uint8_t *panels, uint64_t bytes) {
    static uint8_t numbered[4096], moved[4096];
    const uint32_t size = type->super_bytes, n_lines = size / 64;
    for (uint32_t w = 0; w < n_lines; w++) memset(numbered + w * 64, (int)w, 64);
    panel_from_panel16(type, 0, moved, numbered, 1, type->super_columns);
    for (uint64_t at = 0; at < bytes; at += size) {
        uint8_t super[4096];
        memcpy(super, panels + at, size);
        for (uint32_t line = 0; line < n_lines; line++) memcpy(panels + at + moved[line * 64] * 64u, super + line * 64, 64);
    }
}

/* All that a header can ask for: experts in layer 1, a window and a theta of its own in layer 0, no rope in layer 2. The types begin
 * at the turn-th. Types that have panels are in them where `layout` says so: panel16 all, or each in that of memory. scaling:
 * ROPE_SCALING_YARN or _LONGROPE. */
static bytes build_rich_v3(size_t turn, uint32_t layout, uint32_t scaling) {
    bytes b = {0};
    rich_list list = {.turn = turn};
    const bool longrope = scaling == 5;
    rich_model(&list, &(rich_parts){.bias = true, .qk_norm = true, .after = true, .longrope = longrope, .own_head = true, .expert_layers = 2});
    const shape s = {.dim = RICH_DIM, .hidden_dim = RICH_WIDE, .n_layers = RICH_LAYERS, .n_heads = RICH_HEADS, .n_kv_heads = RICH_KV,
                     .vocab_size = RICH_VOCAB, .seq_len = RICH_CTX, .head_dim = RICH_HEAD};
    random_state = 11;
    put_header(&b, &s, 3);
    put(&b, NULL, list.n * 128);
    pad(&b, 4096);
    const size_t data_offset = b.size;
    for (size_t i = 0; i < list.n; i++) {
        const rich_tensor *t = &list.all[i];
        const bool panels = t->rows && layout && t->type->super_bytes;
        bytes rows = {0};
        pad(&b, 64);
        mark(&b, t->name);
        const size_t begin = b.size;
        rich_rows(&rows, t);
        const uint32_t n = t->experts ? t->experts : 1;
        for (uint32_t k = 0; panels && k < n; k++) {
            const uint64_t n_panels = div_up(t->rows, 16);
            const size_t at = b.size;
            put(&b, NULL, (size_t)(n_panels * type_panel_bytes(t->type, 0, t->columns)));
            panel_pack(t->type, 0, b.data + at, rows.data + rows.size / n * k, t->rows, t->columns, 0, n_panels);
            if (layout == LAYOUT_PANEL16 && t->type->panels != LAYOUT_PANEL16) back_to_panel16(t->type, b.data + at, b.size - at);
        }
        if (!panels) put(&b, rows.data, rows.size);
        free(rows.data);
        const uint64_t dims[3] = {t->experts ? t->experts : t->rows, t->rows, t->columns};
        uint8_t *e = b.data + 256 + i * 128;
        memcpy(e, t->name, strlen(t->name));
        set_u32(e + 64, t->type->id);
        set_u32(e + 68, !panels ? LAYOUT_ROWS : layout == LAYOUT_STREAM16 ? t->type->panels : LAYOUT_PANEL16);
        set_u32(e + 72, t->experts ? 3 : t->rows ? 2 : 1);
        for (int d = 0, from = t->experts ? 0 : t->rows ? 1 : 2; from < 3; from++, d++) set_u64(e + 80 + 8 * d, dims[from]);
        set_u64(e + 104, begin);
        set_u64(e + 112, b.size - begin);
        set_u32(e + 120, crc32c(0, b.data + begin, b.size - begin));
    }
    fill_extension(&b, &s, 0xffff);
    uint8_t *p = b.data;
    set_u32(p + 92, RICH_ROTARY);
    set_u32(p + 96, 3);
    p[100] = (uint8_t)scaling;
    p[101] = 1, p[102] = 2, p[103] = 2 | 4;
    set_f32(p + 104, longrope ? 1.0f : 4.0f);
    set_f32(p + 108, longrope ? 0.0f : 1.0f), set_f32(p + 112, longrope ? 0.0f : 32.0f);
    set_u32(p + 116, 8), set_f32(p + 120, 1.25f);
    set_u32(p + 148, RICH_EXPERTS), set_u32(p + 152, RICH_USED);
    set_f32(p + 156, 50.0f), set_f32(p + 160, 30.0f), set_f32(p + 164, 1.5f), set_f32(p + 168, 0.5f);
    set_f32(p + 232, 0.25f), set_f32(p + 236, 0.75f), set_f32(p + 240, 5000.0f);
    set_u64(p + 176, 256);
    set_u32(p + 184, (uint32_t)list.n);
    const uint32_t layers[] = {1, 4, 2};
    finish(&b, data_offset, conf_llama, layers, RICH_LAYERS);
    return b;
}

/* ---- GGUF ---- */

enum { RICH_KEY = 96 };
static const char *rich_key(char *key, const char *architecture, const char *suffix) {
    snprintf(key, RICH_KEY, "%s.%s", architecture, suffix);
    return key;
}
static void rich_u32(bytes *b, const char *architecture, const char *suffix, uint32_t value) {
    char key[RICH_KEY];
    kv_u32(b, rich_key(key, architecture, suffix), value);
}
static void rich_f32(bytes *b, const char *architecture, const char *suffix, float value) {
    char key[RICH_KEY];
    kv_f32(b, rich_key(key, architecture, suffix), value);
}

/* Families whose GGUF files ask for more than Llama's: "qwen3moe" with experts and yarn, "gemma2" with caps and windows, "phi3" with
 * fused matrices and longrope. */
static bytes build_rich_gguf(const char *architecture, size_t turn) {
    bytes b = {0};
    rich_list list = {.turn = turn, .gguf = true};
    const bool moe = !strcmp(architecture, "qwen3moe"), gemma = !strcmp(architecture, "gemma2"), phi = !strcmp(architecture, "phi3");
    rich_model(&list, &(rich_parts){.qk_norm = moe, .after = gemma, .longrope = phi, .fused = phi, .own_head = !gemma,
                                    .expert_layers = moe ? 7 : 0});
    random_state = 12;
    put_gguf_header(&b, 3);
    kv_string(&b, "general.architecture", architecture);
    const struct {
        const char *suffix;
        uint32_t value;
    } ints[] = {
        {"block_count", RICH_LAYERS}, {"context_length", RICH_CTX}, {"embedding_length", RICH_DIM}, {"feed_forward_length", RICH_WIDE},
        {"attention.head_count", RICH_HEADS}, {"attention.head_count_kv", RICH_KV}, {"attention.key_length", RICH_HEAD},
        {"attention.value_length", RICH_HEAD}, {"rope.dimension_count", RICH_ROTARY},
    };
    for (size_t i = 0; i < ARRAY_LEN(ints); i++) rich_u32(&b, architecture, ints[i].suffix, ints[i].value);
    rich_f32(&b, architecture, "attention.layer_norm_rms_epsilon", 1e-6f);
    rich_f32(&b, architecture, "rope.freq_base", 10000.0f);
    char key[RICH_KEY];
    if (moe) {
        rich_u32(&b, architecture, "expert_count", RICH_EXPERTS), rich_u32(&b, architecture, "expert_used_count", RICH_USED);
        rich_u32(&b, architecture, "expert_feed_forward_length", RICH_WIDE);
        kv_bool(&b, rich_key(key, architecture, "expert_weights_norm"), 1);
        kv_string(&b, rich_key(key, architecture, "rope.scaling.type"), "yarn");
        rich_f32(&b, architecture, "rope.scaling.factor", 4.0f), rich_u32(&b, architecture, "rope.scaling.original_context_length", 8);
        rich_f32(&b, architecture, "rope.scaling.yarn_beta_fast", 32.0f), rich_f32(&b, architecture, "rope.scaling.yarn_beta_slow", 1.0f);
    }
    if (gemma) {
        rich_u32(&b, architecture, "attention.sliding_window", 5);
        rich_f32(&b, architecture, "attn_logit_softcapping", 50.0f), rich_f32(&b, architecture, "final_logit_softcapping", 30.0f);
        kv_array(&b, rich_key(key, architecture, "attention.sliding_window_pattern"), G_BOOL, RICH_LAYERS), put(&b, "\1\0\1", RICH_LAYERS);
    }
    if (phi) {
        kv_string(&b, rich_key(key, architecture, "rope.scaling.type"), "longrope");
        rich_u32(&b, architecture, "rope.scaling.original_context_length", 8), rich_f32(&b, architecture, "rope.scaling.attn_factor", 1.2f);
        rich_u32(&b, architecture, "attention.sliding_window", 0);
    }
    mark(&b, "tensor table");
    set_u64(b.data + 8, list.n);
    uint64_t offset = 0;
    for (size_t i = 0; i < list.n; i++) {
        const rich_tensor *t = &list.all[i];
        const uint64_t n = (uint64_t)(t->experts ? t->experts : 1) * (t->rows ? t->rows : 1) * t->columns;
        mark(&b, t->name);
        put_string(&b, t->name);
        put_u32(&b, t->experts ? 3 : t->rows ? 2 : 1);
        put_u64(&b, t->columns);
        if (t->rows) put_u64(&b, t->rows);
        if (t->experts) put_u64(&b, t->experts);
        put_u32(&b, t->type->id);
        put_u64(&b, offset);
        offset += round_up(n / t->type->block_len * t->type->block_bytes, 32);
    }
    for (size_t i = 0; i < list.n; i++) {
        pad(&b, 32);
        rich_rows(&b, &list.all[i]);
    }
    return b;
}

#endif

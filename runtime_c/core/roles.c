/* roles.c: the table of a llama model's tensors. Called by ak42.c's payload reader and by model.c. */
#include "roles.h"

#include <stdio.h>

typedef struct role_info {
    const char *name;              /* without "blk.N." and ".weight" */
    bool per_layer, is_vector;
} role_info;

static const role_info table[ROLE_COUNT] = {
    [ROLE_EMBEDDING] = {"token_embd", false, false},
    [ROLE_ROPE_FREQS] = {"rope_freqs", false, true},
    [ROLE_ATT_NORM] = {"attn_norm", true, true},
    [ROLE_WQ] = {"attn_q", true, false},
    [ROLE_WK] = {"attn_k", true, false},
    [ROLE_WV] = {"attn_v", true, false},
    [ROLE_WO] = {"attn_output", true, false},
    [ROLE_FFN_NORM] = {"ffn_norm", true, true},
    [ROLE_W1] = {"ffn_gate", true, false},
    [ROLE_W3] = {"ffn_up", true, false},
    [ROLE_W2] = {"ffn_down", true, false},
    [ROLE_NORM] = {"output_norm", false, true},
    [ROLE_HEAD] = {"output", false, false},
};

bool role_per_layer(role role) { return table[role].per_layer; }

bool role_is_vector(role role) { return table[role].is_vector; }

void role_name(char *name, role role, uint32_t layer) {
    if (table[role].per_layer)
        snprintf(name, TENSOR_NAME_MAX + 1, "blk.%u.%s.weight", layer, table[role].name);
    else
        snprintf(name, TENSOR_NAME_MAX + 1, "%s.weight", table[role].name);
}

void role_shape(uint64_t *rows, uint64_t *columns, role role, const model_config *c) {
    const uint64_t q = (uint64_t)c->n_heads * c->head_dim, kv = (uint64_t)c->n_kv_heads * c->head_dim;
    const struct {
        uint64_t rows, columns;
    } shapes[ROLE_COUNT] = {
        [ROLE_EMBEDDING] = {c->vocab_size, c->dim}, [ROLE_HEAD] = {c->vocab_size, c->dim},
        [ROLE_ROPE_FREQS] = {1, c->rotary_dim / 2},
        [ROLE_ATT_NORM] = {1, c->dim}, [ROLE_FFN_NORM] = {1, c->dim}, [ROLE_NORM] = {1, c->dim},
        [ROLE_WQ] = {q, c->dim}, [ROLE_WK] = {kv, c->dim}, [ROLE_WV] = {kv, c->dim}, [ROLE_WO] = {c->dim, q},
        [ROLE_W1] = {c->hidden_dim, c->dim}, [ROLE_W3] = {c->hidden_dim, c->dim},
        [ROLE_W2] = {c->dim, c->hidden_dim},
    };
    *rows = shapes[role].rows;
    *columns = shapes[role].columns;
}

/* roles.c: the table of a model's tensors. Called by ak42.c's payload reader and by model.c. */
#include "roles.h"

#include <stdio.h>

/* What of a config asks for a tensor. */
typedef enum need {
    NEED_ALWAYS, NEED_NORM_BEFORE, NEED_NORM_AFTER, NEED_QKV_BIAS, NEED_OUT_BIAS, NEED_MLP_BIAS, NEED_QK_NORM, NEED_DENSE,
    NEED_EXPERTS, NEED_FACTORS, NEED_LONGROPE, NEED_HEAD
} need;

typedef struct role_info {
    const char *name;              /* without "blk.N." */
    bool per_layer, is_vector;
    need need;
} role_info;

static const role_info table[ROLE_COUNT] = {
    [ROLE_EMBEDDING] = {"token_embd.weight", false, false, NEED_ALWAYS},
    [ROLE_ROPE_FREQS] = {"rope_freqs.weight", false, true, NEED_FACTORS},
    [ROLE_ROPE_LONG] = {"rope_factors_long.weight", false, true, NEED_LONGROPE},
    [ROLE_ROPE_SHORT] = {"rope_factors_short.weight", false, true, NEED_LONGROPE},
    [ROLE_ATT_NORM] = {"attn_norm.weight", true, true, NEED_NORM_BEFORE},
    [ROLE_WQ] = {"attn_q.weight", true, false, NEED_ALWAYS},
    [ROLE_WK] = {"attn_k.weight", true, false, NEED_ALWAYS},
    [ROLE_WV] = {"attn_v.weight", true, false, NEED_ALWAYS},
    [ROLE_BQ] = {"attn_q.bias", true, true, NEED_QKV_BIAS},
    [ROLE_BK] = {"attn_k.bias", true, true, NEED_QKV_BIAS},
    [ROLE_BV] = {"attn_v.bias", true, true, NEED_QKV_BIAS},
    [ROLE_Q_NORM] = {"attn_q_norm.weight", true, true, NEED_QK_NORM},
    [ROLE_K_NORM] = {"attn_k_norm.weight", true, true, NEED_QK_NORM},
    [ROLE_WO] = {"attn_output.weight", true, false, NEED_ALWAYS},
    [ROLE_BO] = {"attn_output.bias", true, true, NEED_OUT_BIAS},
    [ROLE_ATT_POST_NORM] = {"post_attention_norm.weight", true, true, NEED_NORM_AFTER},
    [ROLE_FFN_NORM] = {"ffn_norm.weight", true, true, NEED_NORM_BEFORE},
    [ROLE_W1] = {"ffn_gate.weight", true, false, NEED_DENSE},
    [ROLE_W3] = {"ffn_up.weight", true, false, NEED_DENSE},
    [ROLE_W2] = {"ffn_down.weight", true, false, NEED_DENSE},
    [ROLE_B1] = {"ffn_gate.bias", true, true, NEED_MLP_BIAS},
    [ROLE_B3] = {"ffn_up.bias", true, true, NEED_MLP_BIAS},
    [ROLE_B2] = {"ffn_down.bias", true, true, NEED_MLP_BIAS},
    [ROLE_ROUTER] = {"ffn_gate_inp.weight", true, false, NEED_EXPERTS},
    [ROLE_EXPERTS_W1] = {"ffn_gate_exps.weight", true, false, NEED_EXPERTS},
    [ROLE_EXPERTS_W3] = {"ffn_up_exps.weight", true, false, NEED_EXPERTS},
    [ROLE_EXPERTS_W2] = {"ffn_down_exps.weight", true, false, NEED_EXPERTS},
    [ROLE_FFN_POST_NORM] = {"post_ffw_norm.weight", true, true, NEED_NORM_AFTER},
    [ROLE_NORM] = {"output_norm.weight", false, true, NEED_ALWAYS},
    [ROLE_HEAD] = {"output.weight", false, false, NEED_HEAD},
};

bool role_per_layer(role role) { return table[role].per_layer; }

bool role_is_vector(role role) { return table[role].is_vector; }

static bool is_needed(need need, const model_config *c, uint32_t layer) {
    switch (need) {
    case NEED_NORM_BEFORE: return !(c->model_flags & MODEL_NORM_AFTER);
    case NEED_NORM_AFTER: return c->model_flags & (MODEL_NORM_AFTER | MODEL_NORM_BOTH);
    case NEED_QKV_BIAS: return c->qkv_bias;
    case NEED_OUT_BIAS: return c->out_bias;
    case NEED_MLP_BIAS: return c->mlp_bias && !(c->layer_flags[layer] & LAYER_EXPERTS);
    case NEED_QK_NORM: return c->qk_norm;
    case NEED_DENSE: return !(c->layer_flags[layer] & LAYER_EXPERTS);
    case NEED_EXPERTS: return c->layer_flags[layer] & LAYER_EXPERTS;
    case NEED_LONGROPE: return c->rope_scaling == ROPE_SCALING_LONGROPE;
    case NEED_HEAD: return !c->shared_classifier;
    default: return true;
    }
}

role_presence role_in(role role, const model_config *config, uint32_t layer) {
    if (table[role].need == NEED_FACTORS) return ROLE_OPTIONAL;
    return is_needed(table[role].need, config, layer) ? ROLE_REQUIRED : ROLE_ABSENT;
}

void role_name(char *name, role role, uint32_t layer) {
    if (table[role].per_layer) snprintf(name, TENSOR_NAME_MAX + 1, "blk.%u.%s", layer, table[role].name);
    else snprintf(name, TENSOR_NAME_MAX + 1, "%s", table[role].name);
}

role_dims role_shape(role role, const model_config *c) {
    const uint64_t q = (uint64_t)c->n_heads * c->head_dim, kv = (uint64_t)c->n_kv_heads * c->head_dim;
    const uint64_t dim = c->dim, n = c->n_experts, half = c->rotary_dim / 2;
    const role_dims shapes[ROLE_COUNT] = {
        [ROLE_EMBEDDING] = {1, c->vocab_size, dim}, [ROLE_HEAD] = {1, c->vocab_size, dim},
        [ROLE_ROPE_FREQS] = {1, 1, half}, [ROLE_ROPE_LONG] = {1, 1, half}, [ROLE_ROPE_SHORT] = {1, 1, half},
        [ROLE_ATT_NORM] = {1, 1, dim}, [ROLE_FFN_NORM] = {1, 1, dim}, [ROLE_NORM] = {1, 1, dim},
        [ROLE_ATT_POST_NORM] = {1, 1, dim}, [ROLE_FFN_POST_NORM] = {1, 1, dim},
        [ROLE_WQ] = {1, q, dim}, [ROLE_WK] = {1, kv, dim}, [ROLE_WV] = {1, kv, dim}, [ROLE_WO] = {1, dim, q},
        [ROLE_BQ] = {1, 1, q}, [ROLE_BK] = {1, 1, kv}, [ROLE_BV] = {1, 1, kv}, [ROLE_BO] = {1, 1, dim},
        [ROLE_B1] = {1, 1, c->hidden_dim}, [ROLE_B3] = {1, 1, c->hidden_dim}, [ROLE_B2] = {1, 1, dim},
        [ROLE_Q_NORM] = {1, 1, c->qk_norm_row ? q : c->head_dim},
        [ROLE_K_NORM] = {1, 1, c->qk_norm_row ? kv : c->head_dim},
        [ROLE_W1] = {1, c->hidden_dim, dim}, [ROLE_W3] = {1, c->hidden_dim, dim}, [ROLE_W2] = {1, dim, c->hidden_dim},
        [ROLE_ROUTER] = {1, n, dim}, [ROLE_EXPERTS_W1] = {n, c->expert_dim, dim},
        [ROLE_EXPERTS_W3] = {n, c->expert_dim, dim}, [ROLE_EXPERTS_W2] = {n, dim, c->expert_dim},
    };
    return shapes[role];
}

/* config.h: what a model is, in one struct, whatever file said it. Filled by the readers, checked by config_check. */
#ifndef AK42_CONFIG_H
#define AK42_CONFIG_H

#include "base.h"

enum { ROPE_SCALING_NONE = 0, ROPE_SCALING_LINEAR = 1, ROPE_SCALING_DYNAMIC = 2, ROPE_SCALING_YARN = 3,
       ROPE_SCALING_LLAMA3 = 4, ROPE_SCALING_LONGROPE = 5 };
enum { ROPE_LAYOUT_INTERLEAVED = 0, ROPE_LAYOUT_HALF_SPLIT = 1 };   /* pairs (2i, 2i+1) or (i, i + rotary_dim/2) */
enum { ACTIVATION_SILU = 0, ACTIVATION_GELU = 1, ACTIVATION_GELU_TANH = 2, ACTIVATION_COUNT };
/* model_flags: where a block's norms stand (else before it), and whether the weights of a token's experts are made to add up to 1. */
enum { MODEL_NORM_AFTER = 1, MODEL_NORM_BOTH = 2, MODEL_EXPERTS_NORM = 4, MODEL_FLAGS_KNOWN = 7 };
/* What a layer has, where layers differ. */
enum { LAYER_WINDOW = 1, LAYER_NO_ROPE = 2, LAYER_EXPERTS = 4, LAYER_FLAGS_KNOWN = 7 };

/* Limits that every reader enforces before it multiplies. */
enum { CONFIG_MAX_LAYERS = 1024, CONFIG_MAX_DIM = 1 << 20, CONFIG_MAX_VOCAB = 1 << 24, CONFIG_MAX_HEADS = 1 << 14,
       CONFIG_MAX_EXPERTS = 4096 };

typedef struct model_config {
    char architecture[32];         /* GGUF's word: "llama" */
    uint32_t dim, hidden_dim, n_layers, n_heads, n_kv_heads, head_dim, vocab_size;
    uint32_t seq_len;              /* context stated by the file */
    uint32_t trained_ctx;          /* context trained for; >= 1 */
    uint32_t rotary_dim;           /* even, <= head_dim */
    uint32_t sliding_window;       /* of the layers that have one; 0: none has */
    uint32_t group_size;           /* of INT8 tensors */
    bool shared_classifier;
    float rope_theta, norm_eps;
    float rope_theta_local;        /* of layers with a window, which then have no scaling; 0: they are like the others */
    uint32_t rope_layout, rope_scaling;
    float rope_factor;             /* linear: positions are divided by it */
    float rope_low_freq, rope_high_freq;     /* llama3; yarn's beta_slow and beta_fast */
    uint32_t rope_original_ctx;
    float rope_attn_factor;        /* cos and sin are multiplied by it; 1: none */
    uint32_t activation, model_flags;
    bool qkv_bias;                 /* q, k and v have biases, */
    bool out_bias, mlp_bias;       /* wo has, w1, w2 and w3 have; what the tensors say */
    bool qk_norm;                  /* q and k are normalised before they are rotated, */
    bool qk_norm_row;              /* all heads together; else each by itself */
    uint32_t n_experts, n_experts_used;      /* 0: every layer is dense */
    uint32_t expert_dim;           /* hidden width of an expert; what the tensors say */
    uint8_t layer_flags[CONFIG_MAX_LAYERS];
    float attn_softcap, final_softcap;      /* 0: none */
    float embedding_scale, residual_scale, logit_scale;   /* 1: none */
    float attention_scale;         /* never 0 here: 1/sqrt(head_dim) has been filled in */
    int32_t bos_id, eos_ids[AK42_EOS_MAX], n_eos, pad_id;   /* -1: none */
} model_config;

/* What a file that says nothing means, as far as all formats agree: llama2.c's constants, no scaling, no scales, no token ids. */
void config_init(model_config *config);

/* The flags of layers that are all alike: a window where the model has one, experts where it has them. */
void config_layers_alike(model_config *config);

/* The rules that hold for every file: sizes in range, n_heads a multiple of n_kv_heads, head_dim even, eps in (0, 1), ...
 * FORMAT naming the field, or UNSUPPORTED for what the runtime cannot compute. */
ak42_status config_check(const model_config *config, const char *name, ak42_error *err);

#endif

/* config.h: what a model is, in one struct, whatever file said it. Filled by the readers, checked by config_check. */
#ifndef AK42_CONFIG_H
#define AK42_CONFIG_H

#include "base.h"

enum { ROPE_SCALING_NONE = 0, ROPE_SCALING_LINEAR = 1, ROPE_SCALING_DYNAMIC = 2, ROPE_SCALING_YARN = 3,
       ROPE_SCALING_LLAMA3 = 4, ROPE_SCALING_LONGROPE = 5 };
enum { ROPE_LAYOUT_INTERLEAVED = 0, ROPE_LAYOUT_HALF_SPLIT = 1 };   /* pairs (2i, 2i+1) or (i, i + rotary_dim/2) */
enum { ACTIVATION_SILU = 0, ACTIVATION_GELU = 1, ACTIVATION_GELU_TANH = 2 };

/* Limits that every reader enforces before it multiplies. */
enum { CONFIG_MAX_LAYERS = 1024, CONFIG_MAX_DIM = 1 << 20, CONFIG_MAX_VOCAB = 1 << 24, CONFIG_MAX_HEADS = 1 << 14 };

typedef struct model_config {
    char architecture[32];         /* GGUF's word: "llama" */
    uint32_t dim, hidden_dim, n_layers, n_heads, n_kv_heads, head_dim, vocab_size;
    uint32_t seq_len;              /* context stated by the file */
    uint32_t trained_ctx;          /* context trained for; >= 1 */
    uint32_t rotary_dim;           /* even, <= head_dim */
    uint32_t sliding_window;       /* 0: none */
    uint32_t group_size;           /* of INT8 tensors */
    bool shared_classifier;
    float rope_theta, norm_eps;
    uint32_t rope_layout, rope_scaling;
    float rope_factor;             /* linear: positions are divided by it */
    float rope_low_freq, rope_high_freq;
    uint32_t rope_original_ctx;
    uint32_t activation, model_flags;
    float attn_softcap, final_softcap;      /* 0: none */
    float embedding_scale, residual_scale, logit_scale;   /* 1: none */
    float attention_scale;         /* never 0 here: 1/sqrt(head_dim) has been filled in */
    int32_t bos_id, eos_ids[AK42_EOS_MAX], n_eos, pad_id;   /* -1: none */
} model_config;

/* What a file that says nothing means, as far as all formats agree: llama2.c's constants, no scaling, no scales, no token ids. */
void config_init(model_config *config);

/* The rules that hold for every file: sizes in range, n_heads a multiple of n_kv_heads, head_dim even, eps in (0, 1), ...
 * FORMAT naming the field, or UNSUPPORTED for what the runtime cannot compute. */
ak42_status config_check(const model_config *config, const char *name, ak42_error *err);

#endif

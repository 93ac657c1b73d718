/* model.h: an open model: config, weights bound to their roles and in panel16 form, tokenizer, threads, kernels. The map of the
 * program: read this page before forward.c. Immutable after model_open but for the count of owners and the pool's insides. */
#ifndef AK42_MODEL_H
#define AK42_MODEL_H

#include <stdatomic.h>

#include "../cpu/kernels.h"
#include "../cpu/threads.h"
#include "container.h"
#include "tokenizer.h"

/* A weight matrix (rows, columns) as panels of 16 rows: mapped, or packed at load. */
typedef struct matrix {
    const type_info *type;
    const type_kernels *kernels;   /* row of the model's table */
    const uint8_t *panels;         /* NULL: the model has no such matrix */
    uint64_t panel_bytes;
    uint32_t rows, columns;
    uint32_t n_panels, n_super;
    uint32_t group_size;
} matrix;

/* One feed-forward network of a layer that has several. */
typedef struct expert {
    matrix w1, w2, w3;             /* as a layer's, (expert_dim) wide */
} expert;

/* Which table of angles a layer's q and k are turned by. */
typedef enum layer_rope { LAYER_ROPE_GLOBAL, LAYER_ROPE_LOCAL, LAYER_ROPE_COUNT, LAYER_ROPE_NONE = LAYER_ROPE_COUNT } layer_rope;

/* NULL, or without panels: the model has no such thing. */
typedef struct layer {
    const float *att_norm;         /* (dim) */
    const float *ffn_norm;         /* (dim) */
    const float *att_post_norm;    /* (dim), behind Wo */
    const float *ffn_post_norm;    /* (dim), behind W2 */
    const float *bq, *bk, *bv, *bo;          /* biases of wq, wk, wv and wo */
    const float *b1, *b2, *b3;     /* biases of w1, w2 and w3, all or none */
    const float *q_norm, *k_norm;  /* (head_dim), or all heads of a row */
    matrix wq;                     /* (n_heads * head_dim, dim) */
    matrix wk, wv;                 /* (n_kv_heads * head_dim, dim) */
    matrix wo;                     /* (dim, n_heads * head_dim) */
    matrix w1;                     /* gate (hidden_dim, dim) */
    matrix w2;                     /* down (dim, hidden_dim) */
    matrix w3;                     /* up   (hidden_dim, dim) */
    matrix router;                 /* (n_experts, dim) */
    expert *experts;               /* (n_experts), in place of w1, w2, w3 */
    uint32_t sliding_window;       /* 0: none */
    layer_rope rope;
} layer;

struct workspace;                 /* ops.h: buffers of the passes over this model */

struct ak42_model {
    atomic_int owners;
    container file;
    model_config config;
    ak42_model_info info;
    ak42_model_opts opts;
    allocator alloc;
    kernel_table kernels;
    pool *pool;
    ak42_tokenizer *tokenizer;     /* NULL: the file has none */
    matrix embedding;              /* (vocab_size, dim) */
    matrix head;                   /* (vocab_size, dim); the embedding where it is shared */
    const float *norm;             /* (dim) */
    kernel_silu_mul *gate_mul;     /* the activation: act(gate) * up */
    layer *layers;                 /* (n_layers); owned */
    expert *experts;               /* of all layers; owned */
    float *vectors;                /* norms and biases, copied and aligned; owned pages */
    uint64_t vectors_bytes;
    uint8_t *packed;               /* repacked matrices; owned pages; NULL where all are mapped */
    uint64_t packed_bytes;
    struct workspace *workspace;   /* made and freed by api.c; NULL while the model is being opened */
};

/* What ak42_model_open and _open_memory do, arguments checked: data NULL means path. */
ak42_status model_open(ak42_model **model, const char *path, const void *data, size_t size, const ak42_model_opts *opts,
                       ak42_error *err);
void model_free(ak42_model *model);          /* accepts NULL and half-built ones */

#endif

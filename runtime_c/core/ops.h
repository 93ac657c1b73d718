/* ops.h: the operations of a forward pass, as a table that a device fills. forward.c is written once over it. Every op takes all
 * rows (tokens) of the batch. On the CPU each thread of the team calls each op with the same arguments, and the op's result is
 * complete, and seen by all, when the next op begins. */
#ifndef AK42_OPS_H
#define AK42_OPS_H

#include "model.h"

/* One pass over the weights: rows of one or more sessions, those of a session together and ascending. All arrays are (n_rows). */
typedef struct batch {
    uint32_t n_rows;
    const int32_t *tokens;
    const uint32_t *slots;             /* the row's place in its session's cache; it sees the places up to its own */
    const int32_t *positions;          /* rotary positions */
    ak42_session *const *sessions;     /* whose row it is */
    float *const *logits;              /* where its logits go, (vocab_size); NULL: not wanted */
} batch;

/* The device's buffers and whatever else it keeps between passes; one pass at a time. */
typedef struct workspace workspace;

typedef struct exec {
    const ak42_model *model;
    const batch *batch;
    workspace *ws;
    team *team;
} exec;

/* Names of the buffers between ops; all are (n_rows, width), owned by the workspace. */
typedef enum buffer {
    BUFFER_X,                          /* the residual stream, (dim) */
    BUFFER_Q,                          /* (n_heads * head_dim) */
    BUFFER_K, BUFFER_V,                /* (n_kv_heads * head_dim) */
    BUFFER_ATT,                        /* what attention gives, (n_heads * head_dim) */
    BUFFER_H,                          /* inside the feed-forward, (hidden_dim) */
    BUFFER_U,                          /* what gates it, where that is not done at once, (hidden_dim) */
    BUFFER_Y,                          /* what a block gives, where more is done with it than adding it to x, (dim) */
    BUFFER_N,                          /* experts: x normalised, (dim) */
    BUFFER_R,                          /* experts: what the router says, (n_experts) */
    BUFFER_G,                          /* experts: the rows of N that one of them gets, (dim) */
    BUFFER_E,                          /* experts: what it makes of them, (dim) */
    BUFFER_COUNT
} buffer;

typedef struct ops {
    /* Begins a pass: rotary angles of the rows; x = embedding_scale * embedding[token]. */
    void (*embed)(exec *e, buffer x, const matrix *embedding);
    /* out[i] = w[i] * norm(x), for n matrices. A norm of NULL is none, here and below. */
    void (*norm_matmul)(exec *e, const buffer *out, const matrix *const *w, uint32_t n, buffer x, const float *norm);
    /* out[i] += bias[i], for n vectors as wide as their buffers. */
    void (*add_bias)(exec *e, const buffer *out, const float *const *bias, uint32_t n);
    /* q = norm(q), k = norm(k): each head by itself, or all of a row together (model_config.qk_norm_row). */
    void (*norm_qk)(exec *e, buffer q, buffer k, const float *q_norm, const float *k_norm);
    /* Rotates q and k by their positions (not where the layer has no rope), scales q by attention_scale, appends k and v to the caches. */
    void (*rope_store)(exec *e, buffer q, buffer k, buffer v, uint32_t layer);
    /* out = softmax(q * K^T) * V over what each row sees. */
    void (*attention)(exec *e, buffer out, buffer q, uint32_t layer);
    /* x += w * in */
    void (*matmul_add)(exec *e, buffer x, const matrix *w, buffer in);
    /* x += scale * norm(y) */
    void (*norm_add)(exec *e, buffer x, buffer y, const float *norm, float scale);
    /* out = act(w1 * norm(x)) * (w3 * norm(x)), act the model's activation */
    void (*norm_gate_up)(exec *e, buffer out, const matrix *w1, const matrix *w3, buffer x, const float *norm);
    /* h = act(h) * u */
    void (*gate)(exec *e, buffer h, buffer u);
    /* y = sum over the experts chosen by the router, of each its share times w2 * (act(w1 * norm(x)) * (w3 * norm(x))). */
    void (*experts)(exec *e, buffer y, const layer *layer, buffer x, const float *norm);
    /* Moves the rows of x that want logits to its front; returns how many they are. */
    uint32_t (*keep_wanted)(exec *e, buffer x);
    /* logits = logit_scale * head * norm(x), capped, of the rows that want them, which keep_wanted has moved. */
    void (*logits)(exec *e, const matrix *head, buffer x, const float *norm);
} ops;

extern const ops cpu_ops;

/* What one pass came to. */
typedef struct pass_result {
    bool cancelled;
    int64_t nonfinite_row;             /* the first row with a logit that is not finite; -1: none */
} pass_result;

/* Buffers for passes over a model; max_rows is how many rows a pass may have. NOMEM. */
ak42_status workspace_new(workspace **ws, const ak42_model *model, ak42_error *err);
void workspace_free(workspace *ws);    /* accepts NULL */
uint32_t workspace_max_rows(const workspace *ws);
/* Runs one pass on all of the model's threads; callers queue up. cancel (may be NULL) is polled by the calling thread. */
pass_result workspace_run(workspace *ws, const batch *batch, ak42_cancel_fn cancel, void *cancel_user);

/* The forward pass, as each thread of the team runs it. poll (NULL but on thread 0) returns true to stop. */
bool forward(const ops *ops, exec *e);
/* Asked by forward at the start of each layer, on every thread; answered the same on all. */
bool workspace_stopped(exec *e, uint32_t layer);
void workspace_poll(exec *e, uint32_t layer);

#endif

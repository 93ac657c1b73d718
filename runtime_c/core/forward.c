/* forward.c: the transformer, once, for every device and every number of tokens. Reads like the paper (Touvron et al. 2023,
 * arXiv 2302.13971): pre-norm attention and SwiGLU blocks on a residual stream. How an op is computed is the device's business
 * (ops.h); which matrices there are was settled when the model was opened. */
#include "ops.h"

bool forward(const ops *ops, exec *e) {
    const ak42_model *model = e->model;

    /* x = embedding[token]                                        (n_rows, dim) */
    ops->embed(e, BUFFER_X, &model->embedding);

    for (uint32_t i = 0; i < model->config.n_layers; i++) {
        const layer *layer = &model->layers[i];
        workspace_poll(e, i);

        /* q, k, v = Wq n, Wk n, Wv n   with   n = rmsnorm(x) */
        const buffer qkv[] = {BUFFER_Q, BUFFER_K, BUFFER_V};
        const matrix *const wqkv[] = {&layer->wq, &layer->wk, &layer->wv};
        ops->norm_matmul(e, qkv, wqkv, 3, BUFFER_X, layer->att_norm);

        /* q, k turned by their positions; k, v remembered */
        ops->rope_store(e, BUFFER_Q, BUFFER_K, BUFFER_V, i);

        /* att = softmax(q K^T / sqrt(head_dim)) V                 (n_rows, n_heads * head_dim) */
        ops->attention(e, BUFFER_ATT, BUFFER_Q, i);

        /* x = x + Wo att */
        ops->matmul_add(e, BUFFER_X, &layer->wo, BUFFER_ATT);

        /* h = silu(W1 n) * W3 n   with   n = rmsnorm(x)           (n_rows, hidden_dim) */
        ops->norm_gate_up(e, BUFFER_H, &layer->w1, &layer->w3, BUFFER_X, layer->ffn_norm);

        /* x = x + W2 h */
        ops->matmul_add(e, BUFFER_X, &layer->w2, BUFFER_H);

        if (workspace_stopped(e, i)) return false;
    }

    /* logits = head rmsnorm(x)                                    (rows that want them, vocab_size) */
    ops->logits(e, &model->head, BUFFER_X, model->norm);
    return true;
}

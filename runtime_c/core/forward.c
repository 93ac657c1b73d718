/* forward.c: the transformer, once, for every device and every number of tokens. Reads like the paper (Touvron et al. 2023,
 * arXiv 2302.13971): attention and gated feed-forward blocks on a residual stream. What some models have beside that is asked of
 * the layer (a bias, a norm, experts), never of the model's name. How an op is computed is the device's business (ops.h). */
#include "ops.h"

/* x = x + residual_scale * norm(W in + bias), the end of a block; most models have no scale, norm or bias. */
static void add_block(const ops *ops, exec *e, const matrix *w, const float *bias, buffer in, const float *norm) {
    const float scale = e->model->config.residual_scale;
    const buffer x = BUFFER_X, y = BUFFER_Y;
    if (!norm && scale == 1.0f) {
        ops->matmul_add(e, x, w, in);
        if (bias) ops->add_bias(e, &x, &bias, 1);
        return;
    }
    ops->norm_matmul(e, &y, &w, 1, in, NULL);
    if (bias) ops->add_bias(e, &y, &bias, 1);
    ops->norm_add(e, BUFFER_X, BUFFER_Y, norm, scale);
}

/* x = x + Wo attention(Wq n, Wk n, Wv n)   with   n = norm(x), and biases where a model has them */
static void attention_block(const ops *ops, exec *e, const layer *layer, uint32_t i) {
    const buffer qkv[] = {BUFFER_Q, BUFFER_K, BUFFER_V};
    const matrix *const wqkv[] = {&layer->wq, &layer->wk, &layer->wv};
    const float *const bias[] = {layer->bq, layer->bk, layer->bv};
    ops->norm_matmul(e, qkv, wqkv, 3, BUFFER_X, layer->att_norm);
    if (layer->bq) ops->add_bias(e, qkv, bias, 3);
    if (layer->q_norm) ops->norm_qk(e, BUFFER_Q, BUFFER_K, layer->q_norm, layer->k_norm);

    /* q, k turned by their positions; k, v remembered */
    ops->rope_store(e, BUFFER_Q, BUFFER_K, BUFFER_V, i);

    /* att = softmax(q K^T * attention_scale) V                (n_rows, n_heads * head_dim) */
    ops->attention(e, BUFFER_ATT, BUFFER_Q, i);
    add_block(ops, e, &layer->wo, layer->bo, BUFFER_ATT, layer->att_post_norm);
}

/* h = act(W1 n + b1) * (W3 n + b3)   with   n = norm(x) */
static void gate_up(const ops *ops, exec *e, const layer *layer) {
    if (!layer->b1) {
        ops->norm_gate_up(e, BUFFER_H, &layer->w1, &layer->w3, BUFFER_X, layer->ffn_norm);
        return;
    }
    const buffer both[] = {BUFFER_H, BUFFER_U};
    const matrix *const w[] = {&layer->w1, &layer->w3};
    const float *const bias[] = {layer->b1, layer->b3};
    ops->norm_matmul(e, both, w, 2, BUFFER_X, layer->ffn_norm);
    ops->add_bias(e, both, bias, 2);
    ops->gate(e, BUFFER_H, BUFFER_U);
}

/* x = x + W2 (act(W1 n) * W3 n)   with   n = norm(x), or the same of a few experts */
static void feed_forward_block(const ops *ops, exec *e, const layer *layer) {
    if (layer->experts) {
        ops->experts(e, BUFFER_Y, layer, BUFFER_X, layer->ffn_norm);
        ops->norm_add(e, BUFFER_X, BUFFER_Y, layer->ffn_post_norm, e->model->config.residual_scale);
        return;
    }
    gate_up(ops, e, layer);
    add_block(ops, e, &layer->w2, layer->b2, BUFFER_H, layer->ffn_post_norm);
}

bool forward(const ops *ops, exec *e) {
    const ak42_model *model = e->model;
    const uint32_t last = model->config.n_layers - 1;
    batch wanted = {0};
    exec rest = *e;
    rest.batch = &wanted;

    /* x = embedding[token]                                        (n_rows, dim) */
    ops->embed(e, BUFFER_X, &model->embedding);

    for (uint32_t i = 0; i < model->config.n_layers; i++) {
        workspace_poll(e, i);
        attention_block(ops, e, &model->layers[i], i);
        /* behind the last attention rows no longer look at each other: only those go on that want logits */
        if (i == last) wanted.n_rows = ops->keep_wanted(e, BUFFER_X);
        if (i < last || wanted.n_rows) feed_forward_block(ops, i < last ? e : &rest, &model->layers[i]);
        if (workspace_stopped(e, i)) return false;
    }

    /* logits = head norm(x)                                       (rows that want them, vocab_size) */
    if (wanted.n_rows) ops->logits(e, &model->head, BUFFER_X, model->norm);
    return true;
}

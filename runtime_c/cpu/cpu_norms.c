/* cpu_norms.c: the small steps between the matrix products that only some models have: biases, norms of q and k, norms behind a
 * block, gates behind biases. Rows are shared out over the threads; a row is computed by one of them in the order of its columns.
 * Called through the table of ops. */
#include "workspace.h"

void rows_of_thread(const exec *e, uint32_t n_rows, uint32_t *begin, uint32_t *end) {
    *begin = (uint32_t)((uint64_t)n_rows * e->team->thread / e->team->n_threads);
    *end = (uint32_t)((uint64_t)n_rows * (e->team->thread + 1) / e->team->n_threads);
}

/* Columns of a buffer that a matrix has filled. */
static uint32_t width_of(const exec *e, buffer b) {
    const model_config *c = &e->model->config;
    switch (b) {
    case BUFFER_Q: return c->n_heads * c->head_dim;
    case BUFFER_K:
    case BUFFER_V: return c->n_kv_heads * c->head_dim;
    case BUFFER_H:
    case BUFFER_U: return c->hidden_dim;
    default: return c->dim;
    }
}

void cpu_add_bias(exec *e, const buffer *out, const float *const *bias, uint32_t n) {
    uint32_t begin, end;
    rows_of_thread(e, e->batch->n_rows, &begin, &end);
    for (uint32_t row = begin; row < end; row++)
        for (uint32_t i = 0; i < n; i++) {
            float *x = buffer_row(e, out[i], row);
            const uint32_t width = width_of(e, out[i]);
            for (uint32_t k = 0; k < width; k++) x[k] += bias[i][k];
        }
    team_barrier(e->team);
}

void cpu_gate(exec *e, buffer h, buffer u) {
    const uint32_t width = (uint32_t)round_up(width_of(e, h), PANEL_ROWS);
    uint32_t begin, end;
    rows_of_thread(e, e->batch->n_rows, &begin, &end);
    for (uint32_t row = begin; row < end; row++)
        e->model->gate_mul(buffer_row(e, h, row), buffer_row(e, h, row), buffer_row(e, u, row), width);
    team_barrier(e->team);
}

static void norm_heads(const exec *e, float *x, const float *norm, uint32_t n_heads) {
    const model_config *c = &e->model->config;
    const uint32_t width = c->qk_norm_row ? n_heads * c->head_dim : c->head_dim;
    for (uint32_t at = 0; at < n_heads * c->head_dim; at += width)
        e->model->kernels.rmsnorm(x + at, x + at, norm, width, c->norm_eps);
}

void cpu_norm_qk(exec *e, buffer q, buffer k, const float *q_norm, const float *k_norm) {
    const model_config *c = &e->model->config;
    uint32_t begin, end;
    rows_of_thread(e, e->batch->n_rows, &begin, &end);
    for (uint32_t row = begin; row < end; row++) {
        norm_heads(e, buffer_row(e, q, row), q_norm, c->n_heads);
        norm_heads(e, buffer_row(e, k, row), k_norm, c->n_kv_heads);
    }
    team_barrier(e->team);
}

void cpu_norm_add(exec *e, buffer x, buffer y, const float *norm, float scale) {
    const uint32_t dim = e->model->config.dim;
    uint32_t begin, end;
    rows_of_thread(e, e->batch->n_rows, &begin, &end);
    for (uint32_t row = begin; row < end; row++) {
        float *to = buffer_row(e, x, row), *from = buffer_row(e, y, row);
        if (norm) e->model->kernels.rmsnorm(from, from, norm, dim, e->model->config.norm_eps);
        for (uint32_t i = 0; i < dim; i++) to[i] += scale * from[i];
    }
    team_barrier(e->team);
}

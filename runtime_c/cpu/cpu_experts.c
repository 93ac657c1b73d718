/* cpu_experts.c: feed-forward layers of several networks, of which a router gives each token a few (Shazeer et al. 2017, arXiv
 * 1701.06538). The rows that an expert gets are put together and multiplied as any others are, expert after expert, so that its
 * weights are read once a pass; a row's sum runs over its experts in ascending order, whatever rows share the pass. Called through
 * the table of ops. */
#include <math.h>

#include "workspace.h"

/* ---- which experts ---- */

/* The n_used largest of p (n), ascending by index; of equals the first. */
static void choose(route *chosen, const float *p, uint32_t n, uint32_t n_used) {
    uint32_t held = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t weakest = 0;
        for (uint32_t j = 1; j < held; j++)
            if (chosen[j].weight <= chosen[weakest].weight) weakest = j;
        if (held == n_used) {
            if (!(p[i] > chosen[weakest].weight)) continue;
            memmove(chosen + weakest, chosen + weakest + 1, (held - weakest - 1) * sizeof *chosen);
            held--;
        }
        chosen[held++] = (route){i, p[i]};
    }
}

/* softmax over all experts, the largest kept, made to add up to 1 where the model does so. */
static void route_row(const exec *e, route *chosen, const float *scores) {
    const model_config *c = &e->model->config;
    float *p = e->ws->areas[e->team->thread].norm;
    float max = -INFINITY, sum = 0.0f, kept = 0.0f;
    for (uint32_t i = 0; i < c->n_experts; i++)
        if (scores[i] > max) max = scores[i];
    for (uint32_t i = 0; i < c->n_experts; i++) sum += p[i] = expf(scores[i] - max);
    for (uint32_t i = 0; i < c->n_experts; i++) p[i] /= sum;
    choose(chosen, p, c->n_experts, c->n_experts_used);
    for (uint32_t j = 0; j < c->n_experts_used; j++) kept += chosen[j].weight;
    if (c->model_flags & MODEL_EXPERTS_NORM)
        for (uint32_t j = 0; j < c->n_experts_used; j++) chosen[j].weight /= kept;
}

/* For each expert the routes that lead to it, rows ascending: a counting sort, by one thread. */
static void sort_routes(const exec *e) {
    const model_config *c = &e->model->config;
    workspace *ws = e->ws;
    const uint32_t n = e->batch->n_rows * c->n_experts_used;
    memset(ws->expert_begin, 0, (c->n_experts + 1) * sizeof *ws->expert_begin);
    for (uint32_t i = 0; i < n; i++) ws->expert_begin[ws->routes[i].expert + 1]++;
    for (uint32_t i = 0; i < c->n_experts; i++) ws->expert_begin[i + 1] += ws->expert_begin[i];
    for (uint32_t i = n; i-- > 0;) {
        const uint32_t expert = ws->routes[i].expert;
        ws->expert_routes[--ws->expert_begin[expert + 1]] = i;
    }
    /* each entry has come down to where its own routes begin */
    memmove(ws->expert_begin, ws->expert_begin + 1, c->n_experts * sizeof *ws->expert_begin);
    ws->expert_begin[c->n_experts] = n;
}

/* ---- one after another ---- */

typedef struct expert_rows {
    const uint32_t *routes;            /* (n) */
    uint32_t n;
} expert_rows;

static expert_rows rows_of_expert(const exec *e, uint32_t expert) {
    const uint32_t begin = e->ws->expert_begin[expert];
    return (expert_rows){e->ws->expert_routes + begin, e->ws->expert_begin[expert + 1] - begin};
}

static void gather(exec *e, expert_rows s) {
    const model_config *c = &e->model->config;
    uint32_t begin, end;
    rows_of_thread(e, s.n, &begin, &end);
    for (uint32_t i = begin; i < end; i++)
        memcpy(buffer_row(e, BUFFER_G, i), buffer_row(e, BUFFER_N, s.routes[i] / c->n_experts_used), c->dim * sizeof(float));
    team_barrier(e->team);
}

static void scatter(exec *e, buffer y, expert_rows s) {
    const model_config *c = &e->model->config;
    uint32_t begin, end;
    rows_of_thread(e, s.n, &begin, &end);
    for (uint32_t i = begin; i < end; i++) {
        float *to = buffer_row(e, y, s.routes[i] / c->n_experts_used);
        const float *from = buffer_row(e, BUFFER_E, i), weight = e->ws->routes[s.routes[i]].weight;
        for (uint32_t k = 0; k < c->dim; k++) to[k] += weight * from[k];
    }
}

/* Its rows as if they were the whole pass. */
static void run_expert(exec *e, buffer y, const expert *expert, expert_rows s) {
    const batch rows = {.n_rows = s.n};
    exec part = *e;
    part.batch = &rows;
    const buffer out = BUFFER_E;
    const matrix *const w2 = &expert->w2;
    gather(e, s);
    cpu_norm_gate_up(&part, BUFFER_H, &expert->w1, &expert->w3, BUFFER_G, NULL);
    cpu_norm_matmul(&part, &out, &w2, 1, BUFFER_H, NULL);
    /* the next expert's products wait for its own gathering, which no thread finishes before this */
    scatter(e, y, s);
}

void cpu_experts(exec *e, buffer y, const layer *layer, buffer x, const float *norm) {
    const model_config *c = &e->model->config;
    const buffer scores = BUFFER_R;
    const matrix *const router = &layer->router;
    uint32_t begin, end;
    rows_of_thread(e, e->batch->n_rows, &begin, &end);
    for (uint32_t row = begin; row < end; row++) {
        if (norm) e->model->kernels.rmsnorm(buffer_row(e, BUFFER_N, row), buffer_row(e, x, row), norm, c->dim, c->norm_eps);
        else memcpy(buffer_row(e, BUFFER_N, row), buffer_row(e, x, row), c->dim * sizeof(float));
        memset(buffer_row(e, y, row), 0, c->dim * sizeof(float));
    }
    team_barrier(e->team);
    cpu_norm_matmul(e, &scores, &router, 1, BUFFER_N, NULL);
    for (uint32_t row = begin; row < end; row++)
        route_row(e, e->ws->routes + (size_t)row * c->n_experts_used, buffer_row(e, BUFFER_R, row));
    team_barrier(e->team);
    if (!e->team->thread) sort_routes(e);
    team_barrier(e->team);
    for (uint32_t i = 0; i < c->n_experts; i++) {
        const expert_rows s = rows_of_expert(e, i);
        if (s.n) run_expert(e, y, &layer->experts[i], s);
    }
    team_barrier(e->team);
}

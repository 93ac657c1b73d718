/* workspace.c: the CPU's table of ops, its buffers, and running one pass on the pool. The maths of the ops is in cpu_matmul.c and
 * cpu_attention.c; the order of the ops is forward.c's. Called by session.c and, for its life, by api.c. */
#include "workspace.h"

#include <math.h>

#include "../core/error.h"
#include "../core/panel.h"
#include "../core/rope.h"

/* Rows of a pass: enough to reuse the weights well, and few enough that the buffers stay small whatever the model. */
enum { ROWS_MAX = 512, ROWS_MIN = 32, BUFFERS_BYTES = 32 << 20, PARTIAL_BYTES = 16 << 20, TICKETS = 1024 };

/* ---- embed ---- */

/* cos and sin of position * frequency, in f32 as the models were trained (Su et al. 2021, arXiv 2104.09864). */
static void rope_angles(exec *e, layer_rope rope) {
    const uint32_t half = e->model->config.rotary_dim / 2;
    const float factor = rope_attn_factor(e->model, rope);
    for (uint32_t row = e->team->thread; row < e->batch->n_rows; row += e->team->n_threads) {
        const float *inv_freq = e->batch->sessions[row]->inv_freq + (size_t)rope * half;
        for (uint32_t i = 0; i < half; i++) {
            const float angle = (float)e->batch->positions[row] * inv_freq[i];
            e->ws->cosine[rope][(size_t)row * half + i] = cosf(angle) * factor;
            e->ws->sine[rope][(size_t)row * half + i] = sinf(angle) * factor;
        }
    }
}

static void cpu_embed(exec *e, buffer x, const matrix *embedding) {
    const float scale = e->model->config.embedding_scale;
    e->ws->areas[e->team->thread].product = 0;
    if (!e->team->thread) cpu_attention_plan(e);
    rope_angles(e, LAYER_ROPE_GLOBAL);
    if (e->model->config.rope_theta_local != 0.0f) rope_angles(e, LAYER_ROPE_LOCAL);
    for (uint32_t row = e->team->thread; row < e->batch->n_rows; row += e->team->n_threads) {
        float *to = buffer_row(e, x, row);
        panel_row(embedding->type, embedding->group_size, to, embedding->panels, (uint64_t)e->batch->tokens[row],
                  embedding->columns);
        if (scale != 1.0f) e->model->kernels.scale(to, to, scale, embedding->columns);
    }
    team_barrier(e->team);
}

const ops cpu_ops = {
    .embed = cpu_embed,
    .norm_matmul = cpu_norm_matmul,
    .add_bias = cpu_add_bias,
    .norm_qk = cpu_norm_qk,
    .rope_store = cpu_rope_store,
    .attention = cpu_attention,
    .matmul_add = cpu_matmul_add,
    .norm_add = cpu_norm_add,
    .norm_gate_up = cpu_norm_gate_up,
    .gate = cpu_gate,
    .experts = cpu_experts,
    .keep_wanted = cpu_keep_wanted,
    .logits = cpu_logits,
};

/* ---- buffers ---- */

/* Hands out 64-byte aligned parts of one block; with base NULL it only measures. */
typedef struct arena {
    uint8_t *base;
    uint64_t used;
} arena;

static void *arena_take(arena *a, uint64_t bytes) {
    void *part = a->base ? a->base + a->used : NULL;
    a->used += round_up(bytes, CACHE_LINE);
    return part;
}

/* The largest that any matrix asks of a thread's area. */
typedef struct needs {
    uint32_t columns;
    size_t act_row_bytes, wide_bytes;
} needs;

static void needs_of(needs *n, const matrix *w) {
    if (!w->panels) return;
    const size_t act = act_token_bytes(w->kernels->act, w->columns), wide = group_wide_bytes(w);
    if (w->columns > n->columns) n->columns = w->columns;
    if (act > n->act_row_bytes) n->act_row_bytes = act;
    if (wide > n->wide_bytes) n->wide_bytes = wide;
}

/* Whether some block does more with its result than adding it to x. */
static bool has_block_ends(const model_config *c) {
    return c->n_experts || c->residual_scale != 1.0f || c->model_flags & (MODEL_NORM_AFTER | MODEL_NORM_BOTH);
}

/* Lays the workspace out; with arena.base NULL only its size is wanted. */
static void lay_out(workspace *ws, arena *a, const needs *n, uint32_t n_threads) {
    const model_config *c = &ws->model->config;
    const size_t widths[BUFFER_COUNT] = {
        [BUFFER_X] = c->dim, [BUFFER_Q] = (size_t)c->n_heads * c->head_dim, [BUFFER_K] = (size_t)c->n_kv_heads * c->head_dim,
        [BUFFER_V] = (size_t)c->n_kv_heads * c->head_dim, [BUFFER_ATT] = (size_t)c->n_heads * c->head_dim,
        [BUFFER_H] = c->expert_dim > c->hidden_dim ? c->expert_dim : c->hidden_dim,
        [BUFFER_U] = c->mlp_bias ? c->hidden_dim : 0,
        [BUFFER_Y] = has_block_ends(c) ? c->dim : 0,
        [BUFFER_N] = c->n_experts ? c->dim : 0, [BUFFER_R] = c->n_experts,
        [BUFFER_G] = c->n_experts ? c->dim : 0, [BUFFER_E] = c->n_experts ? c->dim : 0,
    };
    for (int i = 0; i < BUFFER_COUNT; i++) {
        /* an odd number of cache lines, so that rows do not fall on the same sets of the first-level cache */
        ws->ld[i] = (round_up(widths[i], SUPER_K) / PANEL_ROWS | 1) * PANEL_ROWS;
        ws->buffers[i] = arena_take(a, ws->max_rows * ws->ld[i] * sizeof(float));
    }
    for (int i = 0; i < LAYER_ROPE_COUNT; i++) {
        ws->cosine[i] = arena_take(a, (uint64_t)ws->max_rows * (c->rotary_dim / 2) * sizeof(float));
        ws->sine[i] = arena_take(a, (uint64_t)ws->max_rows * (c->rotary_dim / 2) * sizeof(float));
    }
    ws->routes = arena_take(a, (uint64_t)ws->max_rows * c->n_experts_used * sizeof(route));
    ws->expert_begin = arena_take(a, (c->n_experts + 1u) * sizeof(uint32_t));
    ws->expert_routes = arena_take(a, (uint64_t)ws->max_rows * c->n_experts_used * sizeof(uint32_t));
    for (int i = 0; i < MATRICES_MAX; i++) ws->act[i] = arena_take(a, ws->max_rows * n->act_row_bytes);
    ws->outliers = arena_take(a, (uint64_t)ws->max_rows * OUTLIERS * sizeof(outlier));
    ws->tiles = arena_take(a, ws->max_rows * sizeof(attn_tile));
    ws->tickets = arena_take(a, TICKETS * sizeof(atomic_uint));
    ws->max_tickets = TICKETS;
    const uint64_t scratch = (uint64_t)n_threads * 2 * ATTN_ROWS_MAX * (c->head_dim + 2u) * sizeof(float);
    ws->partial_floats = (scratch + PARTIAL_BYTES) / sizeof(float);
    ws->partial = arena_take(a, ws->partial_floats * sizeof(float));
    thread_area *areas = arena_take(a, n_threads * sizeof(thread_area));
    ws->areas = areas;
    ws->hands = arena_take(a, n_threads * sizeof(hand));
    ws->n_products = c->n_experts ? 0 : 4 * c->n_layers + 1;
    for (uint32_t t = 0; t < n_threads; t++) {
        thread_area area = {0};
        area.norm = arena_take(a, TILE_TOKENS_MAX * round_up(n->columns, SUPER_K) * sizeof(float));
        for (int i = 0; i < MATRICES_MAX; i++) area.act[i] = arena_take(a, TILE_TOKENS_MAX * n->act_row_bytes);
        area.outliers = arena_take(a, TILE_TOKENS_MAX * OUTLIERS * sizeof(outlier));
        area.sums = arena_take(a, (uint64_t)ws->max_rows * SUMS_LD * sizeof(float));
        area.wide = arena_take(a, n->wide_bytes);
        area.starts = arena_take(a, ws->n_products * sizeof(place));
        if (a->base) areas[t] = area;
    }
}

ak42_status workspace_new(workspace **out, const ak42_model *model, ak42_error *err) {
    const model_config *c = &model->config;
    needs n = {0};
    needs_of(&n, &model->embedding);
    needs_of(&n, &model->head);
    for (uint32_t i = 0; i < c->n_layers; i++) {
        const layer *l = &model->layers[i];
        const matrix *const all[] = {&l->wq, &l->wk, &l->wv, &l->wo, &l->w1, &l->w2, &l->w3, &l->router};
        for (size_t j = 0; j < ARRAY_LEN(all); j++) needs_of(&n, all[j]);
        for (uint32_t j = 0; l->experts && j < c->n_experts; j++) {
            const expert *x = &l->experts[j];
            needs_of(&n, &x->w1);
            needs_of(&n, &x->w2);
            needs_of(&n, &x->w3);
        }
    }
    if (c->n_experts > n.columns) n.columns = c->n_experts;      /* their scores pass through a thread's area */
    const uint64_t row = (2u * c->dim + 2u * (uint64_t)c->n_heads * c->head_dim + 2u * (uint64_t)c->n_kv_heads * c->head_dim +
                          c->hidden_dim) * sizeof(float);
    uint64_t rows = BUFFERS_BYTES / row / 16 * 16;
    if (rows > ROWS_MAX) rows = ROWS_MAX;
    if (rows < ROWS_MIN) rows = ROWS_MIN;

    workspace *ws = mem_zalloc(&model->alloc, 1, sizeof *ws);
    if (!ws) return error_set(err, AK42_STATUS_NOMEM, "workspace: %zu bytes could not be had", sizeof *ws);
    ws->model = model;
    ws->max_rows = (uint32_t)rows;
    arena a = {NULL, 0};
    lay_out(ws, &a, &n, pool_threads(model->pool));
    ws->pages_bytes = a.used;
    ws->pages = page_alloc(a.used);
    if (!ws->pages) {
        mem_free(&model->alloc, ws);
        return error_set(err, AK42_STATUS_NOMEM, "workspace: %llu bytes could not be had", (unsigned long long)a.used);
    }
    a = (arena){ws->pages, 0};
    lay_out(ws, &a, &n, pool_threads(model->pool));
    *out = ws;
    return AK42_STATUS_OK;
}

void workspace_free(workspace *ws) {
    if (!ws) return;
    page_free(ws->pages, ws->pages_bytes);
    mem_free(&ws->model->alloc, ws);
}

uint32_t workspace_max_rows(const workspace *ws) { return ws->max_rows; }

/* ---- a pass ---- */

void workspace_poll(exec *e, uint32_t layer) {
    workspace *ws = e->ws;
    if (e->team->thread || !ws->cancel || (layer && e->batch->n_rows == 1)) return;
    if (atomic_load_explicit(&ws->stop_layer, memory_order_relaxed) == UINT32_MAX && ws->cancel(ws->cancel_user))
        atomic_store_explicit(&ws->stop_layer, layer, memory_order_relaxed);
}

/* All threads have passed the barriers of this layer, so all see what was said at its start; what thread 0 says at the start of the
 * next one does not count yet. */
bool workspace_stopped(exec *e, uint32_t layer) {
    return atomic_load_explicit(&e->ws->stop_layer, memory_order_relaxed) <= layer;
}

static void run_pass(void *argument, team *team) {
    workspace *ws = argument;
    exec e = {ws->model, ws->batch, ws, team};
    forward(&cpu_ops, &e);
}

typedef struct pass {
    workspace *ws;
    const batch *batch;
    ak42_cancel_fn cancel;
    void *cancel_user;
    pass_result result;
} pass;

/* The pool lets one run in at a time, so what the passes share is set up inside it. */
static void pass_run(void *argument, team *team) {
    pass *p = argument;
    workspace *ws = p->ws;
    if (!team->thread) {
        ws->batch = p->batch;
        ws->cancel = p->cancel;
        ws->cancel_user = p->cancel_user;
        atomic_store_explicit(&ws->stop_layer, UINT32_MAX, memory_order_relaxed);
        atomic_store_explicit(&ws->nonfinite_row, INT64_MAX, memory_order_relaxed);
        shares_reset(ws->hands, team->n_threads);
    }
    team_barrier(team);
    run_pass(ws, team);
    if (team->thread) return;
    const long long row = atomic_load_explicit(&ws->nonfinite_row, memory_order_relaxed);
    p->result.cancelled = atomic_load_explicit(&ws->stop_layer, memory_order_relaxed) != UINT32_MAX;
    p->result.nonfinite_row = row == INT64_MAX ? -1 : row;
}

pass_result workspace_run(workspace *ws, const batch *batch, ak42_cancel_fn cancel, void *cancel_user) {
    pass p = {ws, batch, cancel, cancel_user, {false, -1}};
    pool_run(ws->model->pool, pass_run, &p);
    return p.result;
}

/* cpu_attention.c: rotary positions, the KV cache and attention of a pass on the CPU. Heads of a GQA group and neighbouring tokens
 * of a session form a tile that reads each key and value once. The cache is walked in chunks of ATTN_CHUNK positions whose
 * results are merged in ascending order, whether one thread walks them or several: the same bits either way. */
#include <math.h>

#include "workspace.h"

static const kv_head *cache_of(const exec *e, uint32_t row, uint32_t layer, uint32_t head) {
    const model_config *c = &e->model->config;
    return &e->batch->sessions[row]->kv[(size_t)layer * c->n_kv_heads + head];
}

void cpu_rope_store(exec *e, buffer q, buffer k, buffer v, uint32_t layer) {
    const ak42_model *model = e->model;
    const model_config *c = &model->config;
    const kernel_table *kernels = &model->kernels;
    const uint32_t half = c->rotary_dim / 2, group = c->n_heads / c->n_kv_heads;
    const layer_rope rope = model->layers[layer].rope;
    const uint64_t n_units = (uint64_t)e->batch->n_rows * c->n_kv_heads;
    const uint64_t begin = n_units * e->team->thread / e->team->n_threads;
    const uint64_t end = n_units * (e->team->thread + 1) / e->team->n_threads;
    for (uint64_t unit = begin; unit < end; unit++) {
        const uint32_t row = (uint32_t)(unit / c->n_kv_heads), head = (uint32_t)(unit % c->n_kv_heads);
        float *q_heads = buffer_row(e, q, row) + (size_t)head * group * c->head_dim;
        float *k_head = buffer_row(e, k, row) + (size_t)head * c->head_dim;
        const float *v_head = buffer_row(e, v, row) + (size_t)head * c->head_dim;
        if (rope != LAYER_ROPE_NONE) {
            const float *cosine = e->ws->cosine[rope] + (size_t)row * half, *sine = e->ws->sine[rope] + (size_t)row * half;
            kernels->rope(q_heads, cosine, sine, group, c->head_dim, c->rotary_dim, c->rope_layout);
            kernels->rope(k_head, cosine, sine, 1, c->head_dim, c->rotary_dim, c->rope_layout);
        }
        kernels->scale(q_heads, q_heads, c->attention_scale, group * c->head_dim);
        const ak42_session *session = e->batch->sessions[row];
        kernels->kv[session->kv_type].store(cache_of(e, row, layer, head), e->batch->slots[row], k_head, v_head, c->head_dim);
    }
    team_barrier(e->team);
}

/* ---- tiles ---- */

/* Query heads of a kv head that attend together, and tokens of a tile. */
static uint32_t heads_per_tile(const model_config *c) {
    const uint32_t group = c->n_heads / c->n_kv_heads;
    return group < ATTN_ROWS_MAX ? group : ATTN_ROWS_MAX;
}

void cpu_attention_plan(exec *e) {
    const batch *b = e->batch;
    const uint32_t tokens = ATTN_ROWS_MAX / heads_per_tile(&e->model->config);
    uint32_t n = 0;
    for (uint32_t row = 0; row < b->n_rows; row++) {
        attn_tile *tile = n ? &e->ws->tiles[n - 1] : NULL;
        if (tile && tile->n_rows < tokens && b->sessions[tile->row] == b->sessions[row]) tile->n_rows++;
        else e->ws->tiles[n++] = (attn_tile){row, 1};
    }
    e->ws->n_tiles = n;
}

/* One task: the query rows of a tile for some heads of one kv head. */
typedef struct task {
    const float *q[ATTN_ROWS_MAX];
    float *out[ATTN_ROWS_MAX];
    uint32_t begin[ATTN_ROWS_MAX], end[ATTN_ROWS_MAX];
    uint32_t n_rows;
    uint32_t first_chunk, n_chunks;        /* that at least one row sees */
    const kv_head *kv;
    kernel_attn *attn;
} task;

static uint32_t head_splits(const model_config *c) {
    return (uint32_t)div_up(c->n_heads / c->n_kv_heads, heads_per_tile(c));
}

/* Task i of n_tiles * n_kv_heads * head_splits; the longest, which are the last tiles, first. */
static task task_make(exec *e, uint32_t i, buffer out, buffer q, uint32_t layer) {
    const model_config *c = &e->model->config;
    const uint32_t splits = head_splits(c), group = c->n_heads / c->n_kv_heads;
    const attn_tile *tile = &e->ws->tiles[e->ws->n_tiles - 1 - i / (c->n_kv_heads * splits)];
    const uint32_t kv = i / splits % c->n_kv_heads, head = i % splits * heads_per_tile(c);
    const uint32_t heads = group - head < heads_per_tile(c) ? group - head : heads_per_tile(c);
    const uint32_t window = e->model->layers[layer].sliding_window;
    task t = {.kv = cache_of(e, tile->row, layer, kv),
              .attn = e->model->kernels.kv[e->batch->sessions[tile->row]->kv_type].attn};
    uint32_t lowest = UINT32_MAX, highest = 0;
    for (uint32_t row = tile->row; row < tile->row + tile->n_rows; row++) {
        const uint32_t end = e->batch->slots[row] + 1, begin = window && end > window ? end - window : 0;
        if (begin < lowest) lowest = begin;
        if (end > highest) highest = end;
        for (uint32_t h = 0; h < heads; h++) {
            const size_t column = ((size_t)kv * group + head + h) * c->head_dim;
            t.q[t.n_rows] = buffer_row(e, q, row) + column;
            t.out[t.n_rows] = buffer_row(e, out, row) + column;
            t.begin[t.n_rows] = begin;
            t.end[t.n_rows++] = end;
        }
    }
    t.first_chunk = lowest / ATTN_CHUNK;
    t.n_chunks = (uint32_t)div_up(highest, ATTN_CHUNK) - t.first_chunk;
    return t;
}

/* ---- attention ---- */

/* A chunk's result: m and l (n_rows), o (n_rows, head_dim). */
typedef struct partial {
    float *m, *l, *o;
} partial;

static size_t partial_floats(const model_config *c) { return (size_t)ATTN_ROWS_MAX * (c->head_dim + 2u); }

static partial partial_at(float *floats) { return (partial){floats, floats + ATTN_ROWS_MAX, floats + 2 * ATTN_ROWS_MAX}; }

static void task_chunk(const exec *e, const task *t, uint32_t chunk, partial result) {
    t->attn(&(attn_args){
        .m = result.m, .l = result.l, .o = result.o, .q = t->q, .begin = t->begin, .end = t->end, .n_rows = t->n_rows,
        .head_dim = e->model->config.head_dim, .chunk = (t->first_chunk + chunk) * ATTN_CHUNK, .kv = t->kv,
        .softcap = e->model->config.attn_softcap,
    });
}

static void task_merge(const exec *e, const task *t, partial sum, partial chunk) {
    const uint32_t head_dim = e->model->config.head_dim;
    for (uint32_t i = 0; i < t->n_rows; i++)
        if (chunk.m[i] != -INFINITY)
            e->model->kernels.attn_merge(&sum.m[i], &sum.l[i], sum.o + (size_t)i * head_dim, chunk.m[i], chunk.l[i],
                                         chunk.o + (size_t)i * head_dim, head_dim);
}

static void task_finish(const exec *e, const task *t, partial sum) {
    const uint32_t head_dim = e->model->config.head_dim;
    for (uint32_t i = 0; i < t->n_rows; i++)
        e->model->kernels.scale(t->out[i], sum.o + (size_t)i * head_dim, 1.0f / sum.l[i], head_dim);
}

/* Many tasks: each is walked by one thread. scratch: two partials. */
static void run_whole(exec *e, uint32_t n_tasks, buffer out, buffer q, uint32_t layer) {
    float *scratch = e->ws->partial + (size_t)e->team->thread * 2 * partial_floats(&e->model->config);
    const partial sum = partial_at(scratch), chunk = partial_at(scratch + partial_floats(&e->model->config));
    for (uint32_t i; (i = team_next(e->team, n_tasks)) < n_tasks;) {
        const task t = task_make(e, i, out, q, layer);
        task_chunk(e, &t, 0, sum);             /* merged with nothing: itself, to the bit */
        for (uint32_t c = 1; c < t.n_chunks; c++) {
            task_chunk(e, &t, c, chunk);
            task_merge(e, &t, sum, chunk);
        }
        task_finish(e, &t, sum);
    }
}

/* Few tasks: their chunks are shared out, and whoever finishes a task's last chunk merges them all. */
static void run_split(exec *e, uint32_t n_tasks, uint32_t n_chunks, buffer out, buffer q, uint32_t layer) {
    const model_config *c = &e->model->config;
    float *results = e->ws->partial + (size_t)e->team->n_threads * 2 * partial_floats(c);
    for (uint32_t i; (i = team_next(e->team, n_tasks * n_chunks)) < n_tasks * n_chunks;) {
        const uint32_t index = i / n_chunks, chunk = i % n_chunks;
        const task t = task_make(e, index, out, q, layer);
        if (chunk >= t.n_chunks) continue;
        float *mine = results + (size_t)index * n_chunks * partial_floats(c);
        task_chunk(e, &t, chunk, partial_at(mine + chunk * partial_floats(c)));
        if (atomic_fetch_add_explicit(&e->ws->tickets[index], 1, memory_order_acq_rel) + 1 < t.n_chunks) continue;
        atomic_store_explicit(&e->ws->tickets[index], 0, memory_order_relaxed);
        for (uint32_t k = 1; k < t.n_chunks; k++) task_merge(e, &t, partial_at(mine), partial_at(mine + k * partial_floats(c)));
        task_finish(e, &t, partial_at(mine));
    }
}

void cpu_attention(exec *e, buffer out, buffer q, uint32_t layer) {
    const model_config *c = &e->model->config;
    const uint32_t n_tasks = e->ws->n_tiles * c->n_kv_heads * head_splits(c);
    uint32_t longest = 0;
    for (uint32_t row = 0; row < e->batch->n_rows; row++)
        if (e->batch->slots[row] + 1 > longest) longest = e->batch->slots[row] + 1;
    const uint32_t n_chunks = (uint32_t)div_up(longest, ATTN_CHUNK);
    const size_t room = e->ws->partial_floats - (size_t)e->team->n_threads * 2 * partial_floats(c);
    const bool split = n_chunks > 1 && n_tasks < 4 * e->team->n_threads && e->team->n_threads > 1 &&
                       n_tasks <= e->ws->max_tickets && (size_t)n_tasks * n_chunks * partial_floats(c) <= room;
    if (split) run_split(e, n_tasks, n_chunks, out, q, layer);
    else run_whole(e, n_tasks, out, q, layer);
    team_barrier(e->team);
}

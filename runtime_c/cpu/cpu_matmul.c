/* cpu_matmul.c: the matrix products of a pass on the CPU: packs the input once, cuts panels of weights over threads, and calls one
 * tile kernel. With few rows every thread packs the input for itself, which is cheaper than a barrier; with many the tiles are
 * shared out. The order of a sum is the kernel's alone, so no choice made here can change a bit of a result. */
#include <math.h>

#include "../core/panel.h"
#include "k_simd.h"
#include "outliers.h"
#include "workspace.h"

/* ---- packed input ---- */

/* Where the packed rows of one form are. */
typedef struct packed {
    act_form form;
    uint8_t *data;                     /* tiles of form.nr rows */
    outlier *outliers;                 /* (rows, OUTLIERS); Q8 and Q8_SUPER only */
    size_t row_bytes;
} packed;

typedef struct input {
    const float *x;                    /* (n_rows, ldx) */
    size_t ldx;
    uint32_t n_rows, columns;
    const float *norm;                 /* RMSNorm weight; NULL: x as it is */
    packed packed[MATRICES_MAX];
    uint32_t n_packed;
} input;

static thread_area *area_of(const exec *e) { return &e->ws->areas[e->team->thread]; }

static void pack_tile(const exec *e, const input *in, const packed *p, uint8_t *dst, uint32_t row, uint32_t n_rows) {
    const kernel_table *kernels = &e->model->kernels;
    const float *x = in->x + row * in->ldx;
    size_t ldx = in->ldx;
    if (in->norm) {
        thread_area *area = area_of(e);
        ldx = round_up(in->columns, SUPER_K);
        for (uint32_t i = 0; i < n_rows; i++)
            kernels->rmsnorm(area->norm + i * ldx, x + i * in->ldx, in->norm, in->columns, e->model->config.norm_eps);
        x = area->norm;
    }
    kernels->pack[p->form.kind](dst, p->outliers + row * OUTLIERS, x, ldx, n_rows, in->columns);
}

/* Packs the rows in each form that the matrices want. Ends with a barrier where the tiles are shared. */
static void pack_input(exec *e, input *in, const matrix *const *w, uint32_t n) {
    uint32_t smallest_nr = 0;
    in->n_packed = 0;
    for (uint32_t i = 0; i < n; i++) {
        const act_form form = {w[i]->kernels->act, w[i]->kernels->nr};
        uint32_t j = 0;
        while (j < in->n_packed && (in->packed[j].form.kind != form.kind || in->packed[j].form.nr != form.nr)) j++;
        if (j < in->n_packed) continue;
        in->packed[in->n_packed++] = (packed){form, NULL, NULL, act_token_bytes(form.kind, in->columns)};
        if (!smallest_nr || form.nr < smallest_nr) smallest_nr = form.nr;
    }
    const bool shared = in->n_rows > smallest_nr;
    for (uint32_t j = 0; j < in->n_packed; j++) {
        packed *p = &in->packed[j];
        if (!shared) {
            p->data = area_of(e)->act[j];
            p->outliers = area_of(e)->outliers;
            pack_tile(e, in, p, p->data, 0, in->n_rows);
            continue;
        }
        p->data = e->ws->act[j];
        p->outliers = e->ws->outliers;
        const uint32_t n_tiles = (uint32_t)div_up(in->n_rows, p->form.nr);
        for (uint32_t t = e->team->thread; t < n_tiles; t += e->team->n_threads) {
            const uint32_t row = t * p->form.nr;
            const uint32_t rows = in->n_rows - row < p->form.nr ? in->n_rows - row : p->form.nr;
            pack_tile(e, in, p, p->data + row * p->row_bytes, row, rows);
        }
    }
    if (shared) team_barrier(e->team);
}

static const packed *packed_for(const input *in, const matrix *w) {
    uint32_t j = 0;
    while (in->packed[j].form.kind != w->kernels->act || in->packed[j].form.nr != w->kernels->nr) j++;
    return &in->packed[j];
}

/* ---- groups of panels, cut along k ---- */

static bool is_wide(const matrix *w, uint32_t n_rows) {
    return w->kernels->unpack && n_rows > w->kernels->nr && n_rows >= w->kernels->wide_from;
}

/* Of 64 columns, that is, a part of the superblocks of types whose superblocks are longer; but for MXFP4's odd last one exact. */
static uint32_t super_bytes(const matrix *w) {
    return (uint32_t)(type_super_bytes(w->type, w->group_size) * SUPER_K / w->type->super_columns);
}

/* Superblocks of a part of k: as many as let a tile of activations stay in the first-level cache; all parts about equal, and cut where
 * every type's superblocks end. */
static uint32_t part_supers(const matrix *w) {
    const size_t tile_bytes = w->kernels->nr * act_token_bytes(w->kernels->act, SUPER_K_MAX) / (SUPER_K_MAX / SUPER_K);
    const uint32_t most = TILE_BYTES > tile_bytes ? (uint32_t)(TILE_BYTES / tile_bytes) : 1;
    return (uint32_t)round_up(div_up(w->n_super, div_up(w->n_super, most)), SUPER_K_MAX / SUPER_K);
}

uint32_t group_panels(const matrix *w) {
    const uint64_t bytes = (uint64_t)part_supers(w) * (w->kernels->unpack ? w->kernels->wide_super_bytes : super_bytes(w));
    const uint64_t n = GROUP_BYTES / bytes / 2 * 2;
    return n < 2 ? 2 : n > GROUP_PANELS_MAX ? GROUP_PANELS_MAX : (uint32_t)n;
}

/* Superblocks that stay unpacked: a part's, or, where outliers are taken from them, all. */
static uint32_t wide_supers(const matrix *w) { return w->kernels->outliers_wide ? w->n_super : part_supers(w); }
static size_t wide_panel_bytes(const matrix *w) { return (size_t)wide_supers(w) * w->kernels->wide_super_bytes; }

/* A row of thread_area.sums: few rows may be longer. */
static size_t sums_ld(const exec *e, const matrix *w, uint32_t n_rows) {
    return n_rows > w->kernels->nr ? SUMS_LD : e->ws->max_rows / n_rows * SUMS_LD;
}
/* Panels at a time where the results go through thread_area.sums. */
static uint32_t step_panels(const exec *e, const matrix *w, uint32_t n_rows) {
    return n_rows > w->kernels->nr ? group_panels(w) : (uint32_t)(sums_ld(e, w, n_rows) / PANEL_ROWS / 2 * 2);
}

size_t group_wide_bytes(const matrix *w) {
    return w->kernels->unpack ? group_panels(w) * wide_panel_bytes(w) : 0;
}

/* A part of k of a group of panels, ready to be multiplied by any number of tiles. */
typedef struct part {
    const uint8_t *panels;
    size_t panel_bytes;
    uint32_t super_bytes;
    uint32_t first, n_super;
    kernel_gemm *gemm;
} part;

static part part_open(const exec *e, const matrix *w, uint32_t panel, uint32_t n_panels, uint32_t first, uint32_t n_super,
                      uint32_t n_rows) {
    const type_kernels *k = w->kernels;
    const uint8_t *panels = w->panels + panel * w->panel_bytes + (size_t)first * super_bytes(w);
    if (!is_wide(w, n_rows)) return (part){panels, w->panel_bytes, super_bytes(w), first, n_super, k->gemm};
    const size_t wide_bytes = wide_panel_bytes(w);
    uint8_t *wide = area_of(e)->wide + (k->outliers_wide ? (size_t)first * k->wide_super_bytes : 0);
    for (uint32_t i = 0; i < n_panels; i++)
        k->unpack(wide + i * wide_bytes, panels + i * w->panel_bytes, n_super, w->group_size);
    return (part){wide, wide_bytes, k->wide_super_bytes, first, n_super, k->gemm_wide};
}

/* Asks for where a tile's results go: its rows lie far apart, so that processors do not foresee them. */
static void ask_results(float *out, size_t ldo, uint32_t n_rows, uint32_t n_panels) {
    for (uint32_t i = 0; i < n_rows; i++)
        for (uint32_t k = 0; k < n_panels; k++) ask_to_write(out + i * ldo + k * PANEL_ROWS);
}

/* out (+)= rows of in times panels [panel, panel + n_panels) of w. With many rows the panels are a group, and each part of it is used
 * by all tiles of rows while it is in the cache, in turns from the first to the last and back, so that it begins with tiles that are still
 * there; the sums wait in between in out, or, where they are to be added there, beside it.
 * With gate, (n_rows, ldg), gate = act(gate) * out at last. next: what this thread multiplies after this. */
static void multiply(exec *e, const matrix *w, const packed *in, uint32_t panel, uint32_t n_panels, uint32_t n_rows, float *out,
                     size_t ldo, bool accumulate, float *gate, size_t ldg, place next) {
    const uint32_t nr = in->form.nr, step = n_rows > nr ? part_supers(w) : w->n_super;
    const uint32_t n_tiles = (uint32_t)div_up(n_rows, nr);
    const bool wide = is_wide(w, n_rows) && w->kernels->outliers_wide;
    kernel_outliers *const packed = e->model->kernels.outliers[w->kernels - e->model->kernels.types];
    kernel_outliers *const outliers = wide ? w->kernels->outliers_wide : packed;
    const uint8_t *const whole = wide ? area_of(e)->wide : w->panels + panel * w->panel_bytes;
    const size_t whole_bytes = wide ? wide_panel_bytes(w) : w->panel_bytes;
    float *sums = accumulate ? area_of(e)->sums : out;
    const size_t ld_sums = accumulate ? SUMS_LD : ldo;
    pace *const pace = kernel_foreseen(&e->model->kernels, w->kernels, n_rows)
        ? &area_of(e)->paces[w->kernels - e->model->kernels.types] : NULL;
    for (uint32_t first = 0; first < w->n_super; first += step) {
        const bool last = first + step >= w->n_super;
        const part p = part_open(e, w, panel, n_panels, first, last ? w->n_super - first : step, n_rows);
        const bool backwards = n_tiles > 1 && (area_of(e)->n_parts++ & 1);
        for (uint32_t i = 0; i < n_tiles; i++) {
            const uint32_t row = (backwards ? n_tiles - 1 - i : i) * nr, rows = n_rows - row < nr ? n_rows - row : nr;
            float *to = out + row * ldo;
            if (i + 1 < n_tiles) {
                const uint32_t soon = backwards ? row - nr : row + nr, n = n_rows - soon < nr ? n_rows - soon : nr;
                if (last) ask_results(out + soon * ldo, ldo, n, n_panels);
                if (last && gate) ask_results(gate + soon * ldg, ldg, n, n_panels);
            }
            const pace_draw draw = pace ? pace_begin(pace, n_panels * w->panel_bytes) : (pace_draw){0};
            p.gemm(&(gemm_args){
                .out = last ? to : sums + row * ld_sums, .ldo = last ? ldo : ld_sums, .panels = p.panels, .panel_bytes = p.panel_bytes,
                .n_panels = n_panels, .act = in->data + row * in->row_bytes + rows * act_token_bytes(in->form.kind, first * SUPER_K),
                .n_tokens = rows, .n_super = p.n_super, .super_bytes = p.super_bytes, .group_size = w->group_size,
                .start = first ? sums + row * ld_sums : NULL, .ld_start = ld_sums, .accumulate = last && accumulate,
                .next = n_rows > nr ? NULL : next.panels, .next_panel_bytes = next.panel_bytes,
                .foreseen = draw.foreseen,
            });
            if (pace) pace_end(pace, &draw);
            if (last && act_is_q8(in->form.kind))
                outliers(&(outliers_args){
                    .out = to, .ldo = ldo, .panels = whole, .panel_bytes = whole_bytes, .n_panels = n_panels,
                    .lists = in->outliers + row * OUTLIERS, .n_tokens = rows, .group_size = w->group_size,
                });
            for (uint32_t r = 0; last && gate && r < rows; r++) {
                float *g = gate + (row + r) * ldg;
                e->model->gate_mul(g, g, to + r * ldo, n_panels * PANEL_ROWS);
            }
        }
    }
}

/* ---- shares ---- */

/* least: a group, or what is read in a few microseconds; even, because kernels take panels in pairs. */
static share share_of(const exec *e, const matrix *w, uint32_t n_panels, uint32_t n_rows) {
    const uint64_t panels = n_rows > w->kernels->nr ? group_panels(w) : SHARE_BYTES / w->panel_bytes / 2 * 2;
    return share_open(e->ws->hands, e->team, area_of(e)->product, n_panels, panels < 2 ? 2 : (uint32_t)panels);
}

/* A product begins, for this thread, at `at`; returns where the one after it will, by what the pass before did. */
static place product_begins(const exec *e, place at) {
    thread_area *area = area_of(e);
    const uint32_t n = e->ws->n_products, i = area->product++;
    if (!n) return (place){NULL, 0};
    area->starts[i % n] = at;
    return area->starts[(i + 1) % n];
}

static place place_of(const matrix *w, uint32_t panel) { return (place){w->panels + panel * w->panel_bytes, w->panel_bytes}; }

/* ---- the products ---- */

/* One of the matrices that share an input, and where its product goes. */
typedef struct product {
    const matrix *w;
    const packed *in;
    float *out;
    size_t ldo;
    bool accumulate;
} product;

static void product_panels(exec *e, const product *p, uint32_t begin, uint32_t end, uint32_t n_rows, place next) {
    const uint32_t step = n_rows > p->in->form.nr ? group_panels(p->w) : end - begin;
    for (uint32_t panel = begin; panel < end; panel += step)
        multiply(e, p->w, p->in, panel, end - panel < step ? end - panel : step, n_rows, p->out + (size_t)panel * PANEL_ROWS, p->ldo,
                 p->accumulate, NULL, 0, next);
}

/* A panel of several products' panels in a row; behind the last: `after`. */
static place products_place(const product *products, uint32_t n, uint32_t panel, place after) {
    for (uint32_t i = 0; i < n; panel -= products[i++].w->n_panels)
        if (panel < products[i].w->n_panels) return place_of(products[i].w, panel);
    return after;
}

static void run_products(exec *e, const product *products, uint32_t n, uint32_t n_rows) {
    uint32_t n_panels = 0;
    for (uint32_t i = 0; i < n; i++) n_panels += products[i].w->n_panels;
    share s = share_of(e, products->w, n_panels, n_rows);
    const place after = product_begins(e, products_place(products, n, s.next, (place){NULL, 0}));
    while (share_draw(&s)) {
        uint32_t first = 0;                        /* the panel of the list at which products[i] begins */
        for (uint32_t i = 0; i < n; first += products[i++].w->n_panels) {
            const uint32_t last = first + products[i].w->n_panels;
            const uint32_t from = s.begin > first ? s.begin : first, to = s.end < last ? s.end : last;
            if (from < to)
                product_panels(e, &products[i], from - first, to - first, n_rows,
                               products_place(products, n, to < s.end ? to : s.next, after));
        }
    }
    team_barrier(e->team);
}

void cpu_norm_matmul(exec *e, const buffer *out, const matrix *const *w, uint32_t n, buffer x, const float *norm) {
    const uint32_t n_rows = e->batch->n_rows;
    input in = {.x = e->ws->buffers[x], .ldx = e->ws->ld[x], .n_rows = n_rows, .columns = w[0]->columns, .norm = norm};
    pack_input(e, &in, w, n);
    product products[MATRICES_MAX] = {{0}};
    for (uint32_t i = 0; i < n; i++)
        products[i] = (product){w[i], packed_for(&in, w[i]), e->ws->buffers[out[i]], e->ws->ld[out[i]], false};
    run_products(e, products, n, n_rows);
}

void cpu_matmul_add(exec *e, buffer x, const matrix *w, buffer in_buffer) {
    const uint32_t n_rows = e->batch->n_rows;
    input in = {.x = e->ws->buffers[in_buffer], .ldx = e->ws->ld[in_buffer], .n_rows = n_rows, .columns = w->columns};
    pack_input(e, &in, &w, 1);
    const product p = {w, packed_for(&in, w), e->ws->buffers[x], e->ws->ld[x], true};
    run_products(e, &p, 1, n_rows);
}

void cpu_norm_gate_up(exec *e, buffer out, const matrix *w1, const matrix *w3, buffer x, const float *norm) {
    const uint32_t n_rows = e->batch->n_rows;
    const matrix *const both[] = {w1, w3};
    thread_area *area = area_of(e);
    input in = {.x = e->ws->buffers[x], .ldx = e->ws->ld[x], .n_rows = n_rows, .columns = w1->columns, .norm = norm};
    pack_input(e, &in, both, 2);
    const packed *in1 = packed_for(&in, w1), *in3 = packed_for(&in, w3);
    const uint32_t step1 = step_panels(e, w1, n_rows), step3 = step_panels(e, w3, n_rows), step = step1 < step3 ? step1 : step3;

    share s = share_of(e, w1, w1->n_panels, n_rows);
    const place after = product_begins(e, place_of(w1, s.next));
    while (share_draw(&s)) {
        for (uint32_t panel = s.begin; panel < s.end; panel += step) {
            const uint32_t n_panels = s.end - panel < step ? s.end - panel : step;
            const uint32_t next = panel + n_panels < s.end ? panel + n_panels : s.next;
            float *gate = buffer_row(e, out, 0) + (size_t)panel * PANEL_ROWS;
            multiply(e, w1, in1, panel, n_panels, n_rows, gate, e->ws->ld[out], false, NULL, 0, place_of(w3, panel));
            multiply(e, w3, in3, panel, n_panels, n_rows, area->sums, sums_ld(e, w3, n_rows), false, gate, e->ws->ld[out],
                     next < w1->n_panels ? place_of(w1, next) : after);
        }
    }
    team_barrier(e->team);
}

/* ---- logits ---- */

/* Copies n values and tells whether all are finite. */
static bool copy_finite(float *out, const float *in, uint32_t n) {
    uint32_t bad = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &in[i], sizeof bits);
        bad |= (uint32_t)((bits & 0x7f800000u) == 0x7f800000u);
        out[i] = in[i];
    }
    return !bad;
}

static void note_nonfinite(workspace *ws, uint32_t row) {
    long long lowest = atomic_load_explicit(&ws->nonfinite_row, memory_order_relaxed);
    while (row < lowest && !atomic_compare_exchange_weak(&ws->nonfinite_row, &lowest, row)) {}
}

uint32_t cpu_keep_wanted(exec *e, buffer x) {
    const batch *b = e->batch;
    uint32_t n = 0;
    for (uint32_t row = 0; row < b->n_rows; row++) {
        if (!b->logits[row]) continue;
        if (n != row && !e->team->thread)
            memcpy(buffer_row(e, x, n), buffer_row(e, x, row), e->model->config.dim * sizeof(float));
        n++;
    }
    team_barrier(e->team);
    return n;
}

void cpu_logits(exec *e, const matrix *head, buffer x, const float *norm) {
    const batch *b = e->batch;
    const model_config *c = &e->model->config;
    const bool scaled = c->logit_scale != 1.0f || c->final_softcap != 0.0f;
    thread_area *area = area_of(e);
    uint32_t n_rows = 0;
    for (uint32_t row = 0; row < b->n_rows; row++) n_rows += b->logits[row] != NULL;
    input in = {.x = e->ws->buffers[x], .ldx = e->ws->ld[x], .n_rows = n_rows, .columns = head->columns, .norm = norm};
    pack_input(e, &in, &head, 1);
    const packed *p = packed_for(&in, head);
    const uint32_t step = step_panels(e, head, n_rows);
    const size_t ld_sums = sums_ld(e, head, n_rows);
    share s = share_of(e, head, head->n_panels, n_rows);
    const place after = product_begins(e, place_of(head, s.next));
    while (share_draw(&s)) {
        for (uint32_t panel = s.begin; panel < s.end; panel += step) {
            const uint32_t n_panels = s.end - panel < step ? s.end - panel : step;
            const uint32_t first = panel * PANEL_ROWS;
            const uint32_t width = head->rows - first < n_panels * PANEL_ROWS ? head->rows - first : n_panels * PANEL_ROWS;
            const float *found = area->sums;
            const uint32_t next = panel + n_panels < s.end ? panel + n_panels : s.next;
            multiply(e, head, p, panel, n_panels, n_rows, area->sums, ld_sums, false, NULL, 0,
                     next < head->n_panels ? place_of(head, next) : after);
            for (uint32_t row = 0; row < b->n_rows; row++) {
                if (!b->logits[row]) continue;
                float *logits = b->logits[row] + first;
                if (!copy_finite(logits, found, width)) note_nonfinite(e->ws, row);
                if (scaled) e->model->kernels.cap(logits, logits, c->logit_scale, c->final_softcap, width);
                found += ld_sums;
            }
        }
    }
    team_barrier(e->team);
}

/* pack.c: fills the block of repacked matrices. Threads draw pieces of about a megabyte in the order in
 * which the source lies in the file, so that a file on a disk is read forwards and a page is first touched
 * by the thread that writes it. What a piece means is panel.c's business. Called by model.c. */
#include "pack.h"

#include <stdlib.h>

#include "error.h"
#include "panel.h"

enum { PIECE_BYTES = 1 << 20 };

typedef struct piece {
    const pack_job *job;
    uint32_t panel_begin, panel_end;
} piece;

typedef struct packing {
    ak42_model *model;
    piece *pieces;
    uint32_t n_pieces;
    atomic_bool stop;
} packing;

static uint32_t panels_per_piece(const matrix *m) {
    const uint64_t n = PIECE_BYTES / m->panel_bytes;
    return n > 1 ? (uint32_t)n : 1;
}

/* The source of some panels will not be read again. */
static void forget(const filemap *map, const tensor *t, const matrix *m, const piece *p) {
    const uint64_t first = (uint64_t)p->panel_begin * PANEL_ROWS, last = (uint64_t)p->panel_end * PANEL_ROWS;
    const uint64_t n_rows = (last < m->rows ? last : m->rows) - first;
    if (t->layout != LAYOUT_ROWS) {
        filemap_forget(map, t->offset + p->panel_begin * m->panel_bytes,
                       (p->panel_end - p->panel_begin) * m->panel_bytes);
    } else if (m->type->id == TYPE_INT8) {
        const uint64_t scale_bytes = m->columns / m->group_size * sizeof(float);
        filemap_forget(map, t->offset + first * m->columns, n_rows * m->columns);
        filemap_forget(map, t->offset + (uint64_t)m->rows * m->columns + first * scale_bytes,
                       n_rows * scale_bytes);
    } else {
        const uint64_t row_bytes = t->nbytes / m->rows;
        filemap_forget(map, t->offset + first * row_bytes, n_rows * row_bytes);
    }
}

static void pack_piece(const packing *pk, const piece *p) {
    const matrix *m = p->job->matrix;
    const tensor *t = p->job->source;
    uint8_t *dst = pk->model->packed + (m->panels - pk->model->packed) + p->panel_begin * m->panel_bytes;
    const uint64_t begin = p->panel_begin * m->panel_bytes;
    const uint32_t n_panels = p->panel_end - p->panel_begin;
    if (t->layout == m->type->panels)
        memcpy(dst, t->data + begin, (size_t)(n_panels * m->panel_bytes));
    else if (t->layout == LAYOUT_PANEL16)
        panel_from_panel16(m->type, m->group_size, dst, t->data + begin, n_panels, m->columns);
    else if (t->type->id == TYPE_NF4_DQ)
        panel_pack_nf4_dq(dst, t->data, m->rows, m->columns, p->panel_begin, p->panel_end);
    else
        panel_pack(m->type, m->group_size, dst, t->data, m->rows, m->columns, p->panel_begin, p->panel_end);
    forget(t->home ? t->home : &pk->model->file.map, t, m, p);
}

static void pack_on_thread(void *argument, team *team) {
    packing *pk = argument;
    const ak42_model_opts *opts = &pk->model->opts;
    for (uint32_t i = team_next(team, pk->n_pieces); i < pk->n_pieces; i = team_next(team, pk->n_pieces)) {
        if (team->thread == 0 && opts->cancel && opts->cancel(opts->cancel_user))
            atomic_store_explicit(&pk->stop, true, memory_order_relaxed);
        /* Once stopped, draw what is left, so that all threads end alike. */
        if (atomic_load_explicit(&pk->stop, memory_order_relaxed)) continue;
        pack_piece(pk, &pk->pieces[i]);
    }
}

static int compare_sources(const void *a, const void *b) {
    const uint64_t x = ((const pack_job *)a)->source->offset, y = ((const pack_job *)b)->source->offset;
    return (x > y) - (x < y);
}

/* One block for all, in the order of the jobs: that of computing. */
static ak42_status reserve(ak42_model *model, const pack_job *jobs, uint32_t n_jobs, ak42_error *err) {
    uint64_t total = 0, bytes;
    for (uint32_t i = 0; i < n_jobs; i++) {
        const matrix *m = jobs[i].matrix;
        if (!mul_u64(&bytes, m->panel_bytes, m->n_panels) || !add_u64(&total, total, bytes))
            return error_set(err, AK42_STATUS_NOMEM, "%s: repacked matrices need more than 2^64 bytes",
                             model->file.name);
    }
    model->packed = page_alloc(total);
    if (!model->packed)
        return error_set(err, AK42_STATUS_NOMEM, "%s: no memory for %llu bytes of repacked matrices; "
                         "convert it to ak42 v3, which needs none", model->file.name,
                         (unsigned long long)total);
    model->packed_bytes = total;
    const uint8_t *panels = model->packed;
    for (uint32_t i = 0; i < n_jobs; i++) {
        jobs[i].matrix->panels = panels;
        panels += jobs[i].matrix->panel_bytes * jobs[i].matrix->n_panels;
    }
    return AK42_STATUS_OK;
}

static ak42_status cut(packing *pk, const pack_job *jobs, uint32_t n_jobs, ak42_error *err) {
    uint64_t n = 0;
    for (uint32_t i = 0; i < n_jobs; i++)
        n += div_up(jobs[i].matrix->n_panels, panels_per_piece(jobs[i].matrix));
    pk->pieces = n < UINT32_MAX ? mem_zalloc(&pk->model->alloc, n, sizeof *pk->pieces) : NULL;
    if (!pk->pieces)
        return error_set(err, AK42_STATUS_NOMEM, "%s: no memory for a list of %llu pieces",
                         pk->model->file.name, (unsigned long long)n);
    for (uint32_t i = 0; i < n_jobs; i++) {
        const matrix *m = jobs[i].matrix;
        const uint32_t step = panels_per_piece(m);
        for (uint32_t begin = 0; begin < m->n_panels; begin += step) {
            const uint32_t end = m->n_panels - begin < step ? m->n_panels : begin + step;
            pk->pieces[pk->n_pieces++] = (piece){&jobs[i], begin, end};
        }
    }
    return AK42_STATUS_OK;
}

ak42_status pack_matrices(ak42_model *model, pack_job *jobs, uint32_t n_jobs, ak42_error *err) {
    if (!n_jobs) return AK42_STATUS_OK;
    packing pk = {.model = model};
    ak42_status status = reserve(model, jobs, n_jobs, err);
    if (status) return status;
    qsort(jobs, n_jobs, sizeof *jobs, compare_sources);
    status = cut(&pk, jobs, n_jobs, err);
    if (!status) pool_run(model->pool, pack_on_thread, &pk);
    mem_free(&model->alloc, pk.pieces);
    if (!status && atomic_load(&pk.stop))
        status = error_set(err, AK42_STATUS_CANCELLED, "%s: opening was cancelled while its matrices were "
                           "repacked", model->file.name);
    return status;
}

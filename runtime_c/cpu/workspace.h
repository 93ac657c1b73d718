/* workspace.h: the CPU's buffers for passes over one model and what the CPU ops share. Private to cpu/workspace.c and cpu/cpu_*.c.
 * One pass at a time uses it (the pool sees to that). */
#ifndef AK42_WORKSPACE_H
#define AK42_WORKSPACE_H

#include "../core/ops.h"
#include "../core/session.h"
#include "pace.h"
#include "shares.h"

enum {
    MATRICES_MAX = 3,                  /* that share one input */
    GROUP_BYTES = 384 * 1024,          /* weights that stay in the second-level cache while tiles of tokens pass over them */
    GROUP_PANELS_MAX = 32,
    TILE_BYTES = 24 * 1024,            /* activations that stay in the first-level cache while panels pass over them */
    SUMS_LD = (GROUP_PANELS_MAX + 1) * PANEL_ROWS,     /* odd in cache lines, as the buffers' */
    SHARE_BYTES = 64 * 1024            /* the least that a thread draws of weights that are read once */
};

/* A form of packed activations that some matrix wants. */
typedef struct act_form {
    act_kind kind;
    uint32_t nr;
} act_form;

/* Where panels lie that are soon read; panels NULL: not known. */
typedef struct place {
    const uint8_t *panels;
    size_t panel_bytes;
} place;

/* What each thread has for itself; all 64-byte aligned. */
typedef struct thread_area {
    float *norm;                       /* (TILE_TOKENS_MAX, widest input) */
    uint8_t *act[MATRICES_MAX];        /* one packed tile each */
    outlier *outliers;                 /* (TILE_TOKENS_MAX, OUTLIERS) */
    float *sums;                       /* (max_rows, SUMS_LD): products of a group that have not yet a place in a buffer */
    uint8_t *wide;                     /* a group of panels, unpacked, or a part of it */
    place *starts;                     /* (n_products): where this thread began each product, in the pass before or in this one */
    uint32_t product;                  /* which is next in this pass */
    uint32_t n_parts;                  /* of groups of panels that many tiles have passed over */
    pace paces[KERNEL_TYPES];          /* of one row's products */
} thread_area;

/* Consecutive rows of one session whose heads attend together. */
typedef struct attn_tile {
    uint32_t row, n_rows;
} attn_tile;

/* One of the experts that a row goes to, and its share of the sum. */
typedef struct route {
    uint32_t expert;
    float weight;
} route;

struct workspace {
    const ak42_model *model;
    uint32_t max_rows;
    float *buffers[BUFFER_COUNT];      /* (max_rows, ld) */
    size_t ld[BUFFER_COUNT];           /* widths rounded up to SUPER_K */
    float *cosine[LAYER_ROPE_COUNT], *sine[LAYER_ROPE_COUNT];      /* (max_rows, rotary_dim / 2) */
    route *routes;                     /* (max_rows, n_experts_used), experts ascending */
    uint32_t *expert_begin;            /* (n_experts + 1): where an expert's part of the next begins */
    uint32_t *expert_routes;           /* (max_rows, n_experts_used): indices of routes, by expert, rows ascending */
    uint8_t *act[MATRICES_MAX];        /* packed tiles of all rows, by form */
    outlier *outliers;                 /* (max_rows, OUTLIERS); the same for every form */
    thread_area *areas;                /* (n_threads) */
    hand *hands;                       /* (n_threads) */
    uint32_t n_products;               /* of a pass; 0 where experts make it another number each time */
    attn_tile *tiles;                  /* (max_rows) */
    uint32_t n_tiles;
    float *partial;                    /* attention chunks that wait to be merged */
    size_t partial_floats;
    atomic_uint *tickets;              /* (max_tickets): chunks done, by task */
    uint32_t max_tickets;
    uint8_t *pages;                    /* all of the above */
    uint64_t pages_bytes;

    /* the pass that runs */
    const batch *batch;
    ak42_cancel_fn cancel;
    void *cancel_user;
    atomic_uint stop_layer;            /* layer at whose start it was cancelled; UINT32_MAX: not */
    atomic_llong nonfinite_row;        /* lowest; INT64_MAX: none */
};

static inline float *buffer_row(const exec *e, buffer b, uint32_t row) {
    return e->ws->buffers[b] + row * e->ws->ld[b];
}

/* The rows, of n_rows, that are this thread's. */
void rows_of_thread(const exec *e, uint32_t n_rows, uint32_t *begin, uint32_t *end);

/* The ops, by file. */
void cpu_norm_matmul(exec *e, const buffer *out, const matrix *const *w, uint32_t n, buffer x, const float *norm);
void cpu_matmul_add(exec *e, buffer x, const matrix *w, buffer in);
void cpu_norm_gate_up(exec *e, buffer out, const matrix *w1, const matrix *w3, buffer x, const float *norm);
uint32_t cpu_keep_wanted(exec *e, buffer x);
void cpu_logits(exec *e, const matrix *head, buffer x, const float *norm);
void cpu_add_bias(exec *e, const buffer *out, const float *const *bias, uint32_t n);
void cpu_gate(exec *e, buffer h, buffer u);
void cpu_norm_qk(exec *e, buffer q, buffer k, const float *q_norm, const float *k_norm);
void cpu_norm_add(exec *e, buffer x, buffer y, const float *norm, float scale);
void cpu_experts(exec *e, buffer y, const layer *layer, buffer x, const float *norm);
void cpu_rope_store(exec *e, buffer q, buffer k, buffer v, uint32_t layer);
void cpu_attention(exec *e, buffer out, buffer q, uint32_t layer);
/* Cuts the batch into attention tiles; called by one thread before the first attention of a pass. */
void cpu_attention_plan(exec *e);

/* Panels of a group, and the bytes that a part of it takes unpacked (0 where the type is never unpacked). */
uint32_t group_panels(const matrix *w);
size_t group_wide_bytes(const matrix *w);

#endif

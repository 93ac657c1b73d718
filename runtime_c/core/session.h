/* session.h: one sequence: its tokens, their rotary positions and the KV cache. Belongs to one thread at a time. */
#ifndef AK42_SESSION_H
#define AK42_SESSION_H

#include "ops.h"

struct ak42_session {
    atomic_flag busy;
    ak42_model *model;             /* counted */
    uint32_t n_ctx;
    ak42_kv_type kv_type;
    ak42_cancel_fn cancel;
    void *cancel_user;
    uint32_t n_tokens;             /* held; = the next token's slot */
    int32_t *tokens;               /* (n_ctx) */
    int32_t *positions;            /* (n_ctx): rotary positions */
    float *inv_freq;               /* (LAYER_ROPE_COUNT, rotary_dim / 2): the rotary frequencies with all scaling applied */
    kv_head *kv;                   /* (n_layers, n_kv_heads) */
    uint8_t *cache;                /* what kv points into; pages */
    uint64_t cache_bytes;
    float *logits;                 /* (rows, vocab_size); pages */
    uint64_t logits_bytes;
    size_t n_logits;               /* rows valid; 0: none */
    void *scratch;                 /* the sampler's */
};

ak42_status session_new(ak42_session **session, ak42_model *model, const ak42_session_opts *opts, ak42_error *err);
void session_free(ak42_session *session);
/* ak42_session_eval and ak42_eval_batch, arguments checked: sessions are of one model, distinct, marked busy by the caller. positions
 * (NULL: they follow on) is for all tokens. */
ak42_status session_eval(ak42_session *const *sessions, size_t n_sessions, const int32_t *tokens, const size_t *n_tokens,
                         const int32_t *positions, uint32_t flags, ak42_error *err);
ak42_status session_save(const ak42_session *session, void *blob, size_t size_max, size_t *size, ak42_error *err);
ak42_status session_load(ak42_session *session, const void *blob, size_t size, ak42_error *err);

/* Bytes of one (layer, kv head) of a cache and where its parts lie; each part is a multiple of 64 bytes. */
typedef struct kv_layout {
    uint64_t k_bytes, v_bytes, scale_bytes;    /* scale_bytes: one of the two scale arrays; 0 but for INT8 */
    uint64_t head_bytes;
} kv_layout;
bool kv_layout_of(kv_layout *out, ak42_kv_type type, uint32_t n_ctx, uint32_t head_dim);

#endif

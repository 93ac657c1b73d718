/* session.c: the life of a sequence: its cache, and turning calls to evaluate into passes over the model. It knows no maths (forward.c)
 * and no threads (the device's workspace). Called by api.c. */
#include "session.h"

#include "error.h"
#include "rope.h"
#include "sampler.h"

enum { N_CTX_DEFAULT = 4096, N_CTX_MAX = 1 << 30 };

/* ---- cache ---- */

bool kv_layout_of(kv_layout *out, ak42_kv_type type, uint32_t n_ctx, uint32_t head_dim) {
    static const uint32_t element_bytes[] = {
        [AK42_KV_TYPE_F32] = 4, [AK42_KV_TYPE_F16] = 2, [AK42_KV_TYPE_BF16] = 2, [AK42_KV_TYPE_INT8] = 1};
    const uint64_t positions = round_up(n_ctx, KV_BLOCK);
    const uint64_t k_dim = type == AK42_KV_TYPE_INT8 ? round_up(head_dim, 4) : head_dim;
    uint64_t k, v;
    if (!mul_u64(&k, positions, k_dim * element_bytes[type]) || !mul_u64(&v, positions, (uint64_t)head_dim * element_bytes[type]))
        return false;
    if (k > UINT64_MAX / 8 || v > UINT64_MAX / 8) return false;
    out->k_bytes = round_up(k, CACHE_LINE);
    out->v_bytes = round_up(v, CACHE_LINE);
    out->scale_bytes = type == AK42_KV_TYPE_INT8 ? round_up(positions * sizeof(float), CACHE_LINE) : 0;
    out->head_bytes = out->k_bytes + out->v_bytes + 2 * out->scale_bytes;
    return true;
}

static ak42_status cache_new(ak42_session *s, ak42_error *err) {
    const model_config *c = &s->model->config;
    const uint64_t heads = (uint64_t)c->n_layers * c->n_kv_heads;
    kv_layout layout;
    uint64_t bytes = 0;
    if (kv_layout_of(&layout, s->kv_type, s->n_ctx, c->head_dim) && mul_u64(&bytes, heads, layout.head_bytes) && bytes <= SIZE_MAX / 2)
        s->cache = page_reserve(bytes);
    if (!s->cache)
        return error_set(err, AK42_STATUS_NOMEM, "%s: a context of %u needs a KV cache of %llu bytes, which could not be had; "
                         "ask for a smaller n_ctx or kv_type", s->model->file.name, s->n_ctx, (unsigned long long)bytes);
    s->cache_bytes = bytes;
    for (uint64_t i = 0; i < heads; i++) {
        uint8_t *head = s->cache + i * layout.head_bytes;
        uint8_t *scales = head + layout.k_bytes + layout.v_bytes;
        s->kv[i].k = head;
        s->kv[i].v = head + layout.k_bytes;
        if (layout.scale_bytes) {
            s->kv[i].k_scale = (float *)(void *)scales;
            s->kv[i].v_scale = (float *)(void *)(scales + layout.scale_bytes);
        }
    }
    return AK42_STATUS_OK;
}

/* ---- life ---- */

ak42_status session_new(ak42_session **out, ak42_model *model, const ak42_session_opts *opts, ak42_error *err) {
    const model_config *c = &model->config;
    if (opts->n_ctx < 0 || opts->n_ctx > N_CTX_MAX)
        return error_set(err, AK42_STATUS_ARG, "n_ctx: expected 0 to %d, found %d", N_CTX_MAX, opts->n_ctx);
    if ((int)opts->kv_type < 0 || (int)opts->kv_type >= KV_TYPES)
        return error_set(err, AK42_STATUS_ARG, "kv_type: expected 0 to %d, found %d", KV_TYPES - 1, (int)opts->kv_type);
    ak42_session *s = mem_zalloc(&model->alloc, 1, sizeof *s);
    ak42_status status = AK42_STATUS_NOMEM;
    if (!s) goto no_memory;
    atomic_flag_clear(&s->busy);
    s->model = ak42_model_retain(model);
    s->n_ctx = opts->n_ctx ? (uint32_t)opts->n_ctx : c->trained_ctx < N_CTX_DEFAULT ? c->trained_ctx : N_CTX_DEFAULT;
    s->kv_type = opts->kv_type ? opts->kv_type : model->info.kv_type;
    s->cancel = opts->cancel ? opts->cancel : model->opts.cancel;
    s->cancel_user = opts->cancel ? opts->cancel_user : model->opts.cancel_user;
    s->tokens = mem_zalloc(&model->alloc, s->n_ctx, sizeof *s->tokens);
    s->positions = mem_zalloc(&model->alloc, s->n_ctx, sizeof *s->positions);
    s->kv = mem_zalloc(&model->alloc, (uint64_t)c->n_layers * c->n_kv_heads, sizeof *s->kv);
    s->scratch = mem_zalloc(&model->alloc, 1, sampler_scratch_bytes(c->vocab_size));
    s->inv_freq = mem_zalloc(&model->alloc, LAYER_ROPE_COUNT * (c->rotary_dim / 2), sizeof *s->inv_freq);
    if (!s->tokens || !s->positions || !s->kv || !s->scratch || !s->inv_freq) goto no_memory;
    rope_frequencies(s->inv_freq, model, s->n_ctx);
    if ((status = cache_new(s, err))) goto fail;
    *out = s;
    return AK42_STATUS_OK;

no_memory:
    error_set(err, status, "%s: memory for a session of %d tokens could not be had", model->file.name, (int)(s ? s->n_ctx : 0));
fail:
    session_free(s);
    return status;
}

void session_free(ak42_session *s) {
    if (!s) return;
    ak42_model *model = s->model;
    const allocator alloc = model->alloc;
    page_free(s->cache, s->cache_bytes);
    page_free(s->logits, s->logits_bytes);
    mem_free(&alloc, s->tokens);
    mem_free(&alloc, s->positions);
    mem_free(&alloc, s->kv);
    mem_free(&alloc, s->inv_freq);
    mem_free(&alloc, s->scratch);
    mem_free(&alloc, s);
    ak42_model_close(model);
}

/* ---- evaluation ---- */

/* Everything about the tokens is checked before anything is computed. */
static ak42_status check_tokens(ak42_session *const *sessions, size_t n_sessions, const int32_t *tokens, const size_t *n_tokens,
                                const int32_t *positions, ak42_error *err) {
    size_t at = 0;
    for (size_t i = 0; i < n_sessions; i++) {
        const ak42_session *s = sessions[i];
        const uint32_t vocab_size = s->model->config.vocab_size;
        if (!n_tokens[i]) return error_set(err, AK42_STATUS_ARG, "%s: nothing to evaluate: no tokens", s->model->file.name);
        if (n_tokens[i] > s->n_ctx - s->n_tokens)
            return error_set(err, AK42_STATUS_RANGE, "%s: context exceeded: %zu tokens follow %u, but n_ctx is %u; open a session "
                             "with a larger n_ctx", s->model->file.name, n_tokens[i], s->n_tokens, s->n_ctx);
        int32_t last = s->n_tokens ? s->positions[s->n_tokens - 1] : -1;
        for (size_t j = 0; j < n_tokens[i]; j++, at++) {
            if (tokens[at] < 0 || (uint32_t)tokens[at] >= vocab_size)
                return error_set(err, AK42_STATUS_ARG, "%s: token id out of range: expected 0 to %u, found %d (token %zu)",
                                 s->model->file.name, vocab_size - 1, tokens[at], j);
            if (positions && positions[at] <= last)
                return error_set(err, AK42_STATUS_ARG, "%s: positions must ascend: expected more than %d, found %d (token %zu)",
                                 s->model->file.name, last, positions[at], j);
            if (!positions && last == INT32_MAX)
                return error_set(err, AK42_STATUS_RANGE, "%s: no rotary position follows %d", s->model->file.name, last);
            last = positions ? positions[at] : last + 1;
        }
    }
    return AK42_STATUS_OK;
}

/* Room for rows of logits, kept for the next call. */
static ak42_status logits_reserve(ak42_session *s, size_t rows, ak42_error *err) {
    uint64_t bytes;
    if (!mul_u64(&bytes, rows, s->model->config.vocab_size * sizeof(float)) || bytes > SIZE_MAX / 2) bytes = 0;
    if (bytes && bytes <= s->logits_bytes) return AK42_STATUS_OK;
    float *logits = bytes ? page_alloc(bytes) : NULL;
    if (!logits) return error_set(err, AK42_STATUS_NOMEM, "%s: memory for %zu rows of logits could not be had", s->model->file.name, rows);
    page_free(s->logits, s->logits_bytes);
    s->logits = logits;
    s->logits_bytes = bytes;
    return AK42_STATUS_OK;
}

/* The rows of a pass, on the heap of the call. */
typedef struct rows {
    int32_t *tokens, *positions;
    uint32_t *slots;
    ak42_session **sessions;
    float **logits;
    uint32_t n, max;
} rows;

static ak42_status rows_new(rows *r, uint32_t max, const ak42_model *model, ak42_error *err) {
    uint8_t *memory = mem_zalloc(&model->alloc, max, sizeof(ak42_session *) + sizeof(float *) + 3 * sizeof(int32_t));
    if (!memory) return error_set(err, AK42_STATUS_NOMEM, "memory for a pass of %u rows could not be had", max);
    r->sessions = (ak42_session **)(void *)memory;
    r->logits = (float **)(void *)(r->sessions + max);
    r->tokens = (int32_t *)(void *)(r->logits + max);
    r->positions = r->tokens + max;
    r->slots = (uint32_t *)(void *)(r->positions + max);
    r->max = max;
    r->n = 0;
    return AK42_STATUS_OK;
}

static ak42_status rows_run(rows *r, ak42_error *err) {
    if (!r->n) return AK42_STATUS_OK;
    const ak42_session *first = r->sessions[0];
    const batch b = {.n_rows = r->n, .tokens = r->tokens, .slots = r->slots, .positions = r->positions,
                     .sessions = r->sessions, .logits = r->logits};
    const pass_result result = workspace_run(first->model->workspace, &b, first->cancel, first->cancel_user);
    const uint32_t n = r->n;
    r->n = 0;
    if (result.cancelled) return error_set(err, AK42_STATUS_CANCELLED, "%s: cancelled", first->model->file.name);
    if (result.nonfinite_row >= 0 && result.nonfinite_row < n)
        return error_set(err, AK42_STATUS_RANGE, "%s: non-finite logits at position %u: the weights hold NaN or infinity, or overflow",
                         first->model->file.name, r->slots[result.nonfinite_row]);
    return AK42_STATUS_OK;
}

ak42_status session_eval(ak42_session *const *sessions, size_t n_sessions, const int32_t *tokens, const size_t *n_tokens,
                         const int32_t *positions, uint32_t flags, ak42_error *err) {
    ak42_model *model = sessions[0]->model;
    rows r = {0};
    ak42_status status = check_tokens(sessions, n_sessions, tokens, n_tokens, positions, err);
    for (size_t i = 0; i < n_sessions && !status && !(flags & AK42_EVAL_NO_LOGITS); i++)
        status = logits_reserve(sessions[i], flags & AK42_EVAL_ALL_LOGITS ? n_tokens[i] : 1, err);
    if (status) return status;
    size_t total = 0;
    for (size_t i = 0; i < n_sessions; i++) total += n_tokens[i];
    const uint32_t max = workspace_max_rows(model->workspace);
    if ((status = rows_new(&r, total < max ? (uint32_t)total : max, model, err))) return status;

    size_t at = 0;
    for (size_t i = 0; i < n_sessions && !status; i++) {
        ak42_session *s = sessions[i];
        s->n_logits = 0;
        for (size_t j = 0; j < n_tokens[i] && !status; j++, at++) {
            const uint32_t slot = s->n_tokens + (uint32_t)j;
            const bool wanted = flags & AK42_EVAL_ALL_LOGITS || (j + 1 == n_tokens[i] && !(flags & AK42_EVAL_NO_LOGITS));
            const size_t logits_row = flags & AK42_EVAL_ALL_LOGITS ? j : 0;
            s->tokens[slot] = tokens[at];
            s->positions[slot] = positions ? positions[at] : slot ? s->positions[slot - 1] + 1 : 0;
            r.tokens[r.n] = tokens[at];
            r.positions[r.n] = s->positions[slot];
            r.slots[r.n] = slot;
            r.sessions[r.n] = s;
            r.logits[r.n] = wanted ? s->logits + logits_row * model->config.vocab_size : NULL;
            if (++r.n == r.max) status = rows_run(&r, err);
        }
    }
    if (!status) status = rows_run(&r, err);
    for (size_t i = 0; i < n_sessions && !status; i++) {
        sessions[i]->n_tokens += (uint32_t)n_tokens[i];
        if (!(flags & AK42_EVAL_NO_LOGITS)) sessions[i]->n_logits = flags & AK42_EVAL_ALL_LOGITS ? n_tokens[i] : 1;
    }
    mem_free(&model->alloc, r.sessions);
    return status;
}

/* ---- save and load ---- */

/* A blob: 64 bytes of header (the count of tokens at byte 32), tokens, positions, then each (layer, head) cut to the positions held. K is stored in whole groups of
 * KV_BLOCK positions, as in the cache. */
enum { BLOB_MAGIC = 0x53343261, BLOB_VERSION = 3, BLOB_HEADER = 64 };

typedef struct blob_parts {
    uint64_t k, v, scale, size;
} blob_parts;

static bool blob_parts_of(blob_parts *p, const ak42_session *s, uint32_t n_tokens) {
    const model_config *c = &s->model->config;
    kv_layout used, one;
    if (!kv_layout_of(&used, s->kv_type, n_tokens ? n_tokens : 1, c->head_dim) || !kv_layout_of(&one, s->kv_type, KV_BLOCK, c->head_dim))
        return false;
    p->k = n_tokens ? used.k_bytes : 0;
    p->v = n_tokens ? used.v_bytes : 0;
    p->scale = n_tokens ? used.scale_bytes : 0;
    uint64_t heads;
    if (!mul_u64(&heads, (uint64_t)c->n_layers * c->n_kv_heads, p->k + p->v + 2 * p->scale)) return false;
    return add_u64(&p->size, heads, BLOB_HEADER + 8ull * n_tokens);
}

static void store_u32(uint8_t *p, uint32_t value) {
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(value >> 8 * i);
}

/* Where a model scales its rope by the length of the context, keys of another context's frequencies are of no use. */
static uint32_t rope_mark(const ak42_session *s) {
    const model_config *c = &s->model->config;
    if (c->rope_scaling != ROPE_SCALING_DYNAMIC && c->rope_scaling != ROPE_SCALING_LONGROPE) return 0;
    return crc32c(0, s->inv_freq, c->rotary_dim / 2 * sizeof *s->inv_freq);
}

/* Of a matrix that no checksum speaks for, so many panels are looked at, from the first to the last: the beginning or the end of
 * each, long enough for whole blocks with their scales. */
enum { SAMPLE_PANELS = 4, SAMPLE_BYTES = 4096 };

static uint32_t matrix_sample(uint32_t crc, const matrix *m) {
    if (!m->panels) return crc;
    const uint64_t size = m->panel_bytes < SAMPLE_BYTES ? m->panel_bytes : SAMPLE_BYTES;
    for (uint64_t i = 0; i < SAMPLE_PANELS; i++) {
        const uint64_t panel = (m->n_panels - 1) * i / (SAMPLE_PANELS - 1);
        crc = crc32c(crc, m->panels + panel * m->panel_bytes + (i % 2 ? m->panel_bytes - size : 0), (size_t)size);
    }
    return crc;
}

/* Tells models of one shape apart: by what the file says of its weights, else by all norms and biases and a part of every matrix, as
 * the kernels read them. Never reads the whole model. */
static uint32_t fingerprint(const ak42_model *model) {
    const model_config *c = &model->config;
    const float numbers[] = {c->rope_theta, c->rope_theta_local, c->rope_factor, c->rope_low_freq, c->rope_high_freq, c->rope_attn_factor,
                             c->norm_eps, c->attn_softcap, c->embedding_scale, c->residual_scale, c->attention_scale};
    uint32_t crc = crc32c(0, numbers, sizeof numbers);
    if (model->file.has_weights_crc) return crc32c(crc, &model->file.weights_crc, sizeof model->file.weights_crc);
    crc = crc32c(crc, model->vectors, (size_t)model->vectors_bytes);
    crc = matrix_sample(matrix_sample(crc, &model->embedding), &model->head);
    for (uint32_t i = 0; i < c->n_layers; i++) {
        const layer *l = &model->layers[i];
        const matrix *const all[] = {&l->wq, &l->wk, &l->wv, &l->wo, &l->w1, &l->w2, &l->w3, &l->router};
        for (size_t j = 0; j < ARRAY_LEN(all); j++) crc = matrix_sample(crc, all[j]);
        for (uint32_t j = 0; l->experts && j < c->n_experts; j++)
            crc = matrix_sample(matrix_sample(matrix_sample(crc, &l->experts[j].w1), &l->experts[j].w2), &l->experts[j].w3);
    }
    return crc;
}

/* What a blob must agree on with the session that loads it. */
static void blob_header(uint8_t *header, const ak42_session *s, uint32_t n_tokens) {
    const model_config *c = &s->model->config;
    const uint32_t fields[] = {BLOB_MAGIC, BLOB_VERSION, (uint32_t)s->kv_type, c->n_layers, c->n_kv_heads, c->head_dim,
                               c->vocab_size, c->dim, n_tokens, fingerprint(s->model), rope_mark(s)};
    memset(header, 0, BLOB_HEADER);
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) store_u32(header + 4 * i, fields[i]);
}

/* Copies the parts of each head between the cache and a blob. */
static void blob_copy(ak42_session *s, const blob_parts *p, uint8_t *blob, const uint8_t *from) {
    const uint64_t heads = (uint64_t)s->model->config.n_layers * s->model->config.n_kv_heads;
    for (uint64_t i = 0; i < heads; i++) {
        uint8_t *const parts[] = {s->kv[i].k, s->kv[i].v, (uint8_t *)s->kv[i].k_scale, (uint8_t *)s->kv[i].v_scale};
        const uint64_t sizes[] = {p->k, p->v, p->scale, p->scale};
        for (size_t j = 0; j < ARRAY_LEN(parts); j++) {
            if (!sizes[j]) continue;
            if (from) memcpy(parts[j], from, sizes[j]), from += sizes[j];
            else memcpy(blob, parts[j], sizes[j]), blob += sizes[j];
        }
    }
}

ak42_status session_save(const ak42_session *s, void *blob, size_t size_max, size_t *size, ak42_error *err) {
    blob_parts p;
    if (!blob_parts_of(&p, s, s->n_tokens) || p.size + 8 > SIZE_MAX)
        return error_set(err, AK42_STATUS_NOMEM, "session: too large to save");
    *size = (size_t)p.size + 4;
    if (!blob || size_max < *size)
        return error_set(err, AK42_STATUS_RANGE, "session: expected room for %zu bytes, found %zu", *size, blob ? size_max : 0);
    uint8_t *out = blob;
    blob_header(out, s, s->n_tokens);
    for (uint32_t i = 0; i < s->n_tokens; i++) {
        store_u32(out + BLOB_HEADER + 4ull * i, (uint32_t)s->tokens[i]);
        store_u32(out + BLOB_HEADER + 4ull * (s->n_tokens + i), (uint32_t)s->positions[i]);
    }
    blob_copy((ak42_session *)(uintptr_t)s, &p, out + BLOB_HEADER + 8ull * s->n_tokens, NULL);
    store_u32(out + p.size, crc32c(0, out, (size_t)p.size));
    return AK42_STATUS_OK;
}

ak42_status session_load(ak42_session *s, const void *blob, size_t size, ak42_error *err) {
    const uint8_t *in = blob;
    uint8_t expected[BLOB_HEADER];
    blob_parts p;
    if (size < BLOB_HEADER + 4) return error_set(err, AK42_STATUS_FORMAT, "session blob: expected at least %d bytes, found %zu",
                                                 BLOB_HEADER + 4, size);
    const uint32_t n_tokens = load_u32(in + 32);
    if (n_tokens > s->n_ctx)
        return error_set(err, AK42_STATUS_FORMAT, "session blob: holds %u tokens, but n_ctx is %u", n_tokens, s->n_ctx);
    blob_header(expected, s, n_tokens);
    if (memcmp(in, expected, BLOB_HEADER))
        return error_set(err, AK42_STATUS_FORMAT, "session blob: not of this model, kv_type and library");
    if (!blob_parts_of(&p, s, n_tokens) || p.size + 4 != size)
        return error_set(err, AK42_STATUS_FORMAT, "session blob: expected %llu bytes, found %zu", (unsigned long long)p.size + 4, size);
    if (load_u32(in + p.size) != crc32c(0, in, (size_t)p.size)) return error_set(err, AK42_STATUS_FORMAT, "session blob: damaged (crc32c)");
    const uint8_t *tokens = in + BLOB_HEADER, *positions = tokens + 4ull * n_tokens;
    for (uint32_t i = 0; i < n_tokens; i++) {
        const int32_t token = load_i32(tokens + 4ull * i), position = load_i32(positions + 4ull * i);
        const int32_t before = i ? load_i32(positions + 4ull * (i - 1)) : -1;
        if (token < 0 || (uint32_t)token >= s->model->config.vocab_size || position <= before)
            return error_set(err, AK42_STATUS_FORMAT, "session blob: token %u: expected an id below %u at a position above %d, found "
                             "%d at %d", i, s->model->config.vocab_size, before, token, position);
    }
    for (uint32_t i = 0; i < n_tokens; i++) {
        s->tokens[i] = load_i32(tokens + 4ull * i);
        s->positions[i] = load_i32(positions + 4ull * i);
    }
    blob_copy(s, &p, NULL, positions + 4ull * n_tokens);
    s->n_tokens = n_tokens;
    s->n_logits = 0;
    return AK42_STATUS_OK;
}

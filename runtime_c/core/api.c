/* api.c: the public functions of ak42.h. Each checks every argument, then calls the core, which trusts it. */
#include <stdio.h>

#include "../cpu/measure.h"
#include "error.h"
#include "quant.h"
#include "sampler.h"
#include "session.h"

#ifndef AK42_VERSION
#error "AK42_VERSION is given by the build"
#endif

/* ---- the library ---- */

int32_t ak42_abi(void) { return AK42_ABI; }

const char *ak42_version(void) { return AK42_VERSION; }

const char *ak42_status_name(ak42_status status) {
    switch (status) {
    case AK42_STATUS_OK: return "OK";
    case AK42_STATUS_ARG: return "ARG";
    case AK42_STATUS_BUSY: return "BUSY";
    case AK42_STATUS_FORMAT: return "FORMAT";
    case AK42_STATUS_UNSUPPORTED: return "UNSUPPORTED";
    case AK42_STATUS_IO: return "IO";
    case AK42_STATUS_NOMEM: return "NOMEM";
    case AK42_STATUS_RANGE: return "RANGE";
    case AK42_STATUS_CANCELLED: return "CANCELLED";
    case AK42_STATUS_DEVICE: return "DEVICE";
    }
    return "UNKNOWN";
}

/* Options of a caller built against an older or newer header: what it knows is copied, the rest is default. */
static ak42_status options_copy(void *out, size_t known, const void *in, const char *name, ak42_error *err) {
    size_t size;
    memcpy(&size, in, sizeof size);
    if (size < sizeof size || size > 4096)
        return error_set(err, AK42_STATUS_ARG, "%s: struct_size is %zu; fill it with its _init function", name, size);
    memcpy(out, in, size < known ? size : known);
    memcpy(out, &known, sizeof known);
    return AK42_STATUS_OK;
}

#define CHECK_NOT_NULL(pointer) \
    do { \
        if (!(pointer)) return error_set(err, AK42_STATUS_ARG, "%s: %s is NULL", __func__, #pointer); \
    } while (0)

/* ---- models ---- */

void ak42_model_opts_init(ak42_model_opts *opts) {
    if (opts) *opts = (ak42_model_opts){.struct_size = sizeof *opts};
}

static ak42_status open_checked(ak42_model **out, const char *path, const void *data, size_t size, const ak42_model_opts *given,
                                ak42_error *err) {
    ak42_model_opts opts;
    ak42_model *model = NULL;
    ak42_model_opts_init(&opts);
    ak42_status status = given ? options_copy(&opts, sizeof opts, given, "model options", err) : AK42_STATUS_OK;
    if (status) return status;
    if (opts.n_threads < 0 || opts.n_threads > 1024)
        return error_set(err, AK42_STATUS_ARG, "n_threads: expected 0 to 1024, found %d", opts.n_threads);
    if ((int)opts.use_mmap < 0 || opts.use_mmap > AK42_MMAP_NO)
        return error_set(err, AK42_STATUS_ARG, "use_mmap: expected 0 to 2, found %d", (int)opts.use_mmap);
    if ((int)opts.kv_type < 0 || opts.kv_type > AK42_KV_TYPE_INT8)
        return error_set(err, AK42_STATUS_ARG, "kv_type: expected 0 to 4, found %d", (int)opts.kv_type);
    if (opts.device && strcmp(opts.device, "auto") && strcmp(opts.device, "cpu")) {
        const bool cuda = !strncmp(opts.device, "cuda", 4);
        return error_set(err, cuda ? AK42_STATUS_DEVICE : AK42_STATUS_ARG, "device: expected auto or cpu, found %s%s", opts.device,
                         cuda ? ": this library has no CUDA device" : "");
    }
    if ((status = model_open(&model, path, data, size, &opts, err))) return status;
    if ((status = workspace_new(&model->workspace, model, err))) {
        ak42_model_close(model);
        return status;
    }
    *out = model;
    return AK42_STATUS_OK;
}

ak42_status ak42_model_open(ak42_model **model, const char *path, const ak42_model_opts *opts, ak42_error *err) {
    error_clear(err);
    CHECK_NOT_NULL(model);
    *model = NULL;
    CHECK_NOT_NULL(path);
    return open_checked(model, path, NULL, 0, opts, err);
}

ak42_status ak42_model_open_memory(ak42_model **model, const void *data, size_t size, const char *name,
                                   const ak42_model_opts *opts, ak42_error *err) {
    error_clear(err);
    CHECK_NOT_NULL(model);
    *model = NULL;
    CHECK_NOT_NULL(data);
    return open_checked(model, name ? name : "memory", data, size, opts, err);
}

ak42_model *ak42_model_retain(ak42_model *model) {
    if (model) atomic_fetch_add_explicit(&model->owners, 1, memory_order_relaxed);
    return model;
}

void ak42_model_close(ak42_model *model) {
    if (!model || atomic_fetch_sub_explicit(&model->owners, 1, memory_order_acq_rel) > 1) return;
    workspace_free(model->workspace);
    model->workspace = NULL;
    model_free(model);
}

/* The caller's struct may be shorter or longer than ours; struct_size stays his. */
static ak42_status info_copy(void *out, const void *info, size_t known, const char *name, ak42_error *err) {
    size_t size;
    memcpy(&size, out, sizeof size);
    if (size < sizeof size || size > 4096)
        return error_set(err, AK42_STATUS_ARG, "%s: expected struct_size to be set, found %zu", name, size);
    memcpy(out, info, size < known ? size : known);
    memcpy(out, &size, sizeof size);
    return AK42_STATUS_OK;
}

ak42_status ak42_model_get_info(const ak42_model *model, ak42_model_info *info, ak42_error *err) {
    error_clear(err);
    CHECK_NOT_NULL(model);
    CHECK_NOT_NULL(info);
    return info_copy(info, &model->info, sizeof *info, "model info", err);
}

const void *ak42_model_metadata(const ak42_model *model, const char *tag, size_t *size) {
    static const char tags[SECTION_COUNT][5] = {
        [SECTION_TOKN] = "TOKN", [SECTION_CONF] = "CONF", [SECTION_GENC] = "GENC", [SECTION_TMPL] = "TMPL",
        [SECTION_CHAT] = "CHAT", [SECTION_LAYR] = "LAYR", [SECTION_MANI] = "MANI"};
    if (size) *size = 0;
    if (!model || !tag) return NULL;
    for (int i = 0; i < SECTION_COUNT; i++) {
        if (strcmp(tag, tags[i])) continue;
        if (size) *size = (size_t)model->file.sections[i].size;
        return model->file.sections[i].data;
    }
    return NULL;
}

/* ---- tokenizers ---- */

static ak42_status tokenizer_open_path(ak42_tokenizer **out, const char *path, const allocator *alloc, ak42_error *err) {
    container file = {.alloc = alloc, .path = path};
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    snprintf(file.name, sizeof file.name, "%s", base);
    ak42_status status = filemap_open(&file.map, path, true, err);
    if (status) return status;
    ak42_error parse_error;
    status = container_parse(&file, CONTAINER_VOCAB, &parse_error);
    const blob *tokn = &file.sections[SECTION_TOKN];
    if (!status && tokn->data) status = tokenizer_from_tokn(out, tokn->data, tokn->size, file.name, alloc, err);
    else if (!status && file.has_vocab) status = tokenizer_from_gguf(out, &file.vocab, file.name, alloc, err);
    else if (!status) status = error_set(err, AK42_STATUS_FORMAT, "%s: expected a vocabulary, found a model without one", file.name);
    else if (status == AK42_STATUS_UNSUPPORTED || file.map.size < 4 || !memcmp(file.map.data, "GGUF", 4) || !memcmp(file.map.data, "24ka", 4))
        status = error_set(err, status, "%s", parse_error.text);
    else status = tokenizer_from_bin(out, file.map.data, file.map.size, file.name, alloc, err);
    if (!status || file.tensors) container_free(&file);
    filemap_close(&file.map);
    return status;
}

ak42_status ak42_tokenizer_open(ak42_tokenizer **tokenizer, const char *path, const void *tokn, size_t size, ak42_error *err) {
    error_clear(err);
    CHECK_NOT_NULL(tokenizer);
    *tokenizer = NULL;
    allocator alloc;
    allocator_init(&alloc, NULL, NULL);
    if (path) return tokenizer_open_path(tokenizer, path, &alloc, err);
    CHECK_NOT_NULL(tokn);
    return tokenizer_from_tokn(tokenizer, tokn, size, "TOKN", &alloc, err);
}

void ak42_tokenizer_close(ak42_tokenizer *tokenizer) { tokenizer_free(tokenizer); }

ak42_status ak42_tokenizer_get_info(const ak42_tokenizer *tokenizer, ak42_tokenizer_info *info, ak42_error *err) {
    error_clear(err);
    CHECK_NOT_NULL(tokenizer);
    CHECK_NOT_NULL(info);
    ak42_tokenizer_info found = {.vocab_size = (int32_t)tokenizer_vocab_size(tokenizer), .bos_id = tokenizer_bos(tokenizer),
                                 .eos_ids = {-1, -1, -1, -1}, .add_bos = tokenizer_adds_bos(tokenizer)};
    found.n_eos = tokenizer_eos(tokenizer, found.eos_ids);
    return info_copy(info, &found, sizeof found, "tokenizer info", err);
}

const ak42_tokenizer *ak42_model_tokenizer(const ak42_model *model) { return model ? model->tokenizer : NULL; }

ak42_status ak42_encode(const ak42_tokenizer *tokenizer, const char *text, size_t size, uint32_t flags,
                        int32_t *ids, size_t n_max, size_t *n_ids, ak42_error *err) {
    error_clear(err);
    CHECK_NOT_NULL(tokenizer);
    CHECK_NOT_NULL(n_ids);
    if (size) CHECK_NOT_NULL(text);
    if (n_max) CHECK_NOT_NULL(ids);
    if (flags & ~15u || (flags & AK42_ENCODE_BOS && flags & AK42_ENCODE_NO_BOS))
        return error_set(err, AK42_STATUS_ARG, "ak42_encode: flags 0x%x do not go together", flags);
    return tokenizer_encode(tokenizer, text, size, flags, ids, n_max, n_ids, err);
}

ak42_status ak42_decode(const ak42_tokenizer *tokenizer, const int32_t *ids, size_t n_ids, uint32_t flags,
                        char *text, size_t size_max, size_t *size, ak42_error *err) {
    error_clear(err);
    CHECK_NOT_NULL(tokenizer);
    CHECK_NOT_NULL(size);
    if (n_ids) CHECK_NOT_NULL(ids);
    if (size_max) CHECK_NOT_NULL(text);
    if (flags & ~48u) return error_set(err, AK42_STATUS_ARG, "ak42_decode: unknown flags 0x%x", flags);
    return tokenizer_decode(tokenizer, ids, n_ids, flags, text, size_max, size, err);
}

/* ---- sessions ---- */

void ak42_session_opts_init(ak42_session_opts *opts) {
    if (opts) *opts = (ak42_session_opts){.struct_size = sizeof *opts};
}

ak42_status ak42_session_new(ak42_session **session, ak42_model *model, const ak42_session_opts *given, ak42_error *err) {
    error_clear(err);
    CHECK_NOT_NULL(session);
    *session = NULL;
    CHECK_NOT_NULL(model);
    ak42_session_opts opts;
    ak42_session_opts_init(&opts);
    const ak42_status status = given ? options_copy(&opts, sizeof opts, given, "session options", err) : AK42_STATUS_OK;
    return status ? status : session_new(session, model, &opts, err);
}

void ak42_session_close(ak42_session *session) { session_free(session); }

/* Sessions are used by one thread at a time: a second one is told so. */
static ak42_status session_enter(const ak42_session *session, ak42_error *err) {
    if (atomic_flag_test_and_set_explicit(&((ak42_session *)(uintptr_t)session)->busy, memory_order_acquire))
        return error_set(err, AK42_STATUS_BUSY, "%s: the session is in use by another thread", session->model->file.name);
    return AK42_STATUS_OK;
}

static void session_leave(const ak42_session *session) {
    atomic_flag_clear_explicit(&((ak42_session *)(uintptr_t)session)->busy, memory_order_release);
}

static ak42_status check_eval_flags(uint32_t flags, ak42_error *err) {
    if (flags & ~3u || flags == (AK42_EVAL_ALL_LOGITS | AK42_EVAL_NO_LOGITS))
        return error_set(err, AK42_STATUS_ARG, "eval: flags 0x%x do not go together", flags);
    return AK42_STATUS_OK;
}

ak42_status ak42_session_eval(ak42_session *session, const int32_t *tokens, size_t n_tokens, const int32_t *positions,
                              uint32_t flags, ak42_error *err) {
    error_clear(err);
    CHECK_NOT_NULL(session);
    if (n_tokens) CHECK_NOT_NULL(tokens);
    ak42_status status = check_eval_flags(flags, err);
    if (status || (status = session_enter(session, err))) return status;
    status = session_eval(&session, 1, tokens, &n_tokens, positions, flags, err);
    session_leave(session);
    return status;
}

ak42_status ak42_eval_batch(ak42_session *const *sessions, size_t n_sessions, const int32_t *tokens, const size_t *n_tokens,
                            uint32_t flags, ak42_error *err) {
    error_clear(err);
    CHECK_NOT_NULL(sessions);
    CHECK_NOT_NULL(tokens);
    CHECK_NOT_NULL(n_tokens);
    ak42_status status = check_eval_flags(flags, err);
    if (status) return status;
    if (!n_sessions) return error_set(err, AK42_STATUS_ARG, "ak42_eval_batch: no sessions");
    size_t entered = 0;
    for (; entered < n_sessions; entered++) {
        if (!sessions[entered] || sessions[entered]->model != sessions[0]->model) {
            status = error_set(err, AK42_STATUS_ARG, "ak42_eval_batch: session %zu is NULL or of another model", entered);
            break;
        }
        if ((status = session_enter(sessions[entered], err))) break;
    }
    if (!status) status = session_eval(sessions, n_sessions, tokens, n_tokens, NULL, flags, err);
    while (entered) session_leave(sessions[--entered]);
    return status;
}

const float *ak42_session_logits(const ak42_session *session, size_t *n_rows) {
    if (n_rows) *n_rows = session ? session->n_logits : 0;
    return session && session->n_logits ? session->logits : NULL;
}

ak42_status ak42_session_truncate(ak42_session *session, size_t n_tokens, ak42_error *err) {
    error_clear(err);
    CHECK_NOT_NULL(session);
    ak42_status status = session_enter(session, err);
    if (status) return status;
    if (n_tokens > session->n_tokens) {
        status = error_set(err, AK42_STATUS_ARG, "truncate: expected at most the %u tokens held, found %zu", session->n_tokens, n_tokens);
    } else {
        session->n_tokens = (uint32_t)n_tokens;
        session->n_logits = 0;
    }
    session_leave(session);
    return status;
}

size_t ak42_session_position(const ak42_session *session) { return session ? session->n_tokens : 0; }

ak42_status ak42_session_save(const ak42_session *session, void *blob, size_t size_max, size_t *size, ak42_error *err) {
    error_clear(err);
    CHECK_NOT_NULL(session);
    CHECK_NOT_NULL(size);
    ak42_status status = session_enter(session, err);
    if (status) return status;
    status = session_save(session, blob, size_max, size, err);
    session_leave(session);
    return status;
}

ak42_status ak42_session_load(ak42_session *session, const void *blob, size_t size, ak42_error *err) {
    error_clear(err);
    CHECK_NOT_NULL(session);
    CHECK_NOT_NULL(blob);
    ak42_status status = session_enter(session, err);
    if (status) return status;
    status = session_load(session, blob, size, err);
    session_leave(session);
    return status;
}

/* ---- sampling ---- */

void ak42_sampler_opts_init(ak42_sampler_opts *opts) {
    if (opts) *opts = (ak42_sampler_opts){.struct_size = sizeof *opts, .temperature = 0.8f, .top_k = 40, .top_p = 0.95f,
                                          .repetition_penalty = 1.0f};
}

ak42_status ak42_session_sample(const ak42_session *session, const ak42_sampler_opts *given, uint64_t *rng, int32_t *token,
                                ak42_error *err) {
    error_clear(err);
    CHECK_NOT_NULL(session);
    CHECK_NOT_NULL(rng);
    CHECK_NOT_NULL(token);
    ak42_sampler_opts opts;
    ak42_sampler_opts_init(&opts);
    ak42_status status = given ? options_copy(&opts, sizeof opts, given, "sampler options", err) : AK42_STATUS_OK;
    if (status || (status = sampler_check(&opts, err)) || (status = session_enter(session, err))) return status;
    if (session->n_logits) {
        const uint32_t n = session->model->config.vocab_size;
        const sampler_input input = {session->logits + (session->n_logits - 1) * n, n, session->tokens, session->n_tokens,
                                     session->scratch};
        *token = sampler_sample(&input, &opts, rng);
    } else {
        status = error_set(err, AK42_STATUS_ARG, "sample: the session has no logits; evaluate something first");
    }
    session_leave(session);
    return status;
}

/* ---- tools ---- */

/* Rows cut over threads for encoding and decoding. */
typedef struct quant_job {
    const type_info *type;
    uint32_t group_size;
    size_t rows, columns, row_bytes;
    const float *floats_in;
    float *floats_out;
    const uint8_t *blocks_in;
    uint8_t *blocks_out;
    kernel_encode *search;         /* of types whose scales are searched for; else NULL */
} quant_job;

enum { QUANT_CHUNKS = 64 };

static void quant_run(void *argument, team *team) {
    const quant_job *job = argument;
    const size_t numel = job->rows * job->columns;
    for (uint32_t chunk; (chunk = team_next(team, QUANT_CHUNKS)) < QUANT_CHUNKS;) {
        const size_t begin = job->rows * chunk / QUANT_CHUNKS, end = job->rows * (chunk + 1) / QUANT_CHUNKS;
        const size_t at = begin * job->columns, n = (end - begin) * job->columns;
        if (!n) continue;
        if (job->type->id == TYPE_INT8 && job->blocks_out)
            quant_encode_int8((int8_t *)job->blocks_out + at, job->blocks_out + numel + at / job->group_size * sizeof(float),
                              job->floats_in + at, job->group_size, n);
        else if (job->type->id == TYPE_INT8)
            quant_decode_int8(job->floats_out + at, (const int8_t *)job->blocks_in + at,
                              job->blocks_in + numel + at / job->group_size * sizeof(float), job->group_size, n);
        else if (job->type->id == TYPE_NF4_DQ)
            quant_decode_nf4_dq(job->floats_out + at, job->blocks_in + at / NF4_BLOCK * job->type->block_bytes,
                                job->blocks_in + numel / NF4_BLOCK * job->type->block_bytes, at / NF4_BLOCK, n);
        else if (job->search) job->search(job->type, job->blocks_out + begin * job->row_bytes, job->floats_in + at, n);
        else if (job->blocks_out) quant_encode(job->type, job->blocks_out + begin * job->row_bytes, job->floats_in + at, n);
        else quant_decode(job->type, job->floats_out + at, job->blocks_in + begin * job->row_bytes, n);
    }
}

static ak42_status quant_check(quant_job *job, uint32_t type, size_t bytes, int32_t n_threads, ak42_error *err) {
    uint64_t expected;
    job->type = type_by_id(type);
    if (!job->type) return error_set(err, AK42_STATUS_ARG, "type: expected a known type id, found %u", type);
    if (n_threads < 0 || n_threads > 1024)
        return error_set(err, AK42_STATUS_ARG, "n_threads: expected 0 to 1024, found %d", n_threads);
    if (!type_bytes(&expected, job->type, job->group_size, LAYOUT_ROWS, job->rows, job->columns))
        return error_set(err, AK42_STATUS_ARG, "%s: blocks do not divide rows of %zu", job->type->name, job->columns);
    if (expected != bytes)
        return error_set(err, AK42_STATUS_ARG, "%s: expected %llu bytes of blocks, found %zu", job->type->name,
                         (unsigned long long)expected, bytes);
    job->row_bytes = job->rows ? bytes / job->rows : 0;
    return AK42_STATUS_OK;
}

static ak42_status quant_start(quant_job *job, int32_t n_threads, ak42_error *err) {
    pool *pool;
    const ak42_status status = pool_new(&pool, n_threads ? (uint32_t)n_threads : threads_default(NULL, 0), err);
    if (status) return status;
    pool_run(pool, quant_run, job);
    pool_free(pool);
    return AK42_STATUS_OK;
}

ak42_status ak42_quantize(uint32_t type, uint32_t group_size, const float *src, size_t rows, size_t columns,
                          void *dst, size_t dst_bytes, int32_t n_threads, ak42_error *err) {
    error_clear(err);
    CHECK_NOT_NULL(src);
    CHECK_NOT_NULL(dst);
    quant_job job = {.group_size = group_size, .rows = rows, .columns = columns, .floats_in = src, .blocks_out = dst};
    const ak42_status status = quant_check(&job, type, dst_bytes, n_threads, err);
    if (status) return status;
    if (type != TYPE_INT8 && !quant_encode(job.type, dst, src, 0)) {
        kernel_table kernels;
        const ak42_status selected = kernels_select(&kernels, NULL, err);
        if (selected) return selected;
        if (!kernels.encode(job.type, dst, src, 0))
            return error_set(err, AK42_STATUS_ARG, "%s: cannot be written", job.type->name);
        job.search = kernels.encode;
    }
    return quant_start(&job, n_threads, err);
}

ak42_status ak42_dequantize(uint32_t type, uint32_t group_size, const void *src, size_t src_bytes, size_t rows, size_t columns,
                            float *dst, int32_t n_threads, ak42_error *err) {
    error_clear(err);
    CHECK_NOT_NULL(src);
    CHECK_NOT_NULL(dst);
    quant_job job = {.group_size = group_size, .rows = rows, .columns = columns, .blocks_in = src, .floats_out = dst};
    const ak42_status status = quant_check(&job, type, src_bytes, n_threads, err);
    return status ? status : quant_start(&job, n_threads, err);
}

uint32_t ak42_crc32c(uint32_t crc, const void *data, size_t size) { return data ? crc32c(crc, data, size) : crc; }

ak42_status ak42_measure(int32_t n_threads, const char *isa, ak42_measurement *out, ak42_error *err) {
    error_clear(err);
    CHECK_NOT_NULL(out);
    const size_t size = out->struct_size;
    if (size < sizeof size || size > 4096)
        return error_set(err, AK42_STATUS_ARG, "measurement: expected struct_size to be set, found %zu", size);
    if (n_threads < 0 || n_threads > 1024)
        return error_set(err, AK42_STATUS_ARG, "n_threads: expected 0 to 1024, found %d", n_threads);
    ak42_measurement m = {.struct_size = sizeof m};
    const ak42_status status = measure_machine(&m, (uint32_t)n_threads, isa, err);
    if (status) return status;
    memcpy(out, &m, size < sizeof m ? size : sizeof m);
    out->struct_size = size;
    return AK42_STATUS_OK;
}

/* model.c: from a file to a model that can be computed: the tensors of its config are found and
 * checked, norms and biases are copied, matrices are bound where they are mapped or handed to pack.c, and
 * the tokenizer and the description are made. Computing is forward.c's business. Called by
 * api.c, which has checked the arguments. */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>

#include "error.h"
#include "pack.h"
#include "roles.h"
#include "rope.h"

/* ---- are the right tensors there? ---- */

enum { LISTED_MAX = 3 };               /* names of a kind that a message lists */

/* Names joined by commas, the first few of many. */
typedef struct name_list {
    char text[LISTED_MAX * (TENSOR_NAME_MAX + 2) + 8];
    uint32_t n;
} name_list;

static void list_add(name_list *list, const char *name) {
    const size_t size = strlen(list->text);
    if (list->n < LISTED_MAX)
        snprintf(list->text + size, sizeof list->text - size, "%s%s", list->n ? ", " : " ", name);
    else if (list->n == LISTED_MAX)
        snprintf(list->text + size, sizeof list->text - size, ", ...");
    list->n++;
}

/* A vector has one row, a matrix is one expert. */
static role_dims tensor_shape(const tensor *t) {
    return (role_dims){t->n_dims > 2 ? t->dims[t->n_dims - 3] : 1, t->n_dims > 1 ? t->dims[t->n_dims - 2] : 1,
                       t->dims[t->n_dims - 1]};
}

static void shape_text(char *text, size_t size, role_dims dims) {
    const int n = dims.experts > 1 ? snprintf(text, size, "%llu x ", (unsigned long long)dims.experts) : 0;
    snprintf(text + n, size - (size_t)n, "%llu x %llu", (unsigned long long)dims.rows, (unsigned long long)dims.columns);
}

static ak42_status check_tensor(const ak42_model *model, const tensor *t, role role, ak42_error *err) {
    const char *file = model->file.name;
    const role_dims expected = role_shape(role, &model->config), found = tensor_shape(t);
    if (expected.experts != found.experts || expected.rows != found.rows || expected.columns != found.columns) {
        char texts[2][64];
        shape_text(texts[0], sizeof texts[0], expected);
        shape_text(texts[1], sizeof texts[1], found);
        return error_set(err, AK42_STATUS_FORMAT, "%s: tensor %s: expected %s, found %s", file, t->name, texts[0], texts[1]);
    }
    if (role_is_vector(role) && (t->type->id != TYPE_F32 || t->layout != LAYOUT_ROWS))
        return error_set(err, AK42_STATUS_UNSUPPORTED, "%s: tensor %s: expected f32 in rows, found %s%s; "
                         "convert it with pyllama convert", file, t->name, t->type->name,
                         t->layout == LAYOUT_ROWS ? "" : " panels");
    if (!role_is_vector(role) && kernel_type_row(t->type->id) < 0)
        return error_set(err, AK42_STATUS_UNSUPPORTED, "%s: tensor %s: expected a type that this library "
                         "computes, found %s; convert it with pyllama convert", file, t->name, t->type->name);
    return AK42_STATUS_OK;
}

/* Looks for every expected tensor; marks those found in seen (n_tensors). */
static ak42_status find_expected(const ak42_model *model, uint8_t *seen, name_list *missing,
                                 ak42_error *err) {
    const model_config *config = &model->config;
    char name[TENSOR_NAME_MAX + 1];
    for (int i = 0; i < ROLE_COUNT; i++) {
        const role role = (enum role)i;
        for (uint32_t l = 0; l < (role_per_layer(role) ? config->n_layers : 1); l++) {
            const role_presence presence = role_in(role, config, l);
            if (presence == ROLE_ABSENT) continue;
            role_name(name, role, l);
            const tensor *t = container_find(&model->file, name);
            if (t) {
                seen[t - model->file.tensors] = 1;
                const ak42_status status = check_tensor(model, t, role, err);
                if (status) return status;
            } else if (presence == ROLE_REQUIRED) {
                list_add(missing, name);
            }
        }
    }
    return AK42_STATUS_OK;
}

static ak42_status check_tensors(const ak42_model *model, ak42_error *err) {
    const container *c = &model->file;
    name_list missing = {0}, unexpected = {0};
    uint8_t *seen = mem_zalloc(&model->alloc, c->n_tensors, 1);
    if (!seen)
        return error_set(err, AK42_STATUS_NOMEM, "%s: no memory to check %u tensors", c->name, c->n_tensors);
    ak42_status status = find_expected(model, seen, &missing, err);
    for (uint32_t i = 0; i < c->n_tensors; i++)
        if (!seen[i]) list_add(&unexpected, c->tensors[i].name);
    if (!status && (missing.n || unexpected.n))
        status = error_set(err, AK42_STATUS_FORMAT, "%s: expected the tensors of a %s model with %u "
                           "layers, found %u missing%s%s and %u unexpected%s%s", c->name,
                           model->config.architecture, model->config.n_layers, missing.n, missing.n ? ":" : "", missing.text,
                           unexpected.n, unexpected.n ? ":" : "", unexpected.text);
    mem_free(&model->alloc, seen);
    return status;
}

/* ---- weights ---- */

/* The tensor of a role, which check_tensors has seen; NULL only for the optional ones. */
static const tensor *find_role(const ak42_model *model, role role, uint32_t layer) {
    char name[TENSOR_NAME_MAX + 1];
    role_name(name, role, layer);
    return container_find(&model->file, name);
}

typedef struct binding {
    ak42_model *model;
    pack_job *jobs;                /* (n_matrices) */
    tensor *views;                 /* one for each expert's matrix, (n_views) */
    uint32_t n_jobs, n_views;
    float *vector;                 /* where the next norm goes */
    expert *experts;               /* where the next layer's go */
    uint64_t n_weights[KERNEL_TYPES];
} binding;

static uint64_t vector_bytes(uint64_t columns) { return round_up(columns * sizeof(float), CACHE_LINE); }

/* NULL where the model has none. */
static const float *bind_vector(binding *b, role role, uint32_t layer) {
    if (role_in(role, &b->model->config, layer) == ROLE_ABSENT) return NULL;
    const tensor *t = find_role(b->model, role, layer);
    float *vector = b->vector;
    memcpy(vector, t->data, (size_t)t->nbytes);
    b->vector += vector_bytes(tensor_shape(t).columns) / sizeof(float);      /* some files have it as a matrix of one row */
    b->model->info.n_params += t->nbytes / sizeof(float);
    return vector;
}

static void bind_tensor(binding *b, matrix *m, const tensor *t) {
    ak42_model *model = b->model;
    const int row = kernel_type_row(t->type->id);
    const role_dims dims = tensor_shape(t);
    *m = (matrix){
        .type = type_in_memory(t->type),
        .kernels = &model->kernels.types[row],
        .panel_bytes = type_panel_bytes(type_in_memory(t->type), t->group_size, dims.columns),
        .rows = (uint32_t)dims.rows,
        .columns = (uint32_t)dims.columns,
        .n_panels = (uint32_t)div_up(dims.rows, PANEL_ROWS),
        .n_super = (uint32_t)div_up(dims.columns, SUPER_K),
        .group_size = t->group_size,
    };
    if (t->layout == m->type->panels && (uintptr_t)t->data % CACHE_LINE == 0) {
        m->panels = t->data;
        model->info.mapped_bytes += t->nbytes;
    } else {
        b->jobs[b->n_jobs++] = (pack_job){m, t};
    }
    b->n_weights[row] += dims.rows * dims.columns;
    model->info.n_params += dims.rows * dims.columns;
}

static void bind_matrix(binding *b, matrix *m, role role, uint32_t layer) {
    if (role_in(role, &b->model->config, layer) != ROLE_ABSENT) bind_tensor(b, m, find_role(b->model, role, layer));
}

/* Matrix i of a tensor of several. */
static void bind_expert(binding *b, matrix *m, role role, uint32_t layer, uint32_t i) {
    const tensor *all = find_role(b->model, role, layer);
    const uint64_t size = all->nbytes / b->model->config.n_experts;
    tensor *one = &b->views[b->n_views++];
    if (all->experts) {
        *one = all->experts[i];
        bind_tensor(b, m, one);
        return;
    }
    *one = *all;
    one->n_dims = 2;
    for (uint32_t d = 0; d < 2; d++) one->dims[d] = all->dims[all->n_dims - 2 + d];
    one->nbytes = size;
    one->offset += i * size;
    one->data += i * size;
    bind_tensor(b, m, one);
}

static void bind_layer(binding *b, uint32_t i) {
    const model_config *config = &b->model->config;
    layer *l = &b->model->layers[i];
    const uint32_t flags = config->layer_flags[i];
    l->att_norm = bind_vector(b, ROLE_ATT_NORM, i);
    l->ffn_norm = bind_vector(b, ROLE_FFN_NORM, i);
    l->att_post_norm = bind_vector(b, ROLE_ATT_POST_NORM, i);
    l->ffn_post_norm = bind_vector(b, ROLE_FFN_POST_NORM, i);
    l->bq = bind_vector(b, ROLE_BQ, i);
    l->bk = bind_vector(b, ROLE_BK, i);
    l->bv = bind_vector(b, ROLE_BV, i);
    l->bo = bind_vector(b, ROLE_BO, i);
    l->b1 = bind_vector(b, ROLE_B1, i);
    l->b2 = bind_vector(b, ROLE_B2, i);
    l->b3 = bind_vector(b, ROLE_B3, i);
    l->q_norm = bind_vector(b, ROLE_Q_NORM, i);
    l->k_norm = bind_vector(b, ROLE_K_NORM, i);
    bind_matrix(b, &l->wq, ROLE_WQ, i);
    bind_matrix(b, &l->wk, ROLE_WK, i);
    bind_matrix(b, &l->wv, ROLE_WV, i);
    bind_matrix(b, &l->wo, ROLE_WO, i);
    bind_matrix(b, &l->w1, ROLE_W1, i);
    bind_matrix(b, &l->w3, ROLE_W3, i);
    bind_matrix(b, &l->w2, ROLE_W2, i);
    if (flags & LAYER_EXPERTS) {
        bind_matrix(b, &l->router, ROLE_ROUTER, i);
        l->experts = b->experts;
        b->experts += config->n_experts;
        for (uint32_t j = 0; j < config->n_experts; j++) {
            bind_expert(b, &l->experts[j].w1, ROLE_EXPERTS_W1, i, j);
            bind_expert(b, &l->experts[j].w3, ROLE_EXPERTS_W3, i, j);
            bind_expert(b, &l->experts[j].w2, ROLE_EXPERTS_W2, i, j);
        }
    }
    l->sliding_window = flags & LAYER_WINDOW ? config->sliding_window : 0;
    l->rope = flags & LAYER_NO_ROPE ? LAYER_ROPE_NONE
            : flags & LAYER_WINDOW && config->rope_theta_local != 0.0f ? LAYER_ROPE_LOCAL : LAYER_ROPE_GLOBAL;
}

/* What a model needs to be bound: its vectors' bytes, and how many matrices, layers of experts and views there are. */
typedef struct binding_sizes {
    uint64_t vectors, matrices, expert_layers, views;
} binding_sizes;

static binding_sizes count_roles(const model_config *config) {
    binding_sizes n = {0, 0, 0, 0};
    for (int i = 0; i < ROLE_COUNT; i++) {
        const role role = (enum role)i;
        const role_dims dims = role_shape(role, config);
        for (uint32_t l = 0; l < (role_per_layer(role) ? config->n_layers : 1); l++) {
            if (role_in(role, config, l) == ROLE_ABSENT) continue;
            if (role_is_vector(role)) n.vectors += vector_bytes(dims.columns);
            else n.matrices += dims.experts;
            if (dims.experts > 1 || role == ROLE_EXPERTS_W1 || role == ROLE_EXPERTS_W3 || role == ROLE_EXPERTS_W2)
                n.views += dims.experts;
            if (role == ROLE_ROUTER) n.expert_layers++;
        }
    }
    return n;
}

static const char *most_weights(const binding *b) {
    uint32_t best = 0;
    for (uint32_t row = 1; row < KERNEL_TYPES; row++)
        if (b->n_weights[row] > b->n_weights[best]) best = row;
    return type_by_id(kernel_row_type(best))->name;
}

static ak42_status bind_weights(ak42_model *model, ak42_error *err) {
    const model_config *config = &model->config;
    const binding_sizes n = count_roles(config);
    binding b = {.model = model};
    model->layers = mem_zalloc(&model->alloc, config->n_layers, sizeof *model->layers);
    if (n.views) {
        model->experts = mem_zalloc(&model->alloc, n.expert_layers * config->n_experts, sizeof *model->experts);
        b.views = mem_zalloc(&model->alloc, n.views, sizeof *b.views);
    }
    b.jobs = mem_zalloc(&model->alloc, n.matrices, sizeof *b.jobs);
    model->vectors_bytes = n.vectors;
    model->vectors = page_alloc(model->vectors_bytes);
    b.vector = model->vectors;
    b.experts = model->experts;
    ak42_status status = AK42_STATUS_OK;
    if (!model->layers || (n.views && !model->experts) || !b.jobs || (n.views && !b.views) || !model->vectors) {
        status = error_set(err, AK42_STATUS_NOMEM, "%s: no memory for %u layers", model->file.name,
                           config->n_layers);
    } else {
        bind_matrix(&b, &model->embedding, ROLE_EMBEDDING, 0);
        for (uint32_t i = 0; i < config->n_layers; i++) bind_layer(&b, i);
        model->norm = bind_vector(&b, ROLE_NORM, 0);
        bind_matrix(&b, &model->head, ROLE_HEAD, 0);
        model->info.weight_type = most_weights(&b);
        status = pack_matrices(model, b.jobs, b.n_jobs, err);
        if (config->shared_classifier) model->head = model->embedding;
    }
    mem_free(&model->alloc, b.jobs);
    mem_free(&model->alloc, b.views);
    return status;
}

/* ---- the rest ---- */

/* The activation's slot of the kernel table. */
static kernel_silu_mul *gate_kernel(const ak42_model *model) {
    kernel_silu_mul *const slots[ACTIVATION_COUNT] = {[ACTIVATION_SILU] = model->kernels.silu_mul,
                                                      [ACTIVATION_GELU] = model->kernels.gelu_mul,
                                                      [ACTIVATION_GELU_TANH] = model->kernels.gelu_tanh_mul};
    return slots[model->config.activation];
}

static ak42_status open_tokenizer(ak42_model *model, ak42_error *err) {
    const container *c = &model->file;
    const blob *tokn = &c->sections[SECTION_TOKN];
    ak42_status status = AK42_STATUS_OK;
    if (tokn->data)
        status = tokenizer_from_tokn(&model->tokenizer, tokn->data, tokn->size, c->name, &model->alloc, err);
    else if (c->has_vocab) status = tokenizer_from_gguf(&model->tokenizer, &c->vocab, c->name, &model->alloc,
                                                        err);
    if (status || !model->tokenizer) return status;
    const uint32_t n = tokenizer_vocab_size(model->tokenizer);
    if (n != model->config.vocab_size)
        return error_set(err, AK42_STATUS_FORMAT, "%s: tokenizer: expected vocab_size (%u) tokens, found %u",
                         c->name, model->config.vocab_size, n);
    return AK42_STATUS_OK;
}

static void log_warning(const ak42_model *model, const char *text) {
    if (model->opts.log) model->opts.log(model->opts.log_user, 1, text);
}

static ak42_status start_threads(ak42_model *model, ak42_error *err) {
    const uint32_t wanted = model->opts.n_threads > 0 ? (uint32_t)model->opts.n_threads
        : threads_default(NULL, 0);
    const ak42_status status = pool_new(&model->pool, wanted, err);
    if (status) return status;
    const uint32_t n = pool_threads(model->pool);
    if (n < wanted) {
        char text[128];
        snprintf(text, sizeof text, "expected %u threads, found that the system allows %u", wanted, n);
        log_warning(model, text);
    }
    return AK42_STATUS_OK;
}

/* The header's ids first, then the tokenizer's, without repeats. */
static void merge_eos(ak42_model *model) {
    ak42_model_info *info = &model->info;
    int32_t ids[AK42_EOS_MAX];
    const int32_t n = model->tokenizer ? tokenizer_eos(model->tokenizer, ids) : 0;
    info->n_eos = model->config.n_eos;
    for (int i = 0; i < AK42_EOS_MAX; i++) info->eos_ids[i] = i < info->n_eos ? model->config.eos_ids[i] : -1;
    for (int32_t i = 0; i < n; i++) {
        bool known = false;
        for (int k = 0; k < info->n_eos; k++) known |= info->eos_ids[k] == ids[i];
        if (!known && info->n_eos < AK42_EOS_MAX) info->eos_ids[info->n_eos++] = ids[i];
    }
}

static int32_t to_i32(uint32_t value) { return value > INT32_MAX ? INT32_MAX : (int32_t)value; }

/* n_params, mapped_bytes and weight_type have been filled while binding. */
static void fill_info(ak42_model *model) {
    const model_config *config = &model->config;
    ak42_model_info *info = &model->info;
    const bool f32 = !strcmp(info->weight_type, "f32");
    info->struct_size = sizeof *info;
    info->format = model->file.format;
    info->architecture = config->architecture;
    info->isa = model->kernels.isa;
    info->device = "cpu";
    info->n_threads = (int32_t)pool_threads(model->pool);
    info->dim = (int32_t)config->dim;
    info->hidden_dim = (int32_t)config->hidden_dim;
    info->n_layers = (int32_t)config->n_layers;
    info->n_heads = (int32_t)config->n_heads;
    info->n_kv_heads = (int32_t)config->n_kv_heads;
    info->head_dim = (int32_t)config->head_dim;
    info->vocab_size = (int32_t)config->vocab_size;
    info->seq_len = to_i32(config->seq_len);
    info->trained_ctx = to_i32(config->trained_ctx);
    info->sliding_window = to_i32(config->sliding_window);
    info->group_size = (int32_t)config->group_size;
    info->shared_classifier = config->shared_classifier;
    info->rope_theta = config->rope_theta;
    info->norm_eps = config->norm_eps;
    info->bos_id = config->bos_id >= 0 || !model->tokenizer ? config->bos_id
        : tokenizer_bos(model->tokenizer);
    merge_eos(model);
    info->kv_type = model->opts.kv_type ? model->opts.kv_type : f32 ? AK42_KV_TYPE_F32
        : model->kernels.kv_default;
    info->file_bytes = model->file.map.size;
    for (uint32_t i = 0; i < model->file.n_parts; i++) info->file_bytes += model->file.parts[i].size;
    info->packed_bytes = model->packed_bytes;
}

static ak42_status open_file(ak42_model *model, const char *path, const void *data, size_t size,
                             ak42_error *err) {
    container *c = &model->file;
    const char *slash = strrchr(path, '/');
    snprintf(c->name, sizeof c->name, "%s", slash ? slash + 1 : path);
    c->alloc = &model->alloc;
    ak42_status status = AK42_STATUS_OK;
    c->path = data ? NULL : path;
    c->copied = model->opts.use_mmap == AK42_MMAP_NO;
    if (data) filemap_borrow(&c->map, data, size);
    else status = filemap_open(&c->map, path, !c->copied, err);
    if (!status) status = container_parse(c, CONTAINER_MODEL, err);
    c->path = NULL;                      /* the caller's string may go */
    if (status) return status;
    model->config = c->config;
    model->gate_mul = gate_kernel(model);
    return check_tensors(model, err);
}

ak42_status model_open(ak42_model **out, const char *path, const void *data, size_t size,
                       const ak42_model_opts *opts,
                       ak42_error *err) {
    allocator alloc;
    allocator_init(&alloc, opts->allocator, opts->allocator_user);
    ak42_model *model = mem_zalloc(&alloc, 1, sizeof *model);
    if (!model) return error_set(err, AK42_STATUS_NOMEM, "%s: no memory for a model", path);
    atomic_init(&model->owners, 1);
    model->alloc = alloc;
    model->opts = *opts;
    ak42_status status = kernels_select(&model->kernels, opts->isa, err);
    if (!status) status = open_file(model, path, data, size, err);
    if (!status) status = open_tokenizer(model, err);
    if (!status) status = rope_check(model, err);
    if (!status) status = start_threads(model, err);
    if (!status) status = bind_weights(model, err);
    if (status) {
        model_free(model);
        return status;
    }
    fill_info(model);
    /* The caller's strings may go. */
    model->opts.isa = model->info.isa;
    model->opts.device = model->info.device;
    model->opts.cuda_library = NULL;
    *out = model;
    return AK42_STATUS_OK;
}

void model_free(ak42_model *model) {
    if (!model) return;
    const allocator alloc = model->alloc;
    pool_free(model->pool);
    tokenizer_free(model->tokenizer);
    page_free(model->packed, model->packed_bytes);
    page_free(model->vectors, model->vectors_bytes);
    mem_free(&alloc, model->layers);
    mem_free(&alloc, model->experts);
    container_free(&model->file);
    filemap_close(&model->file.map);
    mem_free(&alloc, model);
}

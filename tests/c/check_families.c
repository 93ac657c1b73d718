/* check_families.c: files of models that ask for more than Llama's do (families_fixtures.h), of every type of weights: they open, their
 * weights are those of their blocks, rows and panels compute the same bits; then they are damaged (files_damage.h), and of those that
 * still open some are computed, for a field that no check refuses must not lead the arithmetic out of its buffers either.
 * `check_families` damages every thirteenth byte, `check_families --all` every one; with a number as well, that file alone. */
#include "../../runtime_c/include/ak42.h"
#include "families_fixtures.h"
#include "files_damage.h"

enum { TOKENS = 11 };                  /* past the window and the original context */

/* ---- computing ---- */

/* The last logits, (RICH_VOCAB); the status of what went wrong first. */
static ak42_status compute(float *logits, const uint8_t *data, size_t size) {
    const int32_t tokens[TOKENS] = {1, 7, 19, 0, 3, 3, 11, 5, 18, 2, 9};
    ak42_model_opts opts;
    ak42_session_opts session_opts;
    ak42_model *model = NULL;
    ak42_session *session = NULL;
    ak42_error err;
    ak42_model_opts_init(&opts);
    opts.n_threads = 1;
    opts.isa = "generic";
    ak42_session_opts_init(&session_opts);
    session_opts.n_ctx = RICH_CTX;
    ak42_status status = ak42_model_open_memory(&model, data, size, "rich", &opts, &err);
    if (!status) status = ak42_session_new(&session, model, &session_opts, &err);
    if (!status) status = ak42_session_eval(session, tokens, TOKENS - 1, NULL, 0, &err);
    if (!status) status = ak42_session_eval(session, tokens + TOKENS - 1, 1, NULL, 0, &err);
    if (!status && logits) {
        size_t n_rows = 0;
        const float *found = ak42_session_logits(session, &n_rows);
        CHECK(n_rows == 1, "%zu rows of logits", n_rows);
        if (n_rows) memcpy(logits, found, RICH_VOCAB * sizeof *logits);
    }
    ak42_session_close(session);
    ak42_model_close(model);
    return status;
}

static long n_opened, n_computed;
enum { COMPUTE_EVERY = 16 };

static void compute_some(const uint8_t *data, size_t size) {
    if (n_opened++ % COMPUTE_EVERY) return;
    const ak42_status status = compute(NULL, data, size);
    n_computed++;
    CHECK(status == AK42_STATUS_OK || status == AK42_STATUS_RANGE || status == AK42_STATUS_NOMEM || status == AK42_STATUS_ARG,
          "computing what opened: status %d", status);
}

/* ---- right files ---- */

/* Every matrix against the blocks that stand in the row-major file. */
static void check_rich_weights(const ak42_model *model, const bytes *rows, size_t turn, bool longrope) {
    rich_list list = {.turn = turn};
    rich_model(&list, &(rich_parts){.bias = true, .qk_norm = true, .after = true, .longrope = longrope, .own_head = true, .expert_layers = 2});
    size_t n_checked = 0;
    for (size_t i = 0; i < list.n; i++) {
        const rich_tensor *t = &list.all[i];
        const uint8_t *data = rows->data + marked(rows, t->name);
        unsigned number = 0;
        char role[40] = "";
        const layer *y = NULL;
        if (sscanf(t->name, "blk.%u.%39s", &number, role) == 2) y = &model->layers[number];
        const struct {
            const char *name;
            const matrix *matrix;
        } of_layer[] = {
            {"attn_q.weight", y ? &y->wq : NULL}, {"attn_k.weight", y ? &y->wk : NULL}, {"attn_v.weight", y ? &y->wv : NULL},
            {"attn_output.weight", y ? &y->wo : NULL}, {"ffn_gate.weight", y ? &y->w1 : NULL}, {"ffn_up.weight", y ? &y->w3 : NULL},
            {"ffn_down.weight", y ? &y->w2 : NULL}, {"ffn_gate_inp.weight", y ? &y->router : NULL},
        };
        for (size_t k = 0; y && k < ARRAY_LEN(of_layer); k++)
            if (!strcmp(role, of_layer[k].name)) check_blocks(of_layer[k].matrix, t->type, data, t->name), n_checked++;
        uint64_t size = 0;
        if (t->experts && !type_bytes(&size, t->type, 0, LAYOUT_ROWS, t->rows, t->columns)) exit(2);
        for (uint32_t e = 0; e < t->experts; e++) {
            const expert *x = &y->experts[e];
            const matrix *m = strstr(role, "gate") ? &x->w1 : strstr(role, "up") ? &x->w3 : &x->w2;
            check_blocks(m, t->type, data + e * size, t->name), n_checked++;
        }
        if (!strcmp(t->name, "token_embd.weight")) check_blocks(&model->embedding, t->type, data, t->name), n_checked++;
        if (!strcmp(t->name, "output.weight")) check_blocks(&model->head, t->type, data, t->name), n_checked++;
        if (!t->rows && strstr(t->name, "attn_q_norm"))
            CHECK(!memcmp(y->q_norm, data, RICH_HEAD * sizeof(float)), "%s", t->name);
    }
    CHECK(n_checked == 2 + 2 * 7 + 5 + 3 * RICH_EXPERTS, "%zu matrices", n_checked);
}

/* Of two types of rope and of types that begin at any place: rows and panels. */
static void check_rich_v3(void) {
    for (size_t turn = 0; turn < ARRAY_LEN(rich_types); turn += 3)
        for (uint32_t scaling = 3; scaling <= 5; scaling += 2) {
            bytes all[3];
            float logits[3][RICH_VOCAB];
            for (uint32_t layout = LAYOUT_ROWS; layout <= LAYOUT_STREAM16; layout++) {
                const bytes *b = &all[layout];
                all[layout] = build_rich_v3(turn, layout, scaling);
                ak42_model *model;
                uint8_t *copy;
                ak42_error err;
                CHECK(!open_copy(&model, &copy, b->data, b->size, &err), "rich v3, types from %zu: %s", turn, err.text);
                if (model) {
                    check_rich_weights(model, &all[LAYOUT_ROWS], turn, scaling == 5);
                    const model_config *c = &model->config;
                    CHECK(c->qkv_bias && c->qk_norm && !c->qk_norm_row && c->n_experts == RICH_EXPERTS && c->expert_dim == RICH_WIDE &&
                          c->attn_softcap == 50.0f && c->rope_theta_local == 5000.0f && c->rotary_dim == RICH_ROTARY, "rich fields");
                    CHECK(model->layers[0].sliding_window == 3 && !model->layers[1].sliding_window && model->layers[1].experts &&
                          !model->layers[0].experts && model->layers[2].rope == LAYER_ROPE_NONE, "rich layers");
                }
                model_free(model);
                free(copy);
                const ak42_status status = compute(logits[layout], b->data, b->size);
                CHECK(!status, "rich v3, types from %zu: computing: %d", turn, status);
                CHECK(!memcmp(logits[0], logits[layout], sizeof logits[0]), "rich v3, types from %zu: rows and layout %u", turn, layout);
            }
            for (int layout = 0; layout < 3; layout++) free(all[layout].data);
        }
}

static void check_rich_gguf(void) {
    static const char *const architectures[] = {"qwen3moe", "gemma2", "phi3"};
    for (size_t i = 0; i < ARRAY_LEN(architectures); i++)
        for (size_t turn = 0; turn < ARRAY_LEN(rich_types); turn += 5) {
            bytes b = build_rich_gguf(architectures[i], turn);
            expect(b.data, b.size, AK42_STATUS_OK, NULL, architectures[i]);
            float logits[RICH_VOCAB];
            const ak42_status status = compute(logits, b.data, b.size);
            CHECK(!status, "%s, types from %zu: computing: %d", architectures[i], turn, status);
            free(b.data);
        }
}

/* ---- what the new fields refuse ---- */

static void check_rich_fields(void) {
    bytes b = build_rich_v3(0, LAYOUT_STREAM16, 3);
    static const edit edits[] = {
        {"no QKV_BIAS", 76, 0xffff & ~0x10, 4, FORMAT, "9 unexpected: blk.0.attn_k.bias"},
        {"no QK_NORM", 76, 0xffff & ~0x20, 4, FORMAT, "6 unexpected: blk.0.attn_k_norm.weight"},
        {"no MOE", 76, 0xffff & ~0x400, 4, FORMAT, "MOE"}, {"no SOFTCAP", 76, 0xffff & ~0x100, 4, FORMAT, "SOFTCAP"},
        {"norms before only", 103, 4, 1, FORMAT, "6 unexpected: blk.0.post_attention_norm.weight"},
        {"norms after only", 103, 5, 1, FORMAT, "6 unexpected: blk.0.attn_norm.weight"},
        {"no experts", 148, 0, 8, FORMAT, "experts"}, {"2 experts", 148, 2, 4, FORMAT, "expected 2 x 256, found 3 x 256"},
        {"experts beyond", 148, 4097, 4, FORMAT, "n_experts"}, {"0 experts used", 152, 0, 4, FORMAT, "n_experts_used"},
        {"4 experts used", 152, 4, 4, FORMAT, "n_experts_used"}, {"no original context", 116, 0, 4, FORMAT, "rope_original_ctx"},
        {"slow beyond fast", 108, 0x42800000, 4, FORMAT, "beta_slow"}, {"fast inf", 112, 0x7f800000, 4, FORMAT, "beta_fast"},
        {"longrope", 100, 5, 1, FORMAT, "rope_factors_long.weight"}, {"softcap -1", 156, 0xbf800000, 4, FORMAT, "attn_softcap"},
        {"logit scale inf", 236, 0x7f800000, 4, FORMAT, "logit_scale"}, {"residual nan", 168, 0x7fc00000, 4, FORMAT, "residual_scale"},
        {"rotary 6", 92, 6, 4, AK42_STATUS_OK, NULL}, {"rotary 7", 92, 7, 4, FORMAT, "rotary_dim"},
    };
    for (size_t i = 0; i < ARRAY_LEN(edits); i++) apply(&b, &edits[i], 0, true);
    const size_t layers = marked(&b, "LAYR") + 16;
    apply(&b, &(edit){"experts in all layers", 0, 5, 4, FORMAT, "4 missing: blk.0.ffn_gate_inp.weight"}, layers, true);
    apply(&b, &(edit){"experts in none", 4, 0, 4, FORMAT, "blk.1.ffn_gate"}, layers, true);
    free(b.data);
    b = build_rich_v3(0, LAYOUT_STREAM16, 5);
    apply(&b, &(edit){"long factor 0", 0, 0, 4, FORMAT, "rope_factors_long"}, marked(&b, "rope_factors_long.weight"), true);
    apply(&b, &(edit){"short factor nan", 4, 0x7fc00000, 4, FORMAT, "rope_factors_short"}, marked(&b, "rope_factors_short.weight"), true);
    apply(&b, &(edit){"yarn", 100, 3, 1, FORMAT, "beta_slow"}, 0, true);
    free(b.data);
}

typedef struct rich_file {
    const char *what, *architecture;           /* of a GGUF file; NULL: ak42 v3 */
    size_t turn;
    uint32_t layout, scaling;
} rich_file;

static const rich_file files[] = {
    {"v3, yarn, panels", NULL, 0, LAYOUT_STREAM16, 3}, {"v3, longrope, rows", NULL, 9, LAYOUT_ROWS, 5},
    {"gguf qwen3moe, yarn", "qwen3moe", 2, 0, 0},
    {"gguf gemma2, caps", "gemma2", 3, 0, 0},   {"gguf phi3, longrope", "phi3", 4, 0, 0},
};

static void damage_rich(const rich_file *f) {
    bytes b = f->architecture ? build_rich_gguf(f->architecture, f->turn) : build_rich_v3(f->turn, f->layout, f->scaling);
    if (f->architecture) {
        const size_t table = marked(&b, "blk.0.attn_norm.weight");
        damage(b, table, 0, table, 0, false, f->what);
        return;
    }
    /* The directory's entries of the first experts, and the flags of the layers. */
    size_t experts = 256;
    while (!strstr((const char *)b.data + experts, "ffn_gate_inp")) experts += 128;
    extreme_fields(&b, experts, experts + 3 * 128, 0, true, f->what);
    const size_t layers = marked(&b, "LAYR");
    extreme_fields(&b, layers, layers + 16 + 4 * RICH_LAYERS, 0, true, f->what);
    damage(b, 512, 64, 512, 0, true, f->what);
}

int main(int argc, char **argv) {
    int only = -1;
    step = 13;
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--all")) step = 1;
        else only = atoi(argv[i]);
    check_rich_v3();
    check_rich_gguf();
    check_rich_fields();

    after_opening = compute_some;
    for (int i = 0; i < (int)ARRAY_LEN(files); i++)
        if (only < 0 || i == only) damage_rich(&files[i]);
    printf("%ld files opened%s, %ld of them computed\n", n_opens, isnan(touched) ? "" : ".", n_computed);
    printf("%ld passed, %ld failed\n", n_passed, n_failed);
    return n_failed != 0;
}

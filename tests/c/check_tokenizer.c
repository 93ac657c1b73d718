/* check_tokenizer.c: tokenizers built from sources that are right and sources that are damaged. Small TOKN
 * sections, tokenizer.bin files and GGUF vocabularies are made in memory, opened from heap copies of their
 * exact size, then cut at every byte and changed in every byte; what still opens must encode and decode
 * without harm. Then every allocation fails once, and every one from some point on. Meant to be run with
 * -fsanitize=address,undefined. `--quick` changes every seventh byte only. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "../../runtime_c/core/tokenizer_parts.h"

static long n_passed, n_failed, n_opens;
static size_t stride = 1;

#define CHECK(ok, ...) \
    do { \
        if (ok) n_passed++; \
        else if (n_failed++ < 50) { \
            printf("FAILED line %d: ", __LINE__); \
            printf(__VA_ARGS__); \
            printf("\n"); \
        } \
    } while (0)

/* ---- an allocator that counts, and fails when told ---- */

static long n_live, n_calls, fail_at = -1;
static bool fail_for_good;

static void *counting(void *user, void *memory, size_t size) {
    (void)user;
    if (!size) {
        n_live -= memory != NULL;
        free(memory);
        return NULL;
    }
    long call = n_calls++;
    if (fail_at >= 0 && (call == fail_at || (fail_for_good && call > fail_at))) return NULL;
    void *grown = realloc(memory, size);
    n_live += grown && !memory;
    return grown;
}

static const allocator alloc = {counting, NULL};

/* ---- sources, written byte by byte ---- */

typedef struct writer {
    uint8_t data[16384];
    size_t size;
} writer;

static void put_bytes(writer *w, const void *bytes, size_t size) {
    if (size) memcpy(w->data + w->size, bytes, size);
    w->size += size;
}
static void put_u32(writer *w, uint32_t value) {
    const uint8_t bytes[4] = {(uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16),
                              (uint8_t)(value >> 24)};
    put_bytes(w, bytes, 4);
}
static void put_f32(writer *w, float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    put_u32(w, bits);
}
static void put_u64(writer *w, uint64_t value) {
    put_u32(w, (uint32_t)value);
    put_u32(w, (uint32_t)(value >> 32));
}
static void put_token(writer *w, const char *text, float score, uint32_t attr) {
    put_f32(w, score);
    put_u32(w, attr);
    put_u32(w, (uint32_t)strlen(text));
    put_bytes(w, text, strlen(text));
}
static void put_step(writer *w, uint32_t op, uint32_t flags, const void *bytes, size_t size) {
    put_u32(w, op);
    put_u32(w, flags);
    put_u32(w, (uint32_t)size);
    put_bytes(w, bytes, size);
}
static void put_header(writer *w, uint32_t kind, uint32_t flags, uint32_t n_tokens, uint32_t n_merges,
                       uint32_t n_steps) {
    put_u32(w, 1);
    put_u32(w, kind);
    put_u32(w, flags);
    put_u32(w, 1);      /* bos */
    put_u32(w, 0);      /* unk */
    put_u32(w, UINT32_MAX);
    put_u32(w, 1);
    put_u32(w, n_tokens);
    put_u32(w, n_merges);
    put_u32(w, n_steps);
    put_u32(w, 2);      /* eos */
}

#define MARK "\xE2\x96\x81"

static void put_spm_tokens(writer *w) {
    static const char *const pieces[] = {MARK, "a", "b", "c", MARK "a", "ab", "abc", MARK "abc", "bc",
                                         "\xC3\xA9"};
    put_token(w, "<unk>", 0, TYPE_UNKNOWN);
    put_token(w, "<s>", 0, TYPE_CONTROL | ATTR_RSTRIP);
    put_token(w, "</s>", 0, TYPE_CONTROL);
    for (uint32_t i = 0; i < ARRAY_LEN(pieces); i++) put_token(w, pieces[i], -(float)i, TYPE_NORMAL);
    put_token(w, "<0xFF>", 0, TYPE_BYTE);
    put_token(w, "word", 0, TYPE_USER | ATTR_SINGLE_WORD | ATTR_NORMALIZED | ATTR_LSTRIP);
}

enum { N_SPM = 15 };

/* SentencePiece by rank: every normaliser op, added tokens with attributes, Metaspace. */
static void make_spm_ranks(writer *w) {
    put_header(w, KIND_SPM,
               FLAG_ADD_BOS | FLAG_ADD_EOS | FLAG_DUMMY_PREFIX | FLAG_BYTE_FALLBACK | FLAG_EMIT_UNK |
                   FLAG_FUSE_UNK,
               N_SPM, 4, 7);
    put_spm_tokens(w);
    const uint32_t merges[4][2] = {{4, 5}, {8, 6}, {3, 9}, {3, 4}};
    for (uint32_t i = 0; i < 4; i++) {
        put_u32(w, merges[i][0]);
        put_u32(w, merges[i][1]);
    }
    put_step(w, STEP_STRIP, STRIP_RIGHT | STRIP_SPACES, "", 0);
    put_step(w, STEP_REPLACE, REPLACE_REGEX, "\5\0\0\0 {2,} ", 10);
    put_step(w, STEP_ADDED, 0, "", 0);
    put_step(w, STEP_REPLACE, 0, "\1\0\0\0 " MARK, 8);
    put_step(w, STEP_PREPEND, PREPEND_UNLESS_THERE | PREPEND_FIRST, MARK, 3);
    put_step(w, STEP_SPLIT, BEHAVIOUR_NEXT | SPLIT_LITERAL, MARK, 3);
    put_step(w, STEP_SPACES, SPACES_FIRST, MARK, 3);
}

/* SentencePiece by score. */
static void make_spm_scores(writer *w) {
    put_header(w, KIND_SPM, FLAG_DUMMY_PREFIX | FLAG_EMIT_UNK | FLAG_ANY_PIECE, N_SPM, 0, 4);
    put_spm_tokens(w);
    put_step(w, STEP_PREPEND, 0, MARK, 3);
    put_step(w, STEP_REPLACE, 0, "\1\0\0\0 " MARK, 8);
    put_step(w, STEP_ADDED, 0, "", 0);
    put_step(w, STEP_SPACES, 0, MARK, 3);
}

/* Byte-level: every way to split. */
static void make_bpe(writer *w) {
    static const char *const pieces[] = {" ", "a", "b", "c", "1", "'", "s", "ab", " ab", "'s", "abc", "\n",
                                         "\xC3", "\xA9", "\xC3\xA9"};
    static const char pattern[] = "(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
                                  "| ?[^\\s\\p{L}\\p{N}]++|\\s+(?!\\S)|\\s+$|(a|b)+";
    put_header(w, KIND_BPE, FLAG_IGNORE_MERGES | FLAG_EMIT_UNK, 3 + (uint32_t)ARRAY_LEN(pieces), 5, 7);
    put_token(w, "<unk>", 0, TYPE_UNKNOWN | ATTR_ADDED_ONLY);
    put_token(w, "<s>", 0, TYPE_CONTROL | ATTR_ADDED_ONLY);
    put_token(w, "<|end|>", NAN, TYPE_CONTROL | ATTR_ADDED_ONLY | ATTR_NORMALIZED);
    for (uint32_t i = 0; i < ARRAY_LEN(pieces); i++) put_token(w, pieces[i], INFINITY, TYPE_NORMAL);
    const uint32_t merges[5][2] = {{4, 5}, {3, 10}, {8, 9}, {10, 6}, {15, 16}};
    for (uint32_t i = 0; i < 5; i++) {
        put_u32(w, merges[i][0]);
        put_u32(w, merges[i][1]);
    }
    put_step(w, STEP_ADDED, 0, "", 0);
    put_step(w, STEP_PREPEND, PREPEND_UNLESS_THERE, " ", 1);
    put_step(w, STEP_PUNCTUATION, BEHAVIOUR_CONTIGUOUS, "", 0);
    put_step(w, STEP_SPLIT, BEHAVIOUR_ISOLATED, pattern, sizeof pattern - 1);
    put_step(w, STEP_BYTE_LEVEL, 0, "", 0);
    put_step(w, STEP_DIGITS, DIGITS_SINGLE, "", 0);
    put_step(w, STEP_SPLIT, BEHAVIOUR_PREVIOUS | SPLIT_INVERT, "[a-y]+", 6);
}

static void make_bin(writer *w) {
    static const char *const pieces[] = {" ", "a", "b", "ab", " ab", "\xC3\xA9"};
    char text[16];
    put_u32(w, 0);      /* a maximal length that is wrong */
    for (uint32_t id = 0; id < 259 + ARRAY_LEN(pieces); id++) {
        const char *piece = text;
        if (id == 0) piece = "<unk>";
        else if (id < 3) piece = id == 1 ? "\n<s>\n" : "\n</s>\n";
        else if (id < 259) snprintf(text, sizeof text, "<0x%02X>", id - 3);
        else piece = pieces[id - 259];
        put_f32(w, -(float)id);
        put_u32(w, (uint32_t)strlen(piece));
        put_bytes(w, piece, strlen(piece));
    }
}

/* ---- opening ---- */

typedef ak42_status (*open_fn)(ak42_tokenizer **, const uint8_t *, uint64_t, const char *, const allocator *,
                               ak42_error *);

static const char *const texts[] = {
    "", " ", "a", "abc abc  ab", "<s>abc</s> <s> word words <|end|>", "it's 1234 'S\n\n ab\t",
        "\xC3\xA9t\xC3\xA9 \xFF\xFE\x80 \xE2\x96\x81",
    ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbcccccc "
     "abcabcabcabcabcabcabcabcabc"),
    "\xF0\x9F\x98\x80 \xED\xA0\x80 \xC0\x80 \xF8\x88\x80\x80\x80 \xE2\x82",
};

/* Encodes and decodes; every answer must be a status, and ids must be in range. */
static void use(const ak42_tokenizer *t) {
    int32_t ids[1024], eos[AK42_EOS_MAX];
    char text[8192];
    size_t n, size;
    ak42_error err;
    static const uint32_t flags[] = {0, AK42_ENCODE_SPECIAL | AK42_ENCODE_NO_BOS, AK42_ENCODE_CONTINUE};
    for (size_t i = 0; i < ARRAY_LEN(texts) * ARRAY_LEN(flags); i++) {
        const char *source = texts[i % ARRAY_LEN(texts)];
        if (tokenizer_encode(t, source, strlen(source), flags[i / ARRAY_LEN(texts)], ids, ARRAY_LEN(ids), &n,
                             &err))
            continue;
        for (size_t k = 0; k < n; k++)
            if (ids[k] < 0 || (uint32_t)ids[k] >= tokenizer_vocab_size(t)) CHECK(false, "id %d", ids[k]);
        tokenizer_decode(t, ids, n, i & 1 ? AK42_DECODE_SKIP_SPECIAL : 0, text, sizeof text, &size, &err);
    }
    tokenizer_eos(t, eos);
    for (uint32_t id = 0; id < tokenizer_vocab_size(t) && id < 64; id++) {
        int32_t one = (int32_t)id;
        tokenizer_decode(t, &one, 1, AK42_DECODE_CONTINUE, text, sizeof text, &size, &err);
    }
}

/* Opens a heap copy of exactly size bytes; true where it opened. */
static bool try_open(open_fn open, const uint8_t *data, size_t size, bool used) {
    uint8_t *copy = malloc(size ? size : 1);
    ak42_tokenizer *t = NULL;
    ak42_error err = {0};
    long live = n_live;
    if (size) memcpy(copy, data, size);
    n_opens++;
    ak42_status status = open(&t, copy, size, "tiny", &alloc, &err);
    free(copy);                    /* the tokenizer has its own copy of everything */
    if (status)
        CHECK(!t && err.code == status && !strncmp(err.text, "tiny: ", 6) && strlen(err.text) < 252,
              "status %d <%s>", status, err.text);
    else if (used) use(t);
    tokenizer_free(t);
    CHECK(n_live == live, "%ld allocations are left", n_live - live);
    return !status;
}

static void damage(open_fn open, const writer *good, const char *name) {
    static const uint8_t values[] = {0x00, 0x01, 0x7F, 0x80, 0xFF};
    writer bad;
    CHECK(try_open(open, good->data, good->size, true), "%s does not open", name);
    for (size_t size = 0; size < good->size; size++) {
        bool opened = try_open(open, good->data, size, false);
        CHECK(!opened || open == tokenizer_from_bin, "%s: %zu of %zu bytes opened", name, size, good->size);
    }
    for (size_t at = 0; at < good->size; at += stride) {
        for (size_t k = 0; k <= ARRAY_LEN(values); k++) {
            memcpy(&bad, good, sizeof bad);
            bad.data[at] = k < ARRAY_LEN(values) ? values[k] : bad.data[at] ^ 1;
            try_open(open, bad.data, bad.size, true);
        }
    }
    memcpy(&bad, good, sizeof bad);
    bad.data[bad.size] = 0;
    CHECK(!try_open(open, bad.data, bad.size + 1, false), "%s: a byte too many opened", name);
}

/* ---- GGUF vocabularies ---- */

typedef struct gguf_source {
    writer tokens, merges, scores, types;
    gguf_vocab v;
} gguf_source;

static void put_string(writer *w, const char *text) {
    put_u64(w, strlen(text));
    put_bytes(w, text, strlen(text));
}

static void make_gguf(gguf_source *g, bool spm) {
    static const char *const bpe[] = {"<unk>", "<s>", "</s>", "a", "b", "ab", "\xC4\xA0", ("\xC4\xA0" "ab"),
                                      "x y"};
    static const char *const pieces[] = {"<unk>", "<s>", "</s>", "a", "b", "ab", MARK, MARK "ab", "<0x0A>"};
    memset(g, 0, sizeof *g);
    for (uint32_t i = 0; i < 9; i++) {
        put_string(&g->tokens, spm ? pieces[i] : bpe[i]);
        put_f32(&g->scores, -(float)i);
        uint32_t type = i == 0 ? TYPE_UNKNOWN : i < 3 ? TYPE_CONTROL : TYPE_NORMAL;
        put_u32(&g->types, i < 8 ? type : spm ? TYPE_BYTE : TYPE_USER);
    }
    put_string(&g->merges, "a b");
    put_string(&g->merges, spm ? MARK " ab" : "\xC4\xA0 ab");
    g->v = (gguf_vocab){.n_tokens = 9, .n_scores = 9, .n_types = 9, .bos_id = 1, .unk_id = 0, .pad_id = -1,
                        .eos_ids = {2, -1, -1, -1},
                        .n_eos = 1, .add_bos = -1, .add_eos = -1, .add_space_prefix = -1,
                            .remove_extra_whitespaces = 1};
    g->v.model = (blob){(const uint8_t *)(spm ? "llama" : "gpt2"), spm ? 5 : 4};
    g->v.tokens = (blob){g->tokens.data, g->tokens.size};
    g->v.types = (blob){g->types.data, g->types.size};
    if (spm) g->v.scores = (blob){g->scores.data, g->scores.size};
    if (!spm) g->v.pre = (blob){(const uint8_t *)"smollm", 6};
    g->v.merges = (blob){g->merges.data, g->merges.size};
    g->v.n_merges = 2;
}

/* Copies of exactly the arrays' sizes, so that a byte too many is seen. */
static ak42_status open_gguf(const gguf_vocab *v, ak42_error *err) {
    gguf_vocab copy = *v;
    blob *blobs[] = {&copy.tokens, &copy.merges, &copy.scores, &copy.types};
    ak42_tokenizer *t = NULL;
    for (size_t i = 0; i < ARRAY_LEN(blobs); i++) {
        if (!blobs[i]->data) continue;
        uint8_t *bytes = malloc(blobs[i]->size ? blobs[i]->size : 1);
        memcpy(bytes, blobs[i]->data, blobs[i]->size);
        blobs[i]->data = bytes;
    }
    memset(err, 0, sizeof *err);
    n_opens++;
    ak42_status status = tokenizer_from_gguf(&t, &copy, "tiny", &alloc, err);
    for (size_t i = 0; i < ARRAY_LEN(blobs); i++) free((void *)(uintptr_t)blobs[i]->data);
    if (!status) use(t);
    tokenizer_free(t);
    CHECK(!status || err->code == status, "status %d <%s>", status, err->text);
    return status;
}

static void check_gguf(void) {
    static gguf_source g;
    ak42_error err;
    for (int spm = 0; spm < 2; spm++) {
        make_gguf(&g, spm);
        CHECK(!open_gguf(&g.v, &err), "gguf %d: %s", spm, err.text);
        for (size_t at = 0; at < g.tokens.size; at++) {
            for (uint32_t value = 0; value < 256; value += 51) {
                make_gguf(&g, spm);
                g.tokens.data[at] = (uint8_t)value;
                open_gguf(&g.v, &err);
            }
        }
        for (size_t at = 0; at < g.merges.size; at++) {
            make_gguf(&g, spm);
            g.merges.data[at] ^= 0xFF;
            CHECK(open_gguf(&g.v, &err) == AK42_STATUS_FORMAT, "merges byte %zu: %s", at, err.text);
        }
        make_gguf(&g, spm);
        g.v.n_tokens = UINT64_MAX;
        CHECK(open_gguf(&g.v, &err) == AK42_STATUS_FORMAT, "%s", err.text);
        make_gguf(&g, spm);
        g.v.n_merges = UINT64_MAX;
        CHECK(open_gguf(&g.v, &err) == AK42_STATUS_FORMAT, "%s", err.text);
        make_gguf(&g, spm);
        g.v.types = (blob){0};
        CHECK(!open_gguf(&g.v, &err), "%s", err.text);
        make_gguf(&g, spm);
        g.v.model = (blob){(const uint8_t *)"bert", 4};
        CHECK(open_gguf(&g.v, &err) == AK42_STATUS_UNSUPPORTED && strstr(err.text, "bert"), "%s", err.text);
    }
    make_gguf(&g, false);
    g.v.pre = (blob){(const uint8_t *)"no\x1b[2Jname", 9};
    CHECK(open_gguf(&g.v, &err) == AK42_STATUS_UNSUPPORTED && strstr(err.text, "no\\x1b[2Jnam"), "%s",
          err.text);
    make_gguf(&g, false);
    g.v.merges = (blob){0};
    g.v.n_merges = 0;
    CHECK(open_gguf(&g.v, &err) == AK42_STATUS_FORMAT && strstr(err.text, "merges"), "%s", err.text);
}

/* ---- allocations that fail ---- */

static ak42_status whole_use(open_fn open, const writer *good) {
    static const char text[] = "abc <s> it's 12 "
                               "abcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabc";
    ak42_tokenizer *t = NULL;
    ak42_error err;
    int32_t ids[256];
    size_t n = 0;
    ak42_status status = open(&t, good->data, good->size, "tiny", &alloc, &err);
    if (!status) status = tokenizer_encode(t, text, sizeof text - 1, AK42_ENCODE_SPECIAL, ids, 256, &n, &err);
    tokenizer_free(t);
    return status;
}

static void fail_allocations(open_fn open, const writer *good, const char *name) {
    for (int persistent = 0; persistent < 2; persistent++) {
        fail_for_good = persistent;
        for (fail_at = 0;; fail_at++) {
            long live = n_live;
            n_calls = 0;
            ak42_status status = whole_use(open, good);
            CHECK(n_live == live, "%s: %ld allocations are left after the %ldth failed", name, n_live - live,
                  fail_at);
            CHECK(status == AK42_STATUS_OK || status == AK42_STATUS_NOMEM,
                  "%s: status %d after the %ldth failed", name, status, fail_at);
            if (n_calls <= fail_at) break;
        }
    }
    fail_at = -1;
    CHECK(whole_use(open, good) == AK42_STATUS_OK, "%s: nothing works after failures", name);
}

/* ---- behaviour at the edges of the functions ---- */

static void check_calls(const writer *good) {
    ak42_tokenizer *t = NULL;
    ak42_error err;
    int32_t ids[8] = {7, 7, 7, 7, 7, 7, 7, 7};
    char text[16];
    size_t n = 99, size = 99;
    CHECK(!tokenizer_from_tokn(&t, good->data, good->size, "tiny", &alloc, &err), "%s", err.text);
    CHECK(tokenizer_encode(t, "abc abc", 7, 0, ids, 1, &n, &err) == AK42_STATUS_RANGE && n > 1 && ids[0] == 7,
          "short buffer: %zu", n);
    CHECK(tokenizer_encode(t, NULL, 0, AK42_ENCODE_NO_BOS, NULL, 0, &n, &err) == AK42_STATUS_OK && n == 0,
          "no text: %zu", n);
    CHECK(tokenizer_encode(t, "a", (size_t)TEXT_MAX + 1, 0, ids, 8, &n, &err) == AK42_STATUS_RANGE,
          "a text of 2 GiB");
    ids[0] = INT32_MIN;
    CHECK(tokenizer_decode(t, ids, 1, 0, text, 16, &size, &err) == AK42_STATUS_ARG, "id INT_MIN");
    ids[0] = (int32_t)tokenizer_vocab_size(t);
    CHECK(tokenizer_decode(t, ids, 1, 0, text, 16, &size, &err) == AK42_STATUS_ARG, "id one too large");
    ids[0] = 1;
    CHECK(tokenizer_decode(t, ids, 1, 0, NULL, 0, &size, &err) == AK42_STATUS_RANGE && size == 3,
          "size of <s>: %zu", size);
    CHECK(tokenizer_bos(t) == 1 && tokenizer_adds_bos(t) && tokenizer_eos(t, ids) == 1 && ids[0] == 2,
          "the special ids");
    CHECK(tokenizer_decode(t, ids, 1, AK42_DECODE_SKIP_SPECIAL, text, 16, &size, &err) == AK42_STATUS_OK &&
          !size, "</s> is special");
    tokenizer_free(t);
    tokenizer_free(NULL);
}

/* Through the public header: a section in memory and a file alone, and what they say of themselves. */
static void check_public(const writer *tokn, const writer *bin) {
    ak42_tokenizer *t = NULL;
    ak42_error err;
    ak42_tokenizer_info info = {.struct_size = sizeof info};
    CHECK(!ak42_tokenizer_open(&t, NULL, tokn->data, tokn->size, &err), "%s", err.text);
    CHECK(!ak42_tokenizer_get_info(t, &info, &err), "%s", err.text);
    CHECK(info.struct_size == sizeof info && info.vocab_size == (int32_t)tokenizer_vocab_size(t) && info.bos_id == 1 &&
          info.n_eos == 1 && info.eos_ids[0] == 2 && info.eos_ids[1] == -1 && info.add_bos == 1,
          "%d tokens, BOS %d, %d EOS", info.vocab_size, info.bos_id, info.n_eos);
    int32_t ids[8];
    size_t n;
    static const uint32_t flags[] = {AK42_ENCODE_SPECIAL, AK42_ENCODE_SPECIAL | AK42_ENCODE_BOS};
    for (size_t i = 0; i < ARRAY_LEN(flags); i++)
        CHECK(!ak42_encode(t, "<s>", 3, flags[i], ids, ARRAY_LEN(ids), &n, &err) && n == 2 && ids[0] == 1 &&
              ids[1] == 2, "BOS that is spelled out: %zu ids", n);
    CHECK(!ak42_encode(t, "<s><s>", 6, AK42_ENCODE_SPECIAL, ids, ARRAY_LEN(ids), &n, &err) && n == 3, "%zu ids", n);
    struct { size_t struct_size; int32_t vocab_size, guard; } shorter = {12, 0, 77};
    CHECK(!ak42_tokenizer_get_info(t, (ak42_tokenizer_info *)(void *)&shorter, &err) && shorter.struct_size == 12 &&
          shorter.vocab_size == info.vocab_size && shorter.guard == 77, "an older struct");
    info.struct_size = 0;
    CHECK(ak42_tokenizer_get_info(t, &info, &err) == AK42_STATUS_ARG, "no struct_size");
    CHECK(ak42_tokenizer_get_info(NULL, &info, &err) == AK42_STATUS_ARG && ak42_tokenizer_get_info(t, NULL, NULL) == AK42_STATUS_ARG,
          "NULL");
    ak42_tokenizer_close(t);
    char path[] = "/tmp/check_tokenizer_XXXXXX";
    const int fd = mkstemp(path);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "wb");
    CHECK(file && fwrite(bin->data, 1, bin->size, file) == bin->size && !fclose(file), "%s", path);
    info.struct_size = sizeof info;
    CHECK(!ak42_tokenizer_open(&t, path, NULL, 0, &err), "%s", err.text);
    CHECK(!ak42_tokenizer_get_info(t, &info, &err) && info.vocab_size > 258 && info.bos_id == 1 && info.add_bos == 1, "a file alone");
    ak42_tokenizer_close(t);
    remove(path);
}

/* Time must grow with the text, not with its square. */
static void check_time(const writer *good, const char *letter) {
    enum { SIZE = 1 << 20 };
    static char text[2 * SIZE];
    static int32_t ids[2 * SIZE + 8];
    ak42_tokenizer *t = NULL;
    ak42_error err;
    double seconds[2];
    CHECK(!tokenizer_from_tokn(&t, good->data, good->size, "tiny", &alloc, &err), "%s", err.text);
    size_t unit = strlen(letter), n;
    for (size_t i = 0; i < sizeof text; i++) text[i] = letter[i % unit];
    for (int k = 0; k < 2; k++) {
        clock_t start = clock();
        size_t size = (size_t)SIZE << k;
        CHECK(!tokenizer_encode(t, text, size - size % unit, 0, ids, ARRAY_LEN(ids), &n, &err), "%s",
              err.text);
        seconds[k] = (double)(clock() - start) / CLOCKS_PER_SEC;
    }
    CHECK(seconds[1] < 20 && seconds[1] < 4 * seconds[0] + 0.5, "<%s>: %.2f s for 1 MiB, %.2f s for 2 MiB",
          letter, seconds[0], seconds[1]);
    tokenizer_free(t);
}

int main(int argc, char **argv) {
    static writer ranks, scores, bpe, bin;
    if (argc > 1 && !strcmp(argv[1], "--quick")) stride = 7;
    make_spm_ranks(&ranks);
    make_spm_scores(&scores);
    make_bpe(&bpe);
    make_bin(&bin);
    damage(tokenizer_from_tokn, &ranks, "ranks");
    damage(tokenizer_from_tokn, &scores, "scores");
    damage(tokenizer_from_tokn, &bpe, "bpe");
    damage(tokenizer_from_bin, &bin, "bin");
    check_gguf();
    fail_allocations(tokenizer_from_tokn, &ranks, "ranks");
    fail_allocations(tokenizer_from_tokn, &bpe, "bpe");
    fail_allocations(tokenizer_from_bin, &bin, "bin");
    check_calls(&ranks);
    check_public(&ranks, &bin);
    static const char *const letters[] = {"a", " ", "ab", "e\xCC\x81", "\n", "1"};
    for (size_t i = 0; i < ARRAY_LEN(letters); i++) {
        check_time(&ranks, letters[i]);
        check_time(&scores, letters[i]);
        check_time(&bpe, letters[i]);
    }
    CHECK(n_live == 0, "%ld allocations are left at the end", n_live);
    printf("%ld opens\n%ld passed, %ld failed\n", n_opens, n_passed, n_failed);
    return n_failed != 0;
}

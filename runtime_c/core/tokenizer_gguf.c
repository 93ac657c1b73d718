/* tokenizer_gguf.c: the tokenizer.ggml.* keys of a GGUF file to a tokenizer: model "llama" (SentencePiece) or
 * "gpt2" (byte-level). container.h's gguf_vocab has been found by the GGUF reader; the strings inside are
 * checked here. */
#include "tokenizer_presets.h"

static bool is(blob text, const char *word) {
    return text.data && text.size == strlen(word) && !memcmp(text.data, word, text.size);
}

/* ---- arrays of strings, each with its length (u64) in front ---- */

typedef struct strings {
    const uint8_t *p, *end;
} strings;

static bool next_string(strings *s, const uint8_t **bytes, uint64_t *size) {
    if (s->end - s->p < 8) return false;
    *size = load_u64(s->p);
    *bytes = s->p + 8;
    if (*size > (uint64_t)(s->end - *bytes)) return false;
    s->p = *bytes + *size;
    return true;
}

static strings strings_of(blob array) {
    return (strings){array.data, array.data ? array.data + array.size : NULL};
}

static ak42_status cut_short(const builder *b, const char *key, uint64_t index) {
    return error_set(b->err, AK42_STATUS_FORMAT, "%s: key %s: element %llu goes beyond the array", b->name,
                     key, (unsigned long long)index);
}

/* GPT-2's alphabet to bytes in out (room for size) and how many; NO_TOKEN where the text has any other
 * letter. */
static uint32_t unmap(uint8_t *out, const uint8_t *text, uint64_t size) {
    uint32_t n = 0, length;
    for (uint64_t at = 0; at < size; at += length) {
        int byte = alphabet_to_byte(utf8_next(text + at, text + size, &length));
        if (byte < 0) return NO_TOKEN;
        out[n++] = (uint8_t)byte;
    }
    return n;
}

/* ---- tokens ---- */

static uint32_t token_type_of(const gguf_vocab *v, uint32_t kind, uint32_t id, const uint8_t *bytes,
                              uint64_t size) {
    bool byte = kind == KIND_SPM && byte_token_value(bytes, size) >= 0;
    if (v->types.data) {
        uint32_t type = load_u32(v->types.data + (uint64_t)id * 4);
        if (type == 0 || (type == TYPE_BYTE && !byte)) return TYPE_NORMAL;
        return type;
    }
    if (byte) return TYPE_BYTE;
    if ((int32_t)id == v->unk_id) return TYPE_UNKNOWN;
    bool control = (int32_t)id == v->bos_id || (int32_t)id == v->pad_id;
    for (int32_t i = 0; i < v->n_eos; i++) control |= (int32_t)id == v->eos_ids[i];
    return control ? TYPE_CONTROL : TYPE_NORMAL;
}

static ak42_status add_tokens(builder *b, const gguf_vocab *v, uint32_t kind, uint8_t *scratch,
                              bool *has_bytes) {
    strings s = strings_of(v->tokens);
    ak42_status status = AK42_STATUS_OK;
    for (uint32_t id = 0; id < v->n_tokens && !status; id++) {
        const uint8_t *bytes;
        uint64_t size;
        if (!next_string(&s, &bytes, &size)) return cut_short(b, "tokenizer.ggml.tokens", id);
        uint32_t type = token_type_of(v, kind, id, bytes, size);
        float score = v->scores.data ? load_f32(v->scores.data + (uint64_t)id * 4) : 0.0f;
        *has_bytes |= type == TYPE_BYTE;
        if (kind == KIND_BPE) {
            /* A token with other letters is its own text, and no merge leads to it. Added tokens are always
             * their text. */
            uint32_t n = unmap(scratch, bytes, size);
            if (n == NO_TOKEN) type |= ATTR_ADDED_ONLY;
            else if (type == TYPE_NORMAL) {
                bytes = scratch;
                size = n;
            }
        }
        status = build_token(b, bytes, size, score, type);
    }
    return status;
}

/* ---- merges: "left right" ---- */

static ak42_status add_merges(builder *b, const gguf_vocab *v, uint8_t *scratch) {
    strings s = strings_of(v->merges);
    ak42_status status = AK42_STATUS_OK;
    for (uint32_t i = 0; i < v->n_merges && !status; i++) {
        const uint8_t *text, *space = NULL;
        uint64_t size;
        if (!next_string(&s, &text, &size)) return cut_short(b, "tokenizer.ggml.merges", i);
        if (size > 2) space = memchr(text + 1, ' ', size - 2);
        if (!space)
            return error_set(b->err, AK42_STATUS_FORMAT,
                             "%s: key tokenizer.ggml.merges: element %u: expected two tokens and a space",
                                 b->name, i);
        uint32_t ids[2];
        const uint8_t *parts[2] = {text, space + 1};
        uint64_t sizes[2] = {(uint64_t)(space - text), (uint64_t)(text + size - space - 1)};
        for (uint32_t k = 0; k < 2; k++) {
            bool bpe = b->t->kind == KIND_BPE;
            uint32_t part_size = bpe ? unmap(scratch, parts[k], sizes[k]) : (uint32_t)sizes[k];
            ids[k] = part_size == NO_TOKEN ? NO_TOKEN : find_token(b->t, bpe ? scratch : parts[k], part_size);
            if (ids[k] == NO_TOKEN)
                return error_set(b->err, AK42_STATUS_FORMAT,
                                 "%s: key tokenizer.ggml.merges: element %u: a part is no token", b->name, i);
        }
        status = build_merge(b, i, ids[0], ids[1]);
    }
    return status;
}

/* ---- steps ---- */

#define STEP(op, flags, text) \
    if (!status) status = build_step(b, op, flags, (const uint8_t *)(text), sizeof(text) - 1)

static ak42_status add_spm_steps(builder *b, const gguf_vocab *v) {
    ak42_status status = build_steps(b, 7, 64);
    if (v->remove_extra_whitespaces == 1) {
        STEP(STEP_STRIP, STRIP_LEFT | STRIP_SPACES, "");
        STEP(STEP_REPLACE, REPLACE_REGEX, "\5\0\0\0 {2,} ");
    }
    if (b->t->flags & FLAG_DUMMY_PREFIX) STEP(STEP_PREPEND, 0, "\xE2\x96\x81");
    STEP(STEP_REPLACE, 0, "\1\0\0\0 \xE2\x96\x81");
    if (v->remove_extra_whitespaces == 1) STEP(STEP_STRIP, STRIP_RIGHT | STRIP_MARKS, "");
    STEP(STEP_ADDED, 0, "");
    STEP(STEP_SPACES, 0, "\xE2\x96\x81");
    return status;
}

static ak42_status add_preset_steps(builder *b, const preset *p) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < p->n_steps; i++) bytes += p->steps[i].size;
    ak42_status status = build_steps(b, (uint32_t)p->n_steps, bytes);
    for (size_t i = 0; i < p->n_steps && !status; i++)
        status = build_step(b, (uint32_t)p->steps[i].op, p->steps[i].flags, p->steps[i].text,
                            p->steps[i].size);
    return status;
}

/* ---- the whole ---- */

static ak42_status choose(const builder *b, const gguf_vocab *v, uint32_t *kind, uint32_t *flags,
                          const preset **p) {
    static const blob unnamed = {(const uint8_t *)"default", 7};
    *p = NULL;
    if (is(v->model, "llama")) {
        *kind = KIND_SPM;
        *flags = v->add_space_prefix != 0 ? FLAG_DUMMY_PREFIX : 0;
        if (v->add_bos != 0 && v->bos_id >= 0) *flags |= FLAG_ADD_BOS;
        if (v->remove_extra_whitespaces == 1) *flags |= FLAG_COLLAPSE;
        if (v->unk_id >= 0) *flags |= FLAG_EMIT_UNK | FLAG_FUSE_UNK;
        if (!v->merges.data && !v->scores.data)
            return error_set(b->err, AK42_STATUS_FORMAT,
                             "%s: key tokenizer.ggml.scores: absent, and there are no merges", b->name);
    } else if (is(v->model, "gpt2")) {
        blob pre = v->pre.data ? v->pre : unnamed;
        *kind = KIND_BPE;
        *p = preset_find(pre.data, pre.size);
        if (!*p)
            return error_set(b->err, AK42_STATUS_UNSUPPORTED,
                             "%s: key tokenizer.ggml.pre: pre-tokenizer %.*s is not supported", b->name,
                                 (int)(pre.size < 64 ? pre.size : 64), (const char *)pre.data);
        *flags = (*p)->flags;
        if (v->add_bos == 0 || v->bos_id < 0) *flags &= ~(uint32_t)FLAG_ADD_BOS;
        if (v->add_bos == 1 && v->bos_id >= 0) *flags |= FLAG_ADD_BOS;
        if (!v->merges.data)
            return error_set(b->err, AK42_STATUS_FORMAT, "%s: key tokenizer.ggml.merges: absent", b->name);
    } else {
        return error_set(b->err, AK42_STATUS_UNSUPPORTED,
                         "%s: key tokenizer.ggml.model: expected llama or gpt2, found %.*s", b->name,
                             (int)(v->model.size < 64 ? v->model.size : 64),
                                 v->model.data ? (const char *)v->model.data : "");
    }
    if (v->add_bos == 1 && v->bos_id < 0)
        return error_set(b->err, AK42_STATUS_FORMAT,
                         "%s: key tokenizer.ggml.bos_token_id: absent, but a BOS is added", b->name);
    if (v->add_eos == 1 && !v->n_eos)
        return error_set(b->err, AK42_STATUS_FORMAT,
                         "%s: key tokenizer.ggml.eos_token_id: absent, but an EOS is added", b->name);
    if (v->add_eos == 1) *flags |= FLAG_ADD_EOS;
    return AK42_STATUS_OK;
}

/* Bytes of all tokens together, and of the longest string of tokens and merges. */
static ak42_status measure(const builder *b, const gguf_vocab *v, uint64_t *bytes, uint64_t *longest) {
    strings s = strings_of(v->tokens);
    const uint8_t *text;
    uint64_t size;
    *bytes = *longest = 0;
    for (uint64_t i = 0; i < v->n_tokens; i++) {
        if (!next_string(&s, &text, &size)) return cut_short(b, "tokenizer.ggml.tokens", i);
        *bytes += size;
        if (size > *longest) *longest = size;
    }
    s = strings_of(v->merges);
    for (uint64_t i = 0; i < v->n_merges; i++) {
        if (!next_string(&s, &text, &size)) return cut_short(b, "tokenizer.ggml.merges", i);
        if (size > *longest) *longest = size;
    }
    if (*longest >= UINT32_MAX) return cut_short(b, "tokenizer.ggml.tokens", v->n_tokens);
    if ((v->scores.data && v->scores.size / 4 < v->n_tokens) ||
        (v->types.data && v->types.size / 4 < v->n_tokens))
        return error_set(b->err, AK42_STATUS_FORMAT,
                         "%s: keys tokenizer.ggml.scores and token_type: expected one for each token",
                         b->name);
    if (!v->n_tokens || v->n_tokens > CONFIG_MAX_VOCAB || v->n_merges >= 1u << 30)
        return error_set(b->err, AK42_STATUS_FORMAT,
                         "%s: key tokenizer.ggml.tokens: expected 1 to %d tokens, found %llu", b->name,
                         CONFIG_MAX_VOCAB, (unsigned long long)v->n_tokens);
    return AK42_STATUS_OK;
}

static ak42_status read_vocab(builder *b, const gguf_vocab *v, const allocator *alloc) {
    uint32_t kind = 0, flags = 0;
    const preset *p;
    uint64_t bytes, longest;
    bool has_bytes = false;
    uint8_t *scratch = NULL;
    ak42_status status = choose(b, v, &kind, &flags, &p);
    if (!status) status = measure(b, v, &bytes, &longest);
    if (!status) status = build_begin(b, alloc, kind, flags);
    if (!status) status = build_tokens(b, (uint32_t)v->n_tokens, bytes);
    if (status) return status;
    scratch = mem_resize(alloc, NULL, longest + 1);
    if (!scratch) return error_set(b->err, AK42_STATUS_NOMEM, "%s: tokenizer: no memory", b->name);
    status = add_tokens(b, v, kind, scratch, &has_bytes);
    if (has_bytes) b->t->flags |= FLAG_BYTE_FALLBACK;
    if (!status) status = build_ids(b, v->bos_id, v->unk_id, v->pad_id, v->eos_ids, (uint32_t)v->n_eos);
    if (!status) status = build_index(b, (uint32_t)v->n_merges);
    if (!status) status = add_merges(b, v, scratch);
    if (!status) status = p ? add_preset_steps(b, p) : add_spm_steps(b, v);
    mem_free(alloc, scratch);
    return status;
}

ak42_status tokenizer_from_gguf(ak42_tokenizer **tokenizer, const gguf_vocab *vocab, const char *name,
                                const allocator *alloc, ak42_error *err) {
    builder b = {.name = name, .err = err};
    ak42_status status = read_vocab(&b, vocab, alloc);
    if (!status) status = build_end(&b, tokenizer);
    if (status) tokenizer_free(b.t);
    return status;
}

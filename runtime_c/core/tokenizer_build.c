/* tokenizer_build.c: fills an ak42_tokenizer from what one of the three sources hands over, piece by piece,
 * checks it, and makes the indexes. Nothing in here trusts a number that it was given. */
#include "tokenizer_parts.h"

#define FAIL(b, code, ...) error_set((b)->err, AK42_STATUS_##code, __VA_ARGS__)

static ak42_status no_memory(const builder *b) { return FAIL(b, NOMEM, "%s: tokenizer: no memory", b->name); }

static uint32_t power_of_two(uint64_t at_least) {
    uint32_t size = 16;
    while (size < at_least && size < 1u << 31) size *= 2;
    return size;
}

/* ---- look-ups ---- */

static uint64_t mix(uint64_t h) {
    h ^= h >> 32;
    h *= 0x9E3779B97F4A7C15u;
    return h ^ h >> 29;
}

/* The last bytes are read again, with those before them, where the size is no multiple of the word. */
static uint64_t hash_bytes(const uint8_t *bytes, uint32_t size) {
    uint64_t h = size * 0xD6E8FEB86659FD93u, word = 0;
    if (size >= 8) {
        for (uint32_t at = 0; at + 8 < size; at += 8) h = mix(h + load_u64(bytes + at));
        word = load_u64(bytes + size - 8);
    } else if (size >= 4) {
        word = load_u32(bytes) | (uint64_t)load_u32(bytes + size - 4) << 32;
    } else if (size) {
        word = bytes[0] | (uint64_t)bytes[size / 2] << 8 | (uint64_t)bytes[size - 1] << 16;
    }
    return mix(mix(h + word));
}

uint32_t find_token(const ak42_tokenizer *t, const uint8_t *bytes, uint32_t size) {
    if (size > t->token_size_max) return NO_TOKEN;
    const uint32_t mask = t->index_size - 1;
    for (uint32_t slot = (uint32_t)hash_bytes(bytes, size) & mask;; slot = (slot + 1) & mask) {
        if (!t->index[slot]) return NO_TOKEN;
        uint32_t id = t->index[slot] - 1, id_size;
        const uint8_t *id_bytes = token_bytes(t, id, &id_size);
        if (id_size == size && !memcmp(id_bytes, bytes, size)) return id;
    }
}

merge_slot *find_merge(const ak42_tokenizer *t, uint32_t left, uint32_t right) {
    uint32_t slot = (uint32_t)mix(mix((uint64_t)left << 32 | right)) & (t->merges_size - 1);
    while (t->merges[slot].left != NO_TOKEN &&
           (t->merges[slot].left != left || t->merges[slot].right != right))
        slot = (slot + 1) & (t->merges_size - 1);
    return &t->merges[slot];
}

static int hex_value(uint8_t c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int byte_token_value(const uint8_t *bytes, uint64_t size) {
    if (size != 6 || memcmp(bytes, "<0x", 3) || bytes[5] != '>') return -1;
    int high = hex_value(bytes[3]), low = hex_value(bytes[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* Printable Latin-1 stands for itself, the other 68 bytes for the code points from 256 on, in their order. */
static bool alphabet_direct(uint32_t c) {
    return (c >= 33 && c <= 126) || (c >= 161 && c <= 172) || (c >= 174 && c <= 255);
}

uint32_t alphabet_from_byte(uint8_t byte) {
    if (alphabet_direct(byte)) return byte;
    if (byte <= 32) return 256u + byte;
    return byte <= 160 ? 256u + 33 + (byte - 127u) : 256u + 67;
}

int alphabet_to_byte(uint32_t c) {
    if (c < 256) return alphabet_direct(c) ? (int)c : -1;
    if (c <= 256 + 32) return (int)(c - 256);
    if (c <= 256 + 66) return (int)(c - 256 - 33 + 127);
    return c == 256 + 67 ? 173 : -1;
}

/* ---- tokens ---- */

ak42_status build_begin(builder *b, const allocator *alloc, uint32_t kind, uint32_t flags) {
    if (kind != KIND_SPM && kind != KIND_BPE)
        return FAIL(b, UNSUPPORTED, "%s: tokenizer: expected kind 1 or 2, found %u", b->name, kind);
    if (flags & ~(uint32_t)FLAG_ALL)
        return FAIL(b, UNSUPPORTED, "%s: tokenizer: unknown flags 0x%x", b->name,
                    flags & ~(uint32_t)FLAG_ALL);
    b->t = mem_zalloc(alloc, 1, sizeof *b->t);
    if (!b->t) return no_memory(b);
    b->t->alloc = *alloc;
    b->t->kind = kind;
    b->t->flags = flags;
    b->t->map = mem_zalloc(alloc, 1, sizeof *b->t->map);
    if (!b->t->map) return no_memory(b);
    unicode_expand(b->t->map);
    return AK42_STATUS_OK;
}

ak42_status build_tokens(builder *b, uint32_t n_tokens, uint64_t bytes_size) {
    ak42_tokenizer *t = b->t;
    if (!n_tokens || n_tokens > CONFIG_MAX_VOCAB)
        return FAIL(b, FORMAT, "%s: tokenizer: expected 1 to %d tokens, found %u", b->name, CONFIG_MAX_VOCAB,
                    n_tokens);
    if (bytes_size >= UINT32_MAX)
        return FAIL(b, UNSUPPORTED, "%s: tokenizer: tokens of more than 4 GiB", b->name);
    t->bytes = mem_zalloc(&t->alloc, bytes_size + 1, 1);
    t->begins = mem_zalloc(&t->alloc, (uint64_t)n_tokens + 1, sizeof *t->begins);
    t->scores = mem_zalloc(&t->alloc, n_tokens, sizeof *t->scores);
    t->attrs = mem_zalloc(&t->alloc, n_tokens, sizeof *t->attrs);
    if (!t->bytes || !t->begins || !t->scores || !t->attrs) return no_memory(b);
    b->bytes_size = bytes_size;
    t->n_tokens = n_tokens;
    return AK42_STATUS_OK;
}

ak42_status build_token(builder *b, const uint8_t *bytes, uint64_t size, float score, uint32_t attr) {
    ak42_tokenizer *t = b->t;
    uint32_t type = attr & TYPE_MASK, begin = t->begins[b->n_added];
    if (type < TYPE_NORMAL || type > TYPE_BYTE || attr & ~(uint32_t)ATTR_ALL)
        return FAIL(b, FORMAT, "%s: token %u: unknown type 0x%x", b->name, b->n_added, attr);
    if ((type == TYPE_BYTE || attr & ATTR_BYTE) && byte_token_value(bytes, size) < 0)
        return FAIL(b, FORMAT, "%s: token %u: expected a byte as <0x..>, found other text", b->name,
                    b->n_added);
    if (b->n_added == t->n_tokens || size > b->bytes_size - begin)
        return FAIL(b, FORMAT, "%s: token %u: the tokens are larger than announced", b->name, b->n_added);
    if (size) memcpy(t->bytes + begin, bytes, size);
    t->begins[b->n_added + 1] = begin + (uint32_t)size;
    t->scores[b->n_added] = score;
    t->attrs[b->n_added] = attr;
    if (size > t->token_size_max) t->token_size_max = (uint32_t)size;
    b->n_added++;
    return AK42_STATUS_OK;
}

static ak42_status check_id(const builder *b, const char *what, int32_t id) {
    if (id >= -1 && id < (int64_t)b->t->n_tokens) return AK42_STATUS_OK;
    return FAIL(b, FORMAT, "%s: tokenizer: %s: expected -1 to %u, found %d", b->name, what,
                b->t->n_tokens - 1, id);
}

ak42_status build_ids(builder *b, int32_t bos_id, int32_t unk_id, int32_t pad_id, const int32_t *eos_ids,
                      uint32_t n_eos) {
    ak42_tokenizer *t = b->t;
    ak42_status status = check_id(b, "bos id", bos_id);
    if (!status) status = check_id(b, "unk id", unk_id);
    if (!status) status = check_id(b, "pad id", pad_id);
    if (status) return status;
    if (n_eos > AK42_EOS_MAX)
        return FAIL(b, UNSUPPORTED, "%s: tokenizer: expected up to %d eos ids, found %u", b->name,
                    AK42_EOS_MAX, n_eos);
    t->bos_id = bos_id;
    t->unk_id = unk_id;
    t->pad_id = pad_id;
    for (uint32_t i = 0; i < n_eos; i++) {
        if ((status = check_id(b, "eos id", eos_ids[i]))) return status;
        if (eos_ids[i] < 0) return FAIL(b, FORMAT, "%s: tokenizer: eos id %u is -1", b->name, i);
        t->eos_ids[t->n_eos++] = eos_ids[i];
    }
    if (t->flags & FLAG_ADD_BOS && t->bos_id < 0)
        return FAIL(b, FORMAT, "%s: tokenizer: adds a BOS but has none", b->name);
    if (t->flags & FLAG_ADD_EOS && !t->n_eos)
        return FAIL(b, FORMAT, "%s: tokenizer: adds an EOS but has none", b->name);
    if (t->flags & FLAG_EMIT_UNK && t->unk_id < 0)
        return FAIL(b, FORMAT, "%s: tokenizer: emits an unknown token but has none", b->name);
    return AK42_STATUS_OK;
}

/* ---- merges ---- */

ak42_status build_index(builder *b, uint32_t n_merges) {
    ak42_tokenizer *t = b->t;
    if (b->n_added != t->n_tokens)
        return FAIL(b, FORMAT, "%s: tokenizer: expected %u tokens, found %u", b->name, t->n_tokens,
                    b->n_added);
    t->index_size = power_of_two((uint64_t)t->n_tokens * 2);
    t->index = mem_zalloc(&t->alloc, t->index_size, sizeof *t->index);
    if (!t->index) return no_memory(b);
    for (uint32_t id = 0; id < t->n_tokens; id++) {
        uint32_t size;
        const uint8_t *bytes = token_bytes(t, id, &size);
        if (!size || t->attrs[id] & ATTR_ADDED_ONLY || token_type(t, id) == TYPE_UNUSED) continue;
        uint32_t slot = (uint32_t)hash_bytes(bytes, size) & (t->index_size - 1);
        bool known = false;        /* of equal tokens the lowest id is the one that is found */
        for (; t->index[slot] && !known; slot = (slot + 1) & (t->index_size - 1)) {
            uint32_t other = t->index[slot] - 1, other_size;
            const uint8_t *other_bytes = token_bytes(t, other, &other_size);
            known = other_size == size && !memcmp(other_bytes, bytes, size);
        }
        if (!known) t->index[slot] = id + 1;
    }
    t->n_merges = n_merges;
    if (!n_merges) return AK42_STATUS_OK;
    if (n_merges >= 1u << 30) return FAIL(b, UNSUPPORTED, "%s: tokenizer: %u merges", b->name, n_merges);
    t->merges_size = power_of_two((uint64_t)n_merges * 2);
    t->merges = mem_zalloc(&t->alloc, t->merges_size, sizeof *t->merges);
    if (!t->merges) return no_memory(b);
    for (uint32_t i = 0; i < t->merges_size; i++) t->merges[i].left = NO_TOKEN;
    return AK42_STATUS_OK;
}

/* The token whose bytes are those of left and right together; NO_TOKEN where there is none. */
static ak42_status find_joined(const builder *b, uint32_t left, uint32_t right, uint32_t *found) {
    uint8_t joined[256], *bytes = joined;
    uint32_t size_left, size_right;
    const uint8_t *bytes_left = token_bytes(b->t, left, &size_left);
    const uint8_t *bytes_right = token_bytes(b->t, right, &size_right);
    uint64_t size = (uint64_t)size_left + size_right;
    *found = NO_TOKEN;
    if (size > b->t->token_size_max) return AK42_STATUS_OK;
    if (size > sizeof joined && !(bytes = mem_resize(&b->t->alloc, NULL, size))) return no_memory(b);
    if (size_left) memcpy(bytes, bytes_left, size_left);
    if (size_right) memcpy(bytes + size_left, bytes_right, size_right);
    *found = find_token(b->t, bytes, (uint32_t)size);
    if (bytes != joined) mem_free(&b->t->alloc, bytes);
    return AK42_STATUS_OK;
}

ak42_status build_merge(builder *b, uint32_t rank, uint32_t left, uint32_t right) {
    ak42_tokenizer *t = b->t;
    uint32_t merged;
    if (left >= t->n_tokens || right >= t->n_tokens)
        return FAIL(b, FORMAT, "%s: merge %u: expected ids below %u, found %u and %u", b->name, rank,
                    t->n_tokens, left, right);
    ak42_status status = find_joined(b, left, right, &merged);
    if (status) return status;
    if (merged == NO_TOKEN)
        return FAIL(b, FORMAT, "%s: merge %u: tokens %u and %u together are no token", b->name, rank, left,
                    right);
    *find_merge(t, left, right) = (merge_slot){left, right, rank, merged};
    return AK42_STATUS_OK;
}

/* ---- steps ---- */

ak42_status build_steps(builder *b, uint32_t n_steps, uint64_t bytes_size) {
    ak42_tokenizer *t = b->t;
    if (n_steps > STEPS_MAX)
        return FAIL(b, UNSUPPORTED, "%s: tokenizer: expected up to %d steps, found %u", b->name, STEPS_MAX,
                    n_steps);
    t->steps = mem_zalloc(&t->alloc, STEPS_MAX, sizeof *t->steps);
    t->step_bytes = mem_zalloc(&t->alloc, bytes_size + 1, 1);
    if (!t->steps || !t->step_bytes) return no_memory(b);
    t->steps_max = n_steps;
    t->added_step = NO_TOKEN;
    b->step_bytes_size = bytes_size;
    return AK42_STATUS_OK;
}

static ak42_status wrong_step(const builder *b, const char *what) {
    return FAIL(b, FORMAT, "%s: tokenizer: step %u: %s", b->name, b->t->n_steps, what);
}

/* What each op demands of its flags, bytes and place. */
static ak42_status check_step(builder *b, step *s) {
    ak42_tokenizer *t = b->t;
    bool added = t->added_step != NO_TOKEN;
    if (t->maps_bytes && (s->op < STEP_SPLIT || s->op == STEP_BYTE_LEVEL))
        return wrong_step(b, "the text is mapped to GPT-2's alphabet already");
    if (!added && s->op >= STEP_SPLIT && s->op != STEP_SPACES)
        return wrong_step(b, "expected op 8 (added tokens) before it");
    uint32_t behaviour = s->flags & SPLIT_BEHAVIOUR, allowed = 0;
    switch (s->op) {
    case STEP_PREPEND:
        allowed = PREPEND_UNLESS_THERE | PREPEND_FIRST;
        if (!s->text_size) return wrong_step(b, "expected a text to prepend");
        break;
    case STEP_REPLACE:
        allowed = REPLACE_REGEX;
        if (s->text_size < 4 || load_u32(s->text) > s->text_size - 4 || !load_u32(s->text))
            return wrong_step(b, "expected a text to replace");
        s->to = s->text + 4 + load_u32(s->text);
        s->to_size = s->text_size - 4 - load_u32(s->text);
        s->text_size = load_u32(s->text);
        s->text += 4;
        break;
    case STEP_STRIP:
        allowed = STRIP_LEFT | STRIP_RIGHT | STRIP_SPACES | STRIP_MARKS;
        if (s->flags & STRIP_SPACES && s->flags & STRIP_MARKS) return wrong_step(b, "expected spaces or marks, not both");
        break;
    case STEP_NFC: break;
    case STEP_ADDED:
        if (added) return wrong_step(b, "op 8 (added tokens) stands there twice");
        break;
    case STEP_SPLIT:
        allowed = SPLIT_BEHAVIOUR | SPLIT_INVERT | SPLIT_LITERAL;
        if (behaviour >= BEHAVIOUR_COUNT) return wrong_step(b, "unknown behaviour");
        if (!s->text_size) return wrong_step(b, "expected a pattern");
        break;
    case STEP_DIGITS: allowed = DIGITS_SINGLE; break;
    case STEP_PUNCTUATION:
        allowed = SPLIT_BEHAVIOUR;
        if (behaviour >= BEHAVIOUR_COUNT) return wrong_step(b, "unknown behaviour");
        break;
    case STEP_BYTE_LEVEL:
        if (t->kind != KIND_BPE) return wrong_step(b, "op 19 (byte level) in a vocabulary that is not");
        t->maps_bytes = true;
        break;
    case STEP_SPACES:
        allowed = SPACES_FIRST;
        if (!s->text_size || t->spaces) return wrong_step(b, "expected one text that stands for a space");
        break;
    }
    if (s->flags & ~allowed)
        return FAIL(b, UNSUPPORTED, "%s: tokenizer: step %u: unknown flags 0x%x", b->name, t->n_steps,
                    s->flags & ~allowed);
    return AK42_STATUS_OK;
}

ak42_status build_step(builder *b, uint32_t op, uint32_t flags, const uint8_t *bytes, uint64_t size) {
    ak42_tokenizer *t = b->t;
    if (!(op >= STEP_PREPEND && op <= STEP_NFC) && op != STEP_ADDED &&
        !(op >= STEP_SPLIT && op <= STEP_BYTE_LEVEL) && op != STEP_SPACES)
        return FAIL(b, UNSUPPORTED, "%s: tokenizer: step %u: unknown op %u", b->name, t->n_steps, op);
    if (t->n_steps == t->steps_max || size > STEP_BYTES_MAX || size > b->step_bytes_size - b->step_size)
        return wrong_step(b, "it is larger than announced");
    step s = {.op = (step_op)op, .flags = flags, .text = t->step_bytes + b->step_size,
              .text_size = (uint32_t)size};
    if (size) memcpy(t->step_bytes + b->step_size, bytes, size);
    b->step_size += size;
    ak42_status status = check_step(b, &s);
    if (status) return status;
    if (op == STEP_SPACES) {
        t->spaces = s.text;
        t->spaces_size = s.text_size;
        t->spaces_flags = flags;
        t->steps_max--;
        return AK42_STATUS_OK;
    }
    if (op == STEP_ADDED) t->added_step = t->n_steps;
    bool pattern = (op == STEP_SPLIT && !(flags & SPLIT_LITERAL)) ||
                   (op == STEP_REPLACE && flags & REPLACE_REGEX);
    t->steps[t->n_steps] = s;
    if (pattern)
        status = regex_compile(&t->steps[t->n_steps].re, s.text, s.text_size, t->map, &t->alloc, b->name,
                               b->err);
    t->n_steps++;
    return status;
}

/* ---- what is derived ---- */

/* Merges by score: smaller numbers first, equal scores equal. Scores that are no number, or at or below
 * llama2.c's limit, never. */
static ak42_status make_priorities(builder *b) {
    ak42_tokenizer *t = b->t;
    const float limit = -1e10f;
    if (t->merges_size || t->kind != KIND_SPM) return AK42_STATUS_OK;
    t->priorities = mem_zalloc(&t->alloc, t->n_tokens, sizeof *t->priorities);
    if (!t->priorities) return no_memory(b);
    for (uint32_t id = 0; id < t->n_tokens; id++) {
        uint32_t type = token_type(t, id), bits;
        float score = t->scores[id] + 0.0f;          /* -0 counts as 0 */
        bool piece = type == TYPE_NORMAL || type == TYPE_USER ||
                     (t->flags & FLAG_ANY_PIECE && type != TYPE_CONTROL);
        t->priorities[id] = NO_TOKEN;
        if (!piece || !(score > limit)) continue;
        memcpy(&bits, &score, sizeof bits);
        t->priorities[id] = bits >> 31 ? bits : ~(bits | 0x80000000u);      /* floats in descending order */
    }
    return AK42_STATUS_OK;
}

static void make_byte_ids(ak42_tokenizer *t) {
    for (uint32_t i = 0; i < 256; i++) t->byte_ids[i] = NO_TOKEN;
    for (uint32_t i = 0; i < 128; i++) t->ascii_ids[i] = NO_TOKEN;
    if (t->kind == KIND_BPE) {
        for (uint32_t i = 0; i < 256; i++) {
            uint8_t byte = (uint8_t)i;
            t->byte_ids[i] = find_token(t, &byte, 1);
        }
        return;
    }
    for (uint32_t id = t->n_tokens; id-- > 0;) {
        uint32_t size;
        const uint8_t *bytes = token_bytes(t, id, &size);
        if (token_is_byte(t, id) && t->flags & FLAG_BYTE_FALLBACK && !(t->attrs[id] & ATTR_ADDED_ONLY))
            t->byte_ids[byte_token_value(bytes, size)] = id;
    }
    for (uint32_t i = 0; i < 128; i++) {
        uint8_t byte = (uint8_t)i;
        t->ascii_ids[i] = find_token(t, &byte, 1);
    }
}

/* Whether the mark occurs in the token behind something else than the mark. */
static bool mark_inside(const ak42_tokenizer *t, uint32_t id, const char *mark, uint32_t mark_size) {
    uint32_t size, at = 0;
    const uint8_t *bytes = token_bytes(t, id, &size);
    while (size - at >= mark_size && !memcmp(bytes + at, mark, mark_size)) at += mark_size;
    for (; size >= mark_size && at <= size - mark_size; at++)
        if (!memcmp(bytes + at, mark, mark_size)) return true;
    return false;
}

/* SentencePiece vocabularies hardly ever have a piece that goes on into the next word. Where none does, a
 * text may be cut before every word with exactly the same result, and short pieces are merged much faster. */
static void find_word_mark(ak42_tokenizer *t) {
    static const char *const marks[] = {"\xE2\x96\x81", " "};      /* U+2581, a plain space (tokenizer.bin) */
    if (t->kind != KIND_SPM || t->flags & FLAG_IGNORE_MERGES) return;
    /* Where characters may be dropped, the marks of two words can come to stand side by side. */
    for (uint32_t i = 0; i < 256; i++)
        if (t->byte_ids[i] == NO_TOKEN && !(t->flags & FLAG_EMIT_UNK)) return;
    for (uint32_t i = 0; i < ARRAY_LEN(marks) && !t->word_mark; i++) {
        uint32_t size = (uint32_t)strlen(marks[i]), mark = find_token(t, (const uint8_t *)marks[i], size);
        bool crossed = mark == NO_TOKEN || (t->priorities && t->priorities[mark] == NO_TOKEN);
        if (t->merges_size) {
            for (uint32_t slot = 0; slot < t->merges_size && !crossed; slot++)
                crossed = t->merges[slot].left != NO_TOKEN &&
                          mark_inside(t, t->merges[slot].merged, marks[i], size);
        } else {
            for (uint32_t id = 0; id < t->n_tokens && !crossed; id++)
                crossed = t->priorities[id] != NO_TOKEN && mark_inside(t, id, marks[i], size);
        }
        if (crossed) continue;
        t->word_mark = marks[i];
        t->word_mark_size = size;
    }
}

/* Remembers that a token decodes to other bytes than its own. */
static ak42_status set_form(builder *b, uint32_t id, const buffer *normal) {
    ak42_tokenizer *t = b->t;
    uint64_t begin = (uint64_t)t->form_bytes.size + 4, wanted = begin + normal->size;
    if (!t->forms) t->forms = mem_zalloc(&t->alloc, t->n_tokens, sizeof *t->forms);
    if (!t->forms || wanted > TEXT_MAX / 2) return no_memory(b);
    if (wanted > t->form_bytes.max) {
        uint8_t *grown = mem_resize(&t->alloc, t->form_bytes.data, wanted * 2);
        if (!grown) return no_memory(b);
        t->form_bytes.data = grown;
        t->form_bytes.max = (uint32_t)(wanted * 2);
    }
    for (uint32_t i = 0; i < 4; i++) t->form_bytes.data[begin - 4 + i] = (uint8_t)(normal->size >> 8 * i);
    if (normal->size) memcpy(t->form_bytes.data + begin, normal->data, normal->size);
    t->form_bytes.size = (uint32_t)wanted;
    t->forms[id] = (uint32_t)begin;
    return AK42_STATUS_OK;
}

/* The token's bytes as the normaliser leaves them, which is how an added token of that kind is looked for, and
 * what it decodes to. */
static ak42_status insert_normalised(builder *b, uint32_t id, const uint8_t *bytes, uint32_t size) {
    encoder *e = mem_zalloc(&b->t->alloc, 1, sizeof *e);
    buffer normal = {0};
    if (!e) return no_memory(b);
    encoder_begin(e, b->t, 0);
    e->capture = &normal;
    encode_steps(e, 0, bytes, size, true);
    ak42_status status = e->status ? no_memory(b) : AK42_STATUS_OK;
    if (!status && (normal.size != size || memcmp(normal.data, bytes, size))) status = set_form(b, id, &normal);
    if (!status && normal.size) status = finder_add(b, &b->t->normalised, normal.data, normal.size, id);
    mem_free(&b->t->alloc, normal.data);
    encoder_end(e);
    mem_free(&b->t->alloc, e->ids);
    mem_free(&b->t->alloc, e);
    return status;
}

static ak42_status add_to_finder(builder *b, uint32_t id) {
    ak42_tokenizer *t = b->t;
    uint32_t size;
    const uint8_t *bytes = token_bytes(t, id, &size);
    if (!size) return AK42_STATUS_OK;
    if (size > ADDED_BYTES_MAX)
        return FAIL(b, UNSUPPORTED, "%s: token %u: expected an added token of up to %d bytes, found %u", b->name,
                    id, ADDED_BYTES_MAX, size);
    if (!(t->attrs[id] & ATTR_NORMALIZED)) return finder_add(b, &t->raw, bytes, size, id);
    if (t->attrs[id] & ATTR_AS_IS) return finder_add(b, &t->normalised, bytes, size, id);
    return insert_normalised(b, id, bytes, size);
}

/* Of tokens that the normaliser makes equal the lowest id is found; tokenizers takes any. */
static ak42_status make_finders(builder *b) {
    ak42_tokenizer *t = b->t;
    ak42_status status = AK42_STATUS_OK;
    for (uint32_t id = 0; id < t->n_tokens && !status; id++)
        if (token_type(t, id) == TYPE_USER || type_is_special(token_type(t, id))) status = add_to_finder(b, id);
    if (!status) status = finder_build(b, &t->raw);
    if (!status) status = finder_build(b, &t->normalised);
    return status;
}

ak42_status build_end(builder *b, ak42_tokenizer **tokenizer) {
    ak42_tokenizer *t = b->t;
    if (t->added_step == NO_TOKEN)
        return FAIL(b, FORMAT, "%s: tokenizer: expected op 8 (added tokens) among the steps", b->name);
    ak42_status status = make_priorities(b);
    if (status) return status;
    make_byte_ids(t);
    find_word_mark(t);
    if ((status = make_finders(b))) return status;
    *tokenizer = t;
    return AK42_STATUS_OK;
}

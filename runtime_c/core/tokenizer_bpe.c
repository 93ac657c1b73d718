/* tokenizer_bpe.c: one piece of text to ids by byte pair encoding. First every character (SentencePiece) or
 * byte (byte-level) is a symbol; then the pair with the best rank, or score, is merged, the leftmost of
 * equals first, until no pair is left. Short pieces look for the best pair by scanning; long ones keep the
 * pairs in a heap, so that n symbols take n log n. */
#include "tokenizer_parts.h"

enum {
    SCAN_MAX = 32,                 /* symbols of a short piece */
    CUT_MIN = 16,                  /* bytes from which cutting at words is worth the look */
    SYMBOLS_MIN = 1024
};

#define NO_PAIR UINT32_MAX

/* What merging two neighbours would give; NO_PAIR as priority where they do not merge. */
static uint32_t pair_priority(const encoder *e, const uint8_t *text, const symbol *left, const symbol *right,
                              uint32_t *merged) {
    const ak42_tokenizer *t = e->t;
    if (t->merges_size) {
        const merge_slot *slot = find_merge(t, left->id, right->id);
        *merged = slot->merged;
        return slot->left == NO_TOKEN ? NO_PAIR : slot->rank;
    }
    /* By score the text itself is looked up: what a byte token or the unknown token stands for is no
     * piece. */
    if (!t->priorities || left->id == NO_TOKEN || right->id == NO_TOKEN ||
        t->priorities[left->id] == NO_TOKEN || t->priorities[right->id] == NO_TOKEN)
        return NO_PAIR;
    *merged = find_token(t, text + left->begin, left->size + right->size);
    return *merged == NO_TOKEN ? NO_PAIR : t->priorities[*merged];
}

/* ---- short pieces ---- */

static void merge_by_scan(encoder *e, const uint8_t *text, uint32_t n) {
    symbol *s = e->symbols;
    uint32_t priority[SCAN_MAX], merged[SCAN_MAX];
    for (uint32_t i = 0; i + 1 < n; i++) priority[i] = pair_priority(e, text, &s[i], &s[i + 1], &merged[i]);
    while (n > 1) {
        uint32_t best = 0;
        for (uint32_t i = 1; i + 1 < n; i++)
            if (priority[i] < priority[best]) best = i;
        if (priority[best] == NO_PAIR) break;
        s[best].id = merged[best];
        s[best].size += s[best + 1].size;
        n--;
        for (uint32_t i = best + 1; i < n; i++) s[i] = s[i + 1];
        for (uint32_t i = best + 1; i + 1 < n; i++) {
            priority[i] = priority[i + 1];
            merged[i] = merged[i + 1];
        }
        if (best + 1 < n) priority[best] = pair_priority(e, text, &s[best], &s[best + 1], &merged[best]);
        if (best > 0) priority[best - 1] = pair_priority(e, text, &s[best - 1], &s[best], &merged[best - 1]);
    }
    for (uint32_t i = 0; i < n; i++) encoder_emit(e, s[i].id);
}

/* ---- long pieces: a heap with four children a node, the smallest key on top ---- */

static void sift_down(candidate *heap, uint32_t n, uint32_t at) {
    candidate moving = heap[at];
    for (;;) {
        uint64_t child = (uint64_t)at * 4 + 1;
        if (child >= n) break;
        uint32_t smallest = (uint32_t)child, last = n - child < 4 ? n : (uint32_t)child + 4;
        for (uint32_t i = smallest + 1; i < last; i++)
            if (heap[i].key < heap[smallest].key) smallest = i;
        if (heap[smallest].key >= moving.key) break;
        heap[at] = heap[smallest];
        at = smallest;
    }
    heap[at] = moving;
}

static void sift_up(candidate *heap, uint32_t at) {
    candidate moving = heap[at];
    while (at > 0 && heap[(at - 1) / 4].key > moving.key) {
        heap[at] = heap[(at - 1) / 4];
        at = (at - 1) / 4;
    }
    heap[at] = moving;
}

/* The pair of a symbol and the next as a candidate; false where they do not merge. */
static bool make_candidate(const encoder *e, const uint8_t *text, uint32_t left, candidate *made) {
    const symbol *s = e->symbols;
    uint32_t right = s[left].next, merged, priority;
    if (right == NO_TOKEN) return false;
    priority = pair_priority(e, text, &s[left], &s[right], &merged);
    if (priority == NO_PAIR) return false;
    *made = (candidate){(uint64_t)priority << 32 | left, merged, s[left].size + s[right].size};
    return true;
}

static void push(encoder *e, const uint8_t *text, uint32_t left) {
    candidate made;
    if (!make_candidate(e, text, left, &made)) return;
    e->heap[e->n_heap] = made;     /* there is room: a merge takes one candidate away and adds at most two */
    sift_up(e->heap, e->n_heap++);
}

static void merge_by_heap(encoder *e, const uint8_t *text, uint32_t n) {
    symbol *s = e->symbols;
    if (n > e->heap_max / 2) {
        candidate *grown = mem_resize(&e->t->alloc, e->heap, (uint64_t)n * 2 * sizeof *grown);
        if (!grown) {
            e->status = AK42_STATUS_NOMEM;
            return;
        }
        e->heap = grown;
        e->heap_max = n * 2;
    }
    e->n_heap = 0;
    for (uint32_t i = 0; i < n; i++) {
        s[i].previous = i ? i - 1 : NO_TOKEN;
        s[i].next = i + 1 < n ? i + 1 : NO_TOKEN;
    }
    for (uint32_t i = 0; i < n; i++)
        if (make_candidate(e, text, i, &e->heap[e->n_heap])) e->n_heap++;
    for (uint32_t i = e->n_heap / 4 + 1; i-- > 0;)
        if (i < e->n_heap) sift_down(e->heap, e->n_heap, i);
    while (e->n_heap) {
        candidate top = e->heap[0];
        e->heap[0] = e->heap[--e->n_heap];
        if (e->n_heap) sift_down(e->heap, e->n_heap, 0);
        uint32_t left = (uint32_t)top.key, right = s[left].next;
        /* Out of date unless both are still there with the text that they had. */
        if (!s[left].size || right == NO_TOKEN || s[left].size + s[right].size != top.size) continue;
        s[left].id = top.merged;
        s[left].size = top.size;
        s[left].next = s[right].next;
        s[right].size = 0;
        if (s[left].next != NO_TOKEN) s[s[left].next].previous = left;
        push(e, text, left);
        if (s[left].previous != NO_TOKEN) push(e, text, s[left].previous);
    }
    for (uint32_t i = 0; i != NO_TOKEN; i = s[i].next) encoder_emit(e, s[i].id);
}

/* ---- the symbols that a piece begins with ---- */

typedef struct starter {
    encoder *e;
    uint32_t n;                    /* symbols so far */
    uint32_t unk_begin, unk_size;  /* an unknown token not yet added; size 0: none */
} starter;

static void add_symbol(starter *s, uint32_t id, uint32_t begin, uint32_t size) {
    s->e->symbols[s->n++] = (symbol){.id = id, .begin = begin, .size = size};
}

static void flush_unknown(starter *s) {
    if (s->unk_size) add_symbol(s, (uint32_t)s->e->t->unk_id, s->unk_begin, s->unk_size);
    s->unk_size = 0;
}

static void add_unknown(starter *s, uint32_t begin, uint32_t size) {
    const ak42_tokenizer *t = s->e->t;
    if (!(t->flags & FLAG_EMIT_UNK)) return;       /* dropped, as tokenizers does */
    if (s->unk_size && t->flags & FLAG_FUSE_UNK) {
        s->unk_size += size;
        return;
    }
    flush_unknown(s);
    s->unk_begin = begin;
    s->unk_size = size;
}

static bool add_bytes(starter *s, const uint8_t *text, uint32_t begin, uint32_t size) {
    const ak42_tokenizer *t = s->e->t;
    for (uint32_t i = 0; i < size; i++)
        if (t->byte_ids[text[begin + i]] == NO_TOKEN) return false;
    for (uint32_t i = 0; i < size; i++) add_symbol(s, t->byte_ids[text[begin + i]], begin + i, 1);
    return true;
}

/* By score only pieces may stand for a character; with merges whatever the vocabulary holds. */
static uint32_t character_token(const ak42_tokenizer *t, const uint8_t *text, uint32_t size) {
    uint32_t id = size == 1 && *text < 128 ? t->ascii_ids[*text] : find_token(t, text, size);
    return id != NO_TOKEN && t->priorities && t->priorities[id] == NO_TOKEN ? NO_TOKEN : id;
}

static uint32_t start_symbols(encoder *e, const uint8_t *text, uint32_t size) {
    const ak42_tokenizer *t = e->t;
    starter s = {.e = e};
    uint32_t length;
    for (uint32_t at = 0; at < size; at += length) {
        uint32_t id;
        length = 1;
        if (t->kind == KIND_BPE) id = t->byte_ids[text[at]];
        else {
            if (text[at] >= 128) utf8_next(text + at, text + size, &length);
            id = character_token(t, text + at, length);
        }
        if (id != NO_TOKEN) {
            flush_unknown(&s);
            add_symbol(&s, id, at, length);
        } else if (t->kind == KIND_BPE || !add_bytes(&s, text, at, length)) add_unknown(&s, at, length);
    }
    flush_unknown(&s);
    return s.n;
}

/* ---- pieces ---- */

static void encode_word(encoder *e, const uint8_t *text, uint32_t size) {
    if (size > e->symbols_max) {
        uint32_t wanted = size < SYMBOLS_MIN ? SYMBOLS_MIN : size;
        symbol *grown = mem_resize(&e->t->alloc, e->symbols, (uint64_t)wanted * sizeof *grown);
        if (!grown) {
            e->status = AK42_STATUS_NOMEM;
            return;
        }
        e->symbols = grown;
        e->symbols_max = wanted;
    }
    uint32_t n = start_symbols(e, text, size);
    if (n > SCAN_MAX) merge_by_heap(e, text, n);
    else if (n) merge_by_scan(e, text, n);
}

void encode_piece(encoder *e, const uint8_t *text, uint32_t size) {
    const ak42_tokenizer *t = e->t;
    if (t->flags & FLAG_IGNORE_MERGES) {
        uint32_t id = find_token(t, text, size);
        if (id != NO_TOKEN) {
            encoder_emit(e, id);
            return;
        }
    }
    uint32_t begin = 0, at = 0, mark_size = t->word_mark_size;
    while (t->word_mark && size - begin > CUT_MIN && size - at >= mark_size && !e->status) {
        const uint8_t *hit = memchr(text + at, t->word_mark[0], size - mark_size - at + 1);
        if (!hit) break;
        at = (uint32_t)(hit - text);
        if (memcmp(hit, t->word_mark, mark_size)) {
            at++;
            continue;
        }
        if (at > begin) {
            encode_word(e, text + begin, at - begin);
            begin = at;
        }
        while (size - at >= mark_size && !memcmp(text + at, t->word_mark, mark_size)) at += mark_size;
    }
    if (begin < size && !e->status) encode_word(e, text + begin, size - begin);
}

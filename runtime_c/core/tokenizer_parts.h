/* tokenizer_parts.h: what a tokenizer is made of; private to tokenizer*.c. The files, in reading order:
 *   tokenizer.c         the public functions: text in, ids out, and back
 *   tokenizer_steps.c   the steps before the merges: normaliser and pre-tokenizer
 *   tokenizer_added.c   added and special tokens, found in the text before anything else
 *   tokenizer_bpe.c     the merges: one piece of text to ids
 *   tokenizer_build.c   checks and indexes, made once at load
 *   tokenizer_tokn.c, tokenizer_gguf.c, tokenizer_bin.c   the three sources: they fill the same struct
 *                       through tokenizer_build.c; tokenizer_presets.c: GGUF's names for steps */
#ifndef AK42_TOKENIZER_PARTS_H
#define AK42_TOKENIZER_PARTS_H

#include "error.h"
#include "regex.h"
#include "tokenizer.h"

/* All numbers below stand in files (docs/tokenizer.md): none ever changes its meaning. */
enum { KIND_SPM = 1, KIND_BPE = 2 };

enum {
    FLAG_ADD_BOS = 1, FLAG_ADD_EOS = 2, FLAG_DUMMY_PREFIX = 4, FLAG_BYTE_FALLBACK = 8,
    FLAG_IGNORE_MERGES = 16, FLAG_COLLAPSE = 32, FLAG_ANY_PIECE = 64, FLAG_EMIT_UNK = 128,
    FLAG_FUSE_UNK = 256, FLAG_ALL = 511
};

enum {
    TYPE_NORMAL = 1, TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_USER = 4, TYPE_UNUSED = 5, TYPE_BYTE = 6,
    TYPE_MASK = 255
};
enum {
    ATTR_LSTRIP = 1 << 8, ATTR_RSTRIP = 1 << 9, ATTR_SINGLE_WORD = 1 << 10, ATTR_NORMALIZED = 1 << 11,
    ATTR_ADDED_ONLY = 1 << 12, ATTR_BYTE = 1 << 13, ATTR_AS_IS = 1 << 14,
    ATTR_ALL = (1 << 15) - 1
};

typedef enum step_op {
    STEP_PREPEND = 1, STEP_REPLACE = 2, STEP_STRIP = 3, STEP_NFC = 4, STEP_ADDED = 8,
    STEP_SPLIT = 16, STEP_DIGITS = 17, STEP_PUNCTUATION = 18, STEP_BYTE_LEVEL = 19, STEP_SPACES = 32
} step_op;

enum {
    PREPEND_UNLESS_THERE = 1, PREPEND_FIRST = 2, REPLACE_REGEX = 1,
    STRIP_LEFT = 1, STRIP_RIGHT = 2, STRIP_SPACES = 4, STRIP_MARKS = 8,
    SPLIT_BEHAVIOUR = 7, SPLIT_INVERT = 8, SPLIT_LITERAL = 16, DIGITS_SINGLE = 1, SPACES_FIRST = 1
};
enum {
    BEHAVIOUR_ISOLATED, BEHAVIOUR_REMOVED, BEHAVIOUR_PREVIOUS, BEHAVIOUR_NEXT, BEHAVIOUR_CONTIGUOUS,
    BEHAVIOUR_COUNT
};

enum { STEPS_MAX = 64, STEP_BYTES_MAX = 65536, ADDED_BYTES_MAX = 4096, TEXT_MAX = INT32_MAX };

#define NO_TOKEN UINT32_MAX

typedef struct step {
    step_op op;
    uint32_t flags;
    const uint8_t *text;           /* the step's bytes: pattern, prefix; inside tokenizer.step_bytes */
    uint32_t text_size;
    const uint8_t *to;             /* REPLACE: the replacement */
    uint32_t to_size;
    regex re;                      /* SPLIT, REPLACE unless literal */
} step;

typedef struct buffer {
    uint8_t *data;
    uint32_t size, max;
} buffer;

/* Added tokens as an automaton that reads a text backwards (tokenizer_added.c): a tree of the tokens' bytes from
 * their ends, with links for where to go on when a byte leads nowhere. */
typedef struct finder_node {
    uint32_t parent;               /* one byte less */
    uint32_t back;                 /* the longest other node whose bytes these bytes begin with */
    uint32_t depth;
    uint32_t token, token_size;    /* the longest token that begins here; NO_TOKEN */
    uint8_t byte;                  /* from the parent to here */
} finder_node;

typedef struct finder {
    buffer bytes;                  /* of the tokens, one after another, until the automaton is built */
    uint32_t *entries;             /* (n_tokens, 2): token and size of each, until then */
    uint32_t n_tokens, tokens_max;
    finder_node *nodes;            /* (n_nodes); nodes[0] is the root */
    uint32_t n_nodes;
    uint32_t *edges;               /* (1 << edges_log): nodes by parent and byte; 0: empty */
    uint32_t edges_log;
    uint32_t root[256];            /* nodes[0]'s children by byte; 0: none */
} finder;

typedef struct merge_slot {
    uint32_t left, right;          /* left NO_TOKEN: empty */
    uint32_t rank, merged;
} merge_slot;

struct ak42_tokenizer {
    allocator alloc;
    uint32_t kind, flags;
    int32_t bos_id, unk_id, pad_id, eos_ids[AK42_EOS_MAX], n_eos;

    uint32_t n_tokens;
    uint8_t *bytes;                /* of all tokens, one after another */
    uint32_t *begins;              /* (n_tokens + 1) */
    float *scores;                 /* (n_tokens) */
    uint32_t *attrs;               /* (n_tokens): type and attributes */
    uint32_t *priorities;          /* (n_tokens), by score: smaller is merged first; NO_TOKEN: never made by
                                    * merging. NULL where merges go by rank */
    uint32_t *index;               /* (index_size): id + 1 by hash of the bytes; 0: empty */
    uint32_t index_size;           /* a power of two */
    uint32_t token_size_max;

    merge_slot *merges;            /* (merges_size), by hash of the pair */
    uint32_t merges_size;          /* a power of two; 0: merges go by score */
    uint32_t n_merges;

    uint32_t byte_ids[256];        /* the token of a byte: BPE's alphabet, or the byte fallback; NO_TOKEN */
    uint32_t ascii_ids[128];       /* SPM: the token of an ASCII character */
    const char *word_mark;         /* SPM: no merge crosses a place where this begins; NULL: they may */
    uint32_t word_mark_size;

    step *steps;                   /* (n_steps) without SPACES */
    uint32_t n_steps, steps_max;
    uint32_t added_step;           /* where ADDED stands */
    bool maps_bytes;               /* a BYTE_LEVEL step: pieces reach the merges in GPT-2's alphabet */
    uint8_t *step_bytes;
    const uint8_t *spaces;         /* decoding: this piece of a token's bytes is a space; NULL: none */
    uint32_t spaces_size, spaces_flags;
    unicode_map *map;
    uint32_t *forms;               /* (n_tokens): where in form_bytes an added token's normalised text stands, a u32
                                    * length before it; 0: it is the token's own. NULL where all are */
    buffer form_bytes;
    finder raw, normalised;        /* added tokens that match in the text, in the normalised text */
};

static inline const uint8_t *token_bytes(const ak42_tokenizer *t, uint32_t id, uint32_t *size) {
    *size = t->begins[id + 1] - t->begins[id];
    return t->bytes + t->begins[id];
}
/* What a token decodes to. */
static inline const uint8_t *token_form(const ak42_tokenizer *t, uint32_t id, uint32_t *size) {
    if (!t->forms || !t->forms[id]) return token_bytes(t, id, size);
    *size = load_u32(t->form_bytes.data + t->forms[id] - 4);
    return t->form_bytes.data + t->forms[id];
}
static inline uint32_t token_type(const ak42_tokenizer *t, uint32_t id) { return t->attrs[id] & TYPE_MASK; }
/* Whether a token stands for a byte, in both directions: as its type or beside it. */
static inline bool token_is_byte(const ak42_tokenizer *t, uint32_t id) {
    return token_type(t, id) == TYPE_BYTE || t->attrs[id] & ATTR_BYTE;
}
static inline bool type_is_special(uint32_t type) { return type == TYPE_CONTROL || type == TYPE_UNKNOWN; }

/* ---- building: tokenizer_build.c. The order of calls is that of the declarations. ---- */

typedef struct builder {
    ak42_tokenizer *t;
    const char *name;              /* for messages */
    ak42_error *err;
    uint64_t bytes_size;
    uint32_t n_added;              /* tokens so far */
    uint64_t step_size, step_bytes_size;
} builder;

ak42_status build_begin(builder *b, const allocator *alloc, uint32_t kind, uint32_t flags);
/* Room for exactly n_tokens tokens with bytes_size bytes together. */
ak42_status build_tokens(builder *b, uint32_t n_tokens, uint64_t bytes_size);
/* The next token. */
ak42_status build_token(builder *b, const uint8_t *bytes, uint64_t size, float score, uint32_t attr);
ak42_status build_ids(builder *b, int32_t bos_id, int32_t unk_id, int32_t pad_id, const int32_t *eos_ids,
                      uint32_t n_eos);
/* After the last token: makes tokens findable and room for n_merges merges. */
ak42_status build_index(builder *b, uint32_t n_merges);
/* The merge of this rank; merges come in any order, the later of two equal pairs wins. */
ak42_status build_merge(builder *b, uint32_t rank, uint32_t left, uint32_t right);
/* Room for n_steps steps with bytes_size bytes together. */
ak42_status build_steps(builder *b, uint32_t n_steps, uint64_t bytes_size);
ak42_status build_step(builder *b, uint32_t op, uint32_t flags, const uint8_t *bytes, uint64_t size);
/* Checks the whole and makes what is derived. On success the tokenizer is the caller's. */
ak42_status build_end(builder *b, ak42_tokenizer **tokenizer);

/* The lowest id of the model's own vocabulary with these bytes, NO_TOKEN where there is none. */
uint32_t find_token(const ak42_tokenizer *t, const uint8_t *bytes, uint32_t size);
/* The slot of a pair, or the empty slot where it belongs. */
merge_slot *find_merge(const ak42_tokenizer *t, uint32_t left, uint32_t right);
/* "<0x0A>" -> 10; -1 for anything else. */
int byte_token_value(const uint8_t *bytes, uint64_t size);
/* GPT-2's alphabet: the code point that stands for a byte, and back (-1: none). */
uint32_t alphabet_from_byte(uint8_t byte);
int alphabet_to_byte(uint32_t code_point);

/* ---- encoding ---- */

typedef struct symbol {            /* a piece's symbols while they are merged; a chain */
    uint32_t id;
    uint32_t begin, size;          /* bytes of the piece; size 0: merged away */
    uint32_t previous, next;
} symbol;

typedef struct candidate {         /* a pair that could be merged, in a heap */
    uint64_t key;                  /* priority << 32 | left symbol */
    uint32_t merged, size;
} candidate;

typedef struct found {             /* an added token in a text */
    uint32_t at, node;             /* where it begins, the finder's node */
} found;

typedef struct encoder {
    const ak42_tokenizer *t;
    uint32_t flags;                /* of ak42_encode */
    ak42_status status;            /* the first failure; nothing goes on after it */
    int32_t *ids;
    size_t n_ids, ids_max;
    regex_scan scans[STEPS_MAX];   /* each step has its own: they nest */
    buffer buffers[STEPS_MAX + 1];
    uint32_t *points;              /* NFC's code points */
    uint32_t points_max;
    found *found;                  /* (n_found): the last one stands first in its text */
    uint32_t n_found, found_max;
    buffer *capture;               /* not NULL: normalised text goes here instead of to ADDED */
    symbol *symbols;
    uint32_t symbols_max;
    candidate *heap;
    uint32_t n_heap, heap_max;
} encoder;

void encoder_begin(encoder *e, const ak42_tokenizer *t, uint32_t flags);
void encoder_end(encoder *e);                /* frees all but ids */
void encoder_emit(encoder *e, uint32_t id);
bool buffer_reserve(encoder *e, buffer *b, uint64_t max);

/* Finds added tokens in text, emits them and gives what stands between to steps from next on. */
void encode_added(encoder *e, const finder *f, const uint8_t *text, uint32_t size, uint32_t next, bool first);
/* Of tokens with the same bytes the first one is found. After the last one finder_build. */
ak42_status finder_add(builder *b, finder *f, const uint8_t *bytes, uint32_t size, uint32_t token);
ak42_status finder_build(builder *b, finder *f);
void finder_free(finder *f, const allocator *alloc);
/* Runs steps from step on; first: the text's beginning is the beginning of what the caller encodes. */
void encode_steps(encoder *e, uint32_t step, const uint8_t *text, uint32_t size, bool first);
void encode_piece(encoder *e, const uint8_t *text, uint32_t size);

#endif

/* regex.h: the regular expressions of pre-tokenizers, over UTF-8. A documented subset (docs/tokenizer.md),
 * compiled at load; time is linear in the text whatever pattern and text are. Leftmost match, first
 * alternative first, as in Perl. Used by tokenizer_steps.c; it knows nothing of tokens. */
#ifndef AK42_REGEX_H
#define AK42_REGEX_H

#include "unicode.h"

enum {
    REGEX_PATTERN_MAX = 65536,     /* bytes of a pattern */
    REGEX_NESTING_MAX = 32,        /* groups within groups */
    REGEX_SIZE_MAX = 2048          /* nodes, items, instructions, and the sum of all counted repeats, each */
};

typedef enum regex_item_kind {
    ITEM_RANGE, ITEM_CATEGORIES, ITEM_SPACE, ITEM_NOT_SPACE, ITEM_WORD, ITEM_NOT_WORD
} regex_item_kind;

/* A class is a union of items, perhaps negated as a whole. */
typedef struct regex_item {
    regex_item_kind kind;
    uint32_t low, high;            /* RANGE */
    uint32_t categories;           /* CATEGORIES: bit i is enum unicode_category's i */
} regex_item;

typedef struct regex_class {
    uint32_t ascii[4];             /* the answer for code points below 128, negation applied */
    uint32_t first_item, n_items;
    bool negated;
} regex_class;

typedef enum regex_op {
    REGEX_CLASS,                   /* one character of class a */
    REGEX_RUN,                     /* min to max characters of class a, the more the better */
    REGEX_SPLIT,                   /* go on at a; where that fails, at b */
    REGEX_JUMP,                    /* go on at a */
    REGEX_LOOK,                    /* the next character is of class a; b: it is not, or there is none */
    REGEX_LINE_END,                /* the text ends or \n is next */
    REGEX_MATCH
} regex_op;

typedef struct regex_instruction {
    regex_op op;
    uint32_t a, b;
    uint32_t min, max;             /* RUN; max REGEX_MANY: no limit */
    uint32_t row;                  /* of the memo: RUN and SPLIT have one */
    bool possessive;
} regex_instruction;

#define REGEX_MANY UINT32_MAX

typedef struct regex {
    regex_instruction *program;
    uint32_t n_program;
    regex_class *classes;
    uint32_t n_classes;
    regex_item *items;
    uint32_t n_items;
    uint32_t n_rows;               /* memo bits per position */
} regex;

/* FORMAT for a pattern that is wrong, UNSUPPORTED for one beyond the subset, naming the construct; name is
 * for messages. *re is zeroed first and to be freed in any case. */
ak42_status regex_compile(regex *re, const uint8_t *pattern, size_t size, const unicode_map *map,
                          const allocator *alloc, const char *name, ak42_error *err);
void regex_free(regex *re, const allocator *alloc);
bool regex_class_has(const regex *re, const regex_class *class, const unicode_map *map, uint32_t code_point);

typedef struct regex_choice {      /* where to go on after a failure */
    uint32_t pc, position, floor;  /* RUN: positions from floor up to before position are left to try */
} regex_choice;

/* Matching one text (at most 2^31 bytes) from left to right. The buffers may serve one text after another. */
typedef struct regex_scan {
    const regex *re;
    const unicode_map *map;
    const allocator *alloc;
    const uint8_t *text;
    uint32_t size;
    uint64_t steps_left;           /* of the cheap way; then the memo is used, which bounds the work */
    regex_choice *stack;
    uint32_t n_stack, stack_max;
    uint64_t *memo;                /* bit position * n_rows + row: that choice failed at that position */
    uint64_t memo_words;
    bool memoised;
    bool out_of_memory;
} regex_scan;

void regex_scan_begin(regex_scan *scan, const regex *re, const uint8_t *text, uint32_t size);
/* The first match at or after from; it is never empty. false where there is none, or no memory (out_of_memory
 * is set then). */
bool regex_scan_next(regex_scan *scan, uint32_t from, uint32_t *begin, uint32_t *end);
void regex_scan_free(regex_scan *scan);

#endif

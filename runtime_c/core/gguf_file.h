/* gguf_file.h: a GGUF file's metadata, indexed by key: what gguf.c (the container) hands to gguf_keys.c
 * (the meaning of keys) and gguf_split.c (models in several files). Private to the three. */
#ifndef AK42_GGUF_FILE_H
#define AK42_GGUF_FILE_H

#include "container.h"
#include "families.h"

typedef enum gguf_type {
    GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL, GGUF_STRING, GGUF_ARRAY,
        GGUF_U64, GGUF_I64,
    GGUF_F64, GGUF_TYPES
} gguf_type;

/* A view into the file. A string's content is its bytes; an array's are its elements, a string element
 * with its u64 length. */
typedef struct gguf_value {
    const char *key;               /* not NUL-terminated */
    uint32_t key_size;
    gguf_type type, element;       /* element: of arrays */
    uint64_t count;                /* of arrays; else 1 */
    blob content;
} gguf_value;

typedef struct gguf_file {
    container *c;
    const filemap *map;            /* this file's, where c has several */
    const family *family;          /* that general.architecture names */
    gguf_value *values;            /* (n_values), sorted by key */
    uint32_t n_values, n_tensors;
    uint32_t alignment;
    uint64_t at;                   /* where the parser stands */
    struct gguf_file *parts;       /* (n_parts): the second file and those after it, with no values */
    uint32_t n_parts;
} gguf_file;

/* Bytes of a file's own string that a message repeats, as printf's precision. */
static inline int gguf_shown(uint64_t size) { return size < 80 ? (int)size : 80; }

/* NULL where there is no such key. */
const gguf_value *gguf_find(const gguf_file *g, const char *key);

/* Reads a file's counts, keys and values; g->values is the caller's to free, also on failure. */
ak42_status gguf_read_metadata(gguf_file *g, ak42_error *err);

/* Where the file is a part of several: makes g the first of them, whichever was named, and opens the
 * others (not for a vocabulary: it is in the first). FORMAT or IO names the part that is wrong. */
ak42_status gguf_open_parts(gguf_file *g, container_want want, ak42_error *err);
/* Writes a part's number, from 0, into the name that messages have. */
void gguf_name_part(container *c, uint32_t number);
/* Puts the number of further part i in front of err's text; returns status. */
ak42_status gguf_fail_part(const gguf_file *g, uint32_t i, ak42_status status, ak42_error *err);

/* The architecture's name, checked to be one that runs, and g->family. */
ak42_status gguf_read_architecture(gguf_file *g, ak42_error *err);
/* Fills c->config from keys and from the tensors (vocab_size, shared_classifier), and checks it. */
ak42_status gguf_read_config(const gguf_file *g, ak42_error *err);
/* Tensors that a family's files hold as one become views of their parts: q, k, v; gate and up. Sizes are known. */
ak42_status gguf_split_fused(const gguf_file *g, ak42_error *err);
/* Experts' matrices that are tensors of their own (blk.0.ffn_gate.3.weight, as llama.cpp's converter once wrote Mixtral) become
 * one tensor of several. Where one is missing or unlike the others, FORMAT. */
ak42_status gguf_join_experts(const gguf_file *g, ak42_error *err);
/* What is the same in all files of a family, into the config, before its keys are read. */
void gguf_family_defaults(const gguf_file *g);
/* The flags of the layers, from the family, the window and the keys that say which layers have it and are rotated. */
ak42_status gguf_read_layers(const gguf_file *g, ak42_error *err);
/* Fills c->vocab and c->has_vocab, and c->sections. */
ak42_status gguf_read_vocab(const gguf_file *g, ak42_error *err);
ak42_status gguf_read_sections(const gguf_file *g, ak42_error *err);

#endif

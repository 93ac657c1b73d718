/* container.h: a parsed file: its config, its tensors and its texts. ak42.c and gguf.c fill the same struct, and everything above
 * them is blind to the format. Every range in it has been checked against the file. */
#ifndef AK42_CONTAINER_H
#define AK42_CONTAINER_H

#include "config.h"
#include "filemap.h"
#include "tensor.h"

typedef struct blob {
    const uint8_t *data;           /* NULL: absent */
    uint64_t size;
} blob;

/* Texts and blobs by trailer tag. */
enum { SECTION_TOKN, SECTION_CONF, SECTION_GENC, SECTION_TMPL, SECTION_CHAT, SECTION_LAYR, SECTION_MANI, SECTION_COUNT };

/* A GGUF's vocabulary, still in the file; tokenizer_from_gguf reads it. All views. */
typedef struct gguf_vocab {
    blob model, pre;               /* tokenizer.ggml.model, .pre: strings */
    blob tokens, merges;           /* arrays of strings: the bytes after the array's header, each string length-prefixed (u64) */
    blob scores, types;            /* arrays of f32, of i32 */
    uint64_t n_tokens, n_merges, n_scores, n_types;
    int32_t bos_id, unk_id, pad_id;                       /* -1: absent */
    int32_t eos_ids[AK42_EOS_MAX], n_eos;                 /* eos, eot, eom, without repeats */
    int8_t add_bos, add_eos, add_space_prefix, remove_extra_whitespaces;   /* -1: absent */
} gguf_vocab;

typedef struct container {
    char name[128];                /* the path's last part, for messages */
    char format[16];               /* "ak42 v3", "gguf v3" */
    filemap map;
    const char *path;              /* where map was opened from: the parts of a split GGUF are found beside it; NULL: memory */
    bool copied;                   /* parts are read into memory, not mapped */
    filemap *parts;                /* (n_parts): the files behind the first one of a split GGUF; owned */
    uint32_t n_parts;
    model_config config;
    tensor *tensors;               /* n_tensors, sorted by name; owned */
    uint32_t n_tensors;
    tensor *experts;               /* those that a tensor's experts points to; owned */
    uint32_t weights_crc;          /* tells weights apart where has_weights_crc: a checksum that the file states of them all */
    bool has_weights_crc;
    blob sections[SECTION_COUNT];
    bool has_vocab;                /* gguf_vocab is filled (GGUF files) */
    gguf_vocab vocab;
    const allocator *alloc;
} container;

/* What a container is opened for. */
typedef enum container_want {
    CONTAINER_MODEL,               /* config and tensors must be there and right */
    CONTAINER_VOCAB                /* only the vocabulary is wanted; a vocabulary-only GGUF will do */
} container_want;

/* Parses c->map, which the caller has opened (and closes, also on failure). The magic decides the format; magics of other
 * projects, git-lfs pointers and HTML pages are named in the error. */
ak42_status container_parse(container *c, container_want want, ak42_error *err);
void container_free(container *c);           /* not the map; may be called again */

/* NULL where there is none of that name. */
const tensor *container_find(const container *c, const char *name);

/* Sorts the tensors by name, as container_find needs them; FORMAT where a name stands there twice. Each reader's last word. */
ak42_status container_sort(container *c, ak42_error *err);

/* What no field of a file says and its tensors do, into the config: an expert's width, what q and k are normalised over, and
 * biases other than q's, k's and v's.
 * model.c checks every tensor against them. */
void container_read_shapes(container *c);

/* The two readers, called by container_parse only. */
ak42_status ak42_parse(container *c, container_want want, ak42_error *err);     /* v1 to v3 */
ak42_status ak42_parse_v0(container *c, container_want want, ak42_error *err);
ak42_status gguf_parse(container *c, container_want want, ak42_error *err);

#endif

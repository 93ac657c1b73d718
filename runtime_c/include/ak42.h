/* ak42.h: the C interface of the ak42 runtime for Llama-family language models.
 *
 * A program needs five calls:
 *
 *     ak42_error err;
 *     ak42_model *model;
 *     if (ak42_model_open(&model, "model.bin", NULL, &err)) return fail(err.text);
 *     ak42_session *session;
 *     if (ak42_session_new(&session, model, NULL, &err)) return fail(err.text);
 *     ak42_encode(ak42_model_tokenizer(model), text, strlen(text), 0, ids, n_max, &n, &err);
 *     ak42_session_eval(session, ids, n, NULL, 0, &err);
 *     const float *logits = ak42_session_logits(session, NULL);      (vocab_size) of the last token
 *     ak42_session_close(session);
 *     ak42_model_close(model);
 *
 * Rules that hold everywhere:
 * - A fallible function returns an ak42_status and, where it fails, fills the caller's ak42_error (which may be NULL) with
 *   one line: where, what was expected, what was found. Out parameters are NULL or unchanged after a failure.
 * - Options structs are filled by their _init function, then changed, then passed by pointer; NULL means all defaults,
 *   and a field that is zero means its default.
 * - A model is immutable once open and may be shared by any number of threads. A session belongs to one thread at a time:
 *   a second caller gets AK42_STATUS_BUSY. A tokenizer is immutable and shared like a model.
 * - Closing accepts NULL. A session keeps its model alive, so they may be closed in any order.
 * - Strings are UTF-8, sizes are in bytes, matrices are row-major. The library never prints, exits or reads the environment.
 */
#ifndef AK42_H
#define AK42_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* cdef-begin */

#define AK42_ABI 1                 /* changes when a released declaration changes its meaning */
#define AK42_EOS_MAX 4             /* end-of-sequence ids that a model may have */

typedef enum ak42_status {
    AK42_STATUS_OK = 0,
    AK42_STATUS_ARG = 10,          /* the caller's argument is wrong */
    AK42_STATUS_BUSY = 11,         /* the session is in use by another thread */
    AK42_STATUS_FORMAT = 20,       /* the file is wrong or damaged */
    AK42_STATUS_UNSUPPORTED = 21,  /* the file is well formed but beyond this library */
    AK42_STATUS_IO = 30,           /* the operating system refused a file operation */
    AK42_STATUS_NOMEM = 31,        /* memory could not be had */
    AK42_STATUS_RANGE = 40,        /* context full, buffer too short, or non-finite logits */
    AK42_STATUS_CANCELLED = 41,    /* the cancel callback asked for it */
    AK42_STATUS_DEVICE = 50        /* the device is missing or failed */
} ak42_status;

/* Owned by the caller; text is one NUL-terminated line of printable ASCII. */
typedef struct ak42_error {
    ak42_status code;
    char text[252];
} ak42_error;

typedef struct ak42_model ak42_model;
typedef struct ak42_session ak42_session;
typedef struct ak42_tokenizer ak42_tokenizer;

/* ---- the library ---- */

/* The AK42_ABI that the library was built with. */
int32_t ak42_abi(void);
/* "1.2.3", static. */
const char *ak42_version(void);
/* "OK", "ARG", ...; "UNKNOWN" for anything else. Static. */
const char *ak42_status_name(ak42_status status);
/* One line of "key=value" pairs separated by spaces: version, compiler, the ISAs built in, the ISA that this machine gets,
 * threads by default, why. Static after the first call. */
const char *ak42_build_info(void);

/* ---- models ---- */

typedef enum ak42_kv_type {
    AK42_KV_TYPE_DEFAULT = 0,      /* f32 for F32 weights; else the fastest 16-bit type of the ISA */
    AK42_KV_TYPE_F32 = 1,
    AK42_KV_TYPE_F16 = 2,
    AK42_KV_TYPE_BF16 = 3,
    AK42_KV_TYPE_INT8 = 4
} ak42_kv_type;

typedef enum ak42_mmap {
    AK42_MMAP_DEFAULT = 0,         /* the same as YES */
    AK42_MMAP_YES = 1,             /* map the file: instant to open, shared between processes; the file must not change */
    AK42_MMAP_NO = 2               /* read it into private memory: immune to a file that is changed later */
} ak42_mmap;

/* Severity: 0 note, 1 warning. The text is one line; it is valid during the call only. */
typedef void (*ak42_log_fn)(void *user, int32_t severity, const char *text);
/* Called now and then by the thread that called the library; anything but 0 cancels. */
typedef int32_t (*ak42_cancel_fn)(void *user);
/* A realloc-like allocator: size 0 frees. It is asked for bookkeeping memory only: weights and caches are mapped. */
typedef void *(*ak42_realloc_fn)(void *user, void *memory, size_t size);

typedef struct ak42_model_opts {
    size_t struct_size;
    int32_t n_threads;             /* 0: the physical cores that affinity and the cgroup quota allow */
    const char *isa;               /* NULL or "auto": the best; else one of ak42_build_info's, or "reference" */
    const char *device;            /* NULL or "auto" or "cpu"; "cuda" needs the CUDA library */
    const char *cuda_library;      /* path of libak42_cuda.so; NULL: the loader's search path */
    ak42_mmap use_mmap;
    ak42_kv_type kv_type;          /* of sessions that do not say */
    ak42_realloc_fn allocator;     /* NULL: the C library's */
    void *allocator_user;
    ak42_log_fn log;               /* NULL: silence */
    void *log_user;
    ak42_cancel_fn cancel;         /* NULL: never */
    void *cancel_user;
} ak42_model_opts;

typedef struct ak42_model_info {
    size_t struct_size;
    const char *format;            /* "ak42 v0" ... "ak42 v3", "gguf v3" */
    const char *architecture;      /* "llama", ... */
    const char *weight_type;       /* type of most weights: "f32", "q8_0", ... */
    const char *isa;               /* kernels in use */
    const char *device;            /* "cpu" */
    int32_t n_threads;
    int32_t dim;
    int32_t hidden_dim;
    int32_t n_layers;
    int32_t n_heads;
    int32_t n_kv_heads;
    int32_t head_dim;
    int32_t vocab_size;
    int32_t seq_len;               /* the context that the file states */
    int32_t trained_ctx;           /* the context that the model was trained for */
    int32_t sliding_window;        /* 0: none */
    int32_t group_size;            /* of int8 weights; 0: none */
    int32_t shared_classifier;     /* 1: the head is the embedding */
    float rope_theta;
    float norm_eps;
    int32_t bos_id;                /* -1: none */
    int32_t eos_ids[4];            /* -1: none */
    int32_t n_eos;
    ak42_kv_type kv_type;          /* what a session gets by default */
    uint64_t n_params;
    uint64_t file_bytes;
    uint64_t mapped_bytes;         /* computed from where they are mapped */
    uint64_t packed_bytes;         /* private memory that repacked weights take */
} ak42_model_info;

void ak42_model_opts_init(ak42_model_opts *opts);
/* Opens an ak42 file (v0 to v3) or a GGUF file. On success *model is the caller's, to be closed. */
ak42_status ak42_model_open(ak42_model **model, const char *path, const ak42_model_opts *opts, ak42_error *err);
/* The same from size bytes at data, which must stay unchanged until the model is closed; name is for messages. */
ak42_status ak42_model_open_memory(ak42_model **model, const void *data, size_t size, const char *name,
                                   const ak42_model_opts *opts, ak42_error *err);
/* Counts one more owner and returns model; every owner closes. */
ak42_model *ak42_model_retain(ak42_model *model);
void ak42_model_close(ak42_model *model);
/* Fills info, whose struct_size the caller has set. The strings live as long as the model. */
ak42_status ak42_model_get_info(const ak42_model *model, ak42_model_info *info, ak42_error *err);
/* A text or blob that travels in the file, by trailer tag: "CONF" config.json, "GENC" generation_config.json, "TMPL" chat
 * template, "CHAT" role prefixes and suffixes, "TOKN" the vocabulary, "MANI" the conversion's manifest. NULL where the file has
 * none, else *size bytes (no NUL at the end) that live as long as the model. */
const void *ak42_model_metadata(const ak42_model *model, const char *tag, size_t *size);

/* ---- tokenizers ---- */

enum {
    AK42_ENCODE_BOS = 1,           /* put BOS first whatever the tokenizer's own rule; a text that begins with it gets no second */
    AK42_ENCODE_NO_BOS = 2,        /* put no BOS first */
    AK42_ENCODE_SPECIAL = 4,       /* special tokens that are spelled out in the text become their ids */
    AK42_ENCODE_CONTINUE = 8,      /* the text follows other text: no BOS, no dummy prefix space */
    AK42_DECODE_SKIP_SPECIAL = 16, /* control tokens give no text */
    AK42_DECODE_CONTINUE = 32      /* the ids follow others: the first one's leading space stays */
};

/* From path (a model file with a vocabulary, a vocabulary-only GGUF, a llama2.c tokenizer.bin), or, where path is NULL, from
 * size bytes of a TOKN section, which are copied. On success *tokenizer is the caller's, to be closed. */
ak42_status ak42_tokenizer_open(ak42_tokenizer **tokenizer, const char *path, const void *tokn, size_t size, ak42_error *err);
void ak42_tokenizer_close(ak42_tokenizer *tokenizer);

typedef struct ak42_tokenizer_info {
    size_t struct_size;
    int32_t vocab_size;
    int32_t bos_id;                /* -1: none */
    int32_t eos_ids[4];            /* -1: none */
    int32_t n_eos;
    int32_t add_bos;               /* 1: it puts BOS first by itself */
} ak42_tokenizer_info;

/* Fills info, whose struct_size the caller has set. */
ak42_status ak42_tokenizer_get_info(const ak42_tokenizer *tokenizer, ak42_tokenizer_info *info, ak42_error *err);
/* The model's own tokenizer, owned by the model; NULL where its file carries none. */
const ak42_tokenizer *ak42_model_tokenizer(const ak42_model *model);
/* Text (size bytes, may hold NUL, need not be valid UTF-8) to ids. *n_ids is the count needed, also where n_max is too small:
 * then RANGE and nothing is written. ids may be NULL with n_max 0. */
ak42_status ak42_encode(const ak42_tokenizer *tokenizer, const char *text, size_t size, uint32_t flags,
                        int32_t *ids, size_t n_max, size_t *n_ids, ak42_error *err);
/* Ids to bytes, no NUL at the end; sizes as in ak42_encode. A piece may end inside a character. */
ak42_status ak42_decode(const ak42_tokenizer *tokenizer, const int32_t *ids, size_t n_ids, uint32_t flags,
                        char *text, size_t size_max, size_t *size, ak42_error *err);

/* ---- sessions: one sequence with its KV cache ---- */

typedef struct ak42_session_opts {
    size_t struct_size;
    int32_t n_ctx;                 /* 0: the smaller of trained_ctx and 4096 */
    ak42_kv_type kv_type;          /* DEFAULT: the model's */
    ak42_cancel_fn cancel;         /* NULL: the model's */
    void *cancel_user;
} ak42_session_opts;

enum {
    AK42_EVAL_ALL_LOGITS = 1,      /* logits of every token, not of the last one alone */
    AK42_EVAL_NO_LOGITS = 2        /* none: fill the cache only */
};

void ak42_session_opts_init(ak42_session_opts *opts);
ak42_status ak42_session_new(ak42_session **session, ak42_model *model, const ak42_session_opts *opts, ak42_error *err);
void ak42_session_close(ak42_session *session);
/* Appends n_tokens tokens and computes. positions (n_tokens, ascending) are the rotary positions; NULL: they follow on.
 * RANGE where the context is full or a logit is not finite; the session is then as before the call. */
ak42_status ak42_session_eval(ak42_session *session, const int32_t *tokens, size_t n_tokens, const int32_t *positions,
                              uint32_t flags, ak42_error *err);
/* The last eval's logits, (n_rows, vocab_size), valid until the session's next call; NULL and 0 rows where there are none. */
const float *ak42_session_logits(const ak42_session *session, size_t *n_rows);
/* Forgets all tokens from n_tokens on. ARG where the session holds fewer. */
ak42_status ak42_session_truncate(ak42_session *session, size_t n_tokens, ak42_error *err);
/* Tokens that the session holds. */
size_t ak42_session_position(const ak42_session *session);
/* One pass over the weights for many sessions of one model: session i gets n_tokens[i] tokens, which stand one after another
 * in tokens. Each session ends exactly as if it had been evaluated alone. On failure all are as before. */
ak42_status ak42_eval_batch(ak42_session *const *sessions, size_t n_sessions, const int32_t *tokens, const size_t *n_tokens,
                            uint32_t flags, ak42_error *err);
/* The tokens and the KV cache as a blob. *size is the size needed, also where size_max is too small (RANGE). A blob begins with 64
 * bytes of header, of which the little-endian u32 at byte 32 counts the tokens; their ids follow, i32 each. */
ak42_status ak42_session_save(const ak42_session *session, void *blob, size_t size_max, size_t *size, ak42_error *err);
/* Restores a blob that a session of the same model, kv_type and library wrote; checked, refused with FORMAT otherwise, and the
 * session is then as before. There are no logits until the next eval. Weights are told apart by the checksums that a file states
 * (ak42 v3, and v1 and v2 with the extension); of other files by their norms and biases and bytes from all over every matrix. */
ak42_status ak42_session_load(ak42_session *session, const void *blob, size_t size, ak42_error *err);

/* ---- sampling ---- */

typedef enum ak42_sampler {
    AK42_SAMPLER_STANDARD = 0,     /* penalty, temperature, top-k, top-p, min-p, in this order */
    AK42_SAMPLER_LLAMA2C = 1       /* llama2.c's generator and top-p: the same seed gives its text */
} ak42_sampler;

typedef struct ak42_sampler_opts {
    size_t struct_size;
    ak42_sampler sampler;
    float temperature;             /* 0: greedy */
    int32_t top_k;                 /* 0: off */
    float top_p;                   /* 1: off */
    float min_p;                   /* 0: off */
    float repetition_penalty;      /* 1: off; over the session's tokens */
} ak42_sampler_opts;

/* Fills the defaults of the documentation: temperature 0.8, top_k 40, top_p 0.95, min_p 0, repetition_penalty 1. */
void ak42_sampler_opts_init(ak42_sampler_opts *opts);
/* Draws the next token from the last row of logits; the token is not appended. *rng is the generator's state, owned by the
 * caller: any value seeds it (STANDARD), not 0 (LLAMA2C). */
ak42_status ak42_session_sample(const ak42_session *session, const ak42_sampler_opts *opts, uint64_t *rng,
                                int32_t *token, ak42_error *err);

/* ---- tools ---- */

/* Rows of f32 to the blocks of a type, row-major as in files. type is a GGUF or ak42 type id; group_size is for int8 groups.
 * dst_bytes must be the exact size. ARG where the type cannot be written or does not divide the rows; n_threads 0: default. A block with
 * a weight that its type cannot hold (or NaN) is not refused: it decodes to what is not finite. MXFP4 holds every finite weight, and
 * has no code for others. */
ak42_status ak42_quantize(uint32_t type, uint32_t group_size, const float *src, size_t rows, size_t columns,
                          void *dst, size_t dst_bytes, int32_t n_threads, ak42_error *err);
ak42_status ak42_dequantize(uint32_t type, uint32_t group_size, const void *src, size_t src_bytes, size_t rows, size_t columns,
                            float *dst, int32_t n_threads, ak42_error *err);
/* CRC-32C (Castagnoli) of size bytes; crc is 0 at first, the last result to go on. */
uint32_t ak42_crc32c(uint32_t crc, const void *data, size_t size);

typedef struct ak42_measurement {
    size_t struct_size;
    double read_gb_per_s;          /* reading memory that no cache holds, all threads, the mean of some passes, 1e9 bytes */
    double f32_gflops;             /* fused multiply-add peak, all threads; 0 where the ISA has no such instruction */
    double bf16_gflops;
    double int8_gops;
} ak42_measurement;

/* What this machine can do, measured now with n_threads (0: default) and an ISA (NULL: best), in about a second. */
ak42_status ak42_measure(int32_t n_threads, const char *isa, ak42_measurement *measurement, ak42_error *err);

/* cdef-end */

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif

#endif

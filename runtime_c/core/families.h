/* families.h: what belongs to a family of models and stands in no key of its GGUF files: the constants that every reader of
 * such a file has to know. Data only; an ak42 v3 header says all of it in fields. Called by the readers of both formats. */
#ifndef AK42_FAMILIES_H
#define AK42_FAMILIES_H

#include "config.h"

enum {
    FAMILY_QKV_BIAS = 1,           /* biases of q, k and v; others may have them too */
    FAMILY_QK_NORM = 2,            /* norms of q and k */
    FAMILY_EMBEDDING_SQRT = 4,     /* the embedding is multiplied by sqrt(dim) */
    FAMILY_SCALES = 8,             /* its keys may scale embedding, residuals, attention and logits; logit_scale divides */
    FAMILY_FUSED = 16,             /* q, k and v are one matrix, gate and up another */
    FAMILY_EXPERTS = 32,           /* it may have experts */
    FAMILY_CAPS = 128,             /* its keys may cap attention's scores and logits, and scale attention */
    FAMILY_ROPE_SWITCHED = 256,    /* rope.scaling.finetuned says whether its layers have rope; elsewhere it is a remark */
    FAMILY_LOCAL_PLAIN = 64,       /* layers with a window have the model's theta without its scaling */
};

typedef struct family {
    const char *gguf;              /* general.architecture */
    uint32_t rope_layout, activation, model_flags, flags;
    uint32_t full_period;          /* every n-th layer is without the window; 0: none is */
    uint32_t no_rope_period;       /* every n-th layer is without rope; 0: none is */
    float rope_theta_local;        /* of layers with a window where no key says it; 0: as the others */
    uint32_t sliding_window;       /* where no key says it, nor that the file is one of ours, which leave none out; so with the caps */
    float attn_softcap, final_softcap;
    uint32_t wide_layers;          /* a model of so many layers has attention scale 1/sqrt(dim / n_heads); 0: none has */
    const char *model_types[4];    /* config.json's words for it; NULL behind the last */
} family;

/* NULL where it is not known. The name need not be NUL-terminated. */
const family *family_of_gguf(const char *name, uint64_t size);
const family *family_of_model_type(const char *name, uint64_t size);
/* The names known, separated by commas; static. */
const char *family_architectures(void);
const char *family_model_types(void);

#endif

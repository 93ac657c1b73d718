/* roles.h: the tensors of a llama model: what each is for, GGUF's name for it, and the shape that a config
 * gives it. Pure data: the readers of formats without names (v0 to v2) name their tensors by it, model.c
 * checks and binds by it. */
#ifndef AK42_ROLES_H
#define AK42_ROLES_H

#include "config.h"
#include "tensor.h"

/* In the order of an ak42 v3 file; ROLE_ATT_NORM to ROLE_W2 once a layer. */
typedef enum role {
    ROLE_EMBEDDING,
    ROLE_ROPE_FREQS,               /* optional: divisors of the rotary frequencies */
    ROLE_ATT_NORM, ROLE_WQ, ROLE_WK, ROLE_WV, ROLE_WO,
    ROLE_FFN_NORM, ROLE_W1, ROLE_W3, ROLE_W2,
    ROLE_NORM,
    ROLE_HEAD,                     /* absent where the classifier is shared */
    ROLE_COUNT
} role;

bool role_per_layer(role role);
bool role_is_vector(role role);
/* name is (TENSOR_NAME_MAX + 1); layer counts for roles of layers only. */
void role_name(char *name, role role, uint32_t layer);
/* A vector is one row. */
void role_shape(uint64_t *rows, uint64_t *columns, role role, const model_config *config);

#endif

/* roles.h: the tensors of a model: what each is for, GGUF's name for it, the shape that a config gives it, and whether a
 * model of that config has it. Pure data: the readers of formats without names (v0 to v2) name their tensors by it, model.c
 * checks and binds by it. */
#ifndef AK42_ROLES_H
#define AK42_ROLES_H

#include "config.h"
#include "tensor.h"

/* In the order of an ak42 v3 file; ROLE_ATT_NORM to ROLE_FFN_POST_NORM once a layer. */
typedef enum role {
    ROLE_EMBEDDING,
    ROLE_ROPE_FREQS,               /* divisors of the rotary frequencies */
    ROLE_ROPE_LONG, ROLE_ROPE_SHORT,         /* longrope's: in a long context, and in the original one */
    ROLE_ATT_NORM, ROLE_WQ, ROLE_WK, ROLE_WV, ROLE_BQ, ROLE_BK, ROLE_BV,
    ROLE_Q_NORM, ROLE_K_NORM, ROLE_WO, ROLE_BO, ROLE_ATT_POST_NORM,
    ROLE_FFN_NORM, ROLE_W1, ROLE_W3, ROLE_W2, ROLE_B1, ROLE_B3, ROLE_B2,
    ROLE_ROUTER, ROLE_EXPERTS_W1, ROLE_EXPERTS_W3, ROLE_EXPERTS_W2, ROLE_FFN_POST_NORM,
    ROLE_NORM,
    ROLE_HEAD,
    ROLE_COUNT
} role;

typedef enum role_presence { ROLE_ABSENT, ROLE_OPTIONAL, ROLE_REQUIRED } role_presence;

bool role_per_layer(role role);
bool role_is_vector(role role);
/* Whether a model of this config has it, in this layer; layer counts for roles of layers only. */
role_presence role_in(role role, const model_config *config, uint32_t layer);
/* name is (TENSOR_NAME_MAX + 1); layer counts for roles of layers only. */
void role_name(char *name, role role, uint32_t layer);

/* A vector is one row, a matrix one expert. */
typedef struct role_dims {
    uint64_t experts, rows, columns;
} role_dims;
role_dims role_shape(role role, const model_config *config);

#endif

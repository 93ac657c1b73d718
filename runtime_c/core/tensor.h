/* tensor.h: one tensor as a file states it, whatever the file's format. A view: it owns nothing. */
#ifndef AK42_TENSOR_H
#define AK42_TENSOR_H

#include "types.h"

enum { TENSOR_NAME_MAX = 64, TENSOR_DIMS_MAX = 3 };

typedef struct tensor {
    char name[TENSOR_NAME_MAX + 1];     /* GGUF's name: "blk.0.attn_q.weight" */
    const type_info *type;
    layout layout;
    uint32_t group_size;                /* INT8 only */
    uint32_t n_dims;                    /* 1 to 3 */
    uint64_t dims[TENSOR_DIMS_MAX];     /* outermost first: (experts, rows, columns), (rows, columns) or (columns) */
    uint64_t offset;                    /* from the file's start */
    uint64_t nbytes;
    const struct filemap *home;         /* the file that it is in; NULL: the container's only one */
    const uint8_t *data;                /* inside the mapping, no alignment promised below layout 1's 64 */
    const struct tensor *experts;       /* (dims[0]): where its matrices lie apart, each by itself; NULL: one behind another */
} tensor;

#endif

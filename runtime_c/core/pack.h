/* pack.h: matrices that cannot be computed from where they are mapped become panel16 in private memory,
 * once, while a model is opened. Called by model.c. */
#ifndef AK42_PACK_H
#define AK42_PACK_H

#include "model.h"

typedef struct pack_job {
    matrix *matrix;                /* all set but panels */
    const tensor *source;
} pack_job;

/* Fills one block of pages, model->packed, on all of the model's threads, and points the matrices into it.
 * The jobs are reordered. NOMEM, or CANCELLED where the model's options say so; the block is then still
 * model_free's. */
ak42_status pack_matrices(ak42_model *model, pack_job *jobs, uint32_t n_jobs, ak42_error *err);

#endif

/* rope.h: the rotary frequencies of a session (Su et al. 2021, arXiv 2104.09864), with whatever scaling the model has. */
#ifndef AK42_ROPE_H
#define AK42_ROPE_H

#include "model.h"

/* FORMAT where a tensor of factors is missing or has one that is not a finite number above 0. */
ak42_status rope_check(const ak42_model *model, ak42_error *err);

/* Writes the frequencies for a context of n_ctx positions, (LAYER_ROPE_COUNT, rotary_dim / 2), by layer_rope. Where a model
 * scales by the length of the text, n_ctx is that length: the same frequencies from the first position to the last. */
void rope_frequencies(float *inv_freq, const ak42_model *model, uint32_t n_ctx);
/* What cos and sin of a table are multiplied by. */
float rope_attn_factor(const ak42_model *model, layer_rope rope);

#endif

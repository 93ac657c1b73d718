/* tokenizer_presets.h: the steps of a GGUF pre-tokenizer name. Called by tokenizer_gguf.c. */
#ifndef AK42_TOKENIZER_PRESETS_H
#define AK42_TOKENIZER_PRESETS_H

#include "tokenizer_parts.h"

typedef struct preset_step {
    step_op op;
    uint32_t flags;
    const uint8_t *text;
    size_t size;
} preset_step;

typedef struct preset {
    const char *name;
    const preset_step *steps;
    size_t n_steps;
    uint32_t flags;                /* IGNORE_MERGES, and ADD_BOS where the file does not say */
} preset;

/* NULL where the name is unknown. */
const preset *preset_find(const uint8_t *name, uint64_t size);

#endif

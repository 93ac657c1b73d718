/* families.c: the table of families. It computes nothing; gguf_keys.c and ak42.c ask it by name. */
#include "families.h"

/* The names in the order of the rows; a test compares. */
#define ARCHITECTURES "llama, qwen2, qwen3, qwen3moe, granite, olmo2, smollm3, gemma, gemma2, gemma3, phi3"
#define MODEL_TYPES \
    "llama, mistral, mixtral, qwen2, qwen3, qwen3_moe, granite, olmo2, olmo3, smollm3, gemma, gemma2, gemma3_text, " \
    "phi3"

static const family table[] = {
    {.gguf = "llama", .model_flags = MODEL_EXPERTS_NORM, .flags = FAMILY_EXPERTS,
     .model_types = {"llama", "mistral", "mixtral"}},
    {.gguf = "qwen2", .rope_layout = ROPE_LAYOUT_HALF_SPLIT, .flags = FAMILY_QKV_BIAS, .model_types = {"qwen2"}},
    {.gguf = "qwen3", .rope_layout = ROPE_LAYOUT_HALF_SPLIT, .flags = FAMILY_QK_NORM, .model_types = {"qwen3"}},
    {.gguf = "qwen3moe", .rope_layout = ROPE_LAYOUT_HALF_SPLIT, .model_flags = MODEL_EXPERTS_NORM,
     .flags = FAMILY_QK_NORM | FAMILY_EXPERTS, .model_types = {"qwen3_moe"}},
    {.gguf = "granite", .flags = FAMILY_SCALES | FAMILY_ROPE_SWITCHED, .model_types = {"granite"}},
    {.gguf = "olmo2", .rope_layout = ROPE_LAYOUT_HALF_SPLIT, .model_flags = MODEL_NORM_AFTER,
     .flags = FAMILY_QK_NORM | FAMILY_LOCAL_PLAIN, .full_period = 4,
     .model_types = {"olmo2", "olmo3"}},
    {.gguf = "smollm3", .no_rope_period = 4, .model_types = {"smollm3"}},
    {.gguf = "gemma", .rope_layout = ROPE_LAYOUT_HALF_SPLIT, .activation = ACTIVATION_GELU_TANH,
     .flags = FAMILY_EMBEDDING_SQRT, .model_types = {"gemma"}},
    {.gguf = "gemma2", .rope_layout = ROPE_LAYOUT_HALF_SPLIT, .activation = ACTIVATION_GELU_TANH,
     .model_flags = MODEL_NORM_BOTH, .flags = FAMILY_EMBEDDING_SQRT | FAMILY_CAPS, .full_period = 2, .wide_layers = 46,
     .sliding_window = 4096, .attn_softcap = 50.0f, .final_softcap = 30.0f,
     .model_types = {"gemma2"}},
    {.gguf = "gemma3", .rope_layout = ROPE_LAYOUT_HALF_SPLIT, .activation = ACTIVATION_GELU_TANH,
     .model_flags = MODEL_NORM_BOTH, .flags = FAMILY_EMBEDDING_SQRT | FAMILY_CAPS | FAMILY_QK_NORM, .full_period = 6,
     .rope_theta_local = 10000.0f, .wide_layers = 62, .model_types = {"gemma3_text"}},
    {.gguf = "phi3", .rope_layout = ROPE_LAYOUT_HALF_SPLIT, .flags = FAMILY_FUSED, .model_types = {"phi3"}},
};

static bool equals(const char *word, const char *name, uint64_t size) {
    return word && size == strlen(word) && !memcmp(name, word, (size_t)size);
}

const family *family_of_gguf(const char *name, uint64_t size) {
    /* some files name the architecture after the family that it was made for; converter/families.py has the same */
    if (equals("mistral", name, size) || equals("mistral3", name, size)) return &table[0];
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (equals(table[i].gguf, name, size)) return &table[i];
    return NULL;
}

const family *family_of_model_type(const char *name, uint64_t size) {
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        for (size_t j = 0; j < ARRAY_LEN(table[i].model_types); j++)
            if (equals(table[i].model_types[j], name, size)) return &table[i];
    return NULL;
}

const char *family_architectures(void) { return ARCHITECTURES; }

const char *family_model_types(void) { return MODEL_TYPES; }

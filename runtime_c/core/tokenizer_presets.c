/* tokenizer_presets.c: the steps behind the pre-tokenizer names of GGUF files (tokenizer.ggml.pre). Data: a
 * name stands for the components of the tokenizer.json that it was made from. converter/tokenizer_presets.py
 * holds the same table. */
#include "tokenizer_presets.h"

#define TEXT(s) (const uint8_t *)(s), sizeof(s) - 1
#define ISOLATE(pattern) {STEP_SPLIT, BEHAVIOUR_ISOLATED, TEXT(pattern)}
#define NFC {STEP_NFC, 0, NULL, 0}
#define ADDED {STEP_ADDED, 0, NULL, 0}
#define SINGLE_DIGITS {STEP_DIGITS, DIGITS_SINGLE, NULL, 0}

#define PATTERN_GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define TAIL "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define PATTERN_LLAMA3 \
    CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" TAIL
#define PATTERN_QWEN2 CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" TAIL
#define PATTERN_QWEN35 \
    CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*" TAIL
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define PATTERN_TEKKEN \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*|\\p{N}" \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" TAIL
#define PATTERN_GPT4O \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" CONTRACTIONS "?|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*" \
    CONTRACTIONS "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" TAIL
/* Letters of the scripts that have cases, as the tokenizer of DeepSeek LLM lists them. */
#define CASED_LETTERS \
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af" \
    "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5" \
    "\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba" \
    "\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45" \
    "\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe" \
    "\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102" \
    "\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139" \
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3" \
    "\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06" \
    "\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3" \
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df" \
    "\U0001e900-\U0001e943"

static const preset_step steps_none[] = {
    ADDED,
    ISOLATE("[\\p{P}\\$\\+<=>\\^~\\|]+"),
    ISOLATE(PATTERN_GPT2),
    ISOLATE("\\p{N}+"),
    ISOLATE("[0-9][0-9][0-9]"),
};
static const preset_step steps_gpt2[] = {ADDED, ISOLATE(PATTERN_GPT2)};
static const preset_step steps_gpt2_nfc[] = {NFC, ADDED, ISOLATE(PATTERN_GPT2)};
static const preset_step steps_digits[] = {ADDED, SINGLE_DIGITS, ISOLATE(PATTERN_GPT2)};
static const preset_step steps_digits_nfc[] = {NFC, ADDED, SINGLE_DIGITS, ISOLATE(PATTERN_GPT2)};
static const preset_step steps_llama3[] = {ADDED, ISOLATE(PATTERN_LLAMA3)};
static const preset_step steps_qwen2[] = {NFC, ADDED, ISOLATE(PATTERN_QWEN2)};
static const preset_step steps_qwen35[] = {NFC, ADDED, ISOLATE(PATTERN_QWEN35)};
static const preset_step steps_tekken[] = {ADDED, ISOLATE(PATTERN_TEKKEN)};
static const preset_step steps_gpt4o[] = {ADDED, ISOLATE(PATTERN_GPT4O)};
static const preset_step steps_deepseek_llm[] = {
    ADDED,
    ISOLATE("[\r\n]"),
    ISOLATE("\\s?[" CASED_LETTERS "]+"),
    ISOLATE("\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"),
    ISOLATE("\\s+$"),
    ISOLATE("[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"),
    SINGLE_DIGITS,
};
static const preset_step steps_deepseek_coder[] = {
    ADDED,
    ISOLATE("[\r\n]"),
    ISOLATE("\\s?\\p{L}+"),
    ISOLATE("\\s?\\p{P}+"),
    ISOLATE("[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"),
    SINGLE_DIGITS,
};
static const preset_step steps_deepseek_v3[] = {
    ADDED,
    ISOLATE("\\p{N}{1,3}"),
    ISOLATE("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
    ISOLATE("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
            "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*"
            "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"),
};
static const preset_step steps_falcon[] = {
    ADDED,
    {STEP_PUNCTUATION, BEHAVIOUR_CONTIGUOUS, NULL, 0},
    ISOLATE(PATTERN_GPT2),
    {STEP_BYTE_LEVEL, 0, NULL, 0},
    {STEP_DIGITS, 0, NULL, 0},
    ISOLATE("[0-9][0-9][0-9]"),
};

#define PRESET(name, steps, flags) {name, steps, ARRAY_LEN(steps), flags}

/* Of names with the same steps the first is the one that is written. */
static const preset presets[] = {
    PRESET("default", steps_none, 0),
    PRESET("gpt-2", steps_gpt2, 0),
    PRESET("phi-2", steps_gpt2, 0),
    PRESET("mpt", steps_gpt2_nfc, 0),
    PRESET("olmo", steps_gpt2_nfc, 0),
    PRESET("smollm", steps_digits, 0),
    PRESET("starcoder", steps_digits, 0),
    PRESET("refact", steps_digits, 0),
    PRESET("codeshell", steps_digits, 0),
    PRESET("command-r", steps_digits_nfc, 0),
    PRESET("llama-bpe", steps_llama3, FLAG_IGNORE_MERGES | FLAG_ADD_BOS),
    PRESET("llama3", steps_llama3, FLAG_IGNORE_MERGES | FLAG_ADD_BOS),
    PRESET("llama-v3", steps_llama3, FLAG_IGNORE_MERGES | FLAG_ADD_BOS),
    PRESET("dbrx", steps_llama3, 0),
    PRESET("smaug-bpe", steps_llama3, 0),
    PRESET("qwen2", steps_qwen2, 0),
    PRESET("deepseek-r1-qwen", steps_qwen2, 0),
    PRESET("qwen35", steps_qwen35, 0),
    PRESET("tekken", steps_tekken, FLAG_IGNORE_MERGES | FLAG_ADD_BOS),
    PRESET("gpt-4o", steps_gpt4o, 0),
    PRESET("llama4", steps_gpt4o, 0),
    PRESET("deepseek-llm", steps_deepseek_llm, 0),
    PRESET("deepseek-coder", steps_deepseek_coder, 0),
    PRESET("deepseek-v3", steps_deepseek_v3, 0),
    PRESET("falcon", steps_falcon, 0),
};

const preset *preset_find(const uint8_t *name, uint64_t size) {
    for (size_t i = 0; i < ARRAY_LEN(presets); i++)
        if (strlen(presets[i].name) == size && !memcmp(presets[i].name, name, size)) return &presets[i];
    return NULL;
}

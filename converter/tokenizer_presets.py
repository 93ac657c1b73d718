"""The steps behind the pre-tokenizer names of GGUF files (tokenizer.ggml.pre), in both directions. Data only.

runtime_c/core/tokenizer_presets.c holds the same table; test_tokenizer_gguf.py compares what the two make of a text.
"""

from __future__ import annotations

from dataclasses import dataclass

from .tokenizer_steps import ADDED_STEP, BYTE_LEVEL_STEP, NFC, SPLIT_GPT2, Step, digits, punctuation, split

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"

_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _TAIL
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _TAIL
_QWEN35 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + _TAIL
_TEKKEN = (f"{_BEFORE}{_UPPER}*{_LOWER}+|{_BEFORE}{_UPPER}+{_LOWER}*" + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _TAIL)
_GPT4O = (f"{_BEFORE}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_BEFORE}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
          + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _TAIL)
_CJK = split("[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+")
# Letters of the scripts that have cases, as the tokenizer of DeepSeek LLM lists them.
_CASED_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af"
    "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5"
    "\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba"
    "\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45"
    "\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe"
    "\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102"
    "\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3"
    "\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06"
    "\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943"
)


@dataclass(frozen=True)
class Preset:
    """`ignore_merges` belongs to the name; `add_bos` is what it means where a file does not say."""

    name: str
    steps: tuple[Step, ...]
    ignore_merges: bool = False
    add_bos: bool = False


_NFC = Step(NFC)
_DIGITS = (ADDED_STEP, digits(True), SPLIT_GPT2)
_SPLIT_LLAMA3, _SPLIT_GPT4O = (ADDED_STEP, split(_LLAMA3)), (ADDED_STEP, split(_GPT4O))
_SPLIT_QWEN2 = (_NFC, ADDED_STEP, split(_QWEN2))

# Of names with the same steps the first is the one that is written.
PRESETS = (
    Preset("gpt-2", (ADDED_STEP, SPLIT_GPT2)),
    Preset("phi-2", (ADDED_STEP, SPLIT_GPT2)),
    Preset("mpt", (_NFC, ADDED_STEP, SPLIT_GPT2)),
    Preset("olmo", (_NFC, ADDED_STEP, SPLIT_GPT2)),
    Preset("smollm", _DIGITS),
    Preset("starcoder", _DIGITS),
    Preset("refact", _DIGITS),
    Preset("codeshell", _DIGITS),
    Preset("command-r", (_NFC, *_DIGITS)),
    Preset("llama-bpe", _SPLIT_LLAMA3, ignore_merges=True, add_bos=True),
    Preset("llama3", _SPLIT_LLAMA3, ignore_merges=True, add_bos=True),
    Preset("llama-v3", _SPLIT_LLAMA3, ignore_merges=True, add_bos=True),
    Preset("dbrx", _SPLIT_LLAMA3),
    Preset("smaug-bpe", _SPLIT_LLAMA3),
    Preset("qwen2", _SPLIT_QWEN2),
    Preset("deepseek-r1-qwen", _SPLIT_QWEN2),
    Preset("qwen35", (_NFC, ADDED_STEP, split(_QWEN35))),
    Preset("tekken", (ADDED_STEP, split(_TEKKEN)), ignore_merges=True, add_bos=True),
    Preset("gpt-4o", _SPLIT_GPT4O),
    Preset("llama4", _SPLIT_GPT4O),
    Preset("deepseek-llm", (
        ADDED_STEP, split("[\r\n]"), split(r"\s?[" + _CASED_LETTERS + "]+"),
        split(r"\s?" + "[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"), split(r"\s+$"), _CJK, digits(True))),
    Preset("deepseek-coder", (ADDED_STEP, split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), _CJK, digits(True))),
    Preset("deepseek-v3", (
        ADDED_STEP, split(r"\p{N}{1,3}"), split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
        split(r"[!" + '"' + r"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^" + "\r\n" + r"\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
              r"| ?[\p{P}\p{S}]+[" + "\r\n" + r"]*|\s*[" + "\r\n" + r"]+|\s+(?!\S)|\s+"))),
    Preset("falcon", (ADDED_STEP, punctuation("Contiguous"), SPLIT_GPT2, BYTE_LEVEL_STEP, digits(False), split("[0-9][0-9][0-9]"))),
    Preset("default", (ADDED_STEP, split(r"[\p{P}\$\+<=>\^~\|]+"), SPLIT_GPT2, split(r"\p{N}+"), split("[0-9][0-9][0-9]"))),
)


def preset_by_name(name: str) -> Preset | None:
    return next((preset for preset in PRESETS if preset.name == name), None)


def preset_by_steps(steps: tuple[Step, ...], ignore_merges: bool) -> Preset | None:
    return next((preset for preset in PRESETS if preset.steps == steps and preset.ignore_merges == ignore_merges), None)

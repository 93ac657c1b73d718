"""config.json of both schemas, GGUF's keys and ak42's header fields as ModelConfig: equal to transformers', or refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from transformers import AutoConfig, LlamaConfig, MistralConfig

from converter import strict_json
from converter.config import FAMILIES, ModelConfig, config_from_hf, differences, shortest
from converter.config_files import config_from_ak42, config_from_gguf
from converter.errors import ConvertError, FormatError, UnsupportedError, escape

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "factor": 2.5}


def hf(family: str = "llama", schema: int = 5, drop: tuple[str, ...] = (), **changes: Any) -> dict[str, Any]:
    """A config.json that is right, but for what a test changes."""
    values = models.config_json(models.ModelSpec(family=family, schema=schema, sliding_window=32 if family == "mistral" else None))
    return {key: value for key, value in (values | changes).items() if key not in drop}


def refused(values: dict[str, Any], **kinds: Any) -> ConvertError:
    with pytest.raises(ConvertError) as caught:
        config_from_hf(values, **kinds)
    text = str(caught.value)
    assert "\n" not in text and text.isprintable() and text.startswith("config.json: ")
    assert caught.value.code == 1 and isinstance(caught.value, ValueError)
    return caught.value


# ---- what transformers says ----


def check_against_transformers(config: ModelConfig, other: Any) -> None:
    rope = other.rope_parameters
    assert config.hf_model_type == other.model_type
    assert (
        config.dim,
        config.hidden_dim,
        config.n_layers,
        config.n_heads,
        config.n_kv_heads,
        config.head_dim,
        config.vocab_size,
    ) == (
        other.hidden_size,
        other.intermediate_size,
        other.num_hidden_layers,
        other.num_attention_heads,
        other.num_key_value_heads,
        other.head_dim,
        other.vocab_size,
    )
    assert config.trained_ctx == config.seq_len == other.max_position_embeddings
    assert (config.rope_theta, config.norm_eps) == (rope["rope_theta"], other.rms_norm_eps)
    assert config.shared_classifier == bool(other.tie_word_embeddings)
    assert config.sliding_window == (getattr(other, "sliding_window", None) or 0)
    assert config.rope_scaling == {"default": "none"}.get(rope["rope_type"], rope["rope_type"])
    if config.rope_scaling != "none":
        assert config.rope_factor == rope["factor"]
    if config.rope_scaling == "llama3":
        assert (config.rope_low_freq, config.rope_high_freq, config.rope_original_ctx) == (
            rope["low_freq_factor"],
            rope["high_freq_factor"],
            rope["original_max_position_embeddings"],
        )
    eos = other.eos_token_id
    assert config.eos_ids == (() if eos is None else (eos,) if isinstance(eos, int) else tuple(eos))
    assert config.bos_id == (-1 if other.bos_token_id is None else other.bos_token_id)


def as_transformers(folder: Path, values: dict[str, Any]) -> Any:
    (folder / "config.json").write_text(json.dumps(values))
    return AutoConfig.from_pretrained(folder)


SPECS = {
    "plain": {},
    "mha": {"n_kv_heads": 4},
    "mqa": {"n_kv_heads": 1},
    "own head_dim": {"head_dim": 20},
    "tied": {"tie": True},
    "theta": {"rope_theta": 500000.0},
    "no theta": {"rope_theta": None, "schema": 4},
    "eps": {"norm_eps": 1e-6},
    "llama3": {"rope": LLAMA3},
    "linear": {"rope": LINEAR},
    "mistral": {"family": "mistral", "sliding_window": 32},
    "mistral without window": {"family": "mistral", "rope_theta": 1e6},
    "many eos": {"eos_ids": (2, 5, 7)},
    "no ids": {"bos_id": None, "eos_ids": ()},
}


@pytest.mark.parametrize("schema", [4, 5])
@pytest.mark.parametrize("kind", sorted(SPECS))
def test_both_schemas_say_what_transformers_reads(tmp_path: Path, kind: str, schema: int) -> None:
    values = models.config_json(models.ModelSpec(**({"schema": schema} | SPECS[kind])))
    config, _warnings = config_from_hf(values)
    check_against_transformers(config, as_transformers(tmp_path, values))


@pytest.mark.parametrize("schema", [4, 5])
@pytest.mark.parametrize("kind", sorted(SPECS))
def test_what_is_written_is_read_back_by_both(tmp_path: Path, kind: str, schema: int) -> None:
    config, _warnings = config_from_hf(models.config_json(models.ModelSpec(**({"schema": schema} | SPECS[kind]))))
    written = json.loads(json.dumps(config.to_hf("bfloat16")))
    assert config_from_hf(written) == (config, [])
    other = as_transformers(tmp_path, written)
    check_against_transformers(config, other)
    assert str(other.dtype).removeprefix("torch.") == "bfloat16"
    old = {key: value for key, value in written.items() if key not in ("rope_parameters", "dtype")}  # what transformers 4 knows
    assert config_from_hf(old) == (config, [])


@pytest.mark.parametrize("kind", sorted(SPECS))
def test_what_transformers_saves_is_read(tmp_path: Path, kind: str) -> None:
    values = models.config_json(models.ModelSpec(**SPECS[kind]))
    other = as_transformers(tmp_path, values)
    other.save_pretrained(tmp_path / "saved")
    saved = strict_json.load_object((tmp_path / "saved" / "config.json").read_bytes(), "config.json")
    check_against_transformers(config_from_hf(saved)[0], other)


@pytest.mark.parametrize(("family", "own"), [("llama", LlamaConfig), ("mistral", MistralConfig)])
def test_defaults_are_those_of_transformers_config_classes(family: str, own: type) -> None:
    other, ours = own(), FAMILIES[family]
    assert ours.hf_class == own.__name__
    assert (ours.rope_theta, ours.norm_eps, ours.trained_ctx) == (
        other.rope_parameters["rope_theta"],
        other.rms_norm_eps,
        other.max_position_embeddings,
    )
    assert ours.n_kv_heads in (None, other.num_key_value_heads)
    assert ours.sliding_window == (getattr(other, "sliding_window", None) or 0)


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_defaults_are_taken_and_said(tmp_path: Path, family: str) -> None:
    drop = (
        "rope_theta",
        "rms_norm_eps",
        "max_position_embeddings",
        "num_key_value_heads",
        "sliding_window",
        "rope_scaling",
        "tie_word_embeddings",
    )
    values = hf(family, 4, drop, num_attention_heads=16, hidden_size=64)
    config, warnings = config_from_hf(values)
    check_against_transformers(config, as_transformers(tmp_path, values))
    said = {key for key in drop for warning in warnings if f": {key} is absent" in warning}
    assert said == {"rope_theta", "rms_norm_eps", "max_position_embeddings"} | (
        {"num_key_value_heads", "sliding_window"} if family == "mistral" else set()
    )
    assert f"config.json: rope_theta is absent, 10000.0 taken, the default of {FAMILIES[family].hf_class}" in warnings


def test_generation_config_s_ids_win() -> None:
    config, _warnings = config_from_hf(hf(), generation={"eos_token_id": [7, 2, 7], "bos_token_id": 5})
    assert (config.eos_ids, config.bos_id) == ((7, 2), 5)


def test_pad_id_past_the_vocabulary_is_left_out_with_a_warning() -> None:
    config, warnings = config_from_hf(hf(pad_token_id=301))
    assert config.pad_id == -1 and warnings == ["config.json: pad_token_id: 301 is past the vocabulary of 301, left out"]


@pytest.mark.parametrize("head_dim", [16, 64, 128])
def test_llama3_factors_divide_the_frequencies_as_transformers_does(head_dim: int) -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    for rope in (LLAMA3, {**LLAMA3, "factor": 32.0, "original_max_position_embeddings": 8192}):
        config, _warnings = config_from_hf(
            hf(head_dim=head_dim, max_position_embeddings=1 << 17, rope_parameters={"rope_theta": 5e5, **rope})
        )
        other = LlamaConfig(head_dim=head_dim, max_position_embeddings=1 << 17, rope_parameters={"rope_theta": 5e5, **rope})
        expected = ROPE_INIT_FUNCTIONS["llama3"](other, "cpu")[0].numpy()
        plain = 5e5 ** (-np.arange(0, head_dim, 2) / head_dim)
        np.testing.assert_allclose(plain / config.rope_freqs(), expected, rtol=3e-6)
    assert config_from_hf(hf())[0].rope_freqs() is None


# ---- what is refused ----

NO_SUCH = object()
REFUSED: list[tuple[str, Any, str]] = [
    ("architectures", ["BloomForCausalLM"], "architectures: 'BloomForCausalLM' is not supported, Gemma2ForCausalLM, "),
    ("architectures", ["LlamaModel"], "architectures: 'LlamaModel' is not supported"),
    ("architectures", "LlamaForCausalLM", "architectures: expected an array of one name, found 'LlamaForCausalLM'"),
    ("architectures", [], "architectures: expected an array of one name, found an array of 0"),
    ("architectures", ["MistralForCausalLM"], "architectures and model_type disagree: 'MistralForCausalLM' and 'llama'"),
    ("model_type", "bloom", "model_type: 'bloom' is not supported, gemma, gemma2, "),
    ("model_type", 7, "model_type: expected a name, found 7"),
    ("hidden_act", "gelu", "hidden_act: 'gelu' is not supported, only 'silu' is"),
    ("attention_bias", 1, "attention_bias: expected true or false, found 1"),
    ("mlp_bias", "no", "mlp_bias: expected true or false, found 'no'"),
    ("lm_head_bias", True, "lm_head_bias: true is not supported, only false is"),
    ("pretraining_tp", 2, "pretraining_tp: 2 is not supported, only 1 is"),
    ("partial_rotary_factor", 0.5, "partial_rotary_factor: 0.5 is not supported, only 1 is"),
    (
        "quantization_config",
        {"quant_method": "gptq"},
        "quantization_config: an object is not supported, convert the checkpoint from",
    ),
    ("auto_map", {"AutoModel": "x.Y"}, "auto_map: an object is not supported, code that comes with a model is never run"),
    ("sliding_window", 32, "sliding_window: 32 is not supported, LlamaConfig has no such window"),
    ("layer_types", ["full_attention", "sliding_attention"], "layer_types: 'sliding_attention' is not supported"),
    ("attn_logit_softcapping", 50.0, "attn_logit_softcapping: 50.0 is not supported, it has to be absent"),
    ("final_logit_softcapping", 30.0, "final_logit_softcapping: 30.0 is not supported"),
    ("logit_scale", 0.25, "logit_scale: 0.25 is not supported, only 1 is"),
    ("embedding_multiplier", 12.0, "embedding_multiplier: 12.0 is not supported"),
    ("residual_multiplier", 0.22, "residual_multiplier: 0.22 is not supported"),
    ("attention_multiplier", 0.01, "attention_multiplier: 0.01 is not supported"),
    ("num_local_experts", 8, "num_local_experts: 8 is not supported"),
    ("no_rope_layers", [1, 0], "no_rope_layers: an array of 2 is not supported"),
    ("per_layer_config", {"0": {"head_dim": 4}}, "per_layer_config: an object is not supported"),
    ("hidden_size", NO_SUCH, "hidden_size is absent"),
    ("intermediate_size", NO_SUCH, "intermediate_size is absent"),
    ("num_hidden_layers", NO_SUCH, "num_hidden_layers is absent"),
    ("num_attention_heads", NO_SUCH, "num_attention_heads is absent"),
    ("vocab_size", NO_SUCH, "vocab_size is absent"),
    ("hidden_size", "48", "hidden_size: expected an integer from 1 to 1048576, found '48'"),
    ("hidden_size", 48.0, "hidden_size: expected an integer from 1 to 1048576, found 48.0"),
    ("hidden_size", True, "hidden_size: expected an integer from 1 to 1048576, found true"),
    ("hidden_size", 0, "hidden_size: expected an integer from 1 to 1048576, found 0"),
    ("hidden_size", -48, "hidden_size: expected an integer from 1 to 1048576, found -48"),
    ("hidden_size", [48], "hidden_size: expected an integer from 1 to 1048576, found an array of 1"),
    ("num_hidden_layers", 1025, "num_hidden_layers: expected an integer from 1 to 1024, found 1025"),
    ("vocab_size", 10**400, "vocab_size: expected an integer from 1 to 16777216, found 1000000000000"),
    ("num_attention_heads", 5, "hidden_size: expected a multiple of num_attention_heads (5) where head_dim is absent, found 48"),
    ("num_key_value_heads", 3, "num_key_value_heads: expected a divisor of num_attention_heads (4), found 3"),
    ("num_key_value_heads", 8, "num_key_value_heads: expected a divisor of num_attention_heads (4), found 8"),
    ("head_dim", 7, "head_dim: expected an even number, found 7"),
    ("head_dim", 0, "head_dim: expected an integer from 2 to 1048576, found 0"),
    ("max_position_embeddings", 0, "max_position_embeddings: expected an integer from 1 to 2147483647, found 0"),
    ("rms_norm_eps", 0, "rms_norm_eps: expected a number between 0 and 1, found 0"),
    ("rms_norm_eps", -1e-5, "rms_norm_eps: expected a number between 0 and 1, found -1e-05"),
    ("rms_norm_eps", 1.0, "rms_norm_eps: expected a number between 0 and 1, found 1.0"),
    ("rms_norm_eps", 0.999999999, "rms_norm_eps: expected a number between 0 and 1 as f32, found 0.999999999"),
    ("rms_norm_eps", "1e-5", "rms_norm_eps: expected a number between 0 and 1, found '1e-5'"),
    ("tie_word_embeddings", 1, "tie_word_embeddings: expected true or false, found 1"),
    ("bos_token_id", 301, "bos_token_id: expected a token id below 301, found 301"),
    ("eos_token_id", [2, 301], "eos_token_id: expected a token id below 301, found 301"),
    ("eos_token_id", "2", "eos_token_id: expected a token id below 301, found '2'"),
    ("rope_theta", 0, "rope_theta: expected a finite number above 0, found 0"),
    ("rope_theta", -1.0, "rope_theta: expected a finite number above 0, found -1.0"),
    ("rope_theta", "1e4", "rope_theta: expected a finite number above 0, found '1e4'"),
    ("rope_scaling", 2.0, "rope_scaling: expected an object or null, found 2.0"),
    ("rope_scaling", {"factor": 2.0}, "rope_scaling.rope_type is absent"),
    ("rope_scaling", {"type": "linear", "factor": 2.0, "rope_theta": 10**400}, "rope_scaling.rope_theta: expected a finite number above 0"),
    ("rope_scaling", {"type": "mrope", "factor": 2.0}, "rope_scaling.type: 'mrope' is not supported, default, linear, dynamic, yarn, "),
    ("rope_scaling", {"rope_type": "dynamic"}, "rope_scaling.factor is absent"),
    ("rope_scaling", {"rope_type": "yarn", "factor": 2.0, "truncate": False}, "rope_scaling.truncate: false is not supported"),
    ("rope_scaling", {"rope_type": "yarn", "factor": 2.0, "beta_fast": 1}, "beta_fast: expected a number above beta_slow (1)"),
    ("rope_scaling", {"rope_type": "yarn", "factor": 2.0, "beta_fast": 1.00000001}, "beta_fast: expected a number above beta_slow (1)"),
    ("rope_scaling", {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 3, "high_freq_factor": 3.00000001,
                      "original_max_position_embeddings": 64}, "high_freq_factor: expected a number above low_freq_factor (3)"),
    ("rope_scaling", {"rope_type": "longrope", "long_factor": [1.0] * 6}, "rope_scaling.short_factor is absent"),
    ("rope_scaling", {"rope_type": "longrope", "short_factor": [1.0] * 5, "long_factor": [1] * 6}, "an array of 6 numbers above 0"),
    ("rope_scaling", {"rope_type": "bogus"}, "rope_scaling.rope_type: 'bogus' is not supported"),
    ("rope_scaling", {"type": "linear", "rope_type": "llama3", "factor": 2.0}, "rope_scaling.rope_type and type disagree"),
    ("rope_scaling", {"type": "linear"}, "rope_scaling.factor is absent"),
    ("rope_scaling", {"type": "linear", "factor": 0}, "rope_scaling.factor: expected a finite number above 0, found 0"),
    ("rope_scaling", {"type": "linear", "factor": "2"}, "rope_scaling.factor: expected a finite number above 0, found '2'"),
    (
        "rope_scaling",
        {**LINEAR, "attention_factor": 0.7},
        "rope_scaling.attention_factor: 0.7 is not supported, rope type linear has",
    ),
    ("rope_scaling", {**LINEAR, "partial_rotary_factor": 0.5}, "rope_scaling.partial_rotary_factor: 0.5 is not supported"),
    ("rope_scaling", {**LLAMA3, "low_freq_factor": None}, "rope_scaling.low_freq_factor is absent"),
    (
        "rope_scaling",
        {**LLAMA3, "high_freq_factor": 1.0},
        "rope_scaling.high_freq_factor: expected a number above low_freq_factor (1)",
    ),
    ("rope_scaling", {**LLAMA3, "original_max_position_embeddings": 0.5}, "original_max_position_embeddings: expected an integer"),
    ("rope_parameters", {"full_attention": {"rope_theta": 1e4}}, "rope_parameters.full_attention: an object is not supported"),
    ("rope_parameters", {"rope_theta": 5e5}, "rope_theta: rope_parameters says 500000.0 and rope_theta says 10000.0"),
]


@pytest.mark.parametrize(
    ("key", "value", "text"), REFUSED, ids=lambda item: item if isinstance(item, str) and len(item) < 30 else ""
)
def test_a_config_that_is_not_right_is_refused_by_name(key: str, value: Any, text: str) -> None:
    values = hf(schema=4) if value is not NO_SUCH else hf(schema=4, drop=(key,))
    if value is not NO_SUCH:
        values[key] = value
    assert text in str(refused(values))


def test_numbers_count_as_the_f32_that_a_header_has() -> None:
    """What our readers would refuse is refused before it is written."""
    granite = hf(architectures=["GraniteForCausalLM"], model_type="granite", embedding_multiplier=2.0, residual_multiplier=0.5,
                 attention_multiplier=0.2, logits_scaling=1e38)
    assert str(refused(granite)) == "config.json: logits_scaling: expected a number below 1e+37, by which logits are divided, found 1e+38"
    yarn = hf(rope_parameters={"rope_type": "yarn", "factor": 2.0, "rope_theta": 1.00000001})
    assert "rope_theta: expected a number above 1 with a rope scaling of yarn" in str(refused(yarn))
    dynamic = hf(hidden_size=8, head_dim=2, num_attention_heads=4, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4})
    assert "head_dim: expected 4 or more rotated dimensions with a rope scaling of dynamic, found 2" in str(refused(dynamic))


def test_the_three_kinds_of_problem_are_three_messages_in_one_line() -> None:
    error = refused(hf(schema=4, drop=("vocab_size",), hidden_size="48", hidden_act="gelu"))
    assert isinstance(error, FormatError)
    assert str(error) == (
        "config.json: 3 problems: hidden_act: 'gelu' is not supported, only 'silu' is; "
        "hidden_size: expected an integer from 1 to 1048576, found '48'; vocab_size is absent"
    )


def test_a_line_lists_twenty_problems_and_the_keys_of_strangers_escaped() -> None:
    block = {"rope_type": "linear", "factor": 2.0, **{f"key{i}\n": 1 for i in range(23)}}
    error = str(refused(hf(schema=4, rope_scaling=block)))
    assert error.startswith(r"config.json: 23 problems: rope_scaling.key0\x0a: 1 is not supported, rope type linear has no such key; ")
    assert error.endswith(r"; rope_scaling.key19\x0a: 1 is not supported, rope type linear has no such key; and 3 more")
    assert r"rope_scaling.a\x1b: an object is not supported" in str(refused(hf(schema=4, rope_scaling={"a\x1b": {"b": 1}})))


def test_what_is_only_unsupported_is_an_unsupported_error() -> None:
    assert isinstance(refused(hf(lm_head_bias=True, qkv_bias=True)), UnsupportedError)
    assert isinstance(refused(hf(lm_head_bias=1)), UnsupportedError)
    assert isinstance(refused(hf("mistral", attention_bias=True)), UnsupportedError)


def test_nothing_names_the_architecture() -> None:
    assert "architectures is absent (and so is model_type)" in str(refused(hf(drop=("architectures", "model_type"))))


@pytest.mark.parametrize("drop", [("architectures",), ("model_type",)])
def test_either_name_of_the_architecture_is_enough(drop: tuple[str, ...]) -> None:
    assert config_from_hf(hf("mistral", drop=drop))[0].hf_model_type == "mistral"


def test_a_rope_block_beside_an_equal_one_is_fine_and_beside_another_is_not() -> None:
    both = hf(rope_scaling=LLAMA3, rope_parameters={"rope_theta": 10000.0, **LLAMA3})
    assert config_from_hf(both)[0].rope_scaling == "llama3"
    assert "rope_scaling and rope_parameters disagree: 'linear' and 'llama3'" in str(refused(both | {"rope_scaling": LINEAR}))


def test_strings_of_the_file_are_escaped() -> None:
    text = str(refused(hf(hidden_act="\x1b[31mred\u202e\n")))
    assert "'\\x1b[31mred\\u202e\\x0a'" in text
    assert escape(b"\xff\\a") == "\\xff\\\\a"


# ---- JSON ----

JSON = {
    "not JSON": b"hello",
    "empty": b"",
    "not UTF-8": b'{"a": "\xff"}',
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": -Infinity}',
    "too large": b'{"a": 1e400}',
    "twice": b'{"a": 1, "b": {"c": 1, "c": 2}}',
    "surrogate": b'{"a": ["\\ud800"]}',
    "surrogate key": b'{"\\ud800": 1}',
    "deep": b"[" * 100000,
    "deep and whole": b'{"a":' * 200 + b"1" + b"}" * 200,
    "two values": b"{} {}",
    "digits": b'{"a": ' + b"9" * 5000 + b"}",
    "BOM": b"\xef\xbb\xbf{}",
    "trailing comma": b'{"a": 1,}',
}


@pytest.mark.parametrize("kind", sorted(JSON))
def test_json_is_read_strictly(kind: str) -> None:
    with pytest.raises(FormatError, match="^config.json: expected") as caught:
        strict_json.load_object(JSON[kind], "config.json")
    assert str(caught.value).isprintable()


def test_json_that_is_only_odd_is_read() -> None:
    text = (
        ' {"\\u00e9": "\\ud83d\\ude00", "model_max_length": 1000000000000000019884624838656, "deep": ' + "[" * 99 + "]" * 99 + "}\n"
    )
    assert strict_json.load_object(text.encode(), "x")["é"] == "😀"
    with pytest.raises(FormatError, match="x: expected a JSON object, found an array"):
        strict_json.load_object(b"[]", "x")


# ---- GGUF keys ----

GGUF = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.embedding_length": 48,
    "llama.feed_forward_length": 84,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.context_length": 256,
    "llama.attention.layer_norm_rms_epsilon": float(np.float32(1e-5)),
    "llama.rope.freq_base": 500000.0,
    "llama.vocab_size": 301,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.eot_token_id": 5,
    "tokenizer.ggml.eom_token_id": 2,
}


def test_gguf_keys_are_the_same_model() -> None:
    config, warnings = config_from_gguf(GGUF, "m.gguf", embedding_rows=301)
    expected, _warnings = config_from_hf(
        hf(tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 5e5}, eos_token_id=[2, 5])
    )
    assert (config, warnings) == (expected, [])


def test_gguf_keys_that_say_more() -> None:
    config, _warnings = config_from_gguf(
        GGUF
        | {
            "llama.attention.key_length": 20,
            "llama.attention.value_length": 20,
            "llama.rope.dimension_count": 20,
            "llama.attention.head_count_kv": [2, 2],
            "llama.feed_forward_length": [84, 84],
            "llama.rope.scaling.type": "linear",
            "llama.rope.scaling.factor": 4.0,
            "llama.attention.sliding_window": 64,
            "llama.expert_count": 0,
            "llama.attention.causal": True,
        },
        "m.gguf",
        shared_classifier=False,
    )
    assert (config.head_dim, config.rotary_dim, config.n_kv_heads, config.hidden_dim) == (20, 20, 2, 84)
    assert (config.rope_scaling, config.rope_factor, config.sliding_window, config.hf_model_type) == ("linear", 4.0, 64, "mistral")
    assert not config.shared_classifier


def test_gguf_without_a_base_takes_the_reference_reader_s() -> None:
    values = {key: value for key, value in GGUF.items() if "freq_base" not in key}
    config, warnings = config_from_gguf(values, "m.gguf")
    assert config.rope_theta == 10000.0
    assert warnings == ["m.gguf: llama.rope.freq_base is absent, 10000.0 taken, the default of GGUF's reference reader"]


# allenai/Olmo-3-1025-7B, as transformers 4 writes it.
OLMO3 = {
    "architectures": ["Olmo3ForCausalLM"], "model_type": "olmo3", "attention_bias": False, "attention_dropout": 0.0,
    "eos_token_id": 100257, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 11008,
    "layer_types": [*["sliding_attention"] * 3, "full_attention"] * 8, "max_position_embeddings": 65536, "num_attention_heads": 32,
    "num_hidden_layers": 32, "num_key_value_heads": 32, "pad_token_id": 100277, "rms_norm_eps": 1e-06, "rope_theta": 500000,
    "rope_scaling": {"attention_factor": 1.2079441541679836, "beta_fast": 32.0, "beta_slow": 1.0, "factor": 8.0,
                     "original_max_position_embeddings": 8192, "rope_type": "yarn"},
    "sliding_window": 4096, "tie_word_embeddings": False, "use_cache": False, "vocab_size": 100278,
}


def test_olmo3_as_published() -> None:
    """Its scaling is of the layers without a window alone."""
    from transformers import Olmo3Config

    config, warnings = config_from_hf(OLMO3)
    theirs = Olmo3Config.from_dict(json.loads(json.dumps(OLMO3)))
    full, local = theirs.rope_parameters["full_attention"], theirs.rope_parameters["sliding_attention"]
    assert (config.architecture, config.hf_model_type, warnings) == ("olmo2", "olmo3", [])
    assert (config.rope_scaling, config.rope_theta, config.rope_factor, config.rope_attn_factor, config.rope_original_ctx) == (
        full["rope_type"], full["rope_theta"], full["factor"], full["attention_factor"], full["original_max_position_embeddings"])
    assert local == {"rope_type": "default", "rope_theta": config.rope_theta_local}
    assert config.sliding_window == theirs.sliding_window
    assert [bool(flag) for flag in config.flags] == [kind == "sliding_attention" for kind in theirs.layer_types]
    unlisted = {key: value for key, value in OLMO3.items() if key not in ("layer_types", "sliding_window")}
    again, said = config_from_hf(unlisted)
    assert again == config and said == ["config.json: sliding_window is absent, 4096 taken, the default of Olmo3Config"]


def test_a_theta_that_transformers_4_and_5_give_to_different_layers_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="rope_theta: 10000 is not supported, only 500000 is where rope_parameters."
                                               "sliding_attention does not say it"):
        config_from_hf({**OLMO3, "rope_theta": 10000})
    both = {"full_attention": {"rope_type": "default", "rope_theta": 10000},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000}}
    config, _warnings = config_from_hf({**OLMO3, "rope_theta": 10000, "rope_scaling": None, "rope_parameters": both})
    assert (config.rope_theta, config.rope_theta_local) == (10000, 10000)


@pytest.mark.parametrize("values", [OLMO3 | {"rope_scaling": None}, {
    "model_type": "gemma3_text", "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 99, "intermediate_size": 96,
    "num_hidden_layers": 2}], ids=["olmo3", "gemma3"])
def test_one_rope_for_layers_of_two_kinds_is_refused(values: dict[str, Any]) -> None:
    """transformers passes over it."""
    with pytest.raises(FormatError, match="rope_parameters: expected full_attention and sliding_attention, each with its own, found "):
        config_from_hf({**values, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e6}})


@pytest.mark.parametrize("rope", [{"full_attention": [1], "sliding_attention": {}}, {"full_attention": {}, "sliding_attention": 3}])
def test_a_rope_block_of_some_layers_is_an_object(rope: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=r"rope_parameters\.\w+: expected an object or null, found "):
        config_from_hf({"model_type": "gemma3_text", "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 99,
                        "intermediate_size": 96, "num_hidden_layers": 2, "rope_parameters": rope})


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("general.architecture", NO_SUCH, "general.architecture is absent"),
        ("general.architecture", "bloom", "general.architecture: 'bloom' is not supported, llama, qwen2, "),
        ("general.architecture", 3, "general.architecture: expected a name, found 3"),
        ("llama.block_count", NO_SUCH, "llama.block_count is absent"),
        ("llama.block_count", 0, "llama.block_count: expected an integer from 1 to 1024, found 0"),
        ("llama.block_count", 2**31 - 1, "llama.block_count: expected an integer from 1 to 1024"),
        ("llama.block_count", "2", "llama.block_count: expected an integer from 1 to 1024, found '2'"),
        ("llama.block_count", [2], "llama.block_count: expected an integer from 1 to 1024, found an array of 1"),
        ("llama.attention.head_count_kv", 3, "attention.head_count_kv: expected a divisor of attention.head_count (4), found 3"),
        (
            "llama.attention.head_count_kv",
            [2, 1],
            "llama.attention.head_count_kv: an array of 2 is not supported, layers of one size",
        ),
        ("llama.attention.head_count_kv", [2], "llama.attention.head_count_kv: expected one value, or one for each of 2 layers"),
        ("llama.attention.key_length", 3, "attention.key_length: expected an even number, found 3"),
        ("llama.attention.value_length", 6, "llama.attention.value_length: 6 is not supported, only the head's own length (12)"),
        ("llama.rope.dimension_count", 6, "llama.rope.dimension_count: 6 is not supported"),
        ("llama.attention.layer_norm_rms_epsilon", NO_SUCH, "llama.attention.layer_norm_rms_epsilon is absent"),
        (
            "llama.attention.layer_norm_rms_epsilon",
            float("nan"),
            "layer_norm_rms_epsilon: expected a number between 0 and 1, found nan",
        ),
        ("llama.attention.layer_norm_rms_epsilon", 1e30, "layer_norm_rms_epsilon: expected a number between 0 and 1, found 1e+30"),
        ("llama.rope.freq_base", float("inf"), "llama.rope.freq_base: expected a finite number above 0, found inf"),
        ("llama.rope.freq_base", 0.0, "llama.rope.freq_base: expected a finite number above 0, found 0.0"),
        ("llama.rope.scaling.type", "bogus", "llama.rope.scaling.type: 'bogus' is not supported, none, linear, yarn and"),
        ("llama.rope.scaling.type", "yarn", "llama.rope.scaling.factor is absent"),
        ("llama.rope.scaling.type", "longrope", "llama.rope.scaling.original_context_length is absent"),
        ("llama.rope.scaling.type", "linear", "llama.rope.scaling.factor is absent"),
        ("llama.rope.scaling.factor", 2.0, "llama.rope.scaling.type is absent"),
        ("llama.expert_count", 8, "llama.expert_used_count is absent"),
        ("llama.attention.causal", False, "llama.attention.causal: false is not supported, only true is"),
        ("llama.logit_scale", 0.5, "llama.logit_scale: 0.5 is not supported"),
        ("llama.attention.scale", 0.5, "llama.attention.scale: 0.5 is not supported"),
        ("tokenizer.ggml.eos_token_id", 2**32 - 1, "tokenizer.ggml.eos_token_id: expected a token id below 301, found 4294967295"),
        ("tokenizer.ggml.bos_token_id", "1", "tokenizer.ggml.bos_token_id: expected a token id below 301, found '1'"),
    ],
)
def test_gguf_keys_that_are_not_right_are_refused_by_name(key: str, value: Any, text: str) -> None:
    values = {name: item for name, item in GGUF.items() if name != key} | ({} if value is NO_SUCH else {key: value})
    with pytest.raises(ConvertError) as caught:
        config_from_gguf(values, "m.gguf", embedding_rows=301)
    assert str(caught.value).startswith("m.gguf: ") and text in str(caught.value)


def test_numbers_that_were_f32_come_back_short() -> None:
    assert [shortest(float(np.float32(value))) for value in (1e-5, 1e-6, 1e6, 0.1, 8.0)] == [1e-5, 1e-6, 1e6, 0.1, 8.0]


# ---- ak42 headers ----

AK42 = {
    "dim": 48,
    "hidden_dim": 84,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "vocab_size": 301,
    "seq_len": 256,
    "shared_classifier": 1,
}
EXTENSION = {
    "rope_theta": float(np.float32(1e6)),
    "norm_eps": float(np.float32(1e-6)),
    "head_dim": 20,
    "rotary_dim": 0,
    "sliding_window": 64,
    "rope_scaling": 4,
    "rope_factor": 8.0,
    "rope_low_freq": 1.0,
    "rope_high_freq": 4.0,
    "rope_original_ctx": 64,
    "rope_attn_factor": 1.0,
    "bos_id": 1,
    "eos_ids": (2, 5, -1, -1),
    "pad_id": -1,
    "trained_ctx": 512,
    "attention_scale": 0.0,
    "logit_scale": 0.0,
    "rope_theta_local": 0.0,
}


def test_an_old_header_has_llama2_c_s_constants() -> None:
    config, warnings = config_from_ak42(AK42, "m.bin")
    assert (config.rope_theta, config.norm_eps, config.head_dim, config.trained_ctx) == (10000.0, 1e-5, 12, 256)
    assert (config.rope_scaling, config.sliding_window, config.bos_id, config.eos_ids, warnings) == ("none", 0, -1, (), [])


def test_an_extension_is_taken_literally() -> None:
    config, _warnings = config_from_ak42(AK42 | EXTENSION, "m.bin")
    assert (config.rope_theta, config.norm_eps, config.head_dim, config.rotary_dim, config.trained_ctx) == (1e6, 1e-6, 20, 20, 512)
    assert (config.rope_scaling, config.rope_factor, config.rope_original_ctx) == ("llama3", 8.0, 64)
    assert (config.bos_id, config.eos_ids, config.pad_id, config.hf_model_type) == (1, (2, 5), -1, "mistral")


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("dim", 0, "dim: expected an integer from 1 to 1048576, found 0"),
        ("n_layers", 1025, "n_layers: expected an integer from 1 to 1024, found 1025"),
        ("n_kv_heads", 3, "n_kv_heads: expected a divisor of n_heads (4), found 3"),
        ("head_dim", 7, "head_dim: expected an even number, found 7"),
        ("rope_theta", float("nan"), "rope_theta: expected a finite number above 0, found nan"),
        ("norm_eps", 0.0, "norm_eps: expected a number between 0 and 1, found 0.0"),
                ("rope_scaling", 77, "rope_scaling: 77 is not supported"),
        ("rope_factor", 0.0, "rope_factor: expected a finite number above 0, found 0.0"),
        ("rope_high_freq", 1.0, "rope_high_freq: expected a number above rope_low_freq (1), found 1.0"),
        ("rotary_dim", 22, "rotary_dim: expected an integer from 0 to 20, found 22"),
        ("attn_softcap", -50.0, "attn_softcap: expected a finite number above 0, found -50.0"),
        ("logit_scale", float("nan"), "logit_scale: expected a finite number above 0, found nan"),
        ("rope_theta_local", -1e4, "rope_theta_local: expected a finite number above 0, found -10000.0"),
        ("n_experts", 8, "n_experts_used is absent"),
        ("bos_id", 301, "bos_id: expected a token id below 301, found 301"),
        ("eos_ids", (2, -5, -1, -1), "eos_ids: expected a token id below 301, found -5"),
        ("trained_ctx", 0, "trained_ctx: expected an integer from 1 to 2147483647, found 0"),
    ],
)
def test_a_header_that_is_not_right_is_refused_by_name(key: str, value: Any, text: str) -> None:
    with pytest.raises(ConvertError) as caught:
        config_from_ak42(AK42 | EXTENSION | {key: value}, "m.bin")
    assert str(caught.value).startswith("m.bin: ") and text in str(caught.value)


# ---- two statements of one model ----


def test_differences_are_named_and_floats_count_as_f32() -> None:
    one, _warnings = config_from_hf(hf())
    assert differences(one, replace(one, norm_eps=float(np.float32(1e-5)), seq_len=7, eos_ids=())) == []
    assert differences(one, replace(one, rope_theta=5e5, n_layers=3)) == ["n_layers 2 and 3", "rope_theta 10000.0 and 500000.0"]

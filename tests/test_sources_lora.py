"""--lora: an adapter that PEFT saved, merged while converting, against PEFT's own merge_and_unload.

f32: the product's r terms are added in another order, so that a weight may differ by r roundings of its largest term; 16 bits: the
same, then one rounding, so that few weights differ, and those by one step.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import models
import numpy as np
import pytest
import torch
from models import ModelSpec
from safetensors.torch import load_file, save_file
from source_checks import values_of

import converter
import pyllama
from converter.arch import HALF_SPLIT, INTERLEAVED
from converter.errors import ConvertError, FormatError, UnsupportedError, UsageError
from converter.sources import open_source
from converter.sources.lora import LoraSource

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")       # PEFT's advice on tied and saved modules

SPEC = ModelSpec(dim=64, hidden_dim=96, vocab_size=303, n_kv_heads=2, max_positions=64)
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]


def trained(base: Path, out: Path, dtype: str = "f32", seed: int = 3, rows: int = 0, model_class: str = "AutoModelForCausalLM",
            **settings: Any) -> Any:
    """Saves an adapter with random weights for `base`, whose vocabulary first gets `rows`, to `out`; PEFT's model of both, loaded
    again from their files."""
    kind = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[dtype]

    def load() -> Any:
        model = getattr(transformers, model_class).from_pretrained(base, dtype=kind)
        if rows:
            model.resize_token_embeddings(rows, mean_resizing=False)
        return model

    config = peft.LoraConfig(task_type="CAUSAL_LM", **({"r": 4, "lora_alpha": 10, "target_modules": ALL} | settings))
    model = peft.get_peft_model(load(), config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "magnitude" in name:
                value.mul_(1 + torch.randn_like(value) * 0.2)
            elif "lora_" in name or "modules_to_save" in name or "trainable_tokens" in name:
                value.copy_(torch.randn_like(value) * 0.2)
    model.save_pretrained(out)
    return peft.PeftModel.from_pretrained(load(), out)


def merged_values(model: Any) -> dict[str, np.ndarray]:
    return {name: value.float().numpy() for name, value in model.merge_and_unload().state_dict().items()}


def meta_folder(path: Path, spec: ModelSpec) -> Path:
    """The spec's model as Meta saves it."""
    from test_sources_torch import meta_tensors

    path.mkdir()
    torch.save(meta_tensors(spec), path / "consolidated.00.pth")
    (path / "params.json").write_text(json.dumps({"dim": spec.dim, "n_layers": spec.n_layers, "n_heads": spec.n_heads, "n_kv_heads":
                                                  spec.n_kv_heads, "hidden_dim": spec.hidden_dim, "max_seq_len": spec.max_positions}))
    return path


def opened(path: Path, adapter: Path) -> LoraSource:
    return LoraSource(open_source(path), adapter)


def check_merged(source: LoraSource, expected: dict[str, np.ndarray], dtype: str = "f32", rank: int = 4) -> None:
    step = {"f32": 2.0**-24, "f16": 2.0**-11, "bf16": 2.0**-8}[dtype]
    for tensor in converter.plan.ARCHITECTURES[source.config.architecture].tensors(source.config):
        values, wanted = values_of(source, tensor.name), expected[tensor.hf_name]
        difference = np.abs(values - wanted)
        if dtype == "f32":
            assert difference.max() <= 4 * rank * step * np.abs(wanted).max(), tensor.name
        else:
            assert (difference <= 2 * step * np.abs(wanted) + 1e-7).all() and (difference > 0).mean() < 0.01, tensor.name


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.make_hf_model_numpy(tmp_path_factory.mktemp("lora") / "base", SPEC)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"target_modules": ATTENTION[:2], "lora_alpha": 3, "r": 1},
        {"target_modules": r".*\.1\.mlp\.(up|down)_proj"},
        {"rank_pattern": {"q_proj": 7, r"model.layers.1.self_attn.o_proj": 2}, "alpha_pattern": {"down_proj": 31, "layers.0.mlp.up_proj": 1}},
        {"rank_pattern": {r"layers\.\d+\.self_attn.*": 6}, "alpha_pattern": {"^model.layers.0.mlp.gate_proj": 2}},
        {"modules_to_save": ["lm_head", "embed_tokens"]},
        {"modules_to_save": ["input_layernorm", "norm"], "target_modules": ["v_proj"]},
        {"target_modules": ["embed_tokens", "lm_head", "q_proj"]},
        {"target_modules": ["q_proj"], "layers_to_transform": [1]},
        {"target_modules": "all-linear", "lora_dropout": 0.1, "init_lora_weights": "gaussian"},
    ],
    ids=str,
)
def test_it_is_what_peft_merges(tmp_path: Path, base: Path, settings: dict[str, Any]) -> None:
    expected = merged_values(trained(base, tmp_path / "adapter", **settings))
    source = opened(base, tmp_path / "adapter")
    changed = [name for name in source.names() if not np.array_equal(values_of(source, name), values_of(source._base, name))]
    assert changed
    check_merged(source, expected, rank=7)
    for name in changed[:3]:
        whole = source.read(name, 0, source.tensor(name)[1][0]) if len(source.tensor(name)[1]) == 2 else None
        if whole is not None:
            assert np.array_equal(source.read(name, 5, 21).view("<f4"), whole[5:21].view("<f4")) or \
                np.allclose(source.read(name, 5, 21).view("<f4"), whole[5:21].view("<f4"), rtol=0, atol=1e-6)
    assert source.warnings == []
    source.close()


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_16_bits_are_rounded_once(tmp_path: Path, dtype: str) -> None:
    folder = models.make_hf_model_numpy(tmp_path / "base", SPEC, dtype=dtype)
    expected = merged_values(trained(folder, tmp_path / "adapter", dtype, modules_to_save=["norm"], target_modules=[*ALL, "embed_tokens"]))
    source = opened(folder, tmp_path / "adapter")
    assert {source.tensor(name)[0].name for name in source.names()} == {dtype}
    check_merged(source, expected, dtype)


def check_neighbours(tmp_path: Path, base: Path, expected: Any, kind: str) -> None:
    """The adapter in tmp_path / "adapter" over a source of `base` whose rotary pairs are neighbours."""
    if kind == "meta":
        path = meta_folder(tmp_path / "meta", SPEC)
    else:
        path = tmp_path / f"base.{kind}"
        converter.convert(base, path)
    source = opened(path, tmp_path / "adapter")
    assert source.rope_layout == INTERLEAVED != HALF_SPLIT
    check_merged(source, expected)
    source.close()


@pytest.mark.parametrize("kind", ["gguf", "bin", "meta"])
def test_rows_are_added_before_any_permutation(tmp_path: Path, base: Path, kind: str) -> None:
    """Sources whose rotary pairs are neighbours: the adapter's rows, which are Hugging Face's, have to follow."""
    expected = merged_values(trained(base, tmp_path / "adapter", modules_to_save=["k_proj"], target_modules=["q_proj", "v_proj"]))
    check_neighbours(tmp_path, base, expected, kind)


def test_a_conversion_is_that_of_the_merged_model(tmp_path: Path, base: Path) -> None:
    """Through convert: the logits of the merged folder, and a manifest that names the adapter's files."""
    import pyllama

    model = trained(base, tmp_path / "adapter").merge_and_unload()
    converter.convert(base, tmp_path / "ours.bin", lora=tmp_path / "adapter")
    with pyllama.Model(tmp_path / "ours.bin", n_threads=1) as ours, ours.session() as session:
        found = session.eval([1, 7, 60, 200, 3])
    with torch.no_grad():
        expected = model(torch.tensor([[1, 7, 60, 200, 3]])).logits[0, -1].numpy()
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
    source = open_source(tmp_path / "ours.bin")
    manifest = json.loads(bytes(source._ak42.sections["MANI"]))
    source.close()
    assert manifest["options"]["lora"] == "adapter"
    assert {"adapter_config.json", "adapter_model.safetensors", "config.json", "model.safetensors"} <= set(manifest["source"]["files"])


def test_a_quantised_base_is_merged_in_f32(tmp_path: Path, base: Path) -> None:
    trained(base, tmp_path / "adapter", target_modules=["up_proj"])
    converter.convert(base, tmp_path / "base.gguf", type="q8_0")
    with pytest.raises(UsageError, match="--lora merges into weights of q8_0, which --type keep cannot keep; say --type q8_0, or another"):
        converter.convert(tmp_path / "base.gguf", tmp_path / "out.gguf", lora=tmp_path / "adapter")
    assert not (tmp_path / "out.gguf").exists()
    converter.convert(tmp_path / "base.gguf", tmp_path / "out.gguf", lora=tmp_path / "adapter", type="q8_0")
    source, before, after = opened(tmp_path / "base.gguf", tmp_path / "adapter"), open_source(tmp_path / "base.gguf"), open_source(
        tmp_path / "out.gguf")
    assert np.array_equal(before.read("blk.0.attn_q.weight", 0, 64), after.read("blk.0.attn_q.weight", 0, 64))
    merged = values_of(source, "blk.0.ffn_up.weight")
    assert np.abs(values_of(after, "blk.0.ffn_up.weight") - merged).max() <= np.abs(merged).max() / 127
    for one in (source, before, after):
        one.close()


def test_the_command(tmp_path: Path, base: Path, pyllama_command: Callable[..., Any]) -> None:
    trained(base, tmp_path / "adapter")
    done = pyllama_command("convert", base, "-o", tmp_path / "out.bin", "--lora", tmp_path / "adapter")
    assert done.code == 0, done.err
    done = pyllama_command("convert", base, "-o", tmp_path / "out2.bin", "--lora", tmp_path / "nothing")
    assert done.code == 2 and "--lora: nothing: expected the folder of a PEFT adapter, found none" in done.err


def test_an_old_adapter_model_bin_is_read(tmp_path: Path, base: Path) -> None:
    expected = merged_values(trained(base, tmp_path / "adapter"))
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    torch.save({name.replace(".weight", ".default.weight"): value for name, value in load_file(weights).items()},
               weights.with_suffix(".bin"))
    weights.unlink()
    source = opened(base, tmp_path / "adapter")
    check_merged(source, expected)
    source.close()


# ---- other families ----


def all_values(source: Any) -> dict[str, np.ndarray]:
    found = {}
    for name in source.names():
        kind, shape, _group = source.tensor(name)
        found[name] = kind.decode(source.read(name, 0, int(np.prod(shape[:-1], dtype=int))), shape[-1])
    return found


def check_same(one: Any, other: Any) -> None:
    values, wanted = all_values(one), all_values(other)
    assert values.keys() == wanted.keys()
    for name, expected in wanted.items():
        assert np.abs(values[name] - expected).max() <= 64 * 2.0**-24 * np.abs(expected).max(), name
    one.close(), other.close()


def check_family(tmp_path: Path, family: str, train: Callable[[Path], Any], out: str) -> None:
    """A merge into the folder ("hf") or a file made of it is the conversion of the folder that PEFT merged; `train` leaves its adapter
    in tmp_path / "adapter"."""
    folder = families.make(tmp_path / "base", families.FAMILIES[family])
    train(folder).merge_and_unload().save_pretrained(tmp_path / "merged")
    path, merged = folder, tmp_path / "merged"
    if out != "hf":
        (tmp_path / "theirs").mkdir()
        path, merged = tmp_path / out, tmp_path / "theirs" / out
        converter.convert(folder, path)
        converter.convert(tmp_path / "merged", merged)
    check_same(opened(path, tmp_path / "adapter"), open_source(merged))


@pytest.mark.parametrize("out", ["hf", "m.gguf", "m.bin"])
@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("phi3", {"target_modules": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]}),
        ("phi3", {"target_modules": ["o_proj"], "modules_to_save": ["qkv_proj"]}),
        ("gemma2", {"target_modules": ["q_proj", "down_proj"], "modules_to_save": ["pre_feedforward_layernorm", "norm"]}),
        ("qwen2", {"target_modules": "all-linear"}),
        ("qwen3", {"target_modules": ["k_proj"], "modules_to_save": ["q_norm", "k_norm"]}),
        ("olmo2", {"target_modules": ["v_proj", "up_proj"]}),
    ],
    ids=str,
)
def test_fused_weights_and_folded_norms(tmp_path: Path, family: str, settings: dict[str, Any], out: str) -> None:
    """A merge into the folder, into our GGUF and into our model.bin is the conversion of the folder that PEFT merged."""
    check_family(tmp_path, family, lambda folder: trained(folder, tmp_path / "adapter", **settings), out)


@pytest.mark.parametrize("out", ["hf", "m.gguf"])
def test_single_experts(tmp_path: Path, out: str) -> None:
    """As adapters of Mixtral name them: the rows of one expert among all."""
    base = families.make(tmp_path / "base", families.FAMILIES["mixtral"])
    folder = base
    if out != "hf":
        folder = tmp_path / out
        converter.convert(base, folder)
    rng = np.random.default_rng(3)
    module = "base_model.model.model.layers.1.block_sparse_moe.experts.{}.w2"
    a, b = rng.standard_normal((2, 3, 76), dtype=np.float32), rng.standard_normal((2, 48, 3), dtype=np.float32)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    targets = [module.format(expert).removeprefix("base_model.model.") for expert in (1, 4)]
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": targets}))
    tensors = {}
    for place, expert in enumerate((1, 4)):
        tensors[f"{module.format(expert)}.lora_A.weight"] = torch.from_numpy(a[place])
        tensors[f"{module.format(expert)}.lora_B.weight"] = torch.from_numpy(b[place])
    save_file(tensors, adapter / "adapter_model.safetensors")
    source, plain = opened(folder, adapter), open_source(folder)
    values, expected = all_values(source), all_values(plain)
    wanted = expected["blk.1.ffn_down_exps.weight"].reshape(5, 48, 76)
    wanted[[1, 4]] += 2 * b @ a
    name = "blk.1.ffn_down_exps.weight"
    assert np.abs(values[name].reshape(5, 48, 76) - wanted).max() <= 32 * 2.0**-24 * np.abs(wanted).max()
    assert all(np.array_equal(values[key], expected[key]) for key in values if key != name)
    assert np.array_equal(source.read(name, 40, 60).view("<f4"), values[name][40:60])
    source.close(), plain.close()


# ---- what is refused ----


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    folder = tmp_path_factory.mktemp("good") / "adapter"
    trained(base, folder)
    return folder


def changed(good: Path, out: Path, config: dict[str, Any] | None = None, weights: Callable[[dict[str, Any]], Any] | None = None) -> Path:
    out.mkdir()
    (out / "adapter_config.json").write_text(json.dumps(json.loads((good / "adapter_config.json").read_text()) | (config or {})))
    tensors = load_file(good / "adapter_model.safetensors")
    save_file(weights(tensors) if weights else tensors, out / "adapter_model.safetensors")
    return out


def refused_by(base: Path, adapter: Path, kind: type[ConvertError] = ConvertError) -> str:
    with pytest.raises(kind) as caught:
        opened(base, adapter).close()
    return str(caught.value)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"lora_bias": True}, "lora_bias: true is not supported"),
        ({"bias": "lora_only"}, "bias: 'lora_only' is not supported, only 'none' is"),
        ({"peft_type": "IA3"}, "peft_type: 'IA3' is not supported, LORA is"),
        ({"layer_replication": [[0, 2]]}, "layer_replication: an array of 1 is not supported"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"use_qalora": True}, "use_qalora"),
        ({"target_parameters": ["x"]}, "target_parameters"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: 'pissa' is not supported, it begins with another base model"),
        ({"init_lora_weights": "olora"}, "olora"),
        ({"something_new": 3}, "something_new: 3 is not supported"),
        ({"some\nthing\x1b[31m": 3}, r"some\x0athing\x1b[31m: 3 is not supported, it has to be absent or false"),
    ],
)
def test_other_kinds_are_refused_by_name(tmp_path: Path, base: Path, good: Path, config: dict[str, Any], text: str) -> None:
    found = refused_by(base, changed(good, tmp_path / "a", config), UnsupportedError)
    assert found.startswith("adapter_config.json: ") and text in found


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"r": 5}, "expected matrices of rank 5, as adapter_config.json says, found 4x96 and 64x4"),
        ({"r": 0}, "r: expected an integer from 1 to 65536, found 0"),
        ({"lora_alpha": "x"}, "lora_alpha: expected a finite number above 0"),
        ({"rank_pattern": {"q_proj": 3}}, "self_attn.q_proj: expected matrices of rank 3"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern.q_proj: expected a number above 0"),
        ({"rank_pattern": []}, "rank_pattern: expected an object"),
        ({"alpha_pattern": {"(a+)+b": 3}}, "alpha_pattern: '(a+)+b' is not supported, names, with up to three repeats"),
        ({"alpha_pattern": {"a*a*a*a*b": 3}}, "is not supported, names"),
        ({"alpha_pattern": {"(": 3}}, "is not supported, names"),
        ({"target_modules": ["q_proj"]}, "expected a module of target_modules, found another"),
        ({"target_modules": 3}, "target_modules: expected a name or an array of names"),
    ],
)
def test_configs_that_do_not_fit_are_refused(tmp_path: Path, base: Path, good: Path, config: dict[str, Any], text: str) -> None:
    assert text in refused_by(base, changed(good, tmp_path / "a", config))


Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda tensors: {key: value for key, value in tensors.items() if key != f"{Q}.lora_A.weight"}, "expected lora_A and lora_B, found no lora_A"),
        (lambda tensors: tensors | {f"{Q}.lora_magnitude_vector": torch.zeros(64)}, "q_proj: lora_magnitude_vector: expected use_dora to be true in adapter_config.json, found that it is not"),
        (lambda tensors: tensors | {f"{Q}.lora_xs.weight": torch.zeros(64)}, "lora_xs is not supported, lora_A and lora_B are"),
        (lambda tensors: tensors | {f"{Q}.lora_A.default.weight": torch.zeros(4, 64)}, "expected one lora_A for model.layers.0.self_attn.q_proj, found two"),
        (lambda tensors: tensors | {"base_model.model.model.norm.weight": torch.zeros(64), "base_model.model.model.norm.base_layer.weight": torch.zeros(64)}, "expected one weight in place of model.norm.weight, found two"),
        (lambda tensors: {key: value for key, value in tensors.items() if not key.startswith(Q)} | {f"{Q}.lora_embedding_A": torch.zeros(4, 64), f"{Q}.lora_embedding_B": torch.zeros(64, 4)}, "q_proj: expected lora_A and lora_B, found an embedding's"),
        (lambda tensors: tensors | {f"{Q}.lora_B.bias": torch.zeros(64)}, "lora_bias is not supported"),
        (lambda tensors: tensors | {"x.lora_A.weight": torch.zeros(4, 64)}, "expected a name that begins with base_model.model."),
        (lambda tensors: tensors | {"base_model.model.x.weight": torch.zeros(4)}, "x.weight: expected a weight of base, found that it has none"),
        (lambda tensors: tensors | {f"{Q}.lora_B.weight": torch.zeros(48, 4)}, "expected 64x64, as base has it, found 48x64"),
        (lambda tensors: tensors | {f"{Q}.lora_A.weight": torch.zeros(4, 64, dtype=torch.int8)}, "dtype I8 is not supported"),
        (lambda tensors: tensors | {f"base_model.model.{'a.' * 60}weight": torch.zeros(4)}, "expected a name of up to 128 characters"),
        (lambda tensors: {}, "expected an adapter's tensors, found none"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, base: Path, good: Path, change: Callable[..., Any], text: str) -> None:
    assert text in refused_by(base, changed(good, tmp_path / "a", weights=change))


def without(tensors: dict[str, Any], *parts: str) -> dict[str, Any]:
    left = {key: value for key, value in tensors.items() if not any(part in key for part in parts)}
    assert len(left) < len(tensors)
    return left


DOWN = "layers.1.mlp.down_proj"


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({}, f"a: model.{DOWN}.weight: expected lora_A and lora_B, as target_modules in adapter_config.json says, found nothing; name it in exclude_modules"),
        ({"target_modules": r".*\.(q|k|v|o|up|down|gate)_proj"}, "down_proj.weight: expected lora_A and lora_B, as target_modules"),
        ({"layers_to_transform": [0, 1], "layers_pattern": "layers"}, "down_proj.weight: expected lora_A and lora_B, as target_modules"),
        ({"target_modules": [*ALL, "embed_tokens"], "exclude_modules": [DOWN]}, "model.embed_tokens.weight: expected lora_A"),
        ({"exclude_modules": [DOWN], "modules_to_save": ["lm_head"]}, "lm_head.weight: expected the whole weight, as modules_to_save"),
        # tensors that PEFT passes over
        ({"layers_to_transform": 1}, "layers.0.mlp.down_proj: expected a module of target_modules, found another"),
        ({"layers_to_transform": [0, 1], "layers_pattern": ["h"]}, "expected a module of target_modules, found another"),
        ({"exclude_modules": [DOWN, "q_proj"]}, "layers.0.self_attn.q_proj: expected a module of target_modules, found another"),
        ({"exclude_modules": r".*layers\..\.mlp\.down_proj"}, "layers.0.mlp.down_proj: expected a module of target_modules, found another"),
        ({"modules_to_save": ["mlp"]}, "expected a module of target_modules, found another"),
        ({"target_modules": r"model\.layers\.0.*proj"}, "layers.1.mlp.gate_proj: expected a module of target_modules, found another"),
        ({"exclude_modules": 3}, "exclude_modules: expected a name or an array of names"),
        ({"modules_to_save": "norm"}, "modules_to_save: expected an array of names"),
        ({"layers_to_transform": "1"}, "layers_to_transform: expected a layer's number or an array of them"),
        ({"layers_pattern": ["(a+)+"], "layers_to_transform": 1}, "layers_pattern: an array of 1 is not supported, a name or"),
    ],
    ids=str,
)
def test_modules_and_tensors_that_are_not_the_same_are_refused(tmp_path: Path, base: Path, good: Path, config: dict[str, Any],
                                                               text: str) -> None:
    """A module that the config names and the file has no tensors of, and the other way round: PEFT leaves such modules as they were."""
    found = refused_by(base, changed(good, tmp_path / "a", config, lambda tensors: without(tensors, DOWN)), ConvertError)
    assert text in found


def test_a_module_that_was_excluded_is_left_as_it_is(tmp_path: Path, base: Path, good: Path) -> None:
    """And so it is where the config's pattern is not tried, which is said."""
    for number, config in enumerate(({"exclude_modules": [DOWN]}, {"target_modules": "(?:.*?proj)"}, {"target_modules": "all-linear"},
                                     {"target_modules": None})):
        adapter = changed(good, tmp_path / f"a{number}", config, lambda tensors: without(tensors, DOWN))
        source, plain = opened(base, adapter), open_source(base)
        assert np.array_equal(values_of(source, "blk.1.ffn_down.weight"), values_of(plain, "blk.1.ffn_down.weight"))
        assert not np.array_equal(values_of(source, "blk.0.ffn_down.weight"), values_of(plain, "blk.0.ffn_down.weight"))
        assert ["a pattern that is not tried" in warning for warning in source.warnings] == [True] * (number > 0)
        source.close(), plain.close()
        if number == 0:
            theirs = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), adapter)
            check_merged(opened(base, adapter), merged_values(theirs))


def test_fan_in_fan_out_is_left_out_of_account(tmp_path: Path, base: Path, good: Path) -> None:
    """As PEFT does where the layers are no Conv1D, with a warning."""
    one, other = opened(base, good), opened(base, changed(good, tmp_path / "a", {"fan_in_fan_out": True}))
    assert np.array_equal(one.read("blk.0.attn_q.weight", 0, 64), other.read("blk.0.attn_q.weight", 0, 64))
    assert one.warnings == [] and "fan_in_fan_out is left out of account" in other.warnings[0]
    one.close(), other.close()


def test_folders_that_are_no_adapter(tmp_path: Path, base: Path, good: Path) -> None:
    assert refused_by(base, base, FormatError) == "base: adapter_config.json is missing; --lora takes the folder of a PEFT adapter"
    assert "expected the folder of a PEFT adapter, found a file" in refused_by(base, base / "config.json", UsageError)
    adapter = changed(good, tmp_path / "a")
    (adapter / "adapter_model.safetensors").unlink()
    assert refused_by(base, adapter) == "a: adapter_model.safetensors is missing"
    tied = models.make_hf_model_numpy(tmp_path / "tied", SPEC, tie=True)
    trained(base, tmp_path / "head", target_modules=["lm_head"])
    assert "the base model's head is its embedding" in refused_by(tied, tmp_path / "head", UnsupportedError)


def test_weights_that_become_infinite_are_refused(tmp_path: Path, good: Path) -> None:
    half = models.make_hf_model_numpy(tmp_path / "half", SPEC, dtype="f16")
    adapter = changed(good, tmp_path / "a", weights=lambda tensors: {name: value * 1e4 for name, value in tensors.items()})
    with pytest.raises(converter.RefusedError, match="expected finite weights"):
        converter.convert(half, tmp_path / "out.bin", lora=adapter)


# ---- other families ----


@pytest.mark.parametrize(("family", "settings"), [
    ("phi3", {"target_modules": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]}),       # one weight there, several of ours
    ("qwen2", {"target_modules": ALL}),
    ("gemma", {"target_modules": ["q_proj", "down_proj"], "modules_to_save": ["input_layernorm"]}),
])
def test_families_are_merged_as_peft_does(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """From a folder and from a GGUF, whose norms already have Gemma's 1: the logits of the merged model."""
    folder = families.make(tmp_path / "hf", families.FAMILIES[family])
    model = trained(folder, tmp_path / "adapter", **settings).merge_and_unload().eval()
    ids = models.random_ids(5, 40, model.config.vocab_size)
    expected = models.transformers_logits(model, ids)
    converter.convert(folder, tmp_path / "plain.gguf")
    for source in (folder, tmp_path / "plain.gguf"):
        out = tmp_path / f"{source.name}.bin"
        converter.convert(source, out, lora=tmp_path / "adapter", format="ak42-v3")
        with pyllama.Model(out) as merged, merged.session(n_ctx=len(ids)) as session:
            assert np.abs(session.eval(ids, all_logits=True) - expected).max() <= 1e-3

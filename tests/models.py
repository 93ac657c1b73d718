"""Tiny seeded Llama and Mistral checkpoints as Hugging Face folders, and the tiny tokenizers that go into them.

`make_hf_model` builds the folder with transformers' own classes, so that its files are what that library writes;
`make_hf_model_numpy` writes the same tensors with nothing but numpy and json, for tests that must not need torch. Both take
the fields of ModelSpec. The weights are a function of the spec alone: norms are not one, logits spread over several units,
attention is far from uniform, so that a wrong head, pairing or scale shows at once. Nothing here knows the converter.
"""
from __future__ import annotations

import dataclasses
import functools
import io
import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import texts

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""A chat template for the byte-level tokenizer: every role alike."""

INSTRUCT = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ '<<' + message['content'] + '>>' }}{% endif %}{% endfor %}"
)
"""A chat template for the SentencePiece tokenizer: user and assistant turns differ, BOS stands in the template."""


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
"""A rope block whose original context every test's prompt outgrows."""


@dataclass(frozen=True)
class ModelSpec:
    """What a tiny checkpoint is. The defaults are odd on purpose: no size is a multiple of 64, vocab_size none of 8."""

    seed: int = 0
    family: str = "llama"                  # "llama" | "mistral"
    dim: int = 48
    hidden_dim: int = 84
    n_layers: int = 2
    n_heads: int = 4
    n_kv_heads: int = 2
    head_dim: int | None = None            # None: dim // n_heads, and the key is left out where the schema allows
    vocab_size: int = 301
    tie: bool = False
    rope_theta: float | None = 10000.0     # None: no such key (schema 4 only), as in real Llama 2 files
    rope: dict[str, Any] | None = None     # {"rope_type": "llama3", "factor": ..} without the theta
    norm_eps: float = 1e-5
    max_positions: int = 256
    schema: int = 5                        # transformers' config schema, 4 or 5
    sliding_window: int | None = None      # mistral
    shards: int = 1                        # safetensors files
    dtype: str = "f32"                     # "f32" | "f16" | "bf16"
    tokenizer: str | None = None           # "bpe" (byte level) | "spm" (SentencePiece BPE) | None
    chat_template: str | None = None
    bos_id: int | None = 1
    eos_ids: tuple[int, ...] = (2,)
    pad_id: int | None = None

    @property
    def size_head(self) -> int:
        return self.head_dim if self.head_dim is not None else self.dim // self.n_heads


# ---- weights ----

def tensor_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Every tensor of the checkpoint under its Hugging Face name, in model order."""
    size_q, size_kv = spec.n_heads * spec.size_head, spec.n_kv_heads * spec.size_head
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (spec.vocab_size, spec.dim)}
    for layer in range(spec.n_layers):
        name = f"model.layers.{layer}."
        shapes |= {
            name + "input_layernorm.weight": (spec.dim,),
            name + "self_attn.q_proj.weight": (size_q, spec.dim),
            name + "self_attn.k_proj.weight": (size_kv, spec.dim),
            name + "self_attn.v_proj.weight": (size_kv, spec.dim),
            name + "self_attn.o_proj.weight": (spec.dim, size_q),
            name + "post_attention_layernorm.weight": (spec.dim,),
            name + "mlp.gate_proj.weight": (spec.hidden_dim, spec.dim),
            name + "mlp.up_proj.weight": (spec.hidden_dim, spec.dim),
            name + "mlp.down_proj.weight": (spec.dim, spec.hidden_dim),
        }
    shapes["model.norm.weight"] = (spec.dim,)
    if not spec.tie:
        shapes["lm_head.weight"] = (spec.vocab_size, spec.dim)
    return shapes


def random_tensors(spec: ModelSpec) -> dict[str, np.ndarray]:
    """The spec's weights as f32 arrays whose values its dtype holds exactly."""
    rng = np.random.default_rng([spec.seed, spec.dim, spec.hidden_dim, spec.n_layers, spec.vocab_size])
    tensors = {}
    for name, shape in tensor_shapes(spec).items():
        if len(shape) == 1:
            values = rng.uniform(0.5, 1.5, shape)
        elif "embed_tokens" in name or "lm_head" in name:
            values = rng.standard_normal(shape) * (2.0 / math.sqrt(spec.dim))   # logits: standard deviation about 2
        elif "q_proj" in name or "k_proj" in name:
            values = rng.standard_normal(shape) * (1.5 / math.sqrt(shape[1]))   # scores: about 2, a clear preference
        else:
            values = rng.standard_normal(shape) * (1.0 / math.sqrt(shape[1]))
        tensors[name] = from_bits(to_bits(values.astype(np.float32), spec.dtype), spec.dtype)
    return tensors


def oracle_config(spec: ModelSpec) -> oracle.OracleConfig:
    """What the oracle must know of a spec."""
    return oracle.OracleConfig(
        n_layers=spec.n_layers, n_heads=spec.n_heads, n_kv_heads=spec.n_kv_heads, head_dim=spec.size_head,
        norm_eps=spec.norm_eps, rope_theta=spec.rope_theta or 10000.0, rope=spec.rope, sliding_window=spec.sliding_window)


def to_bits(values: np.ndarray, dtype: str) -> np.ndarray:
    """f32 values to the dtype's storage: f32, f16, or u16 for bf16 (round half to even)."""
    if dtype == "f32":
        return values
    if dtype == "f16":
        return values.astype(np.float16)
    if dtype != "bf16":
        raise ValueError(f"dtype: expected f32, f16 or bf16, found {dtype}")
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bits(bits: np.ndarray, dtype: str) -> np.ndarray:
    """The inverse of to_bits; exact."""
    if dtype != "bf16":
        return bits.astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)


# ---- config.json ----

def config_json(spec: ModelSpec) -> dict[str, Any]:
    """config.json as transformers 4 or 5 lays it out for this spec."""
    mistral = spec.family == "mistral"
    config: dict[str, Any] = {
        "architectures": ["MistralForCausalLM" if mistral else "LlamaForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": spec.bos_id,
        "eos_token_id": _one_or_list(spec.eos_ids),
        "hidden_act": "silu",
        "hidden_size": spec.dim,
        "initializer_range": 0.02,
        "intermediate_size": spec.hidden_dim,
        "max_position_embeddings": spec.max_positions,
        "model_type": spec.family,
        "num_attention_heads": spec.n_heads,
        "num_hidden_layers": spec.n_layers,
        "num_key_value_heads": spec.n_kv_heads,
        "rms_norm_eps": spec.norm_eps,
        "tie_word_embeddings": spec.tie,
        "use_cache": True,
        "vocab_size": spec.vocab_size,
    }
    if spec.pad_id is not None:
        config["pad_token_id"] = spec.pad_id
    if mistral:
        config["sliding_window"] = spec.sliding_window
    else:
        config |= {"attention_bias": False, "mlp_bias": False, "pretraining_tp": 1}
    dtype = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[spec.dtype]
    if spec.schema == 4:
        config |= {"torch_dtype": dtype, "transformers_version": "4.46.3", "rope_scaling": spec.rope}
        if spec.rope_theta is not None:
            config["rope_theta"] = spec.rope_theta
        if spec.head_dim is not None:
            config["head_dim"] = spec.head_dim
    else:
        config |= {"dtype": dtype, "transformers_version": "5.23.0", "head_dim": spec.size_head}
        config["rope_parameters"] = {"rope_type": "default", "rope_theta": spec.rope_theta} | (spec.rope or {})
    return dict(sorted(config.items()))


def _one_or_list(ids: tuple[int, ...]) -> int | list[int] | None:
    return None if not ids else ids[0] if len(ids) == 1 else list(ids)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# ---- tokenizers ----

BPE_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")     # ids 0, 1, 2


@functools.cache
def bpe_tokenizer_json(vocab_size: int) -> str:
    """A byte-level BPE tokenizer.json trained on texts.py: single digits, then GPT-2's pattern; adds no BOS."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(BPE_SPECIALS), show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(texts.TRAINING_TEXTS, trainer)
    return tokenizer.to_str(pretty=True)


@functools.cache
def spm_model(vocab_size: int) -> bytes:
    """A SentencePiece BPE model (tokenizer.model) with byte fallback, trained on the ASCII lines of texts.py:
    <unk> 0, <s> 1, </s> 2, 256 bytes, then pieces; about 350 is the smallest vocab_size."""
    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line.rstrip("\n") for line in texts.TRAINING_TEXTS if line.isascii()), model_writer=out,
        vocab_size=vocab_size, model_type="bpe", byte_fallback=True, character_coverage=1.0, normalization_rule_name="identity",
        remove_extra_whitespaces=False, split_digits=True, hard_vocab_limit=False, num_threads=1, minloglevel=2)
    return out.getvalue()


@functools.cache
def spm_tokenizer_json(vocab_size: int) -> str:
    """The same model as a tokenizer.json in the form that Llama 2 checkpoints carry; adds BOS."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_proto=spm_model(vocab_size))
    pieces = [model.id_to_piece(i) for i in range(model.get_piece_size())]
    ids = {piece: i for i, piece in enumerate(pieces)}
    # Two pieces merge when their concatenation is a piece; the order is the score's, which falls with the id.
    merges = [(ids[piece], ids[piece[:cut]], ids[piece[cut:]]) for piece in pieces[3 + 256:] for cut in range(1, len(piece))
              if piece[:cut] in ids and piece[cut:] in ids]
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return json.dumps({
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": pieces[i], **special} for i in range(3)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                     {"SpecialToken": {"id": "<s>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                  "vocab": ids, "merges": [[pieces[left], pieces[right]] for _, left, right in sorted(merges)]},
    }, ensure_ascii=False, indent=2)


def write_tokenizer(folder: Path, spec: ModelSpec) -> None:
    """The spec's tokenizer files: tokenizer.json, tokenizer_config.json, tokenizer.model (spm), chat_template.jinja (schema 5)."""
    if spec.tokenizer is None:
        return
    config: dict[str, Any] = {"clean_up_tokenization_spaces": False, "model_max_length": 10 ** 30,
                              "tokenizer_class": "PreTrainedTokenizerFast"}
    if spec.tokenizer == "bpe":
        text = bpe_tokenizer_json(spec.vocab_size)
        config |= {"bos_token": BPE_SPECIALS[1], "eos_token": BPE_SPECIALS[2], "unk_token": BPE_SPECIALS[0],
                   "pad_token": BPE_SPECIALS[2]}
    elif spec.tokenizer == "spm":
        text = spm_tokenizer_json(spec.vocab_size)
        (folder / "tokenizer.model").write_bytes(spm_model(spec.vocab_size))
        config |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True, "add_eos_token": False}
    else:
        raise ValueError(f"tokenizer: expected bpe, spm or None, found {spec.tokenizer}")
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    if spec.chat_template is not None:
        if spec.schema == 4:
            config["chat_template"] = spec.chat_template
        else:
            (folder / "chat_template.jinja").write_text(spec.chat_template, encoding="utf-8")
    _write_json(folder / "tokenizer_config.json", config)


# ---- safetensors without torch ----

def write_safetensors(path: Path, tensors: dict[str, np.ndarray], dtype: str = "f32") -> None:
    """f32 arrays as a safetensors file in dtype; the header is padded to 8 as the format's own writer does."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blobs, offset = [], 0
    for name, values in tensors.items():
        blob = to_bits(values, dtype).tobytes()
        header[name] = {"dtype": dtype.upper(), "shape": list(values.shape), "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


# ---- folders ----

def make_hf_model_numpy(folder: Path, spec: ModelSpec | None = None, **changes: Any) -> Path:
    """The folder of spec with these fields changed, written without torch. Returns folder."""
    spec = dataclasses.replace(spec or ModelSpec(), **changes)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = random_tensors(spec)
    if spec.shards == 1:
        write_safetensors(folder / "model.safetensors", tensors, spec.dtype)
    else:
        names, weight_map = list(tensors), {}
        for shard in range(spec.shards):
            file = f"model-{shard + 1:05d}-of-{spec.shards:05d}.safetensors"
            chosen = names[len(names) * shard // spec.shards: len(names) * (shard + 1) // spec.shards]
            write_safetensors(folder / file, {name: tensors[name] for name in chosen}, spec.dtype)
            weight_map |= dict.fromkeys(chosen, file)
        size = sum(values.size for values in tensors.values()) * (4 if spec.dtype == "f32" else 2)
        _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map})
    _write_json(folder / "config.json", config_json(spec))
    generation = {"_from_model_config": True, "bos_token_id": spec.bos_id, "eos_token_id": _one_or_list(spec.eos_ids)}
    _write_json(folder / "generation_config.json", generation)
    write_tokenizer(folder, spec)
    return folder


def make_hf_model(folder: Path, spec: ModelSpec | None = None, **changes: Any) -> Path:
    """The folder of spec with these fields changed, written by transformers' save_pretrained. Returns folder.

    Schema 4 is the same folder with config.json laid out as transformers 4 did. More than one shard means a size limit, so
    the count may differ by one or two.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

    spec = dataclasses.replace(spec or ModelSpec(), **changes)
    folder.mkdir(parents=True, exist_ok=True)
    fields = config_json(dataclasses.replace(spec, schema=5, rope_theta=spec.rope_theta or 10000.0))
    for key in ("architectures", "model_type", "transformers_version", "dtype"):
        del fields[key]
    # transformers checks a rope block by its new name for the kind
    rope = fields["rope_parameters"]
    if "type" in rope:
        rope["rope_type"] = rope.pop("type")
    mistral = spec.family == "mistral"
    model = (MistralForCausalLM(MistralConfig(**fields)) if mistral else LlamaForCausalLM(LlamaConfig(**fields))).float()
    state = {name: torch.from_numpy(values.copy()) for name, values in random_tensors(spec).items()}
    missing = model.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys and set(missing.missing_keys) <= {"lm_head.weight"}, missing
    model.tie_weights()
    model = model.to({"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[spec.dtype])
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    model.save_pretrained(folder, max_shard_size=size + 1 if spec.shards == 1 else max(1, size // spec.shards))
    if spec.schema == 4:
        _write_json(folder / "config.json", config_json(spec))
    write_tokenizer(folder, spec)
    return folder


def read_safetensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Every tensor of a folder's safetensors files: name -> (dtype, shape, bytes)."""
    tensors: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        raw = path.read_bytes()
        size = struct.unpack_from("<Q", raw)[0]
        for name, entry in json.loads(raw[8:8 + size]).items():
            if name != "__metadata__":
                begin, end = (8 + size + at for at in entry["data_offsets"])
                assert name not in tensors, name
                tensors[name] = entry["dtype"], tuple(entry["shape"]), raw[begin:end]
    return tensors


def transformers_model(folder: Path) -> Any:
    """The folder opened by transformers: f32, eager attention, no gradients."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval().requires_grad_(False)


def transformers_logits(model: Any, ids: list[int]) -> np.ndarray:
    """(len(ids), vocab_size) f32 logits of a transformers model, in one pass without a cache."""
    import torch

    with torch.inference_mode():
        return model(torch.tensor([ids]), use_cache=False).logits[0].float().numpy()


def random_ids(seed: int, n: int, vocab_size: int) -> list[int]:
    """n token ids, uniform over the vocabulary."""
    return np.random.default_rng(seed).integers(0, vocab_size, n).tolist()

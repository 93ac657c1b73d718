"""A GGUF file of a Llama model as a transformers model and tokenizer, through gguf-py alone.

This is the tests' idea of what such a file means: weights by gguf-py's own decoders, the rows of q and k put back into
transformers' order, the tokenizer from the file's tokens and merges. It knows nothing of the project. Used for the real model.
"""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import oracle

_ROLES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
_OUTER = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
          "output.weight": "lm_head.weight"}


def hf_name(name: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight"""
    if name in _OUTER:
        return _OUTER[name]
    _, layer, role, _ = name.split(".")
    return f"model.layers.{layer}.{_ROLES[role]}.weight"


class GgufReference:
    """One open GGUF file: its metadata, f32 tensors, transformers model and tokenizer."""

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader

        self.path = path
        self._reader = GGUFReader(path)

    def value(self, key: str, default: Any = None) -> Any:
        field = self._reader.fields.get(key)
        return default if field is None else field.contents()

    def config(self) -> dict[str, Any]:
        """transformers' names and this file's numbers."""
        n_heads, dim = self.value("llama.attention.head_count"), self.value("llama.embedding_length")
        return {
            "vocab_size": len(self.value("tokenizer.ggml.tokens")), "hidden_size": dim,
            "intermediate_size": self.value("llama.feed_forward_length"), "num_hidden_layers": self.value("llama.block_count"),
            "num_attention_heads": n_heads, "num_key_value_heads": self.value("llama.attention.head_count_kv"),
            "head_dim": self.value("llama.attention.key_length", dim // n_heads),
            "max_position_embeddings": self.value("llama.context_length"),
            "rms_norm_eps": round(self.value("llama.attention.layer_norm_rms_epsilon"), 12),
            "rope_parameters": {"rope_type": "default", "rope_theta": self.value("llama.rope.freq_base")},
            "bos_token_id": self.value("tokenizer.ggml.bos_token_id"), "eos_token_id": self.value("tokenizer.ggml.eos_token_id"),
            "tie_word_embeddings": not any(tensor.name == "output.weight" for tensor in self._reader.tensors),
        }

    def tensors(self) -> Iterator[tuple[str, np.ndarray]]:
        """(transformers' name, f32 values in transformers' row order), one at a time."""
        from gguf.quants import dequantize

        heads = {"attn_q": self.value("llama.attention.head_count"), "attn_k": self.value("llama.attention.head_count_kv")}
        for tensor in self._reader.tensors:
            values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            role = tensor.name.split(".")[-2]
            yield hf_name(tensor.name), oracle.split_rows(values, heads[role]) if role in heads else values

    def model(self) -> Any:
        """A LlamaForCausalLM in f32 with eager attention."""
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        with torch.device("meta"):
            model = LlamaForCausalLM(LlamaConfig(**self.config(), attn_implementation="eager"))
        model.to_empty(device="cpu")
        state = {name: torch.from_numpy(np.array(values)) for name, values in self.tensors()}
        missing = model.load_state_dict(state, strict=False, assign=True)
        assert not missing.unexpected_keys and set(missing.missing_keys) <= {"lm_head.weight"}, missing
        model.tie_weights()
        # the rotary table is not a weight: make it again outside the meta device
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
        return model.eval().requires_grad_(False)

    def tokenizer(self) -> Any:
        """A transformers tokenizer with the file's chat template: single digits, byte-level BPE (SmolLM2's own steps)."""
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        tokens, types = self.value("tokenizer.ggml.tokens"), self.value("tokenizer.ggml.token_type")
        merges = [tuple(merge.split(" ")) for merge in self.value("tokenizer.ggml.merges")]
        tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
        tokenizer.decoder = decoders.ByteLevel()
        control = 3     # GGUF's token type
        tokenizer.add_special_tokens(
            [AddedToken(token, normalized=False) for token, kind in zip(tokens, types, strict=True) if kind == control])
        bos, eos = (tokens[self.value(f"tokenizer.ggml.{name}_token_id")] for name in ("bos", "eos"))
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, chat_template=self.value("tokenizer.chat_template"), bos_token=bos, eos_token=eos)

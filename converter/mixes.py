"""Which type each matrix gets: the named mixes of llama-quantize, what takes a type's place where a row does not fit it, overrides.

A mix is a rule over a tensor's role and layer. Decides names only; plan.py turns them into plans.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from .arch import Tensor
from .config import ModelConfig
from .errors import UsageError, escape
from .quant import TYPES

# What llama-quantize writes where a block of 256 does not divide a row.
FALLBACKS = {"q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0", "iq4_xs": "iq4_nl"}
LAST_FALLBACK = "f16"              # where a block of 32 does not divide it either
LAYERS_70B = 80


def fallback_for(name: str, columns: int) -> str:
    """The type itself where it fits rows of `columns`, else the one in its place; types without one are themselves."""
    if name not in FALLBACKS or TYPES[name].divides(columns):
        return name
    return FALLBACKS[name] if TYPES[FALLBACKS[name]].divides(columns) else LAST_FALLBACK


def _has_more_bits(layer: int, n_layers: int) -> bool:
    """The first and the last eighth, and every third layer between."""
    return layer < n_layers // 8 or layer >= 7 * n_layers // 8 or (layer - n_layers // 8) % 3 == 2


DOWN = ("w2", "experts_w2")
EIGHT_EXPERTS = {"wk": "q8_0", "wv": "q8_0", "wo": "q5_k"}             # small beside eight experts, and shared by them
FUSED_QKV = ("phi3",)              # architectures whose GGUF files have q, k and v as one


def _small(tensor: Tensor, config: ModelConfig) -> str:
    """More bits for the values and the way down of a few first layers."""
    if tensor.role.role in ("wq", "wk", "wv") and config.architecture in FUSED_QKV:
        return "q4_k"
    if tensor.role.role == "wv":
        return "q5_k" if tensor.layer < 4 or _shares_values(config) else "q4_k"
    if tensor.role.role in DOWN:
        return "q5_k" if tensor.layer < config.n_layers // 8 else "q4_k"
    return "q4_k"


def _medium(main: str) -> Callable[[Tensor, ModelConfig], str]:
    """More bits for the values and the way down of about half of the layers."""
    def rule(tensor: Tensor, config: ModelConfig) -> str:
        if tensor.role.role in ("wq", "wk", "wv") and config.architecture in FUSED_QKV:
            return "q5_k" if main == "q4_k" else "q6_k"
        if tensor.role.role in ("wv", *DOWN) and _has_more_bits(tensor.layer, config.n_layers):
            return "q6_k"
        if tensor.role.role == "wv" and main == "q4_k" and _shares_values(config):
            return "q5_k"
        return main
    return rule


def _shares_values(config: ModelConfig) -> bool:
    """The 70B shape, whose few values serve eight heads each."""
    return config.n_layers == LAYERS_70B and config.n_heads != config.n_kv_heads


@dataclass(frozen=True)
class Mix:
    main: str                      # the type of most matrices
    file_type: int                 # GGUF's general.file_type
    rule: Callable[[Tensor, ModelConfig], str]

    def type_of(self, tensor: Tensor, config: ModelConfig) -> str:
        """The head, or the embedding that serves as one, always has 6 bits."""
        head = "token_embd" if config.shared_classifier else "output"
        if config.n_experts == 8 and tensor.role.role in EIGHT_EXPERTS:
            return EIGHT_EXPERTS[tensor.role.role]
        return "q6_k" if tensor.name == f"{head}.weight" else self.rule(tensor, config)


MIXES = {"q4_k_s": Mix("q4_k", 14, _small), "q4_k_m": Mix("q4_k", 15, _medium("q4_k")), "q5_k_m": Mix("q5_k", 17, _medium("q5_k"))}
TYPE_NAMES = (*TYPES, *MIXES)


@dataclass(frozen=True)
class Override:
    """Tensors whose GGUF name a pattern matches get a type of their own."""

    pattern: str
    type: str

    @classmethod
    def parse(cls, text: str) -> Override:
        """PATTERN=TYPE; a shell's * and ?, `.weight` may be left away."""
        pattern, _, name = text.rpartition("=")
        if not pattern or name not in TYPES:
            raise UsageError(f"--tensor-type: expected PATTERN=TYPE with one of {', '.join(TYPES)}, found {escape(text)}")
        return cls(pattern, name)

    def matches(self, tensor_name: str) -> bool:
        return fnmatchcase(tensor_name, self.pattern) or fnmatchcase(tensor_name, f"{self.pattern}.weight")


def head_override(name: str, shared_classifier: bool) -> Override:
    """The head in a type of its own: output.weight, or the embedding that serves as head."""
    return Override("token_embd.weight" if shared_classifier else "output.weight", name)

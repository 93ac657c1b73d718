"""Which type each matrix gets: the named mixes of llama-quantize, what takes a type's place in them where a row does not fit it,
overrides.

A mix is a rule over a tensor's role and layer. Decides names only; plan.py turns them into plans, targets/gguf.py into a number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from .arch import ARCHITECTURES, Tensor
from .config import ModelConfig
from .errors import UsageError, escape
from .quant import TYPES

# What llama-quantize, and a mix here, has where a block of 256 does not divide a row.
FALLBACKS = {"q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0", "iq4_xs": "iq4_nl"}
LAST_FALLBACK = "f16"              # where a block of 32 does not divide it either
LAYERS_70B = 80


def fallback_for(name: str, columns: int) -> str:
    """The type itself where it fits rows of `columns`, else the one in its place in a mix; types without one are themselves."""
    if name not in FALLBACKS or TYPES[name].divides(columns):
        return name
    return FALLBACKS[name] if TYPES[FALLBACKS[name]].divides(columns) else LAST_FALLBACK


def remedy(name: str, columns: int) -> str:
    """What to ask for instead of a type whose block does not divide rows of `columns`; empty where nothing near it fits either."""
    instead = fallback_for(name, columns)
    if instead in (name, LAST_FALLBACK):
        return ""
    mix = next((mix for mix in MIXES if mix == f"{name}_m"), None)
    return f"use --type {mix}, which has {instead} for such rows" if mix else f"use --type {instead}"


def _has_more_bits(layer: int, n_layers: int) -> bool:
    """The first and the last eighth, and every third layer between."""
    return layer < n_layers // 8 or layer >= 7 * n_layers // 8 or (layer - n_layers // 8) % 3 == 2


DOWN = ("w2", "experts_w2")


def _holds_values(tensor: Tensor, config: ModelConfig) -> bool:
    """Whether it is the values' matrix, or a part of the one that q, k and v are in GGUF files of its architecture."""
    return tensor.role.role == "wv" or config.facts.fused and tensor.role.role in ("wq", "wk")


def _small(tensor: Tensor, config: ModelConfig) -> str:
    """More bits for the values and the way down of a few first layers."""
    if _holds_values(tensor, config):
        return "q5_k" if tensor.layer < 4 or _shares_values(config) else "q4_k"
    if tensor.role.role in DOWN:
        return "q5_k" if tensor.layer < config.n_layers // 8 else "q4_k"
    return "q4_k"


def _medium(main: str) -> Callable[[Tensor, ModelConfig], str]:
    """More bits for the values and the way down of about half of the layers."""
    def rule(tensor: Tensor, config: ModelConfig) -> str:
        values = _holds_values(tensor, config)
        if (values or tensor.role.role in DOWN) and _has_more_bits(tensor.layer, config.n_layers):
            return "q6_k"
        if values and main == "q4_k" and _shares_values(config):
            return "q5_k"
        return main
    return rule


def _even(main: str) -> Callable[[Tensor, ModelConfig], str]:
    """No layer has more bits than another."""
    return lambda _tensor, _config: main


def _shares_values(config: ModelConfig) -> bool:
    """The 70B shape, whose few values serve eight heads each."""
    return config.n_layers == LAYERS_70B and config.n_heads != config.n_kv_heads


@dataclass(frozen=True)
class Mix:
    main: str                      # the type of most matrices
    file_type: int                 # GGUF's general.file_type
    rule: Callable[[Tensor, ModelConfig], str]

    def type_of(self, tensor: Tensor, config: ModelConfig) -> str:
        """The head, or the embedding that serves as one, always has 6 bits; what is small beside eight experts, and shared by them,
        has more."""
        head = "token_embd" if config.shared_classifier else "output"
        if config.n_experts == 8 and tensor.role.role in ("wk", "wv"):
            return "q8_0"
        if config.n_experts == 8 and tensor.role.role == "wo" and self.main == "q4_k":
            return "q5_k"
        return "q6_k" if tensor.name == f"{head}.weight" else self.rule(tensor, config)


# q6_k is a type and the mix of that type alone: what sets the two apart is that a mix falls back.
MIXES = {"q4_k_s": Mix("q4_k", 14, _small), "q4_k_m": Mix("q4_k", 15, _medium("q4_k")), "q5_k_s": Mix("q5_k", 16, _even("q5_k")),
         "q5_k_m": Mix("q5_k", 17, _medium("q5_k")), "q6_k": Mix("q6_k", 18, _even("q6_k"))}
TYPE_NAMES = tuple(dict.fromkeys((*TYPES, *MIXES)))


def mix_of(types: Mapping[str, str], config: ModelConfig) -> str | None:
    """The mix that gives every matrix the type that it has here by its name, and some their main type; None where no mix does."""
    tensors = [tensor for tensor in ARCHITECTURES[config.architecture].tensors(config) if tensor.name in types]

    def gives(mix: Mix) -> bool:
        return all(fallback_for(mix.type_of(tensor, config), tensor.shape[-1]) == types[tensor.name] for tensor in tensors)

    return next((name for name, mix in MIXES.items() if mix.main in types.values() and gives(mix)), None)


@dataclass(frozen=True)
class Fallback:
    """A matrix that could not have the type that was to be its own."""

    wanted: str
    written: str
    why: str                       # for a line that names the matrix before it and `written` after it


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

"""The rope part of a config.json: theta and one of the scalings that transformers knows, in either schema; and back.

Everything that a scaling leaves to be derived (yarn's and longrope's attention factor) is derived here, so that nobody else needs
to know how. Computes no frequencies but llama3's factors, which are a tensor in our files. Called by config.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .families import Family
from .fields import LARGEST_F32, Fields, as_f32, show

if TYPE_CHECKING:
    from .config import ModelConfig

MAX_INT32 = (1 << 31) - 1
YARN_BETA_FAST, YARN_BETA_SLOW = 32.0, 1.0     # transformers' defaults


@dataclass(frozen=True)
class Rope:
    """The rope part of a ModelConfig; theta 0 where a block does not say it."""

    theta: float = 0.0
    scaling: str = "none"
    factor: float = 1.0
    low_freq: float = 0.0          # llama3; yarn's beta_slow
    high_freq: float = 0.0         # llama3; yarn's beta_fast
    original_ctx: int = 0
    attn_factor: float = 1.0
    long: tuple[float, ...] = ()   # longrope's factors
    short: tuple[float, ...] = ()
    rotary_dim: int = 0


# -- what a block may hold ------------------------------------------------------------------------------------------------------

# By its type: the keys that it needs, and those that it may have beside `_IDLE`.
_KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "dynamic": (("factor",), ()),
    "yarn": (("factor",), ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate")),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"), ()),
    "longrope": (("short_factor", "long_factor"), ("factor", "attention_factor")),
}
_IDLE = ("rope_type", "type", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
_LAYER_TYPES = ("full_attention", "sliding_attention")


@dataclass(frozen=True)
class Sizes:
    """What of a config the rope depends on."""

    head_dim: int
    trained_ctx: int


def read_rope(fields: Fields, family: Family, sizes: Sizes) -> tuple[Rope, float]:
    """rope_theta and rope_scaling (transformers 4), rope_parameters (5), or both where they agree; and the theta of the layers with
    a window, 0 where they are like the others. Two ropes are the affair of families that have a `theta_local`."""
    two = family.theta_local > 0
    blocks: list[tuple[str, Mapping[str, Any], Rope]] = []
    local: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        block = fields.values.get(key)
        if block is None or block == {}:
            continue
        if not isinstance(block, dict):
            fields.wrong(key, "an object or null")
            continue
        nested = next((name for name, value in block.items() if isinstance(value, dict)), None)
        if nested is not None and two and key == "rope_parameters" and set(block) <= set(_LAYER_TYPES):
            inner = fields.within(key, block)
            other = next((name for name, value in block.items() if value is not None and not isinstance(value, dict)), None)
            if other is not None:
                inner.wrong(other, "an object or null")
                continue
            local = _local_block(inner)
            block = block.get("full_attention") or {"rope_type": "default"}
            blocks.append((key, block, _block(inner.within("full_attention", block), fields, family, sizes)))
            continue
        if nested is not None:
            fields.unsupported(f"{key}.{nested}", "one rope for all layers is", block[nested])
            continue
        if two and key == "rope_parameters":
            fields.wrong(key, "full_attention and sliding_attention, each with its own")
            continue
        if two and block.get("rope_type") is None and block.get("type") not in (None, "default"):
            # transformers 4 went by it; 5 puts the block into one that has a rope_type, default, already
            fields.within(key, block).unsupported("type", "only rope_type is where layers with a window have a rope of their own; "
                                                          "rename the key")
            continue
        blocks.append((key, block, _block(fields.within(key, block), fields, family, sizes)))
    return _agreed(fields, family, blocks, sizes), _theta_local(fields, family, local) if two else 0.0


def _agreed(fields: Fields, family: Family, blocks: list[tuple[str, Mapping[str, Any], Rope]], sizes: Sizes) -> Rope:
    """One rope of what both schemas say."""
    thetas = {key: block["rope_theta"] for key, block, _rope in blocks
              if isinstance(block.get("rope_theta"), (int, float)) and 0 < block["rope_theta"] < LARGEST_F32}
    if fields.has("rope_theta"):
        thetas["rope_theta"] = fields.number("rope_theta")
    if len(set(thetas.values())) > 1:
        fields.log.add("rope_theta: " + " and ".join(f"{key} says {show(value)}" for key, value in thetas.items()))
    if not family.theta_local and len(blocks) == 2 and list(thetas) == ["rope_parameters"]:
        theta = thetas["rope_parameters"]
        if theta != family.rope_theta:         # rope_scaling takes the place of rope_parameters, and nothing says theta then
            fields.log.add(f"rope_theta: expected it beside rope_scaling, or in it, found {show(theta)} in rope_parameters alone, "
                           f"which transformers passes over for {family.rope_theta:g}")
    if len(blocks) == 2 and blocks[0][2] != blocks[1][2]:
        fields.log.add("rope_scaling and rope_parameters disagree: "
                       f"{show(_type_of(blocks[0][1]))} and {show(_type_of(blocks[1][1]))} do not say the same")
    if thetas:
        theta = float(next(iter(thetas.values())))
    else:
        theta = family.rope_theta
        if not any("rope_theta" in block for _key, block, _rope in blocks):
            fields.default_used("rope_theta", theta, family.hf_class)
    rope = blocks[0][2] if blocks else Rope(rotary_dim=_rotary_dim(fields, Fields({}, ""), family, sizes.head_dim))
    return replace(rope, theta=theta)


def _local_block(inner: Fields) -> dict[str, Any]:
    block = inner.values.get("sliding_attention") or {}
    local = inner.within("sliding_attention", block)
    if _type_of(block) != "default":
        local.unsupported("rope_type", "only 'default' is", _type_of(block))
    for key in block:
        if key not in ("rope_type", "type", "rope_theta"):
            local.unsupported(key, "rope type default has no such key")
    return {"rope_theta": local.number("rope_theta")} if local.has("rope_theta") else {}


def _theta_local(fields: Fields, family: Family, local: Mapping[str, Any]) -> float:
    thetas = dict(local)
    if fields.has("rope_local_base_freq"):
        thetas["rope_local_base_freq"] = fields.number("rope_local_base_freq")
    if len(set(thetas.values())) > 1:
        fields.log.add(f"rope_local_base_freq: {show(fields.values['rope_local_base_freq'])} and the rope_theta of "
                       f"sliding_attention, {show(local['rope_theta'])}, disagree")
    if thetas:
        return float(next(iter(thetas.values())))
    own_key = "rope_local_base_freq" in family.reads
    if not own_key and fields.has("rope_theta"):
        # for the layers with a window too in transformers 4, for the others alone in 5
        if fields.values["rope_theta"] != family.theta_local:
            fields.unsupported("rope_theta", f"only {family.theta_local:g} is where rope_parameters.sliding_attention does not say "
                                             "it")
        return family.theta_local
    fields.default_used("rope_local_base_freq" if own_key else "rope_parameters.sliding_attention.rope_theta", family.theta_local,
                        family.hf_class)
    return family.theta_local


def _type_of(block: Mapping[str, Any]) -> Any:
    return block.get("rope_type") or block.get("type") or "default"


def _block(block: Fields, top: Fields, family: Family, sizes: Sizes) -> Rope:
    """One rope block without its theta; problems are named inside the block."""
    values = block.values
    if block.has("rope_type") and block.has("type") and values["rope_type"] != values["type"]:
        block.log.add(f"{block.prefix}rope_type and type disagree: {show(values['rope_type'])} and {show(values['type'])}")
    kind = values.get("rope_type") or values.get("type")
    if kind is None:
        if any(key not in _IDLE for key in values):
            block.absent("rope_type")
            return Rope()
        kind = "default"
    if not isinstance(kind, str):
        block.wrong("rope_type", "a name")
        return Rope()
    if kind not in family.rope_types:
        names = [name for name in family.rope_types if name != "su"]
        block.unsupported("rope_type" if block.has("rope_type") else "type", f"{', '.join(names[:-1])} and {names[-1]} are", kind)
        return Rope()
    kind = "longrope" if kind == "su" else kind
    if block.has("rope_theta"):
        block.number("rope_theta")
    rotary_dim = _rotary_dim(top, block, family, sizes.head_dim)
    needed, allowed = _KEYS[kind]
    for key, value in values.items():
        if value is not None and key not in needed and key not in allowed and key not in _IDLE:
            block.unsupported(key, f"rope type {kind} has no such key")
    return replace(_READERS[kind](block, top, family, replace(sizes, head_dim=rotary_dim)), rotary_dim=rotary_dim)


def _rotary_dim(top: Fields, block: Fields, family: Family, head_dim: int) -> int:
    """How much of a head is rotated: int(head_dim * partial_rotary_factor), as transformers has it."""
    where = block if block.has("partial_rotary_factor") else top
    if not family.partial_rotary:
        if block.has("partial_rotary_factor") and block.values["partial_rotary_factor"] != 1:
            block.unsupported("partial_rotary_factor", "only 1 is")
        return head_dim
    if not where.has("partial_rotary_factor"):
        return head_dim
    factor = where.number("partial_rotary_factor")
    rotary_dim = int(head_dim * factor)
    if not 2 <= rotary_dim <= head_dim or rotary_dim % 2:
        where.wrong("partial_rotary_factor", f"a share of {head_dim} that is even, and 2 at least")
        return head_dim
    return rotary_dim


def _read_default(_block: Fields, _top: Fields, _family: Family, _sizes: Sizes) -> Rope:
    return Rope()


def _read_linear(block: Fields, _top: Fields, _family: Family, _sizes: Sizes) -> Rope:
    return Rope(scaling="linear", factor=block.number("factor"))


def _read_dynamic(block: Fields, _top: Fields, _family: Family, _sizes: Sizes) -> Rope:
    return Rope(scaling="dynamic", factor=block.number("factor"))


def _read_yarn(block: Fields, top: Fields, family: Family, sizes: Sizes) -> Rope:
    factor = block.number("factor")
    fast, slow = block.number("beta_fast", YARN_BETA_FAST), block.number("beta_slow", YARN_BETA_SLOW)
    if not as_f32(slow) < as_f32(fast):
        block.wrong("beta_fast", f"a number above beta_slow ({slow:g})")
    if block.has("truncate") and not block.flag("truncate", True):
        block.unsupported("truncate", "only true is")
    if block.has("attention_factor"):
        attn_factor = block.number("attention_factor")
    elif block.has("mscale") and block.has("mscale_all_dim"):
        attn_factor = yarn_sharpening(factor, block.number("mscale")) / yarn_sharpening(factor, block.number("mscale_all_dim"))
    else:
        attn_factor = yarn_sharpening(factor)
    return Rope(scaling="yarn", factor=factor, low_freq=slow, high_freq=fast, attn_factor=attn_factor,
                original_ctx=_original_ctx(block, top, family, sizes.trained_ctx))


def yarn_sharpening(factor: float, scale: float = 1.0) -> float:
    """What yarn multiplies cos and sin by at a factor (Peng et al. 2023, arXiv 2309.00071)."""
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _read_llama3(block: Fields, top: Fields, _family: Family, _sizes: Sizes) -> Rope:
    values = block.values
    factor = block.number("factor")
    low, high = block.number("low_freq_factor"), block.number("high_freq_factor")
    original = block.integer("original_max_position_embeddings", 1, MAX_INT32)
    stated = (values.get(key) for key in ("low_freq_factor", "high_freq_factor"))
    if all(isinstance(value, (int, float)) for value in stated) and not as_f32(low) < as_f32(high):
        block.wrong("high_freq_factor", f"a number above low_freq_factor ({low:g})")
    outer = top.values.get("original_max_position_embeddings")
    if outer is not None and outer != original:
        block.log.add(f"original_max_position_embeddings: {block.prefix[:-1]} says {original}, the config {show(outer)}")
    return Rope(scaling="llama3", factor=factor, low_freq=low, high_freq=high, original_ctx=original)


def _read_longrope(block: Fields, top: Fields, family: Family, sizes: Sizes) -> Rope:
    original = _original_ctx(block, top, family, sizes.trained_ctx)
    factor = block.number("factor", sizes.trained_ctx / original)
    attn_factor = block.number("attention_factor", longrope_sharpening(factor, original))
    count = sizes.head_dim // 2
    return Rope(scaling="longrope", original_ctx=original, attn_factor=attn_factor, long=_factors(block, "long_factor", count),
                short=_factors(block, "short_factor", count))


def longrope_sharpening(factor: float, original_ctx: int) -> float:
    """What longrope multiplies cos and sin by, where nothing else is said (Ding et al. 2024, arXiv 2402.13753)."""
    return math.sqrt(1 + math.log(factor) / math.log(original_ctx)) if factor > 1 and original_ctx > 1 else 1.0


def _original_ctx(block: Fields, top: Fields, family: Family, trained_ctx: int) -> int:
    """The config's own key, or what its class has in its place, wins in transformers over the block's; here both have to agree."""
    key = "original_max_position_embeddings"
    inner = block.integer(key, 1, MAX_INT32, trained_ctx)
    if not top.has(key) and not family.original_ctx:
        return inner
    if not top.has(key):
        top.default_used(key, family.original_ctx, family.hf_class)
    outer = top.integer(key, 1, MAX_INT32, default=family.original_ctx)
    if family.theta_local and not block.has(key) and inner != outer:         # transformers 5 does not look there
        top.unsupported(key, f"only in {block.prefix[:-1]} is it where layers with a window have a rope of their own")
    elif block.has(key) and inner != outer:
        block.log.add(f"{key}: {block.prefix[:-1]} says {inner}, the config {outer}")
    return outer


def _factors(block: Fields, key: str, count: int) -> tuple[float, ...]:
    values = block.values.get(key)
    if values is None:
        block.absent(key)
        return ()
    fine = isinstance(values, list) and len(values) == count and all(
        isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e30 for value in values)
    if not fine:
        block.wrong(key, f"an array of {count} numbers above 0")
        return ()
    return tuple(float(np.float32(value)) for value in values)


_READERS = {"default": _read_default, "linear": _read_linear, "dynamic": _read_dynamic, "yarn": _read_yarn, "llama3": _read_llama3,
            "longrope": _read_longrope}


# -- and back -------------------------------------------------------------------------------------------------------------------


def rope_to_hf(config: ModelConfig) -> dict[str, Any]:
    """A rope block without theta, complete: nothing is left to a default that could change."""
    if config.rope_scaling in ("linear", "dynamic"):
        return {"rope_type": config.rope_scaling, "factor": config.rope_factor}
    if config.rope_scaling == "llama3":
        return {"rope_type": "llama3", "factor": config.rope_factor, "low_freq_factor": config.rope_low_freq,
                "high_freq_factor": config.rope_high_freq, "original_max_position_embeddings": config.rope_original_ctx}
    if config.rope_scaling == "yarn":
        return {"rope_type": "yarn", "factor": config.rope_factor, "beta_fast": config.rope_high_freq,
                "beta_slow": config.rope_low_freq, "attention_factor": config.rope_attn_factor,
                "original_max_position_embeddings": config.rope_original_ctx}
    if config.rope_scaling == "longrope":
        return {"rope_type": "longrope", "long_factor": list(config.rope_long), "short_factor": list(config.rope_short),
                "attention_factor": config.rope_attn_factor, "original_max_position_embeddings": config.rope_original_ctx}
    return {"rope_type": "default"}


def llama3_factors(config: ModelConfig) -> np.ndarray:
    """f64 (rotary_dim / 2): wavelengths far below original_ctx are kept, far above it stretched by rope_factor, between blended."""
    exponents = np.arange(0, config.rotary_dim, 2, dtype=np.float64) / config.rotary_dim
    wavelengths = 2 * math.pi * np.float64(config.rope_theta) ** exponents
    turns = config.rope_original_ctx / wavelengths              # of each pair within the original context
    blend = (turns - config.rope_low_freq) / (config.rope_high_freq - config.rope_low_freq)
    with np.errstate(divide="ignore"):                          # outside of what is blended
        blended = 1 / ((1 - blend) / config.rope_factor + blend)
    return np.where(turns > config.rope_high_freq, 1.0, np.where(turns < config.rope_low_freq, config.rope_factor, blended))

"""Which layers of a model have a window, which no rope and which experts: the rules of the families, each by its name.

A rule reads the keys of a config.json that concern it and says one bool for every layer. Where all layers are alike the flags are
left empty, whatever rule gave them. Called by config.py and config_files.py.
"""

from __future__ import annotations

from collections.abc import Callable

from .families import ARCHITECTURES, EXPERTS, NO_ROPE, WINDOW, Family
from .fields import Fields

MAX_INT32 = (1 << 31) - 1
Windows = tuple[int, list[bool]]               # the window, 0 for none, and the layers that have it


def flags_of(windowed: list[bool], rotated: list[bool], experts: list[bool]) -> tuple[int, ...]:
    """One number for each layer; empty where they are as a reader takes them to be who is told nothing of layers."""
    flags = tuple(WINDOW * window | NO_ROPE * (not rope) | EXPERTS * expert
                  for window, rope, expert in zip(windowed, rotated, experts, strict=True))
    return () if all(flag == (WINDOW * any(windowed) | EXPERTS * any(experts)) for flag in flags) else flags


# -- the window -----------------------------------------------------------------------------------------------------------------


def _no_window(fields: Fields, family: Family, n_layers: int, _rotated: list[bool]) -> Windows:
    if fields.has("sliding_window") and fields.values.get("use_sliding_window") is not False:
        fields.unsupported("sliding_window", f"{family.hf_class} has no such window")
    _check_alike(fields, "full_attention")
    return 0, [False] * n_layers


def _all_windowed(fields: Fields, family: Family, n_layers: int, _rotated: list[bool]) -> Windows:
    if fields.values.get("use_sliding_window") is False and fields.has("sliding_window"):
        fields.unsupported("use_sliding_window", f"a {family.model_type} model without a window has sliding_window null")
    window = _size(fields, family)
    _check_alike(fields, "sliding_attention" if fields.values.get("sliding_window", 1) is not None else "full_attention")
    return window, [window > 0] * n_layers


def _windowed_if_used(fields: Fields, family: Family, n_layers: int, _rotated: list[bool]) -> Windows:
    used = fields.flag("use_sliding_window", False)
    window = _size(fields, family) if used else 0
    _check_alike(fields, "sliding_attention" if window else "full_attention")
    return window, [window > 0] * n_layers


def _windowed_from_layer(fields: Fields, family: Family, n_layers: int, _rotated: list[bool]) -> Windows:
    """max_window_layers says where the layers with a window begin; layer_types says it layer by layer."""
    window = _size(fields, family) if fields.flag("use_sliding_window", False) else 0
    begin = fields.integer("max_window_layers", 0, MAX_INT32, default=28)
    return _listed(fields, n_layers, window, [window > 0 and i >= begin for i in range(n_layers)])


def _windowed_without_rope(fields: Fields, family: Family, n_layers: int, rotated: list[bool]) -> Windows:
    window = _size(fields, family) if fields.flag("use_sliding_window", False) else 0
    return _listed(fields, n_layers, window, [window > 0 and not rope for rope in rotated])


def _windowed_by_pattern(fields: Fields, family: Family, n_layers: int, _rotated: list[bool]) -> Windows:
    """All layers but every n-th."""
    window = _size(fields, family)
    period = ARCHITECTURES[family.gguf].full_period
    if "sliding_window_pattern" in family.reads:
        period = fields.integer("sliding_window_pattern", 1, MAX_INT32, default=period)
    return _listed(fields, n_layers, window, [(i + 1) % period != 0 for i in range(n_layers)])


_RULES: dict[str, Callable[[Fields, Family, int, list[bool]], Windows]] = {
    "none": _no_window, "all": _all_windowed, "if_used": _windowed_if_used, "from_layer": _windowed_from_layer,
    "without_rope": _windowed_without_rope, "pattern": _windowed_by_pattern,
}


def read_windows(fields: Fields, family: Family, n_layers: int, rotated: list[bool]) -> Windows:
    return _RULES[family.window](fields, family, n_layers, rotated)


def _size(fields: Fields, family: Family) -> int:
    if "sliding_window" not in fields.values:
        if family.sliding_window:
            fields.default_used("sliding_window", family.sliding_window, family.hf_class)
        return family.sliding_window
    return fields.integer("sliding_window", 1, MAX_INT32, default=0)


def _listed(fields: Fields, n_layers: int, window: int, default: list[bool]) -> Windows:
    """layer_types where it is there, else what the rule says; without a layer that has it there is no window."""
    windowed = default
    if fields.has("layer_types"):
        kinds = fields.values["layer_types"]
        if not isinstance(kinds, list) or len(kinds) != n_layers:
            fields.wrong("layer_types", f"one kind for each of {n_layers} layers")
            return 0, [False] * n_layers
        other = next((kind for kind in kinds if kind not in ("full_attention", "sliding_attention")), None)
        if other is not None:
            fields.unsupported("layer_types", "'full_attention' and 'sliding_attention' are", other)
            return 0, [False] * n_layers
        windowed = [kind == "sliding_attention" for kind in kinds]
    if any(windowed) and not window:
        fields.wrong("sliding_window", "a window for the layers that slide", fields.values.get("sliding_window"))
    return (window, windowed) if any(windowed) else (0, windowed)


def _check_alike(fields: Fields, kind: str) -> None:
    """layer_types of a family that does not look at it: fine where it says what the family does anyway."""
    kinds = fields.values.get("layer_types")
    if kinds is not None and (not isinstance(kinds, list) or any(item != kind for item in kinds)):
        other = next((item for item in kinds if item != kind), None) if isinstance(kinds, list) else kinds
        fields.unsupported("layer_types", f"only '{kind}' for every layer is", other)


# -- rope and experts -----------------------------------------------------------------------------------------------------------


def read_rotated(fields: Fields, family: Family, n_layers: int) -> list[bool]:
    """no_rope_layers has 1 where there is rope; without it every n-th layer has none."""
    if "no_rope_layers" not in family.reads:
        return [True] * n_layers
    listed = fields.values.get("no_rope_layers")
    if listed is not None:
        if not isinstance(listed, list) or len(listed) < n_layers or any(item not in (0, 1) for item in listed):
            fields.wrong("no_rope_layers", f"0 or 1 for each of {n_layers} layers")
            return [True] * n_layers
        return [bool(item) for item in listed[:n_layers]]
    period = fields.integer("no_rope_layer_interval", 1, MAX_INT32, default=4)
    return [(i + 1) % period != 0 for i in range(n_layers)]


def read_experts(fields: Fields, family: Family, n_layers: int, n_experts: int) -> list[bool]:
    """decoder_sparse_step: every n-th layer has experts, but for those that mlp_only_layers names."""
    if "decoder_sparse_step" not in family.reads:
        return [n_experts > 0] * n_layers
    step = fields.integer("decoder_sparse_step", 1, MAX_INT32, default=1)
    dense = fields.values.get("mlp_only_layers")
    if dense is not None and (not isinstance(dense, list) or any(
            isinstance(item, bool) or not isinstance(item, int) or not 0 <= item < n_layers for item in dense)):
        fields.wrong("mlp_only_layers", f"an array of layers below {n_layers}")
        dense = []
    return [n_experts > 0 and i not in (dense or []) and (i + 1) % step == 0 for i in range(n_layers)]

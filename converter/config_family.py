"""Which family a config.json is of, whether it stands in one of a larger class, and which of its keys nobody here can honour.

Reads the names in it and the keys that have to be absent; sizes and numbers are config.py's. Called by config.py and sources/hf.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .families import BY_ARCHITECTURE, FAMILIES, NEUTRAL_KEYS, WRAPPERS, Family, Wrapper
from .fields import Fields, show

SUPPORTED = f"{', '.join(sorted([*BY_ARCHITECTURE, *(wrapper.architecture for wrapper in WRAPPERS)]))} are"
TIED = "tie_word_embeddings"

_REMEDIES = {
    "quantization_config": "convert the checkpoint from before its quantisation",
    "compression_config": "convert the checkpoint from before its compression",
    "auto_map": "code that comes with a model is never run",
}
_ACTIVATION_KEYS = ("hidden_act", "hidden_activation", "activation_function")


def named_family(fields: Fields) -> str:
    """The family that `architectures` and `model_type` name; "llama" as a stand-in after a problem."""
    listed, model_type = fields.values.get("architectures"), fields.values.get("model_type")
    if listed is None and model_type is None:
        fields.absent("architectures", " (and so is model_type)")
        return "llama"
    named = None
    if listed is not None:
        if not isinstance(listed, list) or len(listed) != 1 or not isinstance(listed[0], str):
            fields.wrong("architectures", "an array of one name")
        elif listed[0] not in BY_ARCHITECTURE:
            fields.unsupported("architectures", SUPPORTED, listed[0])
        else:
            named = BY_ARCHITECTURE[listed[0]]
    if model_type is not None:
        if not isinstance(model_type, str):
            fields.wrong("model_type", "a name")
        elif model_type not in FAMILIES:
            fields.unsupported("model_type", f"{', '.join(sorted(FAMILIES))} are")
        elif named is not None and named != model_type:
            fields.log.add(f"architectures and model_type disagree: {show(listed[0])} and {show(model_type)}")
        else:
            named = model_type
    return named or "llama"


# -- a text model among others ----------------------------------------------------------------------------------------------------

# Keys beside text_config that are the text model's too, and there win.
_OF_ALL = ("bos_token_id", "eos_token_id", "pad_token_id", TIED, "dtype", "torch_dtype", "transformers_version", "_name_or_path")


def text_alone(values: Mapping[str, Any], name: str, has_head: bool | None = None) -> tuple[Mapping[str, Any], Wrapper | None]:
    """The config.json that the text model of a wrapper's would have by itself, and the wrapper; any other as it is, and None.

    transformers 5 writes its own default of tie_word_embeddings beside a text_config that says otherwise: then `has_head`,
    whether there is a tensor of the head, decides where it is known. FormatError or UnsupportedError as from config.py.
    """
    listed, model_type = values.get("architectures"), values.get("model_type")
    named = isinstance(listed, list) and len(listed) == 1 and isinstance(listed[0], str)
    wrapper = next((row for row in WRAPPERS if (listed[0] == row.architecture if named else model_type == row.model_type)), None)
    if wrapper is None:
        return values, None
    fields = Fields(values, name)
    if listed is not None and not named:
        fields.wrong("architectures", "an array of one name")
    if model_type is not None and model_type != wrapper.model_type:
        fields.log.add(f"architectures and model_type disagree: {show(wrapper.architecture)} and {show(model_type)}")
    refuse_changed_maths(fields, (), ())
    text = values.get("text_config")
    inner = fields.within("text_config", text if isinstance(text, dict) else {})
    if text is None:
        fields.absent("text_config")
    elif not isinstance(text, dict):
        fields.wrong("text_config", "an object")
    elif not inner.has("model_type"):
        inner.absent("model_type")
    elif text["model_type"] != wrapper.text:
        inner.unsupported("model_type", f"of {wrapper.architecture} only {show(wrapper.text)} is")
    for key in filter(inner.has, wrapper.ignored):
        inner.unsupported(key, f"{wrapper.architecture} has no such key")
    fields.finish()
    alone = {**text, **{key: values[key] for key in _OF_ALL if values.get(key) is not None},
             "architectures": [FAMILIES[wrapper.text].architecture], "model_type": wrapper.text}
    if has_head is not None and values.get(TIED) is True and text.get(TIED) is False:
        alone[TIED] = not has_head
    return alone, wrapper


# -- keys that change the maths ---------------------------------------------------------------------------------------------------


def refuse_activations(fields: Fields, family: Family) -> None:
    for key in _ACTIVATION_KEYS:
        value = fields.values.get(key)
        if value is not None and value not in family.activations:
            fields.unsupported(key, f"only {show(family.activations[0])} is")


def refuse_changed_maths(fields: Fields, reads: tuple[str, ...], classes: tuple[str, ...]) -> None:
    """Keys with a value that is not neutral, but for those that are read; `classes` may be named as the folder's own code."""
    for key, neutral in NEUTRAL_KEYS.items():
        value = fields.values.get(key)
        if key in reads or value is None:
            continue
        if any(value == fine and isinstance(value, bool) == isinstance(fine, bool) for fine in neutral):
            continue
        if key == "auto_map" and _names_only(value, classes):
            continue
        plain = neutral and not isinstance(neutral[0], (dict, list))
        fields.unsupported(key, f"only {show(neutral[0])} is" if plain else _REMEDIES.get(key, "it has to be absent"))


def _names_only(auto_map: Any, classes: tuple[str, ...]) -> bool:
    """Whether the code that a folder brings along is of the very classes that transformers has: Phi-3's folders do so."""
    return isinstance(auto_map, dict) and all(
        isinstance(item, str) and item.split(".")[-1] in classes for item in auto_map.values())

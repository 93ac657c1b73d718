"""A PEFT adapter's folder: adapter_config.json and adapter_model.safetensors (or .bin), as changes to named weights.

A change is a low-rank product added to a weight (and, of DoRA, the lengths that its rows get), a whole weight in its place
(modules_to_save), or single rows of it (trainable_token_indices). Everything in the config that would make the merged model
another one is known here or refused by name. Reads no model. Called by lora.py.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import strict_json
from ..errors import FormatError, UnsupportedError, UsageError, escape
from ..families import Wrapper
from ..fields import Fields
from ..quant import TYPES
from .input_file import InputFile
from .peft_targets import Targets, ends_in, is_plain, read_targets
from .safetensors_file import SafetensorsEntry, read_header, shape_text
from .torch_file import state_dict
from .wrapped import left_out, part_left_out, unwrapped

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")           # the first that is there is taken
PREFIX = "base_model.model."
MAX_CONFIG = 4 << 20
MAX_RANK = 1 << 16
DTYPES = ("F32", "F16", "BF16")

# Keys that say nothing about the merged weights.
IDLE = {"base_model_name_or_path", "revision", "task_type", "auto_mapping", "inference_mode", "peft_version", "lora_dropout",
        "exclude_modules", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config", "megatron_core",
        "qalora_group_size", "ensure_weight_tying", "peft_type", "r", "lora_alpha", "target_modules", "modules_to_save",
        "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "fan_in_fan_out", "layers_to_transform", "layers_pattern",
        "bias", "init_lora_weights", "trainable_token_indices"}
# Ways to begin a training that leave the base model as it is; the others (pissa, olora, loftq, ...) change it.
INITS = ("gaussian", "orthogonal", "eva")                  # beside true and false
MAX_NAME = 128                     # of a weight: three repeats may take the third power of its length

MAGNITUDE, TOKENS = "lora_magnitude_vector", "token_adapter.trainable_tokens_delta"
PARTS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", MAGNITUDE, TOKENS)
# What PEFT wraps a module in, in the name of a weight that it saved whole.
_WRAPPER = re.compile(r"\.(modules_to_save|original_module|token_adapter\.base_layer|base_layer)(?:\.default)?(?=\.)")
EMBEDDING_MODULE, HEAD_MODULE = "embed_tokens", "lm_head"


@dataclass(frozen=True)
class Part:
    file: InputFile
    key: str
    entry: SafetensorsEntry

    def values(self) -> np.ndarray:
        """f32: the matrix; of a vector one row."""
        return self._decoded(0, self.entry.shape[0] if len(self.entry.shape) == 2 else 1)

    def rows(self, order: np.ndarray) -> np.ndarray:
        """f32: these rows, which are neighbours but for their order within a head."""
        first = int(order.min())
        return self._decoded(first, int(order.max()) + 1)[order - first]

    def _decoded(self, begin: int, end: int) -> np.ndarray:
        return TYPES[self.entry.dtype.lower()].decode(self.entry.rows(self.file, begin, end), self.entry.shape[-1])


@dataclass(frozen=True)
class LowRank:
    """`scale` times b @ a is added; of an embedding, transposed. With a `magnitude` (DoRA) the sum's rows, of an embedding its
    columns, are then made as long as that says."""

    a: Part                       # (r, columns); of an embedding (r, rows)
    b: Part                       # (rows, r); of an embedding (columns, r)
    scale: float
    embedding: bool
    magnitude: Part | None = None         # (rows,); of an embedding (columns,)
    whole: Part | None = None             # the weight that it is added to, where the adapter brings it along

    @property
    def shape(self) -> tuple[int, ...]:
        one, other = self.b.entry.shape[0], self.a.entry.shape[1]
        return (other, one) if self.embedding else (one, other)

    def fits(self, shape: tuple[int, ...]) -> bool:
        return self.shape == shape


@dataclass(frozen=True)
class Replacement:
    """The whole weight in place of the base model's."""

    whole: Part

    @property
    def shape(self) -> tuple[int, ...]:
        return self.whole.entry.shape

    def fits(self, shape: tuple[int, ...]) -> bool:
        return self.shape == shape


@dataclass(frozen=True)
class TokenRows:
    """Single rows in place of the weight's."""

    part: Part                    # (tokens, columns)
    tokens: tuple[int, ...]        # which rows they are
    whole: Part | None = None     # the weight that has the others, where the adapter brings it along

    @property
    def shape(self) -> tuple[int, ...]:
        """Without a weight of its own the smallest that has such rows."""
        return (max(self.tokens) + 1, self.part.entry.shape[1]) if self.whole is None else self.whole.entry.shape

    def fits(self, shape: tuple[int, ...]) -> bool:
        if self.whole is not None:
            return self.shape == shape
        return len(shape) == 2 and self.shape[0] <= shape[0] and self.shape[1] == shape[1]


Change = LowRank | Replacement | TokenRows


class PeftAdapter:
    """An open adapter. `changes`: the weight's name as the base checkpoint has it -> what becomes of it. `close` releases it.
    `wrapper`: a class that the adapter may have been trained in, though the text model alone is merged."""

    def __init__(self, folder: Path, wrapper: Wrapper | None = None) -> None:
        if not folder.is_dir():
            raise UsageError(f"--lora: {escape(folder.name, 0)}: expected the folder of a PEFT adapter, found "
                             f"{'a file' if folder.exists() else 'none'}")
        self.path = folder
        self.name = escape(folder.resolve().name, 0)
        self.warnings: list[str] = []
        self._wrapper = wrapper
        self.opened: list[InputFile] = []
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for file in self.opened:
            file.close()

    def _open_file(self, name: str) -> InputFile:
        self.opened.append(InputFile(self.path / name, name))
        return self.opened[-1]

    def _open(self) -> None:
        if not os.path.exists(self.path / CONFIG):
            raise FormatError(f"{self.name}: {CONFIG} is missing; --lora takes the folder of a PEFT adapter")
        self._config = strict_json.load_object(self._open_file(CONFIG).read_all(MAX_CONFIG), CONFIG)
        self._settings = _settings(self._config)
        weights = next((name for name in WEIGHTS if os.path.exists(self.path / name)), None)
        if weights is None:
            raise FormatError(f"{self.name}: {WEIGHTS[0]} is missing")
        file = self._open_file(weights)
        tensors = read_header(file).tensors if weights.endswith(".safetensors") else state_dict(file)
        if self._settings.fan_in_fan_out:
            self.warnings.append(f"{CONFIG}: fan_in_fan_out is left out of account, as PEFT does: these are no Conv1D layers")
        if not self._settings.targets.known:
            self.warnings.append(f"{CONFIG}: what target_modules and exclude_modules name is not known (a pattern that is not "
                                 "tried, or nothing): a module of theirs without tensors stays as it is")
        changes = self._changes(file, self._of_the_text(file.name, tensors))
        self._spelled = {prefix for name in changes for prefix in _prefixes(self._wrapper) if name.startswith(prefix[0])}
        self.changes = self._own_names(file.name, changes)

    def _of_the_text(self, file: str, tensors: Mapping[str, SafetensorsEntry]) -> dict[str, SafetensorsEntry]:
        """Without those that change a part of the wrapper that is not converted either."""
        skipped = {} if self._wrapper is None else {
            key: part for key in tensors if (part := part_left_out(key.removeprefix(PREFIX), self._wrapper)) is not None}
        if skipped and len(skipped) == len(tensors):
            raise FormatError(f"{file}: expected tensors that change the text model, found those of "
                              f"{' and '.join(dict.fromkeys(skipped.values()))} alone")
        if skipped:
            self.warnings.append(f"{self.name}: the text model alone is merged, and {left_out([*skipped.values()])}")
        return {key: entry for key, entry in tensors.items() if key not in skipped}

    def _own_names(self, file: str, changes: Mapping[str, Change]) -> dict[str, Change]:
        """By the names that the text model has for its weights; patterns and lists of modules go by the wrapper's."""
        own: dict[str, tuple[str, Change]] = {}
        for name, change in changes.items():
            plain = self._own_name(name)
            if plain in own:
                raise FormatError(f"{file}: {escape(plain)} twice: as {escape(own[plain][0])} and as {escape(name)}")
            own[plain] = name, change
        return {plain: change for plain, (_name, change) in own.items()}

    def lacks(self, weight: str) -> str:
        """Which key of the config names a weight of the text model's that the adapter has nothing for; "" where none does."""
        if weight in self.changes:
            return ""
        names = [theirs + weight[len(own):] for theirs, own in self._spelled if weight.startswith(own)] or [weight]
        modules = [name.rpartition(".")[0] for name in names]
        targets = self._settings.targets
        if weight.endswith(".weight") and any(map(targets.low_rank, modules)):
            return "target_modules"
        return "modules_to_save" if any(map(targets.whole, modules)) else ""

    def _own_name(self, name: str) -> str:
        return name if self._wrapper is None else unwrapped(name, self._wrapper) or name

    def _changes(self, file: InputFile, tensors: Mapping[str, SafetensorsEntry]) -> dict[str, Change]:
        modules: dict[str, dict[str, Part]] = {}
        wholes: dict[str, dict[str, Part]] = {}       # a weight's name -> what it is wrapped in -> the weight
        for key, entry in tensors.items():
            shown = f"{file.name}: {escape(key)}"
            if entry.dtype not in DTYPES:
                raise UnsupportedError(f"{shown}: dtype {entry.dtype} is not supported; F32, F16 and BF16 are")
            if len(key) > MAX_NAME:
                raise UnsupportedError(f"{shown}: expected a name of up to {MAX_NAME} characters, found one of {len(key)}")
            if not key.startswith(PREFIX):
                raise FormatError(f"{shown}: expected a name that begins with {PREFIX}, found this one")
            module, what = _split(key.removeprefix(PREFIX))
            if what and what not in PARTS:
                raise UnsupportedError(f"{shown}: {escape(what)} is not supported, lora_A and lora_B are")
            found = None if what else _WRAPPER.search(module)
            name = module if found is None else module[:found.start()] + module[found.end():]
            group, place = (modules, what) if what else (wholes, found.group(1) if found else "")
            if place in group.setdefault(name, {}):
                raise FormatError(f"{shown}: expected one {what or 'weight'} for {escape(name)}, found two")
            group[name][place] = Part(file, key, entry)
        changes = self._whole_weights(file.name, wholes)
        for module, parts in modules.items():
            name = f"{module}.weight"
            change = self._token_rows(file.name, module, parts) if TOKENS in parts else self._low_rank(file.name, module, parts)
            if change is None:
                changes.pop(name, None)
                continue
            saved = changes.get(name)
            if saved is not None:                      # saved along, as PEFT does with an embedding
                if not change.fits(saved.shape):
                    raise FormatError(f"{file.name}: {escape(name)}: expected {shape_text(change.shape)}, as what changes it has, "
                                      f"found {shape_text(saved.shape)}")
                change = replace(change, whole=saved.whole)
            changes[name] = change
        if not changes:
            raise FormatError(f"{file.name}: expected an adapter's tensors, found none")
        self._check_tokens(file.name, changes)
        return changes

    def _whole_weights(self, file: str, wholes: Mapping[str, Mapping[str, Part]]) -> dict[str, Change]:
        """Of a weight that stands there under several names: PEFT saves a vocabulary that has grown with its wrapper, and loads
        the plain one."""
        changes: dict[str, Change] = {}
        for name, places in wholes.items():
            places = {place: part for place, part in places.items() if place != "original_module"}
            if {"", "modules_to_save"} == set(places):
                del places["modules_to_save"]
            if len(places) > 1:
                raise FormatError(f"{file}: expected one weight in place of {escape(name)}, found two")
            for part in places.values():
                changes[name] = Replacement(part)
        return changes

    def _token_rows(self, file: str, module: str, parts: Mapping[str, Part]) -> TokenRows | None:
        """None of a head that repeats its embedding's rows, as PEFT saves them where both are one."""
        part, shown = parts[TOKENS], f"{file}: {escape(module)}"
        if len(parts) > 1:
            raise FormatError(f"{shown}: expected {TOKENS} alone, found others too")
        tokens = self._settings.tokens_of(module)
        is_head = self._own_name(f"{module}.weight") == f"{HEAD_MODULE}.weight"
        if tokens is None and is_head and self._settings.tokens_of(EMBEDDING_MODULE) is not None:
            return None
        if tokens is None:
            raise FormatError(f"{shown}: expected a module of trainable_token_indices, found another")
        if len(part.entry.shape) != 2 or part.entry.shape[0] != len(tokens):
            raise FormatError(f"{shown}: expected {len(tokens)} rows, as trainable_token_indices says, found "
                              f"{shape_text(part.entry.shape)}")
        return TokenRows(part, tokens)

    def _check_tokens(self, file: str, changes: Mapping[str, Change]) -> None:
        """Every module of trainable_token_indices has its rows, but for a head that repeats its embedding's."""
        tokens = self._settings.tokens
        found = {name for name in tokens for weight, change in changes.items()
                 if isinstance(change, TokenRows) and ends_in(weight.removesuffix(".weight"), name)}
        for name in tokens:
            if name not in found and not (name == HEAD_MODULE and tokens[name] == tokens.get(EMBEDDING_MODULE)):
                raise FormatError(f"{file}: expected rows for {escape(name)}, which trainable_token_indices names, found none")

    def _low_rank(self, file: str, module: str, parts: Mapping[str, Part]) -> LowRank:
        embedding = "lora_embedding_A" in parts or "lora_embedding_B" in parts
        names = ["lora_embedding_A", "lora_embedding_B"] if embedding else ["lora_A", "lora_B"]
        if self._settings.dora:
            names.append(MAGNITUDE)
        elif MAGNITUDE in parts:
            raise FormatError(f"{file}: {escape(module)}: {MAGNITUDE}: expected use_dora to be true in {CONFIG}, found that it is "
                              "not")
        if set(parts) != set(names):
            lacking = [name for name in names if name not in parts]
            raise FormatError(f"{file}: {escape(module)}: expected {', '.join(names[:-1])} and {names[-1]}, found "
                              f"{'no ' + lacking[0] if lacking else 'others too'}")
        a, b = parts[names[0]], parts[names[1]]
        settings = self._settings
        rank = settings.of(settings.rank_pattern, module, settings.rank)
        alpha = settings.of(settings.alpha_pattern, module, settings.alpha)
        if len(a.entry.shape) != 2 or len(b.entry.shape) != 2 or a.entry.shape[0] != rank or b.entry.shape[1] != rank:
            raise FormatError(f"{file}: {escape(module)}: expected matrices of rank {rank:g}, as {CONFIG} says, found "
                              f"{shape_text(a.entry.shape)} and {shape_text(b.entry.shape)}")
        if embedding and not ends_in(module, EMBEDDING_MODULE):
            raise FormatError(f"{file}: {escape(module)}: expected lora_A and lora_B, found an embedding's")
        if settings.targets.low_rank(module) is False:
            raise FormatError(f"{file}: {escape(module)}: expected a module of target_modules, found another")
        magnitude = parts.get(MAGNITUDE)
        if magnitude is not None and magnitude.entry.shape != b.entry.shape[:1]:
            raise FormatError(f"{file}: {escape(module)}: {MAGNITUDE}: expected {shape_text(b.entry.shape[:1])}, found "
                              f"{shape_text(magnitude.entry.shape)}")
        return LowRank(a, b, alpha / (math.sqrt(rank) if settings.rslora else rank), embedding, magnitude)


def _prefixes(wrapper: Wrapper | None) -> tuple[tuple[str, str], ...]:
    return () if wrapper is None else wrapper.prefixes


_SPLIT = re.compile(r"(.+)\.(lora_(?:A|B)(?=\.)|lora_embedding_[AB]|lora_\w+?|token_adapter\.trainable_tokens_delta)"
                    r"(\.default)?(\.weight|\.bias)?")


def _split(key: str) -> tuple[str, str]:
    """ "..q_proj.lora_A[.default].weight" -> "..q_proj", "lora_A"; "..norm.weight" -> itself, "" """
    found = _SPLIT.fullmatch(key)
    if found is None:
        return key, ""
    if found.group(4) == ".bias":
        return found.group(1), "lora_bias"
    return found.group(1), found.group(2)


# -- the config --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Settings:
    rank: int
    alpha: float
    rslora: bool
    dora: bool
    fan_in_fan_out: bool
    rank_pattern: Mapping[str, float]
    alpha_pattern: Mapping[str, float]
    targets: Targets
    tokens: Mapping[str, tuple[int, ...]]          # the end of a module's name -> the rows that were trained

    def of(self, patterns: Mapping[str, float], module: str, default: float) -> float:
        """The first pattern that a module's name ends in counts; a plain name is its own pattern."""
        for pattern, value in patterns.items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        return default

    def tokens_of(self, module: str) -> tuple[int, ...] | None:
        return next((tokens for name, tokens in self.tokens.items() if ends_in(module, name)), None)


def _settings(config: Mapping[str, Any]) -> _Settings:
    """FormatError or UnsupportedError lists everything that is absent, wrong or not supported."""
    fields = Fields(config, CONFIG)
    if config.get("peft_type") != "LORA":
        fields.unsupported("peft_type", "LORA is")
        fields.finish()
    for key, value in config.items():
        if key not in IDLE and value not in (None, False, [], {}):
            fields.unsupported(key, "it has to be absent or false; merge with PEFT")
    if config.get("bias", "none") != "none":
        fields.unsupported("bias", "only 'none' is")
    init = config.get("init_lora_weights")
    if not isinstance(init, bool) and init is not None and init not in INITS:
        fields.unsupported("init_lora_weights", "it begins with another base model; merge with PEFT")
    settings = _Settings(fields.integer("r", 1, MAX_RANK), fields.number("lora_alpha"), fields.flag("use_rslora", False),
                         fields.flag("use_dora", False), fields.flag("fan_in_fan_out", False),
                         _patterns(fields, "rank_pattern", whole=True), _patterns(fields, "alpha_pattern", whole=False),
                         read_targets(fields), _tokens(fields))
    fields.finish()
    return settings


def _tokens(fields: Fields) -> dict[str, tuple[int, ...]]:
    """trainable_token_indices: ids of the embedding's, or of each module's that is named."""
    key = "trainable_token_indices"
    given = fields.values.get(key)
    if given in (None, False, [], {}):
        return {}
    named = given if isinstance(given, dict) else {EMBEDDING_MODULE: given}
    for name, tokens in named.items():
        shown = f"{key}.{name}" if isinstance(given, dict) else key
        plain = isinstance(tokens, list) and all(isinstance(token, int) and not isinstance(token, bool) for token in tokens)
        if not plain or not tokens or min(tokens) < 0 or len(set(tokens)) < len(tokens):
            fields.wrong(shown, "different token ids", tokens)
            return {}
    return {name: tuple(tokens) for name, tokens in named.items()}


def _patterns(fields: Fields, key: str, whole: bool) -> dict[str, float]:
    """Module pattern -> number; patterns that could take long on any name are refused."""
    given = fields.values.get(key)
    if given is None:
        return {}
    if not isinstance(given, dict):
        fields.wrong(key, "an object of patterns and numbers")
        return {}
    for pattern, value in given.items():
        right = isinstance(value, int) or isinstance(value, float) and not whole
        if isinstance(value, bool) or not right or not 0 < value < 1 << 20:
            fields.wrong(f"{key}.{pattern}", "a number above 0", value)
        if not is_plain(pattern):
            fields.unsupported(key, "names, with up to three repeats and no group repeated, are", pattern)
    return dict(given)

"""The converter: checkpoints of any kind that is read to files of any kind that is written.

Three doors: `convert` writes OUT whole or leaves nothing there, `inspect` says what a file is from its headers, `verify` reads all
of it. Needs numpy and the standard library; imports nothing of pyllama, from which a caller may hand in a faster encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ConvertError, FormatError, OutputError, RefusedError, UnsupportedError, UsageError, escape
from .inspect import inspect
from .mixes import MIXES, Fallback, Override
from .panel import LAYOUT_CHOICES
from .plan import KEEP, ROPE_FREQS, Plan, Request, build_plan, check_type_name, matrix_types, model_group_size
from .quant import TYPES
from .verify import verify

if TYPE_CHECKING:
    from .sources import Source
    from .streams import Encoder

__all__ = ["ConvertError", "FormatError", "OutputError", "RefusedError", "Report", "UnsupportedError", "UsageError", "convert",
           "inspect", "verify"]

FORMATS = ("auto", "ak42", "ak42-v0", "ak42-v1", "ak42-v2", "ak42-v3", "gguf", "hf")
OLD_TYPES = {"ak42-v0": "f32", "ak42-v1": "f32", "ak42-v2": "int8"}        # the one type that a version can hold
GGUF_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl",
              "iq4_xs", "mxfp4")
HF_TYPES = ("f32", "f16", "bf16")
HELD = {"gguf": GGUF_TYPES, "hf": HF_TYPES}        # what not every type fits
FILE_SUFFIXES = (".safetensors", ".pt", ".pth", ".json", ".ggml", ".ak42", ".ckpt", ".onnx")       # surely no folder was meant
COMPRESSED = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".lz4", ".br", ".7z", ".zip", ".tar")          # nor this

Progress = Callable[[int, int, str], None]         # bytes done, bytes in all, tensor's name


@dataclass(frozen=True)
class Report:
    """What a conversion wrote."""

    out: Path
    format: str                    # "ak42", "gguf" or "hf"
    version: int | None            # of ak42 and GGUF files
    type: str                      # of the matrices; "mixed" where they differ
    bytes: int                     # of every file written
    tensors: int
    warnings: tuple[str, ...]
    files: tuple[Path, ...]
    tensor_errors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)     # of tensors that were encoded anew
    tensor_types: Mapping[str, str] = field(default_factory=dict)                      # of every tensor

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {**asdict(self), "out": str(self.out), "files": [str(path) for path in self.files],
                "warnings": list(self.warnings)}


def convert(src: str | Path, out: str | Path, *, type: str = KEEP, format: str = "auto", layout: str = "panel16",
            strict: bool = False, force: bool = False, tokenizer: str | Path | None = None, lora: str | Path | None = None,
            progress: Progress | None = None, encoder: Encoder | None = None, tensor_types: Sequence[str] = (),
            keep_head: str | None = None) -> Report:
    """Converts `src` (a folder of Hugging Face's or Meta's, a GGUF, torch or ak42 file: docs/sources.md) to `out`, whose name says
    the format unless `format` does.

    `type` is that of every matrix, or one of the mixes q4_k_s, q4_k_m, q5_k_s, q5_k_m, q6_k; "keep" the source's own.
    `tensor_types` are "PATTERN=TYPE" for single matrices, `keep_head` is the head's type. `lora` is the folder of a PEFT adapter to
    merge; where it has other tokens than `src`, its own tokenizer is taken.
    `progress(done, total, tensor)` is called while writing, and `encoder(type, f32 array, group_size)` may encode faster than
    numpy. Raises ConvertError, whose `code` is the exit code a program ends with; `out` is as it was, then.
    """
    from . import targets
    from .sources import open_source
    from .sources.lora import LoraSource

    out = Path(out)
    check_type_name(type)
    _check_choice("--format", format, FORMATS)
    _check_choice("--layout", layout, LAYOUT_CHOICES)
    if "\0" in str(out):
        raise UsageError(f"{escape(out.name, 0)}: expected the name of a file or folder, found one with a NUL in it")
    container = _container(out, format)
    source = open_source(src, tokenizer)
    try:
        if lora is not None:
            source = LoraSource(source, Path(lora), None if tokenizer is None else Path(tokenizer))
            source.require_type(keep=type == KEEP and format not in OLD_TYPES)
        chosen = _type_for(source, format, container, type)
        overrides = tuple(Override.parse(text) for text in tensor_types)
        if keep_head is not None and keep_head not in TYPES:
            raise UsageError(f"--keep-head: expected one of {', '.join(TYPES)}, found {escape(keep_head)}")
        for override in overrides:
            _check_held(container, override.type, "--tensor-type")
        if keep_head is not None:
            _check_held(container, keep_head, "--keep-head")
        asked = {"tensor_types": " ".join(tensor_types)} if tensor_types else {}
        asked |= {"keep_head": keep_head} if keep_head else {}
        options = {"type": type} | asked | ({} if lora is None else {"lora": Path(lora).resolve().name})
        options |= {"assumed": "; ".join(_assumed(source))} if source.warnings else {}
        # Blocks that only an ak42 file can hold as they are; a merged adapter's weights are in none.
        keep_packed = getattr(source, "keep_packed", None) if chosen == KEEP and container == "ak42" else None
        unkept = keep_packed() if keep_packed is not None else {}
        plan = build_plan(source, Request(chosen, container, options, encoder, overrides, keep_head, unkept))
        target = _target(plan, format, container)
        warnings = [*source.warnings, *_fallback_warnings(plan), *targets.target_warnings(plan, out, target, strict=strict)]
        if plan.vocab is None:
            warnings.append(f"{source.name}: no tokenizer was found; give one with --tokenizer")
        files = targets.write(plan, out, target, layout=layout, strict=strict, force=force, progress=progress)
    finally:
        source.close()
    version = int(target[-1]) if container == "ak42" else 3 if container == "gguf" else None
    return Report(out, container, version, plan.weight_type, sum(path.stat().st_size for path in files), len(plan.tensors),
                  tuple(dict.fromkeys(warnings)), tuple(files), plan.tensor_errors,
                  {tensor.name: tensor.type.name for tensor in plan.tensors})


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{option}: expected one of {', '.join(choices)}, found {escape(value)}")


def _container(out: Path, format: str) -> str:
    """ "ak42", "gguf" or "hf": what was said, else what OUT's name says."""
    if format != "auto":
        return format.split("-")[0]
    suffix = out.suffix.lower()
    if suffix == ".bin":
        return "ak42"
    if suffix == ".gguf":
        return "gguf"
    if suffix in COMPRESSED:
        raise UsageError(f"{escape(out.name, 0)}: expected a name that ends in .bin or .gguf, or a folder, found that of a "
                         "compressed file; what is written is not compressed")
    if suffix in FILE_SUFFIXES:
        raise UsageError(f"{escape(out.name, 0)}: expected a name that ends in .bin or .gguf, or a folder; say --format otherwise")
    return "hf"


def _type_for(source: Source, format: str, container: str, type: str) -> str:
    """The type asked for, where the target can hold it; a version of ak42 that holds but one type says it by itself."""
    if format in OLD_TYPES:
        if type not in (KEEP, OLD_TYPES[format]):
            raise UsageError(f"--type {type}: {format} holds {OLD_TYPES[format]} only; use --format ak42-v3")
        return OLD_TYPES[format]
    held = HELD.get(container)
    if held is None:
        return type
    what = "a GGUF file" if container == "gguf" else "a Hugging Face folder"
    if type != KEEP and (MIXES[type].main if type in MIXES else type) not in held:
        raise UsageError(f"--type {type}: {what} holds {', '.join(held)} only")
    foreign = sorted(matrix_types(source) - set(held)) if type == KEEP else []
    if foreign:
        remedy = "say which with --type f32, f16 or bf16" if container == "hf" else "say --type q8_0, or another of these"
        raise UsageError(f"{source.name}: {what} holds {', '.join(held)} only, found {', '.join(foreign)}; {remedy}")
    return type


def _check_held(container: str, name: str, option: str) -> None:
    held = HELD.get(container)
    if held is not None and name not in held:
        raise UsageError(f"{option} {name}: {'a GGUF file' if container == 'gguf' else 'a Hugging Face folder'} holds "
                         f"{', '.join(held)} only")


def _fallback_warnings(plan: Plan) -> list[str]:
    """Which matrices could not have the type that was to be theirs, one line for each reason and type."""
    alike: dict[Fallback, list[str]] = {}
    for name, fallback in plan.fallbacks.items():
        alike.setdefault(fallback, []).append(name)
    return [f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {fallback.why}: written as {fallback.written}"
            for fallback, names in alike.items()]


def _target(plan: Plan, format: str, container: str) -> str:
    """The name of the target: of ak42's versions the oldest whose readers run the model rightly."""
    from .targets import choose_ak42_version

    if container != "ak42":
        return container
    if format not in ("auto", "ak42"):
        return format
    version = choose_ak42_version(plan.config, plan.weight_type)
    if any(tensor.name == ROPE_FREQS for tensor in plan.tensors):
        version = 3
    if version == 2 and {tensor.group_size for tensor in plan.tensors if tensor.group_size} != {model_group_size(plan.config)}:
        version = 3                # int8 that was kept, in groups that no v2 file has
    return f"ak42-v{version}"


def _assumed(source: Source) -> list[str]:
    """The source's warnings for a manifest, which does not repeat what the file was called."""
    return [text.removeprefix(f"{source.name}: ") for text in source.warnings]

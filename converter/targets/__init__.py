"""The targets: one writer per format over the same plan, by the names of --format.

`write` is the one door: it writes OUT whole or leaves nothing. Called by converter.convert.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..crc32c import crc32c
from ..errors import UsageError
from . import ak42, gguf, hf
from .ak42 import choose_ak42_version, fits
from .base import Job, Progress

if TYPE_CHECKING:
    from ..plan import Plan

__all__ = ["TARGETS", "Target", "choose_ak42_version", "fits", "target_warnings", "write"]


@dataclass(frozen=True)
class Target:
    """One format: its writer, which returns the paths written, and what it says to warn of."""

    write: Callable[[Plan, Job], list[Path]]
    warnings: Callable[[Plan, Job], list[str]]
    strict: bool = False           # whether --strict means something


TARGETS = {
    **{f"ak42-v{version}": Target(partial(ak42.write_ak42, version=version), partial(ak42.warnings, version=version), strict=True)
       for version in range(4)},
    "gguf": Target(gguf.write_gguf, lambda plan, _job: gguf.warnings(plan)),
    "hf": Target(hf.write_hf, lambda _plan, _job: []),
}


def write(plan: Plan, out: Path, format: str, *, layout: str = "panel16", strict: bool = False, force: bool = False,
          progress: Progress | None = None, checksum: Callable[[memoryview, int], int] = crc32c) -> list[Path]:
    """Writes the plan to `out` and returns the paths of what was written. Raises ConvertError; then nothing is left at `out`.

    `checksum(data, crc so far) -> crc` may be a faster crc32c than the package's own.
    """
    target = _target(format, strict)
    return target.write(plan, Job(Path(out), layout, strict, force, progress, checksum))


def target_warnings(plan: Plan, out: Path, format: str, *, strict: bool = False) -> list[str]:
    """What the file will not hold, or what its readers will not do, in a line each; for Report.warnings."""
    return _target(format, strict).warnings(plan, Job(Path(out), strict=strict))


def _target(format: str, strict: bool) -> Target:
    if format not in TARGETS:
        raise UsageError(f"--format: expected one of {', '.join(TARGETS)}, found {format}")
    if strict and not TARGETS[format].strict:
        raise UsageError(f"--strict: expected ak42 v1 or v2, found {format}")
    return TARGETS[format]

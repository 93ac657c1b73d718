"""What encoding cost, for people: a table of a few lines however many tensors there are, or a line for each. The numbers are those
of a converter.Report; a manifest and `--json` have all of them. Called by cli.py, which prints."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from .errors import printable

if TYPE_CHECKING:
    from converter import Report

Errors = Mapping[str, Mapping[str, float]]

HEADINGS = ("type", "tensors", "number", "rms error", "of their rms", "at most", "in")
WORDS = (True, True, False, False, False, False, True)         # columns of words; the others are numbers


def summary(report: Report) -> Iterator[str]:
    """A line for every type and role that was encoded anew: the error of them together, and the tensor that lost most."""
    groups: dict[tuple[str, str], dict[str, Mapping[str, float]]] = {}
    for name, error in report.tensor_errors.items():
        groups.setdefault((report.tensor_types[name], role_of(name)), {})[name] = error
    if not groups:
        return
    rows = [HEADINGS, *(_row(kind, role, errors) for (kind, role), errors in groups.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) if words else cell.rjust(width) for cell, width, words in zip(row, widths, WORDS, strict=True))
        yield "  ".join(cells).rstrip()


def every_tensor(report: Report) -> Iterator[str]:
    for name, error in report.tensor_errors.items():
        rms = f"rms error {error['rms']:.3g}, {error['rms_rel']:.2%} of the weights' rms"
        largest = f"largest {error['max_abs']:.3g}, {error['max_rel']:.2%} of its row's largest weight"
        yield f"{printable(name)}: {report.tensor_types[name]}: {rms}; {largest}"


def role_of(name: str) -> str:
    """A tensor's name without its layer: blk.3.attn_q.weight is an attn_q."""
    return re.sub(r"^blk\.\d+\.", "", name).removesuffix(".weight")


def _row(kind: str, role: str, errors: Errors) -> tuple[str, ...]:
    """Tensors of a role are of one size but for rare models, so that the mean of their squares is that of all weights."""
    worst = max(errors, key=lambda name: errors[name]["rms_rel"])
    together = [math.sqrt(sum(error[key] ** 2 for error in errors.values()) / len(errors)) for key in ("rms", "rms_rel")]
    return (kind, printable(role), str(len(errors)), f"{together[0]:.3g}", f"{together[1]:.2%}", f"{errors[worst]['rms_rel']:.2%}",
            printable(worst))

"""What a conversion says of its losses: a table that stays short whatever the number of tensors, and a line for each where asked."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models

import converter
from pyllama.losses import every_tensor, role_of, summary
from pyllama.quantize import encode


def report_of(errors: dict[str, tuple[str, float]]) -> converter.Report:
    """Of name -> type, relative error."""
    return converter.Report(Path("m.bin"), "ak42", 3, "mixed", 1, len(errors), (), (),
                            {name: {"max_abs": 0.5, "max_rel": 0.1, "rms": rel / 50, "rms_rel": rel} for name, (_, rel) in errors.items()},
                            {name: kind for name, (kind, _) in errors.items()})


def test_many_tensors_are_a_few_lines() -> None:
    roles = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    errors = {f"blk.{layer}.{role}.weight": ("q6_k" if role == "ffn_down" and layer % 2 else "q4_k", 0.05 + layer / 1000)
              for layer in range(80) for role in roles}
    errors["token_embd.weight"] = "q6_k", 0.02
    lines = list(summary(report_of(errors)))
    assert len(lines) == 1 + 7 + 1 + 1
    assert lines[1].split() == ["q4_k", "attn_q", "80", f"{math.sqrt(sum((0.05 + i / 1000) ** 2 for i in range(80)) / 80) / 50:.3g}",
                                "9.24%", "12.90%", "blk.79.attn_q.weight"]
    assert [line.split()[:3] for line in lines[-3:]] == [["q4_k", "ffn_down", "40"], ["q6_k", "ffn_down", "40"], ["q6_k", "token_embd", "1"]]
    assert len(list(every_tensor(report_of(errors)))) == 80 * 7 + 1
    assert list(summary(report_of({}))) == []


def test_roles() -> None:
    assert [role_of(name) for name in ("blk.12.ffn_down_exps.weight", "output.weight", "odd")] == ["ffn_down_exps", "output", "odd"]


def test_the_command_prints_one_or_the_other(tmp_path: Path, pyllama_command: Callable[..., Any]) -> None:
    folder = models.make_hf_model_numpy(tmp_path / "hf", dim=64, hidden_dim=256, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=99)
    report = converter.convert(folder, tmp_path / "m.bin", type="q4_k_m", encoder=encode)
    expected = list(summary(report))
    short = pyllama_command("convert", folder, "-o", tmp_path / "a.bin", "--type", "q4_k_m")
    assert short.code == 0 and short.out == "" and [line for line in short.err.splitlines() if line in expected] == expected
    assert len([line for line in short.err.splitlines() if line.endswith("rows that no block of q4_k divides: written as q5_0")]) == 1
    long = pyllama_command("convert", folder, "-o", tmp_path / "b.bin", "--type", "q4_k_m", "--verbose")
    assert [line for line in long.err.splitlines() if line.startswith("blk.1.ffn_down.weight: q6_k: rms error ")] and expected[0] not in long.err
    data = json.loads(pyllama_command("convert", folder, "-o", tmp_path / "c.bin", "--type", "q4_k_m", "--json").out)
    assert data["tensor_types"]["blk.0.attn_q.weight"] == "q5_0" and data["tensor_types"]["blk.1.attn_norm.weight"] == "f32"
    assert data["tensor_errors"].keys() == report.tensor_errors.keys()
    manifest = (tmp_path / "c.bin").read_bytes()
    assert all(f'"{name}":{{"max_abs"'.encode() in manifest for name in report.tensor_errors)


def test_a_plain_type_that_does_not_fit_is_one_line(tmp_path: Path, pyllama_command: Callable[..., Any]) -> None:
    folder = models.make_hf_model_numpy(tmp_path / "hf", dim=64, hidden_dim=96, vocab_size=99)
    done = pyllama_command("convert", folder, "-o", tmp_path / "m.bin", "--type", "q5_k")
    assert (done.code, done.out) == (1, "") and done.err == (
        "pyllama: hf: token_embd.weight: q5_k needs rows of a multiple of 256 weights, found 64; use --type q5_k_m, which has q5_1 for such "
        "rows, or --tensor-type for some of the matrices\n")

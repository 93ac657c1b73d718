"""How fast a model runs here: tokens per second of a prompt and of generation, and what part of the machine's memory bandwidth,
measured between slices of it, generation uses. It times the C library alone: no sampling, no text."""

from __future__ import annotations

import contextlib
import random
import re
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from ._native import check, ffi, lib, new_error, new_struct

if TYPE_CHECKING:
    from .model import Model, ModelInfo
    from .session import Session

# Bytes of one cached number. int8 keeps a scale beside every 32 numbers or so; that is not counted.
KV_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "int8": 1}
WARM_UP_TOKENS = 8
# Of a timing of generation; the bandwidth is measured before and behind each.
SLICES = 8


@dataclass(frozen=True)
class BenchPlan:
    """prompt: tokens evaluated at once. generate: tokens evaluated one by one. depth: tokens in the cache before either."""

    prompt: int = 512
    generate: int = 128
    depth: int = 0


def measure(n_threads: int, isa: str) -> dict[str, float]:
    """What the machine can do now: read_gb_per_s, f32_gflops, bf16_gflops, int8_gops."""
    measurement, error = new_struct("ak42_measurement"), new_error()
    check(lib.ak42_measure(n_threads, ffi.new("char[]", isa.encode()), measurement, error), error)
    return {name: getattr(measurement, name) for name in ("read_gb_per_s", "f32_gflops", "bf16_gflops", "int8_gops")}


@dataclass(frozen=True)
class Generation:
    """tokens_per_second: of all passes. read_gb_per_s: of the machine, and fraction: what part of it the passes read, each the
    median over slices; 0 where it was not measured."""

    tokens_per_second: float
    read_gb_per_s: float
    fraction: float


def time_generation(
    session: Session, passes: Sequence[Sequence[int]], pass_bytes: float, bandwidth: Callable[[], float] | None
) -> Generation:
    """Times passes that read pass_bytes each, in slices, with the machine's bandwidth measured before and behind each: both see the
    same neighbours. Each slice's first pass is made once before its time, because measuring empties the caches."""
    n_slices = min(SLICES, len(passes))
    readings = [bandwidth()] if bandwidth and n_slices else []
    seconds, fractions = 0.0, []
    for i in range(n_slices):
        part = passes[i * len(passes) // n_slices : (i + 1) * len(passes) // n_slices]
        position = session.position
        session.advance(part[0])
        session.truncate(position)
        taken = _time(session, part)
        seconds += taken
        if bandwidth:
            readings.append(bandwidth())
            fractions.append(pass_bytes * len(part) / taken / (fmean(readings[-2:]) * 1e9))
    tokens = sum(map(len, passes))
    return Generation(
        tokens / seconds if seconds else 0.0, median(readings) if readings else 0.0, median(fractions) if fractions else 0.0
    )


def bench(model: Model, plan: BenchPlan) -> dict[str, Any]:
    """The JSON of `pyllama bench --json`."""
    info = model.info
    peaks = []

    def bandwidth() -> float:
        peaks.append(_peak_bytes())
        found = measure(info.n_threads, info.isa)["read_gb_per_s"]
        _reset_peak()  # the memory that measuring took is not the model's
        return found

    ids = _random_ids(plan.depth + plan.prompt + plan.generate, info.vocab_size)
    room = max(plan.depth + plan.prompt, plan.depth + plan.generate, WARM_UP_TOKENS)
    with model.session(n_ctx=room) as session:
        session.advance(ids[:WARM_UP_TOKENS] or [0])
        session.truncate(0)
        _fill(session, ids[: plan.depth])
        prompt_seconds = _time(session, [ids[plan.depth : plan.depth + plan.prompt]])
        session.truncate(plan.depth)
        per_token = bytes_per_token(info, plan.depth + plan.generate / 2)
        made = time_generation(session, [[token] for token in ids[len(ids) - plan.generate :]], per_token, bandwidth)
        peaks.append(_peak_bytes())
    return {
        "model": info.path,
        "threads": info.n_threads,
        "isa": info.isa,
        "weight_type": info.weight_type,
        "kv_type": info.kv_type,
        "read_gb_per_s": round(made.read_gb_per_s or bandwidth(), 2),
        "prompt": {"tokens": plan.prompt, "tokens_per_second": round(plan.prompt / prompt_seconds, 2) if plan.prompt else 0.0},
        "generate": {
            "tokens": plan.generate,
            "depth": plan.depth,
            "tokens_per_second": round(made.tokens_per_second, 2),
            "gb_per_token": round(per_token / 1e9, 6),
            "percent_of_bandwidth": round(100 * made.fraction, 1),
        },
        "peak_rss_mb": round(max(peaks) / 1e6, 1),
    }


def bytes_per_token(info: ModelInfo, position: float) -> float:
    """What generating one token reads: all weights as they lie in memory, of an embedding that is not the head one row alone,
    and the cache up to `position`."""
    rows = 0 if info.shared_classifier else info.vocab_size - 1
    weights = (info.mapped_bytes + info.packed_bytes) * (info.n_params - rows * info.dim) / info.n_params
    cached = min(position, info.sliding_window or position)
    return weights + 2 * info.n_layers * info.n_kv_heads * info.head_dim * KV_BYTES.get(info.kv_type, 4) * cached


def _reset_peak() -> None:
    """Forgets the memory that measuring took, where the system lets us."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def _peak_bytes() -> int:
    """The most that was resident at once."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="utf-8") as file:
        found = re.search(r"VmHWM:\s+(\d+) kB", file.read())
        if found:
            return int(found.group(1)) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _random_ids(count: int, vocab_size: int) -> list[int]:
    generator = random.Random(42)
    return [generator.randrange(vocab_size) for _ in range(count)]


def _fill(session: Session, ids: list[int]) -> None:
    if ids:
        session.advance(ids, logits=False)


def _time(session: Session, steps: Sequence[Sequence[int]]) -> float:
    start = time.perf_counter()
    for ids in steps:
        if ids:
            session.advance(ids)
    return max(time.perf_counter() - start, 1e-9)

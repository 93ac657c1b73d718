"""Many generations in one pass over the weights: each step evaluates what every running sequence has pending in a single
ak42_eval_batch call. A sequence that ends makes room for the next prompt. Each one's tokens are those that it would get alone."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .generate import Generation, Run
from .sampling import GenerationOptions
from .session import advance_together

if TYPE_CHECKING:
    from .model import Model

# Sequences in one pass: up to here another one costs little more than its attention.
RUNNING_MAX = 16


def generate_batch(model: Model, prompts: Sequence[list[int]], options: GenerationOptions) -> list[Generation]:
    """The generations of prompts (token ids), in their order."""
    results: list[Generation | None] = [None] * len(prompts)
    waiting = deque(enumerate(prompts))
    running: dict[int, Run] = {}
    try:
        while waiting or running:
            while waiting and len(running) < RUNNING_MAX:
                index, ids = waiting.popleft()
                running[index] = Run(model, ids, options, None, True)
            _step([run for run in running.values() if not run.done])
            for index in [index for index, run in running.items() if run.done]:
                run = running.pop(index)
                run.finish()
                run.release()
                results[index] = run.result
    finally:
        for run in running.values():
            run.release()
    return results  # type: ignore[return-value]  # every prompt has its result now


def _step(runs: list[Run]) -> None:
    """One pass for all, one draw for each. Its time counts for those that were generating already."""
    if not runs:
        return
    generating = [run for run in runs if run.token_ids]
    start = time.perf_counter()
    advance_together([run.session for run in runs], [run.pending() for run in runs])
    for run in runs:
        run.draw()
    seconds = time.perf_counter() - start
    for run in generating:
        run.seconds += seconds

"""One leg of a comparison on our side: a process of its own that prints one JSON object, as peer_llama_cpp.py does for the peer.

Beside the rates it states what part of the machine's limits they are, with the limits measured in this very process: the
arithmetic peak of the prompt's number type, and the read bandwidth of generation, measured between slices of it.
Called by compare.py.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import pyllama
from pyllama.bench import bytes_per_token, measure, time_generation

# Which peaks the kernels of a weight type may live on: bf16 is multiplied as bf16 or widened to f32, whichever is faster here.
PEAKS = {"f32": ("f32_gflops",), "f16": ("f32_gflops",), "bf16": ("bf16_gflops", "f32_gflops")}


def prompt_operations(info: pyllama.ModelInfo, tokens: int) -> float:
    """Multiplications and additions of a prompt: every matrix once a token but the head and the last feed-forward, which see
    the last token only, and attention over the causal triangle."""
    heads = info.n_heads * info.head_dim
    kv = info.n_kv_heads * info.head_dim
    attention_matrices = info.n_layers * info.dim * (2 * heads + 2 * kv)
    feed_forward = info.dim * 3 * info.hidden_dim
    once = feed_forward + info.dim * info.vocab_size
    attention = 2 * info.n_layers * heads * tokens * tokens / 2
    return 2 * ((attention_matrices + (info.n_layers - 1) * feed_forward) * tokens + once + attention)


def main() -> None:
    """Times one model file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("-p", "--prompt", type=int, default=512)
    parser.add_argument("-n", "--generate", type=int, default=128)
    parser.add_argument("-d", "--depth", type=int, default=0)
    parser.add_argument("-b", "--batch", type=int, default=0, help="tokens in one pass, timed instead of single tokens")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--isa")
    parser.add_argument("--no-limits", action="store_true", help="do not measure the machine")
    arguments = parser.parse_args()

    step = arguments.batch or 1
    random_id = random.Random(42)
    result = {"prompt": 0.0, "generate": 0.0}
    with pyllama.Model(Path(arguments.model), n_threads=arguments.threads, isa=arguments.isa) as model:
        info = model.info
        limits = {} if arguments.no_limits else measure(info.n_threads, info.isa)
        room = max(arguments.prompt, arguments.depth + max(arguments.generate, step)) + 8

        def bandwidth() -> float:
            return measure(info.n_threads, info.isa)["read_gb_per_s"]

        def ids(count: int) -> list[int]:
            return [random_id.randrange(info.vocab_size) for _ in range(count)]

        with model.session(n_ctx=room) as session:
            session.advance(ids(2))  # warm-up: pages and threads
            session.truncate(0)
            if arguments.prompt:
                tokens = ids(arguments.prompt)
                start = time.perf_counter()
                session.advance(tokens)
                result["prompt"] = arguments.prompt / (time.perf_counter() - start)
                session.truncate(0)
            if arguments.generate:
                if arguments.depth:
                    session.advance(ids(arguments.depth), logits=False)
                passes = [ids(step) for _ in range(max(1, arguments.generate // step))]
                pass_bytes = bytes_per_token(info, arguments.depth + arguments.generate / 2)
                made = time_generation(session, passes, pass_bytes, bandwidth if limits else None)
                result["generate"] = made.tokens_per_second
                if limits:
                    result["bandwidth_fraction"] = made.fraction
    if limits and result["prompt"]:
        peak = max(limits[name] for name in PEAKS.get(info.weight_type, ("int8_gops",))) * 1e9
        if peak:
            result["peak_fraction"] = prompt_operations(info, arguments.prompt) / arguments.prompt * result["prompt"] / peak
    print(json.dumps(result))


if __name__ == "__main__":
    main()

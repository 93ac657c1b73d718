"""One leg of a comparison on the peer's side: llama.cpp through llama-cpp-python's low-level functions.

Runs in the peer's own virtual environment, as a process of its own; prints one JSON object. It times what llama.cpp's own
bench times: a prompt in batches of 512 with the logits of its last token, and single-token steps with logits each, no
sampling. Called by compare.py; knows nothing of ak42.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time

import llama_cpp


def main() -> None:
    """Times one model file and prints {"prompt": tokens/s, "generate": tokens/s}; 0 for what was not asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("-p", "--prompt", type=int, default=512)
    parser.add_argument("-n", "--generate", type=int, default=128)
    parser.add_argument("-d", "--depth", type=int, default=0)
    parser.add_argument("-b", "--batch", type=int, default=0, help="tokens in one pass, timed instead of single tokens")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--flash-attention", type=int, choices=(0, 1), default=0)
    parser.add_argument("--repack", type=int, choices=(0, 1), default=1, help="weights rearranged for the processor, where it can")
    arguments = parser.parse_args()

    llama_cpp.llama_log_set(_quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    model_params = llama_cpp.llama_model_default_params()
    model_params.use_extra_bufts = bool(arguments.repack)
    model = llama_cpp.llama_model_load_from_file(arguments.model.encode(), model_params)
    if not model:
        raise SystemExit(f"{arguments.model}: llama.cpp cannot load it")
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = max(arguments.prompt, arguments.depth + max(arguments.generate, arguments.batch)) + 8
    params.n_batch = params.n_ubatch = 512
    params.n_threads = params.n_threads_batch = arguments.threads
    params.flash_attn_type = arguments.flash_attention
    params.no_perf = True
    context = llama_cpp.llama_init_from_model(model, params)
    n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    memory = llama_cpp.llama_get_memory(context)

    def tokens(count: int) -> ctypes.Array[ctypes.c_int32]:
        return (llama_cpp.llama_token * count)(*[(i * 7919 + 13) % n_vocab for i in range(count)])

    def decode(count: int) -> None:
        ids = tokens(count)
        for start in range(0, count, 512):
            step = min(512, count - start)
            part = ctypes.cast(ctypes.byref(ids, 4 * start), ctypes.POINTER(llama_cpp.llama_token))
            if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(part, step)):
                raise SystemExit("llama_decode failed")
        llama_cpp.llama_synchronize(context)

    def timed(count: int, step: int) -> float:
        """Seconds for count tokens in passes of step."""
        llama_cpp.llama_memory_clear(memory, True)
        if arguments.depth:
            decode(arguments.depth)
        start = time.perf_counter()
        for _ in range(count // step):
            decode(step)
        return time.perf_counter() - start

    decode(2)  # warm-up: pages and threads
    prompt = generate = 0.0
    if arguments.prompt:
        llama_cpp.llama_memory_clear(memory, True)
        start = time.perf_counter()
        decode(arguments.prompt)
        prompt = arguments.prompt / (time.perf_counter() - start)
    if arguments.batch:
        passes = max(1, arguments.generate // arguments.batch)
        generate = passes * arguments.batch / timed(passes * arguments.batch, arguments.batch)
    elif arguments.generate:
        generate = arguments.generate / timed(arguments.generate, 1)
    print(json.dumps({"prompt": prompt, "generate": generate}))


@llama_cpp.llama_log_callback
def _quiet(level: int, text: bytes, user: object) -> None:
    """llama.cpp's log goes nowhere: stdout carries the JSON alone."""


if __name__ == "__main__":
    main()

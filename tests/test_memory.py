"""What a model costs in memory, measured from outside: a mapped panel16 file next to nothing of its own, shared between processes;
any other file one copy, never two. And what threads that get in each other's way cost in time: some, not everything.

Each measurement is a process of its own that reports on itself from /proc, so it runs on Linux alone. Called by pytest. The model
is a few hundred MB of random weights, large against every limit here.
"""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import models
import pytest

import converter

MB = 1 << 20
HUGE_PAGE = 2 * MB
OWN_LIMIT = 64 * MB        # anonymous memory beside the weights and the cache, whatever the model's size
SLACK = 16 * MB            # Python's own growth between two looks, and rounding to huge pages
N_CTX, PROMPT = 1024, 600  # a prompt longer than one pass, so that every buffer is used
SHAPE = {"dim": 1024, "hidden_dim": 2816, "n_layers": 4, "n_heads": 16, "n_kv_heads": 4, "vocab_size": 8000}
KV_BYTES = 2 * SHAPE["n_layers"] * SHAPE["n_kv_heads"] * 64 * 4 * N_CTX

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="no /proc/self/smaps_rollup here")

# Prints one JSON object a line: memory before the model, after opening it, after a prompt. Arguments: the file, the context,
# the prompt's length; one more: waits for a line on stdin before it looks the last time, so that another process can come by.
PROBE = """
import json, sys, time
import pyllama

path, wait = sys.argv[1], len(sys.argv) > 4

def look():
    rollup = {line.split(":")[0]: int(line.split()[1]) << 10 for line in open("/proc/self/smaps_rollup").readlines()[1:]}
    peak = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))
    mapped, inside = {}, False
    for line in open("/proc/self/smaps"):
        word = line.split()[0]
        if not word.endswith(":"):
            inside = line.rstrip().endswith(path)
        elif inside and word[:-1] in ("Rss", "Pss", "Private_Dirty"):
            mapped[word[:-1]] = mapped.get(word[:-1], 0) + (int(line.split()[1]) << 10)
        elif inside and word == "VmFlags:":
            mapped["huge"] = "hg" in line.split()
    print(json.dumps({"anonymous": rollup["Anonymous"], "rss": rollup["Rss"], "peak": peak, "mapped": mapped}), flush=True)

look()
model = pyllama.Model(path)
look()
session = model.session(n_ctx=int(sys.argv[2]))
session.eval([1 + i % 300 for i in range(int(sys.argv[3]))])
if wait:
    print("ready", flush=True)
    sys.stdin.readline()
look()
"""
PROBED = (sys.executable, "-c", PROBE)


@pytest.fixture(scope="module")
def file_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """file_of("panels" | "rows" | "gguf"): the model in that form, f32."""
    folder = tmp_path_factory.mktemp("memory")
    models.make_hf_model_numpy(folder / "hf", **SHAPE)

    def get(form: str) -> Path:
        out = folder / (form + (".gguf" if form == "gguf" else ".bin"))
        if not out.exists():
            options = {"panels": {"format": "ak42-v3"}, "rows": {"format": "ak42-v3", "layout": "rows"}, "gguf": {}}[form]
            converter.convert(folder / "hf", out, **options)
        return out

    yield get
    shutil.rmtree(folder, ignore_errors=True)


def probe(path: Path) -> list[dict]:
    done = subprocess.run([*PROBED, path, str(N_CTX), str(PROMPT)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_mapped_file_costs_no_memory_of_its_own(file_of: Callable[[str], Path]) -> None:
    path = file_of("panels")
    assert path.stat().st_size > 3 * OWN_LIMIT
    before, opened, evaluated = probe(path)
    # Opening reads the header, the trailer and the norms, not the weights. The system maps whole pages around what is read, and where
    # it keeps the file in pages of 2 MiB, those.
    looked_at = 2 + 2 * SHAPE["n_layers"] + 1
    assert opened["rss"] - before["rss"] < SLACK + looked_at * HUGE_PAGE < path.stat().st_size / 4
    assert opened["anonymous"] - before["anonymous"] < SLACK
    assert evaluated["anonymous"] - before["anonymous"] < OWN_LIMIT + KV_BYTES
    assert evaluated["mapped"]["Rss"] > 0.85 * path.stat().st_size  # it was all used, and where it lies
    assert evaluated["mapped"]["Private_Dirty"] == 0
    assert evaluated["mapped"]["huge"] == os.path.exists("/sys/kernel/mm/transparent_hugepage")


def test_two_processes_share_a_mapped_file(file_of: Callable[[str], Path]) -> None:
    path = file_of("panels")
    processes = [subprocess.Popen([*PROBED, path, str(N_CTX), str(PROMPT), "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                 for _ in range(2)]
    for process in processes:
        assert [process.stdout.readline() for _ in range(3)][-1] == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
        mapped = json.loads(process.stdout.readline())["mapped"]
        assert mapped["Rss"] > 0.85 * path.stat().st_size
        if process is processes[0]:        # the other one is still there: half of every page is its own
            assert mapped["Pss"] < 0.6 * mapped["Rss"]
    for process in processes:
        process.stdin.close()
        process.stdout.close()
        assert process.wait(timeout=60) == 0


@pytest.mark.parametrize("form", ["rows", "gguf"])
def test_other_files_are_held_once(file_of: Callable[[str], Path], form: str) -> None:
    """Packed at load; the source's pages go as they are read, so that even the peak is one copy."""
    path = file_of(form)
    size = path.stat().st_size
    before, opened, evaluated = probe(path)
    assert 0.9 * size < opened["anonymous"] - before["anonymous"] < 1.05 * size + SLACK
    assert opened["peak"] - before["rss"] < 1.1 * size + OWN_LIMIT
    assert opened["rss"] - before["rss"] < 1.05 * size + SLACK
    assert evaluated["anonymous"] - before["anonymous"] < 1.05 * size + OWN_LIMIT + KV_BYTES


# ---- threads in each other's way ----

# Seconds that a prompt and generated tokens take, best of three, with so many threads.
TIMER = """
import sys, time
import pyllama

with pyllama.Model(sys.argv[1], n_threads=int(sys.argv[2])) as model, model.session(n_ctx=256) as session:
    best = 1e9
    for _ in range(3):
        session.truncate(0)
        start = time.perf_counter()
        session.eval([1 + i % 300 for i in range(64)])
        for i in range(30):
            session.eval([1 + i])
        best = min(best, time.perf_counter() - start)
print(best)
"""
BUSY = "while True: pass"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small enough that barriers, not products, decide: the worst case for threads that wait for each other."""
    folder = tmp_path_factory.mktemp("threads")
    models.make_hf_model_numpy(folder / "hf", dim=256, hidden_dim=704, n_layers=8, n_heads=8, n_kv_heads=4, vocab_size=2000)
    converter.convert(folder / "hf", folder / "model.bin", format="ak42-v3")
    return folder / "model.bin"


def seconds(path: Path, n_threads: int) -> float:
    done = subprocess.run([sys.executable, "-c", TIMER, path, str(n_threads)], capture_output=True, text=True, timeout=300, check=True)
    return float(done.stdout)


def test_too_many_threads_are_slower_but_do_not_collapse(small: Path) -> None:
    """Four threads for every CPU. A pool that spins at its barriers here loses a time slice (several ms) at each of the forty a
    token: some hundred times slower. Sleeping ones cost a wake-up each, tens of microseconds. The limit of 15 (and 0.2 s) lies
    between, with room for a machine that does something else too."""
    n_cpus = len(os.sched_getaffinity(0))
    assert seconds(small, 4 * n_cpus) < 15 * seconds(small, n_cpus) + 0.2


def test_a_busy_neighbour_slows_down_but_does_not_stop(small: Path) -> None:
    """A process on every CPU that never sleeps takes half of the time: 2 times as slow. Where one of our threads waits for its turn,
    the others sleep at the barrier and their processors go to the neighbours, so that slices of some ms are lost now and then; the
    limit of 10 (and half a second) is a hundred of them. Losing one at each of the 1,200 barriers would be 200 times."""
    n_cpus = len(os.sched_getaffinity(0))
    alone = seconds(small, n_cpus)
    neighbours = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(n_cpus)]
    try:
        shared = seconds(small, n_cpus)
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()
    assert shared < 10 * alone + 0.5, (alone, shared)

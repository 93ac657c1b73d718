"""The fixture that the tests of the sources share; a test module names this one in `pytest_plugins`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from converter.sources import Source, open_source


@pytest.fixture
def opened() -> Iterator[Callable[..., Source]]:
    """opened(path, tokenizer=None): a source that is closed at the test's end."""
    sources: list[Source] = []

    def get(path: Path, tokenizer: Path | None = None) -> Source:
        sources.append(open_source(path, tokenizer))
        return sources[-1]

    yield get
    for source in sources:
        source.close()

"""The steps that a tokenizer takes before its merges, as TOKN carries them (docs/tokenizer.md), and GPT-2's byte alphabet.

Only numbers, one small class and two tables; reading and writing the files that steps come from is the business of the other
tokenizer modules. The numbers stand in files: none ever changes its meaning.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

PREPEND, REPLACE, STRIP, NFC = 1, 2, 3, 4
ADDED = 8
SPLIT, DIGITS, PUNCTUATION, BYTE_LEVEL = 16, 17, 18, 19
SPACES = 32
OPS = (PREPEND, REPLACE, STRIP, NFC, ADDED, SPLIT, DIGITS, PUNCTUATION, BYTE_LEVEL, SPACES)

PREPEND_UNLESS_THERE, PREPEND_FIRST = 1, 2
REPLACE_REGEX = 1
STRIP_LEFT, STRIP_RIGHT, STRIP_SPACES, STRIP_MARKS = 1, 2, 4, 8
SPLIT_INVERT, SPLIT_LITERAL = 8, 16
DIGITS_SINGLE = 1
SPACES_FIRST = 1
BEHAVIOURS = ("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous")
BEHAVIOUR_MASK = 7

STEPS_MAX = 64
STEP_BYTES_MAX = 65536

MARK = "\u2581"              # what SentencePiece writes for a space
PATTERN_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class Step:
    op: int
    flags: int = 0
    data: bytes = b""


def prepend(text: str, flags: int = 0) -> Step:
    return Step(PREPEND, flags, text.encode())


def replace(pattern: str, replacement: str, regex: bool = False) -> Step:
    source = pattern.encode()
    return Step(REPLACE, REPLACE_REGEX if regex else 0, struct.pack("<I", len(source)) + source + replacement.encode())


def replace_parts(step: Step) -> tuple[str, str]:
    """The pattern and the replacement of a REPLACE step."""
    size = struct.unpack_from("<I", step.data)[0]
    return step.data[4:4 + size].decode(), step.data[4 + size:].decode()


def split(pattern: str, behaviour: str = "Isolated", invert: bool = False, literal: bool = False) -> Step:
    flags = BEHAVIOURS.index(behaviour) | (SPLIT_INVERT if invert else 0) | (SPLIT_LITERAL if literal else 0)
    return Step(SPLIT, flags, pattern.encode())


def digits(single: bool) -> Step:
    return Step(DIGITS, DIGITS_SINGLE if single else 0)


def punctuation(behaviour: str) -> Step:
    return Step(PUNCTUATION, BEHAVIOURS.index(behaviour))


def spaces(mark: str = MARK, first: bool = False) -> Step:
    return Step(SPACES, SPACES_FIRST if first else 0, mark.encode())


SPLIT_GPT2 = split(PATTERN_GPT2)
ADDED_STEP, BYTE_LEVEL_STEP = Step(ADDED), Step(BYTE_LEVEL)


def spm_steps(dummy_prefix: bool = True, collapse: bool = False) -> tuple[Step, ...]:
    """SentencePiece's own order: spaces in front and double ones go, a space is put in front, every space becomes the mark, and
    all marks at the end go, whether they were spaces or not."""
    steps = [Step(STRIP, STRIP_LEFT | STRIP_SPACES), replace(" {2,}", " ", regex=True)] if collapse else []
    if dummy_prefix:
        steps.append(prepend(MARK))
    steps.append(replace(" ", MARK))
    if collapse:
        steps.append(Step(STRIP, STRIP_RIGHT | STRIP_MARKS))
    return (*steps, ADDED_STEP, spaces())


# ---- GPT-2's alphabet: printable Latin-1 stands for itself, the other 68 bytes for the code points from 256 on ----

_DIRECT = [*range(33, 127), *range(161, 173), *range(174, 256)]
_REST = [byte for byte in range(256) if byte not in _DIRECT]
LETTERS = "".join(chr(byte) if byte in _DIRECT else chr(256 + _REST.index(byte)) for byte in range(256))
_BYTES = {letter: byte for byte, letter in enumerate(LETTERS)}


def to_letters(data: bytes) -> str:
    return "".join([LETTERS[byte] for byte in data])


def from_letters(text: str) -> bytes | None:
    """The bytes behind a text in the alphabet; None where it has any other letter."""
    try:
        return bytes([_BYTES[letter] for letter in text])
    except KeyError:
        return None

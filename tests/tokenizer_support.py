"""What the tokenizer tests share: the C tokenizer behind two plain methods, and the generated strings.

The C side is reached through the public functions of ak42.h alone. Imported by test_tokenizer*.py; holds no test.
"""
from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from pyllama._native import ffi, lib

OK, ARG, FORMAT, UNSUPPORTED, RANGE = 0, 10, 20, 21, 40


class TokenizerError(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Tokenizer:
    """From a TOKN section (bytes) or a file (path)."""

    def __init__(self, source: bytes | str | Path) -> None:
        out, error = ffi.new("ak42_tokenizer **"), ffi.new("ak42_error *")
        data = source if isinstance(source, bytes) else None
        path = ffi.NULL if data is not None else str(source).encode()
        status = lib.ak42_tokenizer_open(out, path, ffi.NULL if data is None else data, 0 if data is None else len(data), error)
        if status != OK:
            assert out[0] == ffi.NULL
            raise TokenizerError(int(status), ffi.string(error.text).decode("ascii"))
        self._handle = ffi.gc(out[0], lib.ak42_tokenizer_close)

    def encode(self, text: str | bytes, special: bool = False, bos: bool | None = False, follows: bool = False) -> list[int]:
        """bos None: the tokenizer's own rule."""
        data = text.encode() if isinstance(text, str) else text
        flags = (lib.AK42_ENCODE_SPECIAL if special else 0) | (lib.AK42_ENCODE_CONTINUE if follows else 0)
        flags |= {None: 0, False: lib.AK42_ENCODE_NO_BOS, True: lib.AK42_ENCODE_BOS}[bos]
        count, error, room = ffi.new("size_t *"), ffi.new("ak42_error *"), len(data) + 4
        while True:
            ids = ffi.new("int32_t[]", room)
            status = lib.ak42_encode(self._handle, data, len(data), flags, ids, room, count, error)
            if status == RANGE and count[0] > room:
                room = count[0]
                continue
            if status != OK:
                raise TokenizerError(int(status), ffi.string(error.text).decode("ascii"))
            return ffi.unpack(ids, count[0]) if count[0] else []

    def decode(self, ids: Sequence[int], skip_special: bool = False, follows: bool = False) -> bytes:
        flags = (lib.AK42_DECODE_SKIP_SPECIAL if skip_special else 0) | (lib.AK42_DECODE_CONTINUE if follows else 0)
        size, error = ffi.new("size_t *"), ffi.new("ak42_error *")
        array = ffi.new("int32_t[]", list(ids))
        status = lib.ak42_decode(self._handle, array, len(ids), flags, ffi.NULL, 0, size, error)
        if status not in (OK, RANGE):
            raise TokenizerError(int(status), ffi.string(error.text).decode("ascii"))
        text = ffi.new("char[]", size[0] + 1)
        status = lib.ak42_decode(self._handle, array, len(ids), flags, text, size[0], size, error)
        assert status == OK, ffi.string(error.text)
        return bytes(ffi.buffer(text, size[0]))


# ---- texts ----

WORDS = ("the of and to in that was it for on with as his they be at one have this from by hot word but what some is you or had "
         "can't I'll we've you're it's don't he'd I'm WON'T IT'S naïve façade straße Ærøskøbing tokenizer 2024 3.14159 1,000,000 "
         "0x1F x86_64 foo_bar camelCase HTTPServer __init__ e.g. U.S.A. hello, world! (yes) [no] {maybe} <tag> </tag> a+b=c C++ "
         "http://example.com/a?b=c&d=e user@host.org #hashtag @mention $9.99 50% ~/path C:\\dir 'quoted' \"double\"").split()
CODE = ("def f(x):\n    return x ** 2\n", "for (int i = 0; i < n; i++) {\n\ta[i] += b[i];\n}\n", "SELECT * FROM t WHERE a='b';",
        "if x != y and not z:\n        pass\n", "\t\tprintf(\"%d\\n\", x);\r\n", "<div class=\"a\">\n  <p>é</p>\n</div>", "x -> y => z :: w",
        "/* comment */ // more\n", "{\"key\": [1, 2.5, null, true]}", "    \n\n\t \n", "a\n\n\nb", "\n \n  \n   x", "===------***")
OTHER = ("日本語のテキスト", "你好，世界！", "안녕하세요 세계", "Привет, мир", "مرحبا بالعالم", "שלום עולם", "नमस्ते दुनिया", "สวัสดีชาวโลก",
         "Γειά σου Κόσμε", "ᚠᛇᚻ᛫ᛒᛦᚦ", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "𐐷𐐷𐐷", "ÀÉÎÕÜ àéîõü", "e\u0301a\u0300o\u0302", "x²+y³=½", "Ⅷ Ⅻ ⅔ ① ⓐ", "٣٤٥ १२३ ๑๒", "ſtraſſe K Å",
         "ﬁﬂﬀ", "İıǅǆ", "a\u200db\u200cc", "\u2028\u2029\u0085", "\u00a0\u3000\u2003x", "\ufeffBOM", "…—–‘’“”", "￼�", "\U000e0001\U0010ffff")
EMOJI = ("😀", "🦙", "👩‍👩‍👧‍👦", "🇩🇪", "👍🏽", "❤️", "🏳️‍🌈", "1️⃣", "☃", "🧑🏻‍🚀", "🀄", "⌚️")
SPACES = (" ", "  ", "   ", "    ", "\t", "\n", "\n\n", "\r\n", " \n", "\n ", "\t \t", "\u00a0", "\u3000", "\v\f", " " * 17, "\n" * 9)


def generated(count: int, seed: int, special: Sequence[str] = ()) -> Iterator[str]:
    """Strings of every kind; the same seed gives the same ones."""
    rng = random.Random(seed)
    kinds = [WORDS, WORDS, WORDS, CODE, OTHER, EMOJI, SPACES, SPACES, tuple(special) or WORDS]
    yield ""
    for _ in range(count - 1):
        parts: list[str] = []
        for _ in range(rng.choice((1, 2, 3, 5, 8, 13, 30))):
            chance = rng.random()
            if chance < 0.70:
                parts.append(rng.choice(rng.choice(kinds)))
                if rng.random() < 0.6:
                    parts.append(" ")
            elif chance < 0.78:
                parts.append("".join(chr(rng.randint(32, 126)) for _ in range(rng.randint(1, 12))))
            elif chance < 0.84:
                parts.append("".join(_any_character(rng) for _ in range(rng.randint(1, 6))))
            elif chance < 0.90:
                parts.append(rng.choice("aAzé1 .\n-▁'") * rng.randint(2, 40))
            elif chance < 0.95:
                parts.append(str(rng.randint(0, 10 ** rng.randint(1, 18))))
            elif special:
                token = rng.choice(special)
                parts.append(rng.choice((token[:-1], token[1:], token + token, " " + token + " ", token + "x", "x" + token, "\n" + token)))
        yield "".join(parts)


def _any_character(rng: random.Random) -> str:
    """Any scalar value that Unicode 14 knows well or not at all; the Digits of newer versions are not asked for."""
    while True:
        code = rng.choice((rng.randint(0, 0x24F), rng.randint(0, 0xFFFF), rng.randint(0, 0x1FFFF), rng.randint(0, 0x10FFFF)))
        if not 0xD800 <= code <= 0xDFFF and not 0x11DE0 <= code <= 0x11DE9 and not 0x16FF4 <= code <= 0x16FF6:
            return chr(code)

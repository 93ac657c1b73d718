"""Says at conversion whether the runtime's regular expressions can run a pattern (docs/tokenizer.md has the subset).

It only checks; nothing is matched here. runtime_c/core/regex_compile.c is the other reader of the same grammar and is stricter in
nothing; test_tokenizer_regex.py holds the two together.
"""

from __future__ import annotations

from .errors import FormatError, UnsupportedError, escape

PATTERN_MAX = 65536
NESTING_MAX = 32
SIZE_MAX = 2048

_CATEGORIES = set("C L M N P S Z Cn Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co Cs".split())
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v"}
_LIGATURES = {"ff", "fi", "fl", "ss", "st"}          # pairs of letters that some single character folds to


def check_pattern(pattern: str, where: str) -> None:
    """UnsupportedError naming the construct that is beyond the subset, FormatError for a pattern that is wrong."""
    size = len(pattern.encode())
    if not 1 <= size <= PATTERN_MAX:
        raise FormatError(f"{where}: regular expression: expected 1 to {PATTERN_MAX} bytes, found {size}")
    parser = _Parser(pattern, where)
    node = parser.choice()
    if parser.at < len(pattern):
        raise parser.wrong(") without (")
    if node.nullable:
        raise parser.refuse("a pattern that matches the empty text")
    if node.size + 1 > SIZE_MAX or parser.items > SIZE_MAX or node.repeats > SIZE_MAX:
        raise parser.refuse("a pattern of this size")


class _Node:
    """What one construct is: enough to judge what may be done with it."""

    def __init__(self, kind: str = "other", nullable: bool = False, size: int = 1, repeats: int = 0) -> None:
        self.kind, self.nullable, self.size, self.repeats = kind, nullable, size, repeats


class _Parser:
    def __init__(self, pattern: str, where: str) -> None:
        self.pattern, self.where = pattern, where
        self.at = self.depth = self.items = 0
        self.fold = False
        self.letter = ""          # the literal just read under (?i:

    def refuse(self, what: str) -> UnsupportedError:
        shown = escape(self.pattern[self.at:self.at + 12])
        return UnsupportedError(f"{self.where}: regular expression: {what} at character {self.at} is not supported: {shown}")

    def wrong(self, what: str) -> FormatError:
        return FormatError(f"{self.where}: regular expression: {what} at character {self.at} of {len(self.pattern)}")

    def peek(self, text: str) -> bool:
        return self.pattern.startswith(text, self.at)

    def done(self) -> bool:
        return self.at >= len(self.pattern)

    # -- characters --

    def add(self, low: str, high: str) -> None:
        if self.fold and ord(high) >= 128:
            raise self.refuse("a letter beyond ASCII inside (?i:")
        self.items += 1

    def escape(self) -> str | None:
        """After a backslash: the character that is meant, or None for a class of characters."""
        if self.done():
            raise self.wrong("backslash at the end")
        letter = self.pattern[self.at]
        if letter in _CONTROLS:
            self.at += 1
            return _CONTROLS[letter]
        if letter == "u":
            self.at += 1
            digits = self.pattern[self.at:self.at + 4]
            if len(digits) < 4 or not set(digits) <= set("0123456789abcdefABCDEF"):
                raise self.wrong("four hexadecimal digits expected")
            if 0xD800 <= int(digits, 16) <= 0xDFFF:
                raise self.wrong("surrogate")
            self.at += 4
            return chr(int(digits, 16))
        if self.fold and letter in "SwWD":
            raise self.refuse("this class inside (?i:")          # it has letters that fold to two
        if letter in "sSwWdD":
            self.at += 1
            self.items += 1
            return None
        if letter in "pP":
            self.property()
            return None
        if letter.isascii() and not letter.isalnum():
            self.at += 1
            return letter
        raise self.refuse("this escape")

    def property(self) -> None:
        if self.fold:
            raise self.refuse("\\p inside (?i:")
        if self.pattern[self.at + 1:self.at + 2] != "{":
            raise self.refuse("\\p without braces")
        close = self.pattern.find("}", self.at)
        if close < 0:
            raise self.wrong("\\p{ without }")
        if self.pattern[self.at + 2:close].removeprefix("^") not in _CATEGORIES:
            raise self.refuse("this property (only general categories are known)")
        self.items += 1
        self.at = close + 1

    def bracket(self) -> None:
        """A class; its bracket is behind us."""
        if self.peek("^"):
            self.at += 1
        empty = True
        while True:
            if self.done():
                raise self.wrong("[ without ]")
            if self.peek("]"):
                if empty:
                    raise self.refuse("an empty class")
                self.at += 1
                return
            empty = False
            if self.peek("["):
                raise self.refuse("a class within a class")
            if self.peek("&&"):
                raise self.refuse("an intersection of classes")
            low = self.bracket_char()
            ranged = self.peek("-") and self.at + 1 < len(self.pattern) and self.pattern[self.at + 1] != "]"
            if low is None:
                if ranged:
                    raise self.refuse("a range from a class")
                continue
            high = low
            if ranged:
                self.at += 1
                if self.peek("["):
                    raise self.refuse("a class within a class")
                if self.peek("&&"):              # the "-" is then the character itself
                    raise self.refuse("an intersection of classes")
                found = self.bracket_char()
                if found is None:
                    raise self.refuse("a range to a class")
                high = found
                if high < low:
                    raise self.wrong("a range that runs backwards")
            self.add(low, high)

    def bracket_char(self) -> str | None:
        letter = self.pattern[self.at]
        self.at += 1
        return self.escape() if letter == "\\" else letter

    def literal(self, letter: str) -> _Node:
        if self.fold:
            if (self.letter + letter).lower() in _LIGATURES:
                raise self.refuse("a pair of letters inside (?i: that a ligature folds to")
            self.letter = letter
        self.add(letter, letter)
        return _Node("class")

    # -- groups, repeats, sequences, alternatives --

    def group(self) -> _Node:
        fold = self.fold
        self.depth += 1
        if self.depth > NESTING_MAX:
            raise self.refuse("nesting this deep")
        look = self.peek("?=") or self.peek("?!")
        if look or self.peek("?:"):
            self.at += 2
        elif self.peek("?i:"):
            self.at += 3
            self.fold = True
        elif self.peek("?"):
            raise self.refuse("this kind of group")
        node = self.choice()
        if look:
            if node.kind != "class":
                raise self.refuse("a look-ahead of more than one class before this")
            node = _Node("look", nullable=True)
        if self.done():
            raise self.wrong("( without )")
        self.at += 1
        if node.kind == "repeat":         # a group, which may be repeated in its turn
            node.kind = "other"
        self.fold, self.letter = fold, ""
        self.depth -= 1
        return node

    def atom(self) -> _Node:
        letter = self.pattern[self.at]
        if letter != "\\" and not (letter.isascii() and letter.isalpha()):
            self.letter = ""
        if letter == "^":
            raise self.refuse("the beginning of a line")
        if letter in "*+?":
            raise self.wrong("nothing to repeat")
        if letter == "{":
            raise self.refuse("a brace that is no quantifier")
        self.at += 1
        if letter == "(":
            return self.group()
        if letter == "[":
            self.bracket()
            return _Node("class")
        if letter == ".":
            self.items += 1
            return _Node("class")
        if letter == "$":
            return _Node("look", nullable=True)
        if letter == "\\":
            found = self.escape()
            if found is not None:
                return self.literal(found)
            self.letter = ""
            return _Node("class")
        return self.literal(letter)

    def counts(self) -> tuple[int, int | None]:
        """{m}, {m,}, {,n} or {m,n}; the brace is next."""
        close = self.pattern.find("}", self.at)
        parts = self.pattern[self.at + 1:close].split(",") if close > 0 else []
        digits = all(set(part) <= set("0123456789") and len(part) < 6 for part in parts)
        if not digits or not 1 <= len(parts) <= 2 or not any(parts):
            raise self.refuse("a brace that is no quantifier")
        self.at = close + 1
        low = int(parts[0] or "0")
        high = low if len(parts) == 1 else int(parts[1]) if parts[1] else None
        if high is not None and high < low:
            raise self.wrong("a quantifier that runs backwards")
        return low, high

    def repeat(self) -> _Node:
        node = self.atom()
        while not self.done() and self.pattern[self.at] in "*+?{":
            if node.kind == "repeat":
                raise self.refuse("a quantifier of a quantifier")
            if node.kind == "look":
                raise self.refuse("a repeated assertion")
            mark = self.pattern[self.at]
            if mark == "{":
                low, high = self.counts()
            else:
                self.at += 1
                low, high = int(mark == "+"), 1 if mark == "?" else None
            if self.peek("?"):
                raise self.refuse("a lazy quantifier")
            if self.peek("+"):
                if mark == "{":
                    raise self.refuse("+ after braces")
                if node.kind != "class":
                    raise self.refuse("a possessive quantifier of a group")
                self.at += 1
            if node.nullable and (high is None or high > 1):
                raise self.refuse("repeating a group that can be empty, before this")
            node = self.repeated(node, low, high)
            self.letter = ""
        return node

    def repeated(self, node: _Node, low: int, high: int | None) -> _Node:
        nullable = low == 0 or node.nullable
        if node.kind == "class":
            return _Node("repeat", nullable, 1, low if high is None else high)
        copies = low + 1 if high is None else high
        extra = 2 if high is None else high - low          # the splits and the jump
        return _Node("repeat", nullable, node.size * copies + extra, node.repeats * copies)

    def sequence(self) -> _Node:
        self.letter = ""
        nodes = []
        while not self.done() and not self.peek("|") and not self.peek(")"):
            nodes.append(self.repeat())
        if len(nodes) == 1:
            return nodes[0]
        nullable = all(node.nullable for node in nodes)
        return _Node("other", nullable, sum(node.size for node in nodes), sum(node.repeats for node in nodes))

    def choice(self) -> _Node:
        nodes = [self.sequence()]
        while self.peek("|"):
            self.at += 1
            nodes.append(self.sequence())
        if len(nodes) == 1:
            return nodes[0]
        size = sum(node.size for node in nodes) + 2 * (len(nodes) - 1)
        return _Node("other", any(node.nullable for node in nodes), size, sum(node.repeats for node in nodes))

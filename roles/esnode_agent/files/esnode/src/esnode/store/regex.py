# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Regular expressions in RE2's syntax, matched against a whole text in time linear in its length.

Expressions come from whoever may ask. Python's own engine tries alternatives one after the other, which takes for ever
on `(a+)+b`, and holds up every other thread meanwhile. This one follows all alternatives at once and remembers the sets
of them that it has met (a lazily built automaton), so that a usual expression costs a look-up a character.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_LENGTH = 8192
_MAX_NODES = 4000  # an expression with counted repetitions grows
_MAX_DEPTH = 100
_MAX_SETS = 2000
_MAX_COUNT = 1000
_LAST = 0x10FFFF

Ranges = tuple[tuple[int, int], ...]

_DIGIT: Ranges = ((48, 57),)
_WORD: Ranges = ((48, 57), (65, 90), (95, 95), (97, 122))
_SPACE: Ranges = ((9, 10), (12, 13), (32, 32))
_CLASSES = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
_CONTROL = {"a": 7, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11}
_POSIX: dict[str, Ranges] = {
    "alnum": ((48, 57), (65, 90), (97, 122)),
    "alpha": ((65, 90), (97, 122)),
    "digit": _DIGIT,
    "lower": ((97, 122),),
    "punct": ((33, 47), (58, 64), (91, 96), (123, 126)),
    "space": ((9, 13), (32, 32)),
    "upper": ((65, 90),),
    "word": _WORD,
    "xdigit": ((48, 57), (65, 70), (97, 102)),
}


class RegexError(ValueError):
    """The expression is not valid or uses what is not understood; the text says where."""


@dataclass(slots=True)
class _Node:
    """A step of the automaton: eats one character of `ranges`, or goes on to `out` without (`ranges` None).

    `only`: "^" or "$" where it may only be passed at the beginning or the end of the text.
    """

    ranges: Ranges | None
    out: list[int]
    only: str = ""


@dataclass(frozen=True, slots=True)
class _Flags:
    fold: bool = False
    dot_all: bool = True  # as Prometheus has it


# A part of the syntax tree: ("set", ranges), ("only", "^"), ("all", parts), ("any", parts), ("repeat", part, min, max)
_Part = tuple[object, ...]


class Regex:
    """`Regex("gpu-[0-7]").fullmatch(text)`. RegexError when the expression is not valid. Usable from one thread."""

    def __init__(self, pattern: str) -> None:
        if len(pattern) > MAX_LENGTH:
            raise RegexError(f"it is longer than {MAX_LENGTH} characters")
        self._nodes: list[_Node] = []
        tree = _Parser(pattern).whole()
        self._end = self._node(None, [])
        first = self._build(tree, self._end)
        self._start = self._closure({first}, "^")
        self._known: dict[frozenset[int], dict[str, frozenset[int]]] = {}
        self._accepting: dict[frozenset[int], bool] = {}

    def fullmatch(self, text: str) -> bool:
        """Whether the whole text matches."""
        if not text:
            return self._end in self._closure(set(self._start), "^$")
        at = self._start
        steps = self._known.setdefault(at, {})
        for character in text:
            following = steps.get(character)
            if following is None:
                following = self._step(at, character)
                if len(self._known) > _MAX_SETS or len(steps) > _MAX_SETS:
                    self._known.clear()
                    self._accepting.clear()
                    steps = {}
                steps[character] = following
            at = following
            if not at:
                return False
            steps = self._known.setdefault(at, {})
        accepts = self._accepting.get(at)
        if accepts is None:
            accepts = self._accepting[at] = self._end in self._closure(set(at), "$")
        return accepts

    def _step(self, at: frozenset[int], character: str) -> frozenset[int]:
        code = ord(character)
        reached: set[int] = set()
        for number in at:
            node = self._nodes[number]
            if node.ranges is not None and any(low <= code <= high for low, high in node.ranges):
                reached.update(node.out)
        return self._closure(reached, "")

    def _closure(self, reached: set[int], where: str) -> frozenset[int]:
        """All nodes that can be reached without a character; those that wait for another place stay as they are."""
        todo = list(reached)
        while todo:
            node = self._nodes[todo.pop()]
            if node.ranges is None and (not node.only or node.only in where):
                for number in node.out:
                    if number not in reached:
                        reached.add(number)
                        todo.append(number)
        return frozenset(reached)

    def _node(self, ranges: Ranges | None, out: list[int], only: str = "") -> int:
        if len(self._nodes) >= _MAX_NODES:
            raise RegexError("it is too large: use smaller counts in {}")
        self._nodes.append(_Node(ranges, out, only))
        return len(self._nodes) - 1

    def _build(self, part: _Part, following: int) -> int:
        """Nodes for a part that goes on to the node `following`; the first of them."""
        kind = part[0]
        if kind == "set":
            return self._node(part[1], [following])  # type: ignore[arg-type]
        if kind == "only":
            return self._node(None, [following], str(part[1]))
        if kind == "all":
            for one in reversed(part[1]):  # type: ignore[call-overload]
                following = self._build(one, following)
            return following
        if kind == "any":
            return self._node(None, [self._build(one, following) for one in part[1]])  # type: ignore[attr-defined]
        _, inner, least, most = part
        if most is None:
            loop = self._node(None, [following])
            self._nodes[loop].out.append(self._build(inner, loop))  # type: ignore[arg-type]
            following = loop
        else:
            last = following
            for _unused in range(most - least):  # type: ignore[operator]
                following = self._node(None, [self._build(inner, following), last])  # type: ignore[arg-type]
        for _unused in range(least):  # type: ignore[call-overload]
            following = self._build(inner, following)  # type: ignore[arg-type]
        return following


class _Parser:
    def __init__(self, text: str) -> None:
        self._text, self._at, self._depth = text, 0, 0

    def _fail(self, what: str) -> RegexError:
        return RegexError(f"at character {self._at + 1}: {what}")

    def _peek(self) -> str:
        return self._text[self._at] if self._at < len(self._text) else ""

    def _take(self, what: str = "the end is missing something") -> str:
        if self._at >= len(self._text):
            raise self._fail(what)
        self._at += 1
        return self._text[self._at - 1]

    def whole(self) -> _Part:
        part = self._alternatives(_Flags())
        if self._at < len(self._text):
            raise self._fail("a ) without its (")
        return part

    def _alternatives(self, flags: _Flags) -> _Part:
        found: list[_Part] = []
        parts: list[_Part] = []
        while (character := self._peek()) and character != ")":
            if character == "|":
                self._at += 1
                found.append(("all", parts))
                parts = []
            elif self._text.startswith("(?", self._at) and (changed := self._inline_flags(flags)):
                flags = changed
            else:
                parts.append(self._repeated(flags))
        found.append(("all", parts))
        return found[0] if len(found) == 1 else ("any", found)

    def _inline_flags(self, flags: _Flags) -> _Flags | None:
        """The flags that `(?i)` leaves; None for a group."""
        end = self._text.find(")", self._at)
        inside = self._text[self._at + 2 : end]
        if end < 0 or not inside or not set(inside) <= set("imsU-"):
            return None
        self._at += 2
        changed = self._flags(flags, ")")
        self._at += 1
        return changed

    def _flags(self, flags: _Flags, ends: str) -> _Flags:
        """Read flags up to one of `ends`, which is left."""
        fold, dot_all, on = flags.fold, flags.dot_all, True
        while (letter := self._peek()) not in ends or not letter:
            if letter == "-" and on:
                on = False
            elif letter == "i":
                fold = on
            elif letter == "s":
                dot_all = on
            else:
                raise self._fail("(? must be followed by :, P<name>, or the flags i and s")
            self._at += 1
        return _Flags(fold, dot_all)

    def _repeated(self, flags: _Flags) -> _Part:
        if self._peek() in "*+?":
            raise self._fail(f"nothing to repeat before {self._peek()}")
        part, times = self._atom(flags), 0
        while True:
            character = self._peek()
            counts: tuple[int, int | None] | None
            if character and character in "*+?":
                self._at += 1
                counts = {"*": (0, None), "+": (1, None), "?": (0, 1)}[character]
            elif character == "{":
                counts = self._counts()
            else:
                counts = None
            if counts is None:
                return part
            if times:
                raise self._fail("a repetition of a repetition needs ( )")
            times += 1
            part = ("repeat", part, *counts)
            if self._peek() == "?":  # which of the ways matches is all the same here
                self._at += 1

    def _counts(self) -> tuple[int, int | None] | None:
        """What {2}, {2,} or {2,5} says; None, with the brace left to be read as itself, for anything else."""
        end = self._text.find("}", self._at)
        least, comma, most = self._text[self._at + 1 : end].partition(",") if end > 0 else ("", "", "")
        if not (least.isascii() and least.isdigit()) or (most and not (most.isascii() and most.isdigit())):
            return None
        low = int(least)
        high = low if not comma else int(most) if most else None
        if low > _MAX_COUNT or (high is not None and (high > _MAX_COUNT or high < low)):
            raise self._fail(f"counts are at most {_MAX_COUNT}, the smaller one first")
        self._at = end + 1
        return low, high

    def _atom(self, flags: _Flags) -> _Part:
        character = self._take()
        if character == "(":
            return self._group(flags)
        if character == ".":
            return ("set", ((0, _LAST),) if flags.dot_all else ((0, 9), (11, _LAST)))
        if character in "^$":
            return ("only", character)
        if character == "[":
            return ("set", self._class(flags))
        if character == "\\":
            if self._peek() in ("A", "z"):
                return ("only", "^" if self._take() == "A" else "$")
            return ("set", _folded(self._escape(), flags))
        return ("set", _folded(((ord(character), ord(character)),), flags))

    def _group(self, flags: _Flags) -> _Part:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._fail(f"groups are nested more than {_MAX_DEPTH} deep")
        if self._peek() == "?":
            self._at += 1
            named = next((sign for sign in ("P<", "<") if self._text.startswith(sign, self._at)), None)
            if named:
                end = self._text.find(">", self._at)
                if end < 0 or not self._text[self._at + len(named) : end].isidentifier():
                    raise self._fail("looking ahead or behind is not known, and a name is letters, digits and _")
                self._at = end + 1
            else:
                flags = self._flags(flags, ":")
                self._at += 1
        part = self._alternatives(flags)
        if self._peek() != ")":
            raise self._fail("a ) is missing")
        self._at += 1
        self._depth -= 1
        return part

    def _escape(self) -> Ranges:
        character = self._take("nothing follows the \\")
        if character.lower() in _CLASSES:
            ranges = _CLASSES[character.lower()]
            return ranges if character.islower() else _inverted(ranges)
        if character in _CONTROL:
            code = _CONTROL[character]
        elif character == "x":
            digits = self._take()
            if digits == "{":
                end = self._text.find("}", self._at)
                digits = self._text[self._at : max(end, self._at)]
                self._at = end + 1
            else:
                digits += self._take()
            try:
                code = int(digits, 16)
            except ValueError:
                code = -1
            if not 0 <= code <= _LAST:
                raise self._fail(r"\x is followed by two hexadecimal digits, or any number of them in { }")
        elif character.isalnum() and character.isascii():
            raise self._fail(f"\\{character} is not known")
        else:
            code = ord(character)
        return ((code, code),)

    def _class(self, flags: _Flags) -> Ranges:
        negated = self._peek() == "^"
        self._at += negated
        ranges: list[tuple[int, int]] = []
        first = True
        while first or self._peek() != "]":
            first = False
            if self._text.startswith("[:", self._at):
                ranges += self._posix()
                continue
            low = self._class_member()
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", "") and _single(low):
                self._at += 1
                high = self._class_member()
                if not _single(high) or high[0][0] < low[0][0]:
                    raise self._fail("the range in [ ] has no end, or one before its beginning")
                low = ((low[0][0], high[0][0]),)
            ranges += low
        self._at += 1
        folded = _folded(tuple(ranges), flags)
        return _inverted(folded) if negated else folded

    def _class_member(self) -> Ranges:
        character = self._take("a ] is missing")
        return self._escape() if character == "\\" else ((ord(character), ord(character)),)

    def _posix(self) -> Ranges:
        end = self._text.find(":]", self._at)
        name = self._text[self._at + 2 : max(end, 0)]
        ranges = _POSIX.get(name.removeprefix("^"))
        if ranges is None:
            raise self._fail(f"[:{name[:20]}:] is not known")
        self._at = end + 2
        return _inverted(ranges) if name.startswith("^") else ranges


def _single(ranges: Ranges) -> bool:
    return len(ranges) == 1 and ranges[0][0] == ranges[0][1]


def _inverted(ranges: Ranges) -> Ranges:
    inverted, at = [], 0
    for low, high in sorted(ranges):
        if low > at:
            inverted.append((at, low - 1))
        at = max(at, high + 1)
    return (*inverted, (at, _LAST)) if at <= _LAST else tuple(inverted)


def _folded(ranges: Ranges, flags: _Flags) -> Ranges:
    """With the letters A to Z in both cases, if wanted."""
    if not flags.fold:
        return ranges
    more = []
    for low, high in ranges:
        for first, last, shift in ((65, 90, 32), (97, 122, -32)):
            if max(low, first) <= min(high, last):
                more.append((max(low, first) + shift, min(high, last) + shift))
    return (*ranges, *more)

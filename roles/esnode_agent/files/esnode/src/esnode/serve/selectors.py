# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prometheus' series selectors as matchers: `esnode_gpu_power_watts{gpu="0", uuid=~"GPU-.*"}`."""

from __future__ import annotations

import re

from esnode.store import BadMatcher, Matcher
from esnode.store.matching import NAME, Selector

_METRIC = re.compile(r"[A-Za-z_:][A-Za-z0-9_:]*")
_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR = re.compile(r"=~|!~|!=|=")
_SPACE = re.compile(r"[ \t\r\n]*")
_SIMPLE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", "'": "'", '"': '"'}
_DIGITS = {"x": 2, "u": 4, "U": 8}


class SelectorError(ValueError):
    """The text is no selector; says where."""


def parse(text: str) -> tuple[Matcher, ...]:
    """Read one selector. SelectorError when it is none, or when an expression in it is not valid."""
    return _Parser(text).selector()


def selects_something(matchers: tuple[Matcher, ...]) -> bool:
    """Whether some matcher does not match an empty value, as Prometheus asks of a selector."""
    for one in matchers:
        test = Selector([Matcher(NAME, one.op, one.value)])
        if not test.name(""):
            return True
    return False


class _Parser:
    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0

    def _fail(self, what: str, at: int | None = None) -> SelectorError:
        at = self._at if at is None else at
        found = self._text[at : at + 20]
        return SelectorError(f"at character {at + 1}: {what}, found {found!r}" if found else f"at its end: {what}")

    def _skip(self) -> None:
        self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            return ""
        self._at = match.end()
        return match.group()

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def selector(self) -> tuple[Matcher, ...]:
        self._skip()
        matchers: list[Matcher] = []
        if name := self._take(_METRIC):
            matchers.append(Matcher(NAME, "=", name))
            self._skip()
        if self._next() == "{":
            self._at += 1
            self._braces(matchers, bool(name))
            self._skip()
        elif not name:
            raise self._fail("a name or { was expected")
        if self._at < len(self._text):
            raise self._fail("the end of the selector was expected")
        return tuple(matchers)

    def _braces(self, matchers: list[Matcher], named: bool) -> None:
        self._skip()
        while self._next() != "}":
            at = self._at
            label = self._take(_LABEL)
            if not label:
                raise self._fail("a label's name or } was expected")
            if named and label == NAME:
                raise self._fail("the name is given before the { already", at)
            self._skip()
            operator = self._take(_OPERATOR)
            if not operator:
                raise self._fail("=, !=, =~ or !~ was expected")
            self._skip()
            at = self._at
            matcher = Matcher(label, operator, self._string())  # type: ignore[arg-type]
            try:
                Selector([matcher])
            except BadMatcher as error:
                raise self._fail(str(error), at) from error
            matchers.append(matcher)
            self._skip()
            if self._next() == ",":
                self._at += 1
                self._skip()
            elif self._next() != "}":
                raise self._fail(", or } was expected")
        self._at += 1

    def _string(self) -> str:
        quote, began = self._next(), self._at
        if not quote or quote not in "\"'`":
            raise self._fail("a value in quotes was expected")
        self._at += 1
        parts: list[str] = []
        while (character := self._next()) != quote:
            if not character or (character == "\n" and quote != "`"):
                raise self._fail("the quote that begins here is not closed", began)
            self._at += 1
            parts.append(self._escape() if character == "\\" and quote != "`" else character)
        self._at += 1
        return "".join(parts)

    def _escape(self) -> str:
        at = self._at - 1
        letter = self._next()
        self._at += 1
        if letter in _SIMPLE:
            return _SIMPLE[letter]
        if letter in _DIGITS:
            digits, base = self._text[self._at : self._at + _DIGITS[letter]], 16
            self._at += _DIGITS[letter]
            whole = len(digits) == _DIGITS[letter]
        else:
            digits, base = self._text[self._at - 1 : self._at + 2], 8
            self._at += 2
            whole = len(digits) == 3
        try:
            code = int(digits, base) if whole and digits.isalnum() else -1
        except ValueError:
            code = -1
        if not 0 <= code <= 0x10FFFF or 0xD800 <= code < 0xE000 or (base == 8 and code > 255):
            raise self._fail("an escape that is not known", at)
        return chr(code)

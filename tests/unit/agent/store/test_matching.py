# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Expressions of selectors are Prometheus' own, and none takes longer for being wicked."""

from __future__ import annotations

import pytest
from esnode.store.errors import BadMatcher
from esnode.store.matching import Selector
from esnode.store.model import Matcher


def matches(pattern: str, text: str, op: str = "=~") -> bool:
    return Selector([Matcher("__name__", op, pattern)]).name(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("op", ["=", "!=", "=~", "!~"])
def test_what_is_no_text_is_said(op: str) -> None:
    with pytest.raises(BadMatcher, match=r"label a is no UTF-8: 'x\\udcff'"):
        Selector([Matcher("a", op, "x\udcff")])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("eth.*|en.+", ["eth0", "eth", "eno1"], ["en", "lo", "veth0"]),
        ("(?i)nvidia.*", ["NVIDIA H100", "nVidia"], ["amd"]),
        ("a.b", ["a\nb", "a-b", "aéb"], ["ab"]),
        ("", [""], ["a"]),
        (r"[[:alpha:]]+\d", ["a1"], ["1a"]),
    ],
)
def test_an_expression_matches_the_whole_text(pattern: str, good: list[str], bad: list[str]) -> None:
    assert [text for text in good + bad if matches(pattern, text)] == good
    assert [text for text in good + bad if matches(pattern, text, "!~")] == bad


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(a", "missing"),
        ("[b-a]", "range"),
        ("(?=a)", "perl"),
        ("((a{1000}){1000})", "repetition"),
        ("a" * 9000, "8192"),
    ],
)
def test_what_is_wrong_is_said(pattern: str, words: str) -> None:
    with pytest.raises(BadMatcher, match=f"(?i)label __name__ is .*{words}"):
        matches(pattern, "a")


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|a)*b", "(a*)*b", "(.*)*(.*)*(.*)*b", "(a?){200}a{200}b"])
def test_wicked_expressions_end(pattern: str) -> None:
    """Each of these would keep Python's engine busy for longer than the machine lasts."""
    assert not matches(pattern, "a" * 2000)
    assert matches(pattern, "a" * 300 + "b")

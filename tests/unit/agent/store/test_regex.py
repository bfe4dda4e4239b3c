# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Expressions mean what Python's engine says they mean, and none takes longer for being wicked."""

from __future__ import annotations

import re

import pytest
from esnode.store.regex import Regex, RegexError
from hypothesis import given, settings
from hypothesis import strategies as st

atoms = st.sampled_from(
    ["a", "b", "0", "-", ".", "[ab]", "[^a]", "[a-c0-9]", r"\d", r"\W", r"\.", "[]a]", "[a-]", "^", "$"]
)
patterns = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map("|".join),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,}", "{0,2}", "*?"])).map(
            lambda p: f"(?:{p[0]}){p[1]}"
        ),
        inner.map("({})".format),
    ),
    max_leaves=8,
)


@settings(max_examples=400)
@given(patterns, st.lists(st.text("ab0-.c\n", max_size=8), min_size=1, max_size=8))
def test_the_same_as_python_where_both_know_the_syntax(pattern: str, texts: list[str]) -> None:
    ours = Regex(pattern)
    # Python's $ also matches before a line feed at the end.
    theirs = re.compile(pattern.replace("$", r"\Z"), re.DOTALL | re.ASCII)
    for text in [*texts, ""]:
        assert ours.fullmatch(text) == (theirs.fullmatch(text) is not None), (pattern, text)


@pytest.mark.parametrize(
    ("pattern", "matches", "others"),
    [
        ("(?i)nvidia.*", ["NVIDIA H100", "nVidia"], ["amd"]),
        ("a(?i:b)c", ["abc", "aBc"], ["Abc", "abC"]),
        ("[[:alpha:]]+[[:^digit:]]", ["abc", "ab-"], ["a1", "1a"]),
        (r"\x41\x{1F600}\t", ["A\U0001f600\t"], ["A"]),
        ("(?P<name>x)|y", ["x", "y"], ["xy"]),
        ("(?-s).", ["a"], ["\n"]),
        ("a{,2}", ["a{,2}"], ["aa"]),
        ("", [""], ["a"]),
        ("eth.*|en.+", ["eth0", "eth", "eno1"], ["en", "lo"]),
        ("[^A-Z]", ["a", "é"], ["A"]),
    ],
)
def test_syntax(pattern: str, matches: list[str], others: list[str]) -> None:
    compiled = Regex(pattern)
    assert [text for text in matches + others if compiled.fullmatch(text)] == matches


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(a", "a \\) is missing"),
        ("a)", "character 2: a \\) without"),
        ("*a", "nothing to repeat"),
        ("a**", "needs \\( \\)"),
        ("[a", "a \\] is missing"),
        ("[b-a]", "range"),
        ("(?=a)", "must be followed by"),
        ("(?<=a)", "looking"),
        (r"(a)\1", r"\\1 is not known"),
        (r"\pL", r"\\p is not known"),
        ("a{2,1}", "the smaller one first"),
        ("a{2000}", "at most"),
        ("((a{1000}){1000}){1000}", "too large"),
        ("(" * 200 + ")" * 200, "nested"),
        ("a" * 9000, "longer than"),
        ("\\", "nothing follows"),
        ("[[:nope:]]", "is not known"),
        (r"\x{110000}", "hexadecimal"),
        ("(?", "must be followed by"),
        ("|*", "nothing to repeat"),
    ],
)
def test_what_is_wrong_is_said(pattern: str, words: str) -> None:
    with pytest.raises(RegexError, match=words):
        Regex(pattern)


@settings(max_examples=300)
@given(st.text("ab()[]{}|*+?^$\\.-:=<>P,0129ix", max_size=20), st.text("ab0", max_size=5))
def test_any_text_is_an_expression_or_refused(pattern: str, text: str) -> None:
    try:
        compiled = Regex(pattern)
    except RegexError:
        return
    assert compiled.fullmatch(text) in (True, False)


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|a)*b", "(a*)*b", "(.*)*(.*)*(.*)*b", "(a?){200}a{200}b"])
def test_wicked_expressions_end(pattern: str) -> None:
    """Each of these would keep Python's engine busy for longer than the machine lasts."""
    compiled = Regex(pattern)
    assert not compiled.fullmatch("a" * 2000)
    assert compiled.fullmatch("a" * 300 + "b")
    assert len(compiled._known) < 5000


def test_memory_of_what_was_met_is_bounded() -> None:
    compiled = Regex("[ab]*a[ab]{14}")
    number = 1
    for _ in range(3000):
        number = number * 1103515245 + 12345 & 0x7FFFFFFF
        text = f"{number:031b}".replace("0", "a").replace("1", "b")
        assert compiled.fullmatch(text) == (text[-15] == "a")
    assert len(compiled._known) <= 2001

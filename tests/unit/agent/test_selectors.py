# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Selectors are read as Prometheus reads them, and what is none is refused with its place."""

from __future__ import annotations

import contextlib
import json

import pytest
from esnode.serve.selectors import SelectorError, parse, selects_something
from esnode.store import Matcher
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "matchers"),
    [
        ("up", [("__name__", "=", "up")]),
        (" a:b_c ", [("__name__", "=", "a:b_c")]),
        ('up{a="1", b!="2"}', [("__name__", "=", "up"), ("a", "=", "1"), ("b", "!=", "2")]),
        ('{c=~"3|4",d!~"5",}', [("c", "=~", "3|4"), ("d", "!~", "5")]),
        ('{__name__=~"esnode_.*"}', [("__name__", "=~", "esnode_.*")]),
        ("{}", []),
        ("x{a='it\\'s',b=`c:\\d`}", [("__name__", "=", "x"), ("a", "=", "it's"), ("b", "=", "c:\\d")]),
        (r'{a="\x41\101\u00e9\U0001F600\n\"\\"}', [("a", "=", 'AA\u00e9\U0001f600\n"\\')]),
        ("x\n{\ta\n=\r'1'}", [("__name__", "=", "x"), ("a", "=", "1")]),
    ],
)  # fmt: skip
def test_selectors(text: str, matchers: list[tuple[str, str, str]]) -> None:
    assert [(one.label, one.op, one.value) for one in parse(text)] == matchers


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "at its end: a name or { was expected"),
        ("rate(x[5m])", "at character 5: the end of the selector was expected, found '\\(x\\[5m\\]\\)'"),
        ("x[5m]", "at character 2"),
        ("1+1", "at character 1: a name or {"),
        ("x{a}", "at character 4: =, !=, =~ or !~"),
        ("x{a=b}", "at character 5: a value in quotes"),
        ('x{a="b"', "at its end: , or }"),
        ('x{a="b', "at character 5: the quote that begins here"),
        ('x{a="b" c="d"}', "at character 9: , or }"),
        ("x{,}", "at character 3: a label's name"),
        ('x{1a="b"}', "at character 3"),
        ('x{__name__="y"}', "at character 3: the name is given"),
        ('x{a=~"(b"}', "at character 6: the regular expression of label a is not valid"),
        (r'x{a="\q"}', "at character 6: an escape"),
        (r'x{a="\uD800"}', "an escape"),
        (r'x{a="\777"}', "an escape"),
        ('x{a="b\n"}', "not closed"),
        ('x{a=="b"}', "a value in quotes"),
        ("x{a='1'} offset 5m", "the end of the selector"),
        ('x{"a"="b"}', "a label's name"),
        ('x{a="\udcff"}', "at character 5: the value for label a is no UTF-8"),
        ('x{a!~"\udcff"}', "at character 6: the value for label a is no UTF-8"),
    ],
)
def test_what_is_none_is_refused_with_its_place(text: str, words: str) -> None:
    with pytest.raises(SelectorError, match=words):
        parse(text)


labels = st.sampled_from(["a", "_b", "C1", "name_"])


@given(
    st.lists(
        st.tuples(labels, st.sampled_from(["=", "!="]), st.text(st.characters(max_codepoint=0xD7FF), max_size=20)),
        max_size=5,
    )
)
def test_any_value_can_be_written(matchers: list[tuple[str, str, str]]) -> None:
    """JSON's escapes are all among those of a selector, but \\/ which it does not use."""
    text = "x{" + ",".join(f"{label}{op}{json.dumps(value)}" for label, op, value in matchers) + "}"
    assert list(parse(text))[1:] == [Matcher(*one) for one in matchers]  # type: ignore[arg-type]


@given(st.text("abx_{}=!~\"\\'`, 1\n\udcff", max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(SelectorError):
        parse(text)


def test_a_selector_that_selects_nothing_in_particular() -> None:
    assert (
        selects_something(parse("up")) and selects_something(parse('{a=~".+"}')) and selects_something(parse('{a!=""}'))
    )
    assert not selects_something(parse("{}"))
    assert not selects_something(parse('{a=~".*",b="",c!="x"}'))

# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""`esnode-core query` and `export`: what the node remembers, for people and for other programs."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from esnode.commands import CommandError, UsageError
from esnode.commands._agent_http import add_url

if TYPE_CHECKING:
    from esnode.commands import Subparsers
    from esnode.commands._digest import Span
    from esnode.commands._samples import Samples

FORMATS = ("jsonl", "openmetrics", "parquet", "native")
_BINARY = ("parquet", "native")


def register(commands: Subparsers, common: argparse.ArgumentParser) -> None:
    """Add the commands of this file."""
    query = commands.add_parser("query", parents=[common], help="show series of the node's history, or draw them")
    query.add_argument("selector", metavar="SELECTOR", help="such as esnode_gpu_power_watts or 'up{job=\"x\"}'")
    query.add_argument("--since", metavar="DURATION", help="how far back, such as 30m, 24h, 7d; default 1h")
    query.add_argument("--from", dest="begin", metavar="TIME", help="-24h, 2026-01-31T12:00:00Z or Unix seconds")
    query.add_argument("--to", dest="end", metavar="TIME", default="now", help="as --from; default now")
    query.add_argument("--step", metavar="DURATION", help="only the last sample of each step")
    form = query.add_mutually_exclusive_group()
    form.add_argument("--plot", action="store_true", help="draw the series in the terminal")
    form.add_argument("--json", action="store_true", help="print the samples as JSON")
    form.add_argument("--csv", action="store_true", help="print the samples as CSV, a row a sample")
    query.add_argument("--utc", action="store_true", help="show times in UTC, not in this machine's zone")
    _add_source(query)
    query.set_defaults(command=_query)

    export = commands.add_parser("export", parents=[common], help="write the node's history to a file or a pipe")
    export.add_argument("--from", dest="begin", metavar="TIME", default="-168h", help="default -168h")
    export.add_argument("--to", dest="end", metavar="TIME", default="now", help="default now")
    export.add_argument(
        "--match", action="append", default=[], metavar="SELECTOR", help="only these series; can be repeated"
    )
    export.add_argument("--step", metavar="DURATION", help="only the last sample of each step")
    export.add_argument("--format", choices=FORMATS, default="jsonl", help="default jsonl")
    export.add_argument("--output", "-o", default="-", metavar="FILE", help="default -, standard output")
    export.add_argument("--force", action="store_true", help="replace FILE if it exists")
    _add_source(export)
    export.set_defaults(command=_export)


def _add_source(parser: argparse.ArgumentParser) -> None:
    """The options that choose where samples come from."""
    add_url(parser)
    parser.add_argument(
        "--store", type=Path, metavar="FOLDER", help="read the store in this folder, whether or not an agent runs"
    )
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="the key of the store, if it is encrypted")


def _span(begin: str, end: str, now_ms: int) -> Span:
    """The span between two times; CommandError when one is none or they are the wrong way round."""
    from esnode.commands._digest import Span
    from esnode.serve.times import TimeError, moment_ms

    found = []
    for option, text in (("--from", begin), ("--to", end)):
        try:
            found.append(moment_ms(text, now_ms))
        except TimeError as error:
            raise UsageError(f"{option}: {error}") from None
    if found[0] >= found[1]:
        raise UsageError(f"--from {begin} is not before --to {end}")
    return Span(*found)


def _duration_ms(option: str, text: str) -> int:
    from esnode.serve.times import TimeError, duration_ms

    try:
        return duration_ms(text)
    except TimeError as error:
        raise UsageError(f"{option}: {error}") from None


def _check(selectors: list[str]) -> None:
    from esnode.serve.selectors import SelectorError, parse

    for selector in selectors:
        try:
            parse(selector)
        except SelectorError as error:
            raise UsageError(f"the selector {selector!r} is none: {error}") from None


def _query(options: argparse.Namespace) -> int:
    from esnode.commands import _plot, _samples, _table, _terminal
    from esnode.commands._clock import Clock
    from esnode.commands._digest import Span, digest

    now_ms = int(time.time() * 1000)
    if options.since and options.begin:
        raise UsageError("--since and --from are two ways to say the same: give one of them")
    if options.begin:
        span = _span(options.begin, options.end, now_ms)
    else:
        since_ms = _duration_ms("--since", options.since or "1h")
        end = _span("0", options.end, now_ms).to_ms
        span = Span(end - since_ms, end)
    step_ms = _duration_ms("--step", options.step) if options.step else None
    _check([options.selector])
    _terminal.take_any_text()
    if options.plot:
        _terminal.drawing("plotext")  # before anything is fetched

    samples = _samples.source(options)
    pieces = samples.pieces([options.selector], span.from_ms, span.to_ms, step_ms)
    if options.csv or options.json:
        from esnode.commands import _written

        found = (_written.csv if options.csv else _written.json)(pieces)
        if not found:
            raise CommandError(_nothing(options.selector, span, samples))
        return 0
    columns, lines = _terminal.size()
    digests = digest(pieces, span, _plot.buckets(columns))
    if not digests:
        raise CommandError(_nothing(options.selector, span, samples))
    clock = Clock(utc=options.utc)
    if options.plot:
        colours = _terminal.colours()
        # A line is left for the prompt.
        picture = _plot.draw(digests, span, clock, columns=columns, lines=lines - 1, colours=colours)
        sys.stdout.write(picture)
    else:
        _table.show(digests, span, clock)
    return 0


def _nothing(selector: str, span: Span, samples: Samples) -> str:
    """Why nothing was found, as far as the names of what there is tell it."""
    from difflib import get_close_matches

    from esnode.commands._clock import Clock
    from esnode.serve.selectors import parse
    from esnode.store.matching import NAME, Selector

    clock = Clock(utc=False)
    when = f"{clock.span(span.from_ms, span.to_ms)} ({clock.zone(span.to_ms)})"
    start = f"nothing matches {selector} from {when}"
    names = samples.names()
    if not names:
        return f"{start}: there are no samples at all"
    of_names = [one for one in parse(selector) if one.label == NAME]
    named = Selector(of_names)
    if there := [name for name in names if named.name(name)]:
        return f"{start}: there is {_some(there)}, but not with these labels or not at that time"
    wanted = next((one.value for one in of_names), "")
    near = get_close_matches(wanted, names, n=5, cutoff=0.7)
    near += [name for name in names if wanted and wanted in name and name not in near][: 5 - len(near)]
    if near:
        return f"{start}; near names: {', '.join(near)}"
    return f"{start}; the names are {_some(names)}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _export(options: argparse.Namespace) -> int:
    from esnode.commands import _samples, _terminal
    from esnode.commands._output import written

    span = _span(options.begin, options.end, int(time.time() * 1000))
    step_ms = _duration_ms("--step", options.step) if options.step else None
    _check(options.match)
    if options.output == "-" and options.format in _BINARY and _terminal.is_terminal():
        raise UsageError(f"{options.format} is not for a terminal: name a file with --output, or pipe it on")
    with written(options.output, force=options.force) as write:
        for block in _samples.source(options).export(options.match, span.from_ms, span.to_ms, step_ms, options.format):
            write(block)
    return 0

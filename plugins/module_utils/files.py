# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Text files as they are wanted, compared and each written whole or not at all.

Wanted is `{path: {text, mode, uid, gid} or None}`; None means that the file shall not exist.
"""

from __future__ import annotations

import os
import tempfile
import typing as t

if t.TYPE_CHECKING:
    Content = dict[str, t.Any]
    Wanted = t.Mapping[str, t.Optional[Content]]


def read(path: str) -> Content | None:
    """A file as it is, None when there is none. Bytes that are no UTF-8 survive."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as stream:
            text, about = stream.read(), os.fstat(stream.fileno())
    except FileNotFoundError:
        return None
    return {"text": text, "mode": about.st_mode & 0o7777, "uid": about.st_uid, "gid": about.st_gid}


def differing(wanted: Wanted) -> list[str]:
    """Paths of the files that are not as wanted, in text, mode or owner."""
    return [path for path, content in wanted.items() if read(path) != content]


def rewritten(wanted: Wanted) -> list[str]:
    """Paths of the files whose text is not as wanted, or that should not be there."""
    return [path for path, content in wanted.items() if _text(read(path)) != _text(content)]


def differences(wanted: Wanted, secret: t.Container[str] = ()) -> t.Iterator[dict[str, str]]:
    """What --diff shows of those that are not as wanted. Of those in `secret` no text is shown, nor of programs."""
    for path in differing(wanted):
        headers = {"before_header": path, "after_header": path}
        then, now = read(path), wanted[path]
        if path in secret:
            yield {**headers, "before": "", "after": "(not shown, since it may hold secrets)\n"}
        elif _text(then) == _text(now) and then and now:
            kinds = [kind for kind in ("mode", "uid", "gid") if then[kind] != now[kind]]
            yield {**headers, "before": _shown(then, kinds), "after": _shown(now, kinds)}
        elif _is_program(then) or _is_program(now):
            yield {**headers, "before": "(a program)\n" if then else "", "after": "(another program)\n" if now else ""}
        else:
            yield {**headers, "before": _text(then) or "", "after": _text(now) or ""}


def _shown(content: Content, kinds: list[str]) -> str:
    return "".join(f"{k}: {content[k]:04o}\n" if k == "mode" else f"{k}: {content[k]}\n" for k in kinds)


def _is_program(content: Content | None) -> bool:
    return content is not None and "\0" in content["text"]


def put(wanted: Wanted) -> None:
    """Make the files as wanted; those that are so already are not touched."""
    for path in differing(wanted):
        content = wanted[path]
        if content is None:
            os.unlink(path)
        elif _text(read(path)) == content["text"]:
            _rights(path, content)  # who compares ages shall not see a new text
        else:
            _write(path, content)


def _text(content: Content | None) -> str | None:
    return None if content is None else str(content["text"])


def _rights(path: str, content: Content) -> None:
    if os.geteuid() == 0:
        os.chown(path, content["uid"], content["gid"])
    os.chmod(path, content["mode"])  # last: a change of owner clears bits


def _write(path: str, content: Content) -> None:
    handle, scratch = tempfile.mkstemp(prefix=".esnode-", dir=os.path.dirname(path))
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            stream.write(content["text"])
            stream.flush()
            os.fsync(stream.fileno())
        _rights(scratch, content)
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise

# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bucket of S3 or Google Cloud Storage, or another path; credentials come from the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from esnode.backup import BackupError
from esnode.backup.places import KNOWN, Folder, Place

SCHEMES = ("s3", "gs", "file")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "GOOGLE_BASE_URL")


def is_url(text: str) -> bool:
    """Whether this names a place by URL."""
    return "://" in text


def at(url: str) -> Place:
    """The place at s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or file:///PATH; BackupError for anything else."""
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        raise BackupError("the URL of a bucket holds no credentials: give them in the environment")
    if parts.scheme == "file" and parts.path.startswith("/") and not parts.netloc:
        return Folder(Path(unquote(parts.path)))
    if parts.scheme not in ("s3", "gs") or not parts.netloc:
        raise BackupError(f"{url} is none of s3://BUCKET/PREFIX, gs://BUCKET/PREFIX and file:///PATH")
    try:
        import obstore  # noqa: F401
    except ImportError as error:
        raise BackupError(f"{url} needs the package obstore, which every release has: {error}") from error
    return Bucket(url.rstrip("/"), parts.scheme)


class Bucket:
    """Objects under a prefix."""

    def __init__(self, url: str, scheme: str) -> None:
        from obstore.exceptions import BaseError
        from obstore.store import GCSStore, S3Store

        self._url = url
        # Plain HTTP only where an endpoint was named that way, such as a MinIO on this machine.
        plain = any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS)
        client = {"allow_http": plain, "timeout": timedelta(seconds=60), "connect_timeout": timedelta(seconds=10)}
        retry = {"max_retries": 4, "retry_timeout": timedelta(seconds=60)}
        kind: Any = S3Store if scheme == "s3" else GCSStore
        try:
            self._store = kind.from_url(url, client_options=client, retry_config=retry)
        except (BaseError, ValueError) as error:
            raise BackupError(f"can't use {url}: {_said(error)}") from error

    def __str__(self) -> str:
        return self._url

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        except BaseError as error:
            raise OSError(0, _said(error)) from error

    def sizes(self) -> dict[str, int]:
        with self._errors():
            found = {str(one["path"]): int(one["size"]) for batch in self._store.list() for one in batch}
        return {name: size for name, size in found.items() if KNOWN.fullmatch(name)}

    def read(self, name: str) -> bytes:
        with self._errors():
            return bytes(self._store.get(name).bytes())

    def write(self, name: str, data: bytes) -> None:
        with self._errors():
            self._store.put(name, data)

    def delete(self, names: Iterable[str]) -> None:
        with self._errors():
            some = list(names)
            if some:
                self._store.delete(some)


def _said(error: Exception) -> str:
    """What went wrong in a line: with the code of the server's answer, without the rest of that."""
    text = str(error).strip()
    code = re.search(r"<Code>(\w+)</Code>", text)
    line = text.splitlines()[0].partition(": <?xml")[0] if text else type(error).__name__
    return f"{line[:300]}: {code[1]}" if code else line[:300]

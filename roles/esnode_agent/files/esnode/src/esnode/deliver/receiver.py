# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server that samples are sent to: its TLS, its credentials out of files, and what its answers mean.

Imports nothing that imports ssl before it sends: the configuration is checked before `tls.restrict_handshake`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from esnode import __version__, tls
from esnode.config import RemoteWrite
from esnode.deliver.pacing import retry_after_s

if TYPE_CHECKING:
    import aiohttp

Outcome = Literal["accepted", "refused", "too_large", "failed"]
_REFUSED = (400, 409, 422)  # the samples are not wanted; anything else can be mended where the receiver runs
_TOO_LARGE = 413
_KEEPALIVE_S = 30.0  # below what receivers and proxies keep an idle connection for
_SHOWN = 300  # characters of an answer


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request; `why` for whoever reads the log, `wait_s` as the receiver asked."""

    outcome: Outcome
    why: str = ""
    wait_s: float | None = None


def shown(url: str) -> str:
    """The URL without what may be secret in it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that is none"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def check(settings: RemoteWrite) -> list[str]:
    """What is wrong with the files that the section names, as "key: what"; nothing while no url is set."""
    if settings.url is None:
        return []
    mistakes = []
    for key in ("bearer_token_path", "password_path"):
        path = getattr(settings, key)
        if path is not None:
            try:
                read_secret(key, path)
            except ValueError as error:
                mistakes.append(str(error))
    return mistakes + tls.check_client(settings)


def read_secret(key: str, path: str) -> str:
    """The one line in a file; ValueError says what is wrong with it, and never what it holds."""
    where = f'remote_write.{key} = "{path}"'
    try:
        secret = Path(path).read_text("utf-8").strip()
    except OSError as error:
        raise ValueError(f"{where}: cannot be read by user {tls.user()}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{where}: is not a text") from None
    if not secret or not secret.isprintable():
        raise ValueError(f"{where}: must hold one line, is {'more than that' if secret else 'empty'}")
    return secret


def open_to_others(settings: RemoteWrite) -> list[str]:
    """Files with secrets that every user of the host can read."""
    paths = [settings.bearer_token_path, settings.password_path, settings.tls_key_path]
    return [path for path in paths if path is not None and os.stat(path).st_mode & 0o004]


class Receiver:
    """One connection to it, kept open. Files that have changed are read before the next request."""

    def __init__(self, settings: RemoteWrite) -> None:
        assert settings.url is not None
        self._settings, self._url = settings, settings.url
        self._session: aiohttp.ClientSession | None = None
        self._headers: dict[str, str] = {}
        self._files: tuple[object, ...] = ()

    async def send(self, body: bytes) -> Answer:
        """Send one write request."""
        import asyncio

        import aiohttp

        try:
            session = await self._current()
            async with session.post(self._url, data=body, headers=self._headers, allow_redirects=False) as answer:
                return _meaning(answer.status, await _said(answer), answer.headers)
        except aiohttp.InvalidURL:  # its own text is the whole URL
            return Answer("failed", f"{shown(self._url)} is no URL")
        except ValueError as error:
            return Answer("failed", str(error))
        except asyncio.TimeoutError:
            return Answer("failed", f"no answer within {self._settings.timeout_seconds:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return Answer("failed", self._trouble(error))

    async def close(self) -> None:
        """Close the connection."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _trouble(self, error: Exception) -> str:
        import aiohttp

        if isinstance(error, aiohttp.ClientResponseError):  # its own text has the whole URL
            return f"no HTTP answer: {error.message}"
        cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
        text = str(cause) or type(cause).__name__
        if "PROTOCOL_VERSION" in text or "UNSUPPORTED_PROTOCOL" in text:
            text += f'; remote_write.min_tls_version is "{self._settings.min_tls_version}"'
        return text

    async def _current(self) -> aiohttp.ClientSession:
        files = self._signature()
        if self._session is not None and files == self._files:
            return self._session
        import aiohttp

        await self.close()
        settings = self._settings
        self._headers = {
            **settings.headers,
            "Accept-Encoding": "identity",
            "Content-Encoding": "snappy",
            "Content-Type": "application/x-protobuf",
            "X-Prometheus-Remote-Write-Version": "0.1.0",
            "User-Agent": f"esnode-core/{__version__}",
        }
        if settings.bearer_token_path is not None:
            token = read_secret("bearer_token_path", settings.bearer_token_path)
            self._headers["Authorization"] = f"Bearer {token}"
        elif settings.username is not None and settings.password_path is not None:
            password = read_secret("password_path", settings.password_path)
            self._headers["Authorization"] = aiohttp.BasicAuth(settings.username, password, "utf-8").encode()
        context = tls.client_context(settings) if self._url.startswith("https:") else None
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=1, keepalive_timeout=_KEEPALIVE_S, ssl=True if context is None else context
            ),
            timeout=aiohttp.ClientTimeout(total=settings.timeout_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,  # a proxy is egress that nobody has configured here
        )
        self._files = files
        return self._session

    def _signature(self) -> tuple[object, ...]:
        settings = self._settings
        signature: list[object] = []
        for path in (
            settings.bearer_token_path,
            settings.password_path,
            settings.tls_ca_path,
            settings.tls_cert_path,
            settings.tls_key_path,
        ):
            if path is not None:
                try:
                    found = os.stat(path)
                    signature.append((found.st_mtime_ns, found.st_ino, found.st_size))
                except OSError as error:
                    signature.append(error.errno)
        return tuple(signature)


async def _said(answer: aiohttp.ClientResponse) -> str:
    """The beginning of the text; nothing if it can't be read, since the status has told what became of the request."""
    import asyncio

    import aiohttp

    try:
        text = await answer.content.read(4 * _SHOWN)
    except (aiohttp.ClientError, OSError, asyncio.TimeoutError):
        return ""
    return " ".join(text.decode("utf-8", "replace").split())[:_SHOWN]


def _meaning(status: int, said: str, headers: object) -> Answer:
    get = headers.get  # type: ignore[attr-defined]
    why = f"HTTP {status}" + (f": {said}" if said else "")
    if 200 <= status < 300:
        return Answer("accepted")
    if status in _REFUSED:
        return Answer("refused", why)
    if status == _TOO_LARGE:
        return Answer("too_large", why)
    if 300 <= status < 400:
        return Answer("failed", f"HTTP {status}: redirects are not followed; it names {shown(get('Location', ''))}")
    return Answer("failed", why, retry_after_s(get("Retry-After"), get("Date")))

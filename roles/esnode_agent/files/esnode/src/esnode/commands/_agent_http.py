# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking the running agent: where it listens, how it is trusted, and what to do when it does not answer."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from esnode.commands import CommandError
from esnode.config import Config
from esnode.config_file import ConfigError, load

if TYPE_CHECKING:
    from http.client import HTTPResponse


class NoAnswer(CommandError):
    """Nobody answers at the agent's address."""


class Refused(CommandError):
    """The agent answers with an error; `code` is the HTTP status."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def add_url(parser: argparse.ArgumentParser) -> None:
    """Add the option that names another agent."""
    parser.add_argument(
        "--url", type=_url, help="address of the agent, such as http://node:9100 (default: from the configuration)"
    )


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f'"{text}" is not an http:// or https:// URL, such as http://node:9100')
    return text.rstrip("/")


class AgentHttp:
    """The agent of `--url`, or else the one that the configuration describes.

    ConfigError when there is neither. `url`: its address, without a slash at the end.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        import ssl
        import urllib.request

        try:
            self.config = load(options.config).config if options.url is None else Config()
        except ConfigError as error:
            raise ConfigError(
                [*error.mistakes, "give the agent's address instead, such as --url http://127.0.0.1:9100"]
            ) from None
        self.url: str = options.url or _own_url(self.config)
        security = self.config.security
        context = ssl.create_default_context()
        if options.url is None and security.enable_tls:
            # Our own agent, over loopback: trusted by its very certificate, whatever name stands in it.
            context.check_hostname = False
            context.load_verify_locations(security.tls_ca_path or security.tls_cert_path)
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )

    def open(self, path: str, timeout_s: float = 10, accept_encoding: str = "identity") -> HTTPResponse:
        """GET a path; NoAnswer when nobody answers, Refused when the answer is an error."""
        import ssl
        import urllib.error
        import urllib.request

        url = self.url + path
        try:
            request = urllib.request.Request(url, headers={"Accept-Encoding": accept_encoding})
            answer: HTTPResponse = self._opener.open(request, timeout=timeout_s)
            return answer
        except urllib.error.HTTPError as error:
            text = error.read(200).decode(errors="replace").strip()
            raise Refused(error.code, f"{url} answered {error.code}: {text}") from None
        except (urllib.error.URLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            hint = "does the agent run (systemctl status esnode-core)?"
            if isinstance(reason, ssl.SSLCertVerificationError):
                hint = "SSL_CERT_FILE=CA.pem in the environment names a CA to trust"
            raise NoAnswer(f"no answer from {url}: {reason}; {hint}") from None

    def get(self, path: str) -> bytes:
        """The body of a path; as `open`."""
        with self.open(path) as answer:
            try:
                return answer.read()
            except OSError as error:
                raise NoAnswer(f"the answer of {self.url + path} broke off: {error}") from None


def _own_url(config: Config) -> str:
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.agent.host, config.agent.host)
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if config.security.enable_tls else 'http'}://{shown}:{config.agent.port}"

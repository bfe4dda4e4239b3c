# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tokens that the inference server on this node generated, from its own /metrics page.

Known servers: vLLM (alone or in Triton), SGLang, Text Generation Inference, Triton with TensorRT-LLM, trtllm-serve.
"""

from __future__ import annotations

import math

from prometheus_client.parser import text_string_to_metric_families

from esnode.catalogue import APP_TOKENS
from esnode.collect import Settings
from esnode.collect._http import FetchError, fetch
from esnode.snapshot import Reading, Samples

# Sample name by server. Those of histograms are sums over finished requests. TGI serves one model and doesn't name it.
_COUNTERS = (
    "vllm:generation_tokens_total",
    "sglang:generation_tokens_total",
    "tgi_request_generated_tokens_sum",
    "nv_llm_output_token_len_sum",
    "trtllm_generation_tokens_total",
)
# What a page of such a server has in any case, before its first request too.
_KNOWN_PAGE = ("vllm:", "sglang:", "tgi_", "nv_", "trtllm_")
_MODEL_LABELS = ("model_name", "model")


def create(settings: Settings) -> App:
    """Make the collector."""
    return App(settings)


class App:
    """Fetches the page at each run."""

    name = "app"

    def __init__(self, settings: Settings) -> None:
        self._url = settings.config.app.app_metrics_url
        self._ca_path = settings.config.security.tls_ca_path
        self._timeout_s = settings.part_deadline_s

    def collect(self) -> Reading:
        """Read once."""
        reading = Reading()
        try:
            page = fetch(self._url, self._timeout_s, self._ca_path)
            reading.samples = tokens(page)
        except FetchError as error:
            reading.errors.append(f"{error}; check that the inference server runs and app_metrics_url")
        except ValueError as error:
            reading.errors.append(f"app_metrics_url {self._url} is no page of Prometheus metrics: {error}")
        else:
            if not reading.samples and not _mentions(page, _KNOWN_PAGE):
                reading.errors.append(
                    f"app_metrics_url {self._url} has no metric of vLLM, SGLang, TGI, Triton or TensorRT-LLM; "
                    "check that it is the server's metrics page and that metrics are enabled there"
                )
        return reading

    def close(self) -> None:
        """Nothing is held."""


def tokens(page: bytes) -> Samples:
    """The counters of generated tokens in a page, one a model; `ValueError` if a line of theirs is malformed."""
    if page and not page.endswith(b"\n"):
        raise ValueError("it is cut short")
    # A page has thousands of lines and a handful that matter: only those are given to the parser.
    lines = [line for name in _COUNTERS for line in _lines(page, name.encode())]
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(b"".join(line + b"\n" for line in lines).decode("utf-8", "replace")):
        for sample in family.samples:
            if not math.isfinite(sample.value) or sample.value < 0:
                raise ValueError(f"{sample.name} is {sample.value}")
            model = next((sample.labels[label] for label in _MODEL_LABELS if label in sample.labels), "")
            models = found.setdefault(sample.name, {})
            models[model] = models.get(model, 0.0) + sample.value  # engines and ranks of one model add up
    samples: Samples = {}
    for name in _COUNTERS:
        for model, value in found.get(name, {}).items():
            samples.setdefault(APP_TOKENS.series(model), value)
    return samples


def _lines(page: bytes, name: bytes) -> list[bytes]:
    """The sample lines of one name."""
    lines: list[bytes] = []
    start = 0
    while (at := page.find(name, start)) >= 0:
        end = page.find(b"\n", at)
        end = len(page) if end < 0 else end
        if (at == 0 or page[at - 1] == 0x0A) and page[at + len(name) : at + len(name) + 1] in (b"{", b" ", b"\t"):
            lines.append(page[at:end].rstrip(b"\r"))
        start = end
    return lines


def _mentions(page: bytes, prefixes: tuple[str, ...]) -> bool:
    return any(page.startswith(p.encode()) or b"\n" + p.encode() in page or b" " + p.encode() in page for p in prefixes)

# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which GPUs are meant: by UUID, PCI bus id, index, name (with wildcards), or all of them."""

from __future__ import annotations

import fnmatch
import re
import typing as t

from .nvml import Gpu, NvmlError, Session

_PCI = re.compile(r"^(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([0-9a-f]{2})\.?([0-7])?$", re.IGNORECASE)
_UUID = re.compile(r"^(GPU|MIG)-", re.IGNORECASE)


class NothingSelected(NvmlError):
    """Names were given, and no GPU here has such a name."""


def select(session: Session, wanted: t.Sequence[str], broken_ok: t.Container[int | None] = ()) -> list[Gpu]:
    """The GPUs that are meant, each once, by index. All of `wanted` must mean something.

    Raises NvmlError: an unknown selector, or a GPU among them that can't be talked to. NothingSelected when nothing is
    wrong but that there is no GPU of that name. `broken_ok`: codes that don't matter, of GPUs that can't be talked to.
    """
    gpus = session.gpus()
    chosen: dict[int, Gpu] = {}
    unknown: list[str] = []
    unnamed: list[str] = []
    for word in (w.strip() for w in wanted):
        found = [gpu for gpu in gpus if _matches(word, gpu)]
        if not found:
            (unknown if _exact(word) else unnamed).append(word)
        chosen.update((gpu.index, gpu) for gpu in found)
    if unknown or unnamed:
        words = ", ".join(repr(word) for word in unknown + unnamed)
        why = f"no GPU here is {words}. There {'is' if len(gpus) == 1 else 'are'}: {listing(gpus)}"
        if any(word.upper().startswith("MIG-") for word in unknown):
            why += ". A MIG device has no settings of its own: name the GPU it is part of"
        raise NvmlError(why) if unknown or chosen else NothingSelected(why)
    if not chosen:
        raise NvmlError("no GPU is selected: `gpus` is empty")
    selected = [chosen[index] for index in sorted(chosen)]
    broken = [str(gpu.error) for gpu in selected if gpu.error and gpu.error.code not in broken_ok]
    if broken:
        raise NvmlError("; ".join(broken))
    return selected


def listing(gpus: t.Iterable[Gpu]) -> str:
    """What there is, for an error message."""
    lines = []
    for gpu in gpus:
        known = (gpu.uuid, gpu.pci_bus_id, gpu.name, "can't be read" if gpu.error else "")
        lines.append(f"{gpu.index} ({', '.join(filter(None, known))})")
    return ", ".join(lines) or "none"


def _exact(word: str) -> bool:
    return word == "all" or word.isdigit() or bool(_UUID.match(word) or _PCI.match(word))


def _matches(word: str, gpu: Gpu) -> bool:
    if word == "all":
        return True
    if word.isdigit():
        return int(word) == gpu.index
    if _UUID.match(word):
        return word.lower() == gpu.uuid.lower()
    if _PCI.match(word):
        return bool(gpu.pci_bus_id) and _address(word) == _address(gpu.pci_bus_id)
    return bool(gpu.name) and fnmatch.fnmatchcase(gpu.name.lower(), word.lower())


def _address(text: str) -> tuple[int, ...]:
    """0000:1b:00.0, 00000000:1B:00.0 and 1b:00.0 are the same."""
    match = _PCI.match(text)
    if not match:
        raise AssertionError(f"{text} is no PCI address")
    return tuple(int(part or "0", 16) for part in match.groups())

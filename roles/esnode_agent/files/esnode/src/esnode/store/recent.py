# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was read lately: a dashboard asks for the same series and their neighbours again, and blocks never change."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """The values used last, of at most `most_bytes` by what `size` says of each. Usable from all threads."""

    def __init__(self, most_bytes: int, size: Callable[[Value], int]) -> None:
        self._most_bytes, self._size = most_bytes, size
        self._lock = threading.Lock()
        self._held: OrderedDict[Key, Value] = OrderedDict()
        self._bytes = 0

    def get(self, key: Key) -> Value | None:
        """The value, if it is still known."""
        return self.get_all((key,))[0]

    def get_all(self, keys: Sequence[Key]) -> list[Value | None]:
        """The values, as far as they are still known."""
        with self._lock:
            found = [self._held.get(key) for key in keys]
            for key, value in zip(keys, found, strict=True):
                if value is not None:
                    self._held.move_to_end(key)
        return found

    def put(self, key: Key, value: Value) -> None:
        """Remember a value; it is handed out as it is, so nobody may write into it any more."""
        self.put_all({key: value})

    def put_all(self, values: Mapping[Key, Value]) -> None:
        """Remember them."""
        with self._lock:
            for key, value in values.items():
                if key not in self._held:
                    self._held[key] = value
                    self._bytes += self._size(value)
            while self._bytes > self._most_bytes:
                _key, oldest = self._held.popitem(last=False)
                self._bytes -= self._size(oldest)

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._held.clear()
            self._bytes = 0

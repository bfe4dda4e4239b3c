# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong with a store as a whole. A damaged part of it is no error: it is counted and read around."""

from __future__ import annotations


class StoreError(Exception):
    """The store can't be used; the text says why and what to do."""


class StoreBusy(StoreError):
    """Another process has this store open for writing."""


class WrongKey(StoreError):
    """The key file does not hold what this store is encrypted with. Nothing was touched."""


class NotWritten(StoreError):
    """Samples are still only in memory, because the disk does not take them; the store keeps trying."""


class TooMany(StoreError):
    """A selection has more samples than the caller allows."""


class BadMatcher(StoreError):
    """A matcher with an unknown operator or a regular expression that is not valid."""


class Damaged(Exception):
    """Bytes that are not what was written."""

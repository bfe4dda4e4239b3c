# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hot part from its log."""

from __future__ import annotations

import sqlite3

from esnode.store.damage import Damage
from esnode.store.database import SHIFT
from esnode.store.envelope import Envelope
from esnode.store.epoch import Epoch
from esnode.store.errors import Damaged
from esnode.store.headlog import replay


def load_epochs(
    connection: sqlite3.Connection, envelope: Envelope, damage: Damage, sealed: set[int], started: float
) -> tuple[list[Epoch], bool]:
    """Epochs that are not sealed, and whether the last one's log is whole, so that it can be continued."""
    payloads: dict[int, list[bytes | None]] = {}
    for number, blob in connection.execute("SELECT id, body FROM head ORDER BY id").fetchall():
        epoch, place = number >> SHIFT, number & ((1 << SHIFT) - 1)
        records = payloads.setdefault(epoch, [])
        if epoch in sealed or place > len(records) + 1000:
            continue
        for missing in range(len(records), place):
            records.append(None)
            damage.note("head", (epoch << SHIFT) | missing, "it is not there")
        try:
            records.append(envelope.unwrap(b"head", number, blob))
        except Damaged as error:
            records.append(None)
            damage.note("head", number, error)
    epochs, whole = [], True
    for number, records in sorted(payloads.items()):
        if number in sealed:
            continue
        epoch_object, useless = replay(number, records, started)
        epochs.append(epoch_object)
        whole = not useless
    return epochs, whole

# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of a node: its store and its configuration, in a folder, a tar or a bucket.

    manifests/TIME-DIGEST.json   one a backup, written last: what it consists of
    blocks/, head/               rows of the store: each sealed block once, the growing part as far as it has grown
    config/                      configuration and the public parts of certificates

Every file is named after its digest and never changes, so backups share files and a cut-off one harms none.
"""

from __future__ import annotations


class BackupError(Exception):
    """A backup can't be made, read or restored; the text says what, where and what to do."""

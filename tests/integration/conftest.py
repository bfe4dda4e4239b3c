# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the store share with its unit tests."""

from opened_stores import key_file, opened

__all__ = ["key_file", "opened"]

# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The recorded settings of GPUs: the collection's own modules, linked, so that agent and playbooks can't disagree."""

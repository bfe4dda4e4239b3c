# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTTP face of the agent."""

# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the node sends out: nothing, unless the configuration says where to."""

# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
# make bench: the agent beside its peers.

ONLY_BENCH ?=

.PHONY: bench
bench: ## measure the agent beside node_exporter and others; writes build/bench.json (ONLY_BENCH=agent for one part)
	@venv=$$(tools/py tools/env.py bench) && "$$venv/bin/python" tests/bench $(ONLY_BENCH)

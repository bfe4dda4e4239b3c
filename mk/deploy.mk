# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
# make deploy, make undeploy, and the locks of the release.

INVENTORY ?= inventory/local.yml
SIMULATE ?=
LISTEN ?=
PORT ?=
EXTRA ?=
export INVENTORY SIMULATE LISTEN PORT EXTRA

.PHONY: deploy undeploy release-lock

deploy: ## run the agent on this machine; INVENTORY=inventory/production for a fleet, SIMULATE=h100:8 for eight simulated GPUs, PORT=9200
	@sh mk/deploy.sh deploy

undeploy: ## remove what deploy has made; the same INVENTORY= as there
	@sh mk/deploy.sh undeploy

RELEASE := roles/esnode_agent/files
RELEASE_LOCK = build/venvs/uv/bin/uv pip compile --quiet --upgrade --generate-hashes --no-annotate --no-emit-index-url \
	--no-emit-find-links --custom-compile-command "make release-lock"

release-lock: ## resolve the dependencies of the release anew, for each Python that it supports
	@tools/py tools/env.py deploy >/dev/null
	$(RELEASE_LOCK) --universal --python-version 3.10 -o $(RELEASE)/requirements/build.txt $(RELEASE)/requirements/build.in
	for version in 3.10 3.11 3.12 3.13; do \
		$(RELEASE_LOCK) --python-version $$version --python-platform x86_64-manylinux_2_28 --only-binary :all: --extra release \
			-o $(RELEASE)/requirements/cp$$(echo $$version | tr -d .).txt $(RELEASE)/esnode/pyproject.toml || exit 1; \
	done

# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
# Everything generated lies in build/; tools/env.py makes the virtual environments there.
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
SHELL := /bin/sh
export PYTHON

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)$$/  make \1|\2/p' $(MAKEFILE_LIST) | sort | awk -F'|' '{ printf "%-22s%s\n", $$1, $$2 }'

test: ## run every test and check (make test ONLY="e2e importer" for some of them, `tools/py tools/check.py --list` names them)
	@tools/py tools/check.py $(or $(ONLY),all)

test-quick: ## the quick linters, unit tests on one Python but for the exhaustive GPU ones, the quick tests of the simulator
	@tools/py tools/check.py quick

lint: ## only the linters
	@tools/py tools/check.py lint

build: ## build/dist/esnode-core-1.0.0.tar.gz, the collection
	@tools/py tools/check.py build

lock: ## resolve requirements/*.txt anew from requirements/*.in
	@tools/py tools/env.py --lock

clean: ## delete build/
	rm -rf build

.PHONY: help test test-quick lint build lock clean

# deploy, undeploy and bench
include $(wildcard mk/*.mk)

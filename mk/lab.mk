# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
# make lab: throw-away systemd hosts on this machine; docs/lab.md.

HOSTS ?= 5
HOST ?=

.PHONY: lab lab-shell lab-down

lab: ## boot HOSTS=5 throw-away systemd hosts and write inventory/lab/
	@tools/py tests/lab up $(HOSTS)

lab-shell: ## a shell in one of them, HOST=node1
	@tools/py tests/lab shell "$(HOST)"

lab-down: ## take them down, and what killed tests have left
	@tools/py tests/lab down

MOLECULE ?=

.PHONY: molecule
molecule: ## the scenarios of extensions/molecule on lab hosts; MOLECULE="converge -s tls" for a part
ifeq ($(MOLECULE),)
	@venv=$$(tools/py tools/env.py test) && "$$venv/bin/pytest" -q tests/molecule
else
	@venv=$$(tools/py tools/env.py molecule) && deploy=$$(tools/py tools/env.py deploy) && mkdir -p build/molecule && \
	PATH="$$venv/bin:$$PATH" ANSIBLE_HOME="$$PWD/build/ansible" \
	ESNODE_ANSIBLE_COLLECTIONS="$$(echo "$$deploy"/lib/python3.*/site-packages)" "$$venv/bin/molecule" $(MOLECULE)
endif

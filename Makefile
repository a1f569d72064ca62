# make venv    .venv on the system's Python and Debian's packages; .venv/bin/dpsd is the command
# make test    everything that tests: ruff, mypy, unit, property, replay and real-kernel tests
# make soak    what takes longer: faults on purpose, 200 kills, 100 million damaged datagrams, a day
#              in minutes; half an hour at most, on two cores
# make demo    the main job on real input, before and after, in namespaces of its own
# make evaluate  every attack against every defence in the lab, for docs/evaluation.md: 6 hours
# make positions  the same attacks at every position of dpsd, for docs/positions.md: an hour
# make bench   the speed of it, side by side with conntrack(8) and pyroute2
# make deb     the Debian package, built in a clean tree: dist/dpsd_*.deb
# make test-package   builds and tries it on Debian 12 and 13; takes ten minutes
# make tidy    formats the code

SHELL := /bin/bash
PYTHON := .venv/bin/python

# What runs dpsd, what its tests need beside that, and what the lab does.
PACKAGES := python3-venv python3-pip python3-hatchling nftables python3-nftables python3-pyroute2 \
  python3-sqlalchemy python3-alembic python3-apscheduler python3-typer python3-rich \
  python3-prometheus-client iproute2 procps util-linux conntrack groff-base
MISSING = $(shell dpkg-query -W -f '$${db:Status-Status} $${Package}\n' $(PACKAGES) 2>/dev/null \
  | sed -n 's/^installed //p' | sort | comm -13 - <(printf '%s\n' $(PACKAGES) | sort))

.PHONY: venv test soak demo evaluate positions bench deb test-package tidy clean
.DELETE_ON_ERROR:

venv: .venv/ready

.venv/ready: pyproject.toml
	$(if $(MISSING),apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
	  apt-get -qq install --no-install-recommends $(MISSING) </dev/null >/dev/null)
	/usr/bin/python3 -m venv --clear --system-site-packages .venv
	$(PYTHON) -m pip -q --disable-pip-version-check install --no-build-isolation --no-deps -e .
	touch $@

.venv/dev: .venv/ready
	$(PYTHON) -m pip -q --disable-pip-version-check install $$($(PYTHON) -c 'import tomllib; \
	  print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["dev"])')
	touch $@

.lab/ready: .venv/dev tests/lab/root.py
	$(PYTHON) -m tests.lab.root
	touch $@

.lab/positions: .venv/dev tests/lab/root.py
	$(PYTHON) -m tests.lab.root haproxy
	$(PYTHON) -m tests.lab.root docker-proxy
	touch $@

test: .venv/dev .lab/ready .lab/positions
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -m pytest

soak: .venv/dev
	$(PYTHON) -m tests.soak

demo: .venv/dev .lab/ready
	$(PYTHON) -m tests.lab.demo

evaluate: .venv/dev .lab/ready
	$(PYTHON) -m tests.lab.evaluate

positions: .venv/dev .lab/ready .lab/positions
	$(PYTHON) -m tests.lab.positions

bench: .venv/dev
	$(PYTHON) -m tests.bench

deb:
	/usr/bin/python3 -m tests.package deb

test-package:
	/usr/bin/python3 -m tests.package test

tidy: .venv/dev
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

clean:
	rm -rf .venv .lab build dist

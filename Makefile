# Two commands are all a newcomer needs: `make run` and `make test`.
# Each sets up what it needs once and is quick the second time.

RUN_PACKAGES  := python3-bpfcc python3-venv linux-libc-dev
TEST_PACKAGES := qemu-system-x86 kmod udev iproute2 busybox-static netdata-core e2fsprogs xfsprogs btrfs-progs \
                 nfs-kernel-server mdadm dmsetup mandoc man-db zsh mmdebstrap systemd checkpolicy semodule-utils

# BCC's Python module belongs to the system's interpreter, whatever python3 comes first in PATH.
PYTHON := /usr/bin/python3
VENV   := .venv
BIN    := $(VENV)/bin
ARGS   ?=

# What all kernels have shown; docs/coverage.md is made of it.
COVERAGE := .coverage-notes
MINUTES  ?= 60
SIDE_BY_SIDE ?= 4
KERNELS  ?= 5.10,6.1,6.12,7.2

.PHONY: run test test-guests churn test-kernels test-faults test-systemd soak lint bench clean
.DELETE_ON_ERROR:

run: $(VENV)/.run-ready
	@$(BIN)/ebpf-supervisor run $(ARGS)

# Tests that count the whole host's events have it to themselves; the others look at processes of their own, wait
# for ticks most of the time, and do so side by side. pytest ends with 5 where ARGS select nothing.
test: lint
	@$(BIN)/python -m pytest tests/kernel tests/guest/test_known_answers.py $(ARGS) || test $$? -eq 5
	@$(BIN)/python -m pytest -n $(SIDE_BY_SIDE) --dist loadfile tests/unit tests/process tests/agent \
	    tests/guest/test_guest.py tests/guest/test_systemd.py $(ARGS) || test $$? -eq 5

# The known answers in guest kernels, by trampolines and kprobes.
test-guests: $(VENV)/.test-ready
	@EBPF_TEST_KERNELS=$(KERNELS) EBPF_TEST_GUEST_PLANS=fentry,kprobe \
	    $(BIN)/python -m pytest tests/guest/test_known_answers.py $(ARGS)

# The known answers on the host and in every guest kernel, by every plan, in both modes; then docs/coverage.md.
test-kernels: $(VENV)/.test-ready
	@rm -rf $(COVERAGE) && mkdir $(COVERAGE)
	@EBPF_TEST_COVERAGE=$(CURDIR)/$(COVERAGE) EBPF_TEST_ATTACH=tracepoint $(BIN)/python -m pytest tests/kernel $(ARGS)
	@EBPF_TEST_COVERAGE=$(CURDIR)/$(COVERAGE) EBPF_TEST_ATTACH=fentry,kprobe \
	    $(BIN)/python -m pytest -q tests/kernel/test_survey.py
	@EBPF_TEST_COVERAGE=$(CURDIR)/$(COVERAGE) EBPF_TEST_KERNELS=$(KERNELS) \
	    EBPF_TEST_GUEST_PLANS=fentry,kprobe,tracepoint \
	    $(BIN)/python -m pytest tests/guest/test_known_answers.py $(ARGS)
	@$(BIN)/python -m tests.coverage_matrix $(COVERAGE)

# The unit in a guest with systemd as init; the image is built once.
test-systemd: $(VENV)/.test-ready
	@EBPF_TEST_SYSTEMD=1 $(BIN)/python -m pytest tests/guest/test_systemd.py $(ARGS)

lint: $(VENV)/.test-ready
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy

# Every fault, where `make test` takes some of each kind.
test-faults: $(VENV)/.test-ready
	@EBPF_TEST_FAULTS=all $(BIN)/python -m pytest tests/process/test_faults.py \
	    tests/process/test_fault_injection.py $(ARGS)

# A minute of processes that do whatever there is to be overlooked.
churn: $(VENV)/.test-ready
	@EBPF_TEST_CHURN_S=60 $(BIN)/python -m pytest tests/kernel/test_churn.py $(ARGS)

# Storms of forks and connections, a child killed every 5 s: exact totals, and nothing grows.
soak: $(VENV)/.test-ready
	@EBPF_TEST_SOAK_MINUTES=$(MINUTES) $(BIN)/python -m pytest tests/process/test_soak.py $(ARGS)

bench: $(VENV)/.test-ready
	@$(BIN)/python -m tests.benchmarks $(ARGS)

$(VENV)/.run-ready: Makefile pyproject.toml
	@$(call need,$(RUN_PACKAGES))
	@test -x $(BIN)/python || $(PYTHON) -m venv --system-site-packages $(VENV)
	@$(BIN)/pip install --quiet --editable .
	@touch $@

$(VENV)/.test-ready: $(VENV)/.run-ready
	@$(call need,$(TEST_PACKAGES))
	@$(BIN)/pip install --quiet --editable '.[test]'
	@touch $@

INSTALL_NEEDS := install-packages
include systemd/install.mk

.PHONY: install-packages
install-packages:
	@$(if $(DESTDIR),,$(call need,$(RUN_PACKAGES)))

clean:
	rm -rf $(VENV) $(COVERAGE) *.egg-info .mypy_cache .ruff_cache .pytest_cache

# Installs those of the Debian packages $(1) that are missing; asks the network only when some are.
define need
missing=$$(for name in $(1); do \
    dpkg-query -W -f='$${Status}' $$name 2>/dev/null | grep -q '^install ok installed' || echo $$name; done); \
test -z "$$missing" || { echo "installing:" $$missing >&2; \
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; } \
    >&2 || { echo "could not install:" $$missing "; install them as root with apt-get" >&2; exit 1; }; }
endef

# A thin front for Meson; the README explains each target.
BUILD ?= build
MESON_ARGS ?=
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: all deps demo check clients selftests silicon fuzz bench lint format sanitize install clean
all: deps
	@test -f $(BUILD)/build.ninja || meson setup $(BUILD) $(MESON_ARGS)
	@ninja -C $(BUILD)

# Debian packages that are missing, installed once (needs root or sudo).
deps:
	@scripts/deps build

demo: all
	@scripts/deps demo
	@scripts/demo $(BUILD)

check: all
	@scripts/deps check
	@scripts/demo-files $(BUILD)/demo
	@tests/run $(BUILD)

# The processor against the machine's own: N cases from SEED (docs/silicon.md).
N ?= 10000000
SEED ?= 1
silicon: all
	@SEED=$(SEED) N=$(N) $(BUILD)/tests/silicon/silicon

# Random code, page tables and VMCS fields; FUZZ_SECONDS for each.
FUZZ_SECONDS ?= 600
fuzz: all
	@FUZZ_SECONDS=$(FUZZ_SECONDS) $(BUILD)/tests/fuzz/fuzz

# Linux's own KVM selftests under userkvm; writes docs/selftests.md.
selftests: all
	@scripts/deps selftests
	@scripts/selftests $(BUILD)

# Real clients at length: QEMU's machines, firmware, devices, snapshots, migration; stress-ng;
# statically linked clients, also in Go.
clients: all
	@scripts/deps clients
	@scripts/demo-files $(BUILD)/demo
	@python3 tests/e2e/test_qemu.py $(BUILD)/tools/userkvm $(BUILD) all
	@python3 tests/e2e/test_qemu_state.py $(BUILD)/tools/userkvm $(BUILD) all
	@python3 tests/e2e/test_static.py $(BUILD)/tools/userkvm $(BUILD) all

bench: all
	@scripts/deps bench
	@bench/run $(BUILD)

lint: all
	@scripts/deps lint
	@scripts/lint

format:
	@scripts/deps lint
	@git ls-files '*.c' '*.h' | xargs clang-format -i

# All tests under address and undefined-behaviour sanitizers. (Their instrumentation makes
# gcc's flow warnings see ghosts: no -Werror here.)
sanitize:
	@scripts/deps check
	@scripts/demo-files build-sanitize/demo
	@$(MAKE) --no-print-directory all BUILD=build-sanitize \
		MESON_ARGS='-Db_sanitize=address,undefined -Db_lundef=false -Dwerror=false'
	@SANITIZE=1 tests/run build-sanitize

install: all
	$(SUDO) meson install -C $(BUILD)
	@test -n "$(DESTDIR)" || $(SUDO) ldconfig

clean:
	rm -rf build build-*

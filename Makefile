# A thin front for Meson; the README explains each target.
BUILD ?= build
MESON_ARGS ?=
LTO ?= true
PREFIX ?= /usr/local

.PHONY: all deps build demo check clients selftests silicon silicon-units fuzz coverage mutate bench bench-rootfs bench-work lint format sanitize \
	install uninstall deb tarball clean
all: deps
	@$(MAKE) --no-print-directory build

build:
	@test -f $(BUILD)/build.ninja || meson setup $(BUILD) -Dlto=$(LTO) $(MESON_ARGS)
	@ninja -C $(BUILD)

# Debian packages that are missing, installed once (needs root or sudo): all that a target needs, before
# anything is compiled.
deps: deps-build
deps-%:
	@scripts/deps $*

demo: deps-demo
	@$(MAKE) --no-print-directory build
	@scripts/demo $(BUILD)

check: deps-check
	@$(MAKE) --no-print-directory build
	@scripts/demo-files $(BUILD)/demo
	@tests/run $(BUILD)

# The processor against the machine's own: N cases from SEED (docs/silicon.md). HOST=haswell or
# HOST=-avx512f,-sha: as on a lesser machine (docs/processor.md).
N ?= 10000000
SEED ?= 1
HOST ?=
silicon: all
	@SEED=$(SEED) N=$(N) USERKVM_HOST_CPUID=$(HOST) $(BUILD)/tests/silicon/silicon
# The same cases through the translator's rewriting, beside the handlers.
silicon-units: all
	@SEED=$(SEED) N=$(N) USERKVM_HOST_CPUID=$(HOST) $(BUILD)/tests/silicon/silicon-units

# Random code, page tables and VMCS fields, and sequences of KVM calls, also beside a
# kernel's KVM where there is one (docs/fuzz.md); FUZZ_SECONDS for each. SANITIZE=1: under
# address and undefined-behaviour sanitizers. FUZZ_COLLECT=1 adds to the corpus.
FUZZ_SECONDS ?= 600
SANITIZERS = -Db_sanitize=address,undefined -Db_lundef=false -Dwerror=false
ifeq ($(SANITIZE),1)
fuzz:
	@$(MAKE) --no-print-directory fuzz SANITIZE= BUILD=build-sanitize MESON_ARGS='$(SANITIZERS)'
else
fuzz:
	@test -f $(BUILD)/build.ninja || meson setup $(BUILD) $(MESON_ARGS)
	@ninja -C $(BUILD) tests/fuzz/fuzz tests/fuzz/fuzz-ioctl tests/fuzz/fuzz-guest
	@FUZZ_SECONDS=$(FUZZ_SECONDS) $(BUILD)/tests/fuzz/fuzz tests/fuzz/corpus
	@FUZZ_SECONDS=$(FUZZ_SECONDS) $(BUILD)/tests/fuzz/fuzz-guest tests/fuzz/corpus
	@FUZZ_SECONDS=$(FUZZ_SECONDS) $(BUILD)/tests/fuzz/fuzz-ioctl
	@FUZZ_SECONDS=$(FUZZ_SECONDS) $(BUILD)/tests/fuzz/fuzz-ioctl --compare /dev/kvm || test $$? = 77
endif

# Which lines the tests reach (docs/coverage.md); HALF=processor or hypervisor: of those rooms only.
HALF ?=
coverage:
	@scripts/deps check
	@$(MAKE) --no-print-directory all BUILD=build-coverage MESON_ARGS='-Db_coverage=true -Dwerror=false'
	@scripts/coverage build-coverage $(HALF)

# One condition broken at a time, MUTANTS of them, chosen by SEED: what no test notices is printed (hours).
MUTANTS ?= 200
mutate:
	@scripts/deps check
	@scripts/mutate build-mutate --sample $(MUTANTS) --seed $(SEED)

# Linux's own KVM selftests under userkvm; writes docs/selftests.md.
selftests: deps-selftests
	@$(MAKE) --no-print-directory build
	@scripts/selftests $(BUILD)

# Real clients at length: QEMU's machines, firmware, devices, snapshots, migration; stress-ng; other
# guests (Xen, 32 bits, U-Boot); a whole Debian; statically linked clients, also in Go; debuggers and valgrind
# around clients; libvirt, microsandbox.
clients: deps-clients
	@$(MAKE) --no-print-directory build
	@scripts/demo-files $(BUILD)/demo
	@python3 tests/e2e/test_qemu.py $(BUILD)/tools/userkvm $(BUILD) all
	@python3 tests/e2e/test_qemu_state.py $(BUILD)/tools/userkvm $(BUILD) all
	@scripts/guest-files $(BUILD)/guests
	@python3 tests/e2e/test_guests.py $(BUILD)/tools/userkvm $(BUILD) all
	@scripts/debian-root $(BUILD)/debian
	@python3 tests/e2e/test_debian.py $(BUILD)/tools/userkvm $(BUILD) all
	@python3 tests/e2e/test_static.py $(BUILD)/tools/userkvm $(BUILD) all
	@python3 tests/e2e/test_nested.py $(BUILD)/tools/userkvm $(BUILD) all
	@python3 tests/e2e/test_nested_state.py $(BUILD)/tools/userkvm $(BUILD) all
	@python3 tests/e2e/test_any_client.py $(BUILD)/tools/userkvm $(BUILD) all
	@scripts/microsandbox $(BUILD)/microsandbox
	@python3 tests/e2e/test_managers.py $(BUILD)/tools/userkvm $(BUILD) all
	@python3 tests/e2e/test_fixture.py $(BUILD)/tools/userkvm $(BUILD)
	@scripts/kernel-files $(BUILD)/kernels 8
	@python3 tests/e2e/test_fleet.py $(BUILD)/tools/userkvm $(BUILD)
	@scripts/tarball $(BUILD)-tarball
	@python3 tests/e2e/test_packaging.py $(BUILD)-tarball
	@python3 tests/e2e/test_policies.py $(BUILD)/tools/userkvm $(BUILD) $(BUILD)-tarball

bench: deps-bench
	@$(MAKE) --no-print-directory build
	@bench/run $(BUILD)

# A Debian from power-on to login and work in it, beside QEMU's TCG; its disk is made once (some minutes).
bench-rootfs: deps-clients
	@$(MAKE) --no-print-directory build
	@scripts/demo-files $(BUILD)/demo
	@scripts/debian-root $(BUILD)/debian
	@bench/rootfs $(BUILD)

# What users do in a guest (gzip, sort, a shell, python, a compiler), beside QEMU's TCG.
bench-work: deps-bench
	@$(MAKE) --no-print-directory build
	@scripts/demo-files $(BUILD)/demo
	@scripts/work-files $(BUILD)/work
	@bench/work $(BUILD)

lint: deps-lint
	@$(MAKE) --no-print-directory build
	@scripts/lint $(BUILD)

# The lines changed since SINCE, and no others: tables and hand-laid assembly stay as they were laid.
SINCE ?= HEAD
format:
	@scripts/deps lint
	@git clang-format --force --extensions c,h $(SINCE)

# All tests under address and undefined-behaviour sanitizers. (Their instrumentation makes
# gcc's flow warnings see ghosts: no -Werror here.)
sanitize:
	@scripts/deps check
	@scripts/demo-files build-sanitize/demo
	@$(MAKE) --no-print-directory all BUILD=build-sanitize \
		MESON_ARGS='$(SANITIZERS)'
	@SANITIZE=1 tests/run build-sanitize

# PREFIX=$$HOME/.local needs no root; DESTDIR= is for packages (scripts/install).
install: deps-install
	@PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) scripts/install $(BUILD)-install $(MESON_ARGS)

# Debian packages in build-deb/, and what lintian says of them.
deb: deps-deb
	@scripts/deb $(BUILD)-deb

# One archive that runs where it is unpacked.
tarball: deps-install
	@scripts/tarball $(BUILD)-tarball

uninstall:
	@DESTDIR=$(DESTDIR) scripts/install --uninstall $(BUILD)-install

clean:
	rm -rf build build-*

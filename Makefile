# A thin front for Meson; the README explains each target.
BUILD ?= build
MESON_ARGS ?=
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: all deps demo check bench lint format sanitize install clean
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

bench: all
	@scripts/deps bench
	@bench/run $(BUILD)

lint: all
	@scripts/deps lint
	@scripts/lint

format:
	@scripts/deps lint
	@git ls-files '*.c' '*.h' | xargs clang-format -i

# All tests under address and undefined-behaviour sanitizers.
sanitize:
	@scripts/deps check
	@scripts/demo-files build-sanitize/demo
	@$(MAKE) --no-print-directory all BUILD=build-sanitize \
		MESON_ARGS='-Db_sanitize=address,undefined -Db_lundef=false'
	@SANITIZE=1 tests/run build-sanitize

install: all
	$(SUDO) meson install -C $(BUILD)
	@test -n "$(DESTDIR)" || $(SUDO) ldconfig

clean:
	rm -rf build build-*

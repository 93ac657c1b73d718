# Builds the C library and the native program, sets up Python, runs and tests. Everything made goes to build/ and .venv/, and the
# extension beside its sources in pyllama/. Targets: `make help`.

PYTHON ?= python3
CC ?= cc
AR ?= ar
# Another index for pip: make test PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_ARGS ?=
PYTEST_ARGS ?=
# Most tests are one thread, and some wait. A worker takes whole files, for what their tests share; 0: none but pytest itself. A make
# that a test or the peer's build starts has jobs of its own, not this one's.
TEST_WORKERS ?= 2
PYTEST = MAKEFLAGS= $(VENV)/bin/pytest -n $(TEST_WORKERS) --dist loadfile
# run: a model file or a Hugging Face folder, what to say to it, and more options of build/run
MODEL =
PROMPT =
ARGS =
export MODEL PROMPT
# Compilers run side by side, one on each core, unless the caller says how many (make -j1). Not while `clean` removes what others make.
ifeq ($(filter -j% --jobs%,$(MAKEFLAGS))$(filter clean,$(MAKECMDGOALS)),)
MAKEFLAGS += -j$(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
endif

VERSION = $$(sed -n 's/^__version__ = "\(.*\)"$$/\1/p' pyllama/__init__.py)
# The same flags as in pyllama/_build.py, with warnings.
WARNINGS ?= -Wall -Wextra -Wpedantic
CFLAGS ?=
ALL_CFLAGS = -std=c11 -O3 -D_GNU_SOURCE -DNDEBUG -fPIC -fvisibility=hidden $(WARNINGS) $(CFLAGS)
LDLIBS = -lm -lpthread

# One source rule, here and in pyllama/_build.py: all of core/ and cpu/.
SOURCES := $(sort $(wildcard runtime_c/core/*.c runtime_c/cpu/*.c))
HEADERS := $(wildcard runtime_c/*/*.h)
OBJECTS := $(SOURCES:runtime_c/%.c=build/obj/%.o)
CLI_OBJECTS := $(patsubst runtime_c/%.c,build/obj/%.o,$(sort $(wildcard runtime_c/cli/*.c)))
C_TESTS := $(patsubst tests/c/%.c,build/%,$(sort $(wildcard tests/c/check_*.c)))

VENV = .venv
VENV_PYTHON = $(VENV)/bin/python
EXTENSION = build/extension.stamp
# setup.py links the extension with this library instead of compiling its sources a second time (pyllama/_build.py).
LINKED = AK42_LIBRARY=build/libak42.a
DEFAULT_GGUF = build/models/SmolLM2-135M-Instruct.Q4_1.gguf
DEFAULT_MODEL = build/models/smollm2-135m-instruct.bin
QUESTION = Why is the sky blue?

.DELETE_ON_ERROR:
.PHONY: run test test-all lib wheel bench clean help check check-cc check-python

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{ printf "make %-9s %s\n", $$1, $$2 }'

run: check $(EXTENSION) build/run $(if $(MODEL),,$(DEFAULT_MODEL)) ## generate text: the default model, or MODEL=path PROMPT=".." ARGS=".."
	@MODEL="$${MODEL:-$(DEFAULT_MODEL)}"; \
	if [ -d "$$MODEL" ]; then MODEL=$$($(VENV_PYTHON) examples/prepare_model.py "$$MODEL" build/models) || exit $$?; fi; \
	if [ -n "$$PROMPT" ]; then exec build/run "$$MODEL" -i "$$PROMPT" $(ARGS) </dev/null; \
	else echo "> $(QUESTION)"; exec build/run "$$MODEL" -m chat -t 0 -i "$(QUESTION)" $(ARGS) </dev/null; fi

test: check $(VENV)/test.stamp $(EXTENSION) lib $(C_TESTS) ## install the test extra and run all tests that are not slow
	$(PYTEST) -m "not slow and not cuda" $(PYTEST_ARGS)

test-all: check $(VENV)/test.stamp $(EXTENSION) lib $(C_TESTS) ## the slow tests too
	$(PYTEST) -m "not cuda" $(PYTEST_ARGS)

lib: build/libak42.a build/libak42.so build/run ## build/libak42.a, build/libak42.so and the program build/run

wheel: check $(VENV)/install.stamp ## a source package and a wheel (stable ABI, Python >= 3.10) in build/dist
	rm -rf build/lib build/lib.* build/bdist.* build/dist
	$(VENV_PYTHON) -m pip install -q $(PIP_ARGS) "setuptools>=77"
	$(VENV_PYTHON) -c "from setuptools import build_meta as b; b.build_sdist('build/dist'); b.build_wheel('build/dist')" >build/wheel.log
	@ls -l build/dist/*

bench: check $(EXTENSION) $(VENV)/bench.stamp ## ak42 beside llama.cpp, in turns: a table, build/bench/compare.json and .png (ARGS="--only smollm2")
	MAKEFLAGS= $(VENV_PYTHON) benchmarks/compare.py $(ARGS)

clean: ## remove everything that was made
	rm -rf build .venv *.egg-info pyllama/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- C ----

build/obj/%.o: runtime_c/%.c pyllama/__init__.py Makefile | check-cc
	@mkdir -p $(@D)
	@echo "cc $<"
	@$(CC) $(ALL_CFLAGS) -DAK42_VERSION="\"$(VERSION)\"" -MMD -MP -c -o $@ $<

build/libak42.a: $(OBJECTS)
	@echo "ar $@"
	@rm -f $@
	@$(AR) rcs $@ $^

build/libak42.so: $(OBJECTS)
	@echo "ld $@"
	@$(CC) -shared $(LDFLAGS) -o $@ $^ $(LDLIBS)

build/run: $(CLI_OBJECTS) build/libak42.a
	@echo "ld $@"
	@$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

# Check programs include internal headers and keep their asserts.
build/check_%: tests/c/check_%.c build/libak42.a
	@echo "cc $<"
	@$(CC) $(ALL_CFLAGS) -UNDEBUG -Iruntime_c -MMD -MP -MF $@.d -o $@ $< build/libak42.a $(LDLIBS)

-include $(OBJECTS:.o=.d) $(CLI_OBJECTS:.o=.d) $(C_TESTS:=.d)

# ---- Python ----

# What the machine lacks, each in one line, before anything else is tried.
check: check-cc check-python

check-cc:
	@command -v $(CC) >/dev/null || { echo "ak42: no C compiler ($(CC)); install one: apt-get install gcc libc6-dev" >&2; exit 1; }

check-python:
	@command -v $(PYTHON) >/dev/null || { echo "ak42: no $(PYTHON); install Python 3.10 or later: apt-get install python3" >&2; exit 1; }
	@$(PYTHON) pyllama/_preflight.py

$(VENV_PYTHON): | check-cc check-python
	$(PYTHON) -m venv $(VENV)

# -e: Python's files are used where they lie; the extension is built by the rule below when C changes. pip builds it too, so the
# extras come after it: two builds must not write one file at a time.
$(VENV)/install.stamp: setup.py pyproject.toml | $(VENV_PYTHON) build/libak42.a
	$(LINKED) $(VENV_PYTHON) -m pip install -q $(PIP_ARGS) "setuptools>=77" -e .
	touch $@

$(VENV)/test.stamp: $(VENV)/install.stamp | $(EXTENSION)
	$(LINKED) $(VENV_PYTHON) -m pip install -q $(PIP_ARGS) -e ".[test]"
	touch $@

$(VENV)/bench.stamp: $(VENV)/install.stamp | $(EXTENSION)
	$(LINKED) $(VENV_PYTHON) -m pip install -q $(PIP_ARGS) -e ".[chart]"
	touch $@

$(EXTENSION): $(VENV)/install.stamp pyllama/_build.py pyllama/__init__.py build/libak42.a $(HEADERS)
	@mkdir -p build
	$(LINKED) $(VENV_PYTHON) setup.py -q build_ext --inplace >build/extension.log
	touch $@

# ---- the default model ----

$(DEFAULT_GGUF): | $(EXTENSION)
	$(VENV_PYTHON) examples/fetch_model.py $@

$(DEFAULT_MODEL): | $(DEFAULT_GGUF)
	$(VENV)/bin/pyllama convert $(DEFAULT_GGUF) -o $@

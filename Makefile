# make demo    train on synthetic images on this machine, evaluate, draw, report (demo/report.html)
# make test    make check, then every test, including slow ones (fast tests only: .venv/bin/pytest)
# make check   formatting, lint, types, import contracts, vocabulary
# make docs    build the documentation site from docs/ into site/ (site/index.html)
# make release-check  build wheel and source distribution into dist/, check them, install them in clean environments
# make release make test, then make release-check; uploads nothing
# make gpu-bundle  pack the project, wheels and data for `python -m peers gpu` on a machine without a network
# make install create the virtual environment; the other targets do so when needed
#
# VENV=/some/where uses another environment, PYTHON3=python3.12 another interpreter.

VENV ?= .venv
PYTHON3 ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.sais-installed

.PHONY: demo test check docs install gpu-bundle release release-check clean
.DEFAULT_GOAL := install

install: $(STAMP)

# One pip command, so that torch and torchvision are resolved together. The install is editable: only changes of
# pyproject.toml need another.
$(STAMP): pyproject.toml
	$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sais needs Python 3.11 or newer: make PYTHON3=python3.12")'
	test -x $(BIN)/python || $(PYTHON3) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e ".[train,imagenet-lite,tune,video,track,track-eval,reproduce,export,openvino,serve,ray,browser,docs,dev,release]"
	touch $@

demo: $(STAMP)
	$(BIN)/sais demo --out demo

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest -q tests/test_style.py

# One thread per process, because the tests are distributed over processes. -m selects slow tests as well. The files
# keep the order of tests/conftest.py, which starts with the slow ones. If a process dies, the suite ends: pytest-xdist
# would wait for ever for the file that it was running.
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow or not slow" -n auto --dist loadfile --no-loadscope-reorder --max-worker-restart 0 --durations 40

# --strict: a broken link or a page outside of the navigation is an error. NO_MKDOCS_2_WARNING: no advice in the output.
docs: $(STAMP)
	OMP_NUM_THREADS=1 NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "wrote site/index.html; for the search, run $(BIN)/python -m http.server -d site and open http://127.0.0.1:8000"

# A build/ of before would put deleted modules into the wheel. RELEASE_PYTHON is the newest Python that is installed.
RELEASE_PYTHON ?= $(BIN)/python
release-check: $(STAMP)
	rm -rf build dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python -m release.contents dist
	$(BIN)/python -m release.clean_install dist
	$(BIN)/python -m release.clean_install dist --tests --lowest --python 3.11
	$(BIN)/python -m release.clean_install dist --tests --python $(RELEASE_PYTHON)

release: test release-check
	@echo "dist/ is ready. What is done by hand is in CONTRIBUTING.md, section Releases."

# GPU_BUNDLE="--data FILE --screening FILE" adds an archive of `python -m peers.pack` and a plan of `peers.screening`.
gpu-bundle: $(STAMP)
	$(BIN)/python -m peers.gpu.bundle dist/gpu-bundle.tar.gz $(GPU_BUNDLE)

clean:
	rm -rf build dist site src/*.egg-info .mypy_cache .pytest_cache .ruff_cache

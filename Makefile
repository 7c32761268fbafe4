# make demo · make test · make browser · make lint · make docs · make bench · make reliability: each builds .venv first, if needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two test processes of one thread each: twice as fast as one of two threads. Threads that spin
# while they wait make two programs on a small machine several times slower.
JOBS ?= 2
QUIET := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

.PHONY: demo test browser reliability lint format docs docs-serve dist bench reproduce-beauty reproduce-games install image docker-check clean

install: $(VENV)/.installed

$(VENV)/.installed: requirements.txt requirements-dev.txt constraints.txt $(wildcard packages/*/pyproject.toml apps/pyproject.toml)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 14) else f"Python 3.11 to 3.14 is needed, this is {v[0]}.{v[1]}: make PYTHON=python3.13 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

# Image models stand apart: torchvision is built for one build of torch and disturbs any other.
IMAGE := .image-env
image: install $(IMAGE)/.installed

$(IMAGE)/.installed: requirements-image.txt | $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(IMAGE) -r requirements-image.txt
	touch $@

demo: install
	$(BIN)/python apps/prorec.py demo --out runs/demo

test: image
	$(QUIET) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal --durations=10
	$(QUIET) PYTHONPATH=$(IMAGE) $(BIN)/python -m pytest packages/semtok/tests_image apps/tests_image

# The page of `serve` in Debian's chromium, which root installs where it is missing.
browser: install
	.ci/chromium
	$(QUIET) $(BIN)/python -m pytest -m browser --durations=10 apps/tests/browser

# Kills, damage, full disks, hostile inputs and ten minutes of fuzz, of whole commands. Some three to four
# hours on two cores; the sample of it that `make test` runs takes some four minutes of one core.
reliability: install
	$(QUIET) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal --durations=10 -m "" --timeout 14400 tests/reliability

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/zizmor --offline --quiet .github
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The site into site/; a broken link or anchor fails.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs
docs: install
	$(BIN)/python docs/drawings.py
	$(MKDOCS) build

docs-serve: install
	$(MKDOCS) serve

# Wheels and sdists of the five distributions in dist/, as they are published; needs build and twine.
dist:
	rm -rf dist
	for folder in packages/semtok packages/fusion packages/genrec packages/evalrec apps; do \
		$(PYTHON) -m build --outdir dist $$folder || exit 1; done
	$(PYTHON) -m twine check --strict dist/*

bench: install
	@echo "Each file under benchmarks/ runs alone: .venv/bin/python benchmarks/NAME.py --help"; ls benchmarks

# The figures of Amazon Beauty, or Games, from their raw files in the folder DATA.
reproduce-beauty reproduce-games: install
	$(BIN)/python benchmarks/reproduce.py "$(or $(DATA),.)" --data-set $(@:reproduce-%=%)

# Builds the service's image, runs it with a complete run and asks it once.
docker-check:
	sh docker/check.sh . $(RUN)

clean:
	rm -rf $(VENV) $(IMAGE) site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# `make demo` and `make test` set up all they need in .venv; the rest is for developers.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
TORCH := 2.13.0
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check --quiet

.PHONY: demo test lint docs lock clean

demo: $(VENV)/.demo
	@$(RUN) studies/movie_reviews.py

test: $(VENV)/.dev
	@$(RUN) -m pytest -q -n 3 --dist worksteal

lint: $(VENV)/.dev
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy
	@$(VENV)/bin/lint-imports

docs: $(VENV)/.dev
	@$(RUN) docs/make_reference.py

# Versions are pinned by requirements.lock; extras say which of them are installed.
$(VENV)/.demo: requirements.lock pyproject.toml | $(VENV)
	@echo "Installing axsearch and the demo's model (some minutes, once)"
	@$(PIP) install -c requirements.lock -e '.[demo]'
	@touch $@

$(VENV)/.dev: requirements.lock pyproject.toml | $(VENV)
	@echo "Installing axsearch and what its tests need (some minutes, once)"
	@$(PIP) install -c requirements.lock -e '.[adapters,benchmarks,dev,export,mysql,postgresql,ray]'
	@touch $@

$(VENV):
	@$(PYTHON) -m venv $(VENV)

lock: $(VENV)/.dev
	@echo "torch==$(TORCH)" > $(VENV)/torch.txt
	$(RUN) -m piptools compile --quiet --upgrade --strip-extras --no-header --no-annotate \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options \
	  --extra adapters --extra benchmarks --extra demo --extra dev --extra export --extra mysql --extra notebook --extra postgresql --extra ray -c $(VENV)/torch.txt \
	  -o requirements.lock pyproject.toml
	@sed -i 's/+cpu$$//' requirements.lock

clean:
	rm -rf $(VENV) .cache

"""The public names, and what importing them costs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import axsearch

LIGHT = [
    "axsearch",
    "axsearch.space.recipe",
    "axsearch.space.genome",
    "axsearch.statistics.pareto",
    "axsearch.study.study",
    "axsearch.running.trial_loop",
    "axsearch.running.engines",
    "axsearch.reporting.dashboard.annotating",
    "axsearch.running.request",
    "axsearch.running.resolving",
    "axsearch.training.request",
    "axsearch.tasks.spec",
    "axsearch.reporting.dashboard.serving",
]
HEAVY = ("torch", "transformers", "datasets")

# Each module is imported in turn; the first that brings in something heavy is told by its name.
SCRIPT = f"""
import importlib, json, sys
found = {{}}
for name in {LIGHT!r}:
    importlib.import_module(name)
    found[name] = [heavy for heavy in {HEAVY!r} if heavy in sys.modules]
print(json.dumps(found))
"""


def test_plain_data_imports_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == {name: [] for name in LIGHT}


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("axsearch.running.worker", ("optuna_dashboard", "waitress", "plotly", "jinja2")),
        ("axsearch.reporting.dashboard.annotating", ("optuna_dashboard", "waitress")),
    ],
)
def test_what_shows_a_study_is_imported_where_it_is_used(
    name: str, without: tuple[str, ...]
) -> None:
    script = f"import sys, {name}; print([m for m in {without!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def loaded_by(*arguments: str) -> set[str]:
    """The packages that a command has imported in the end, in a process of its own."""
    script = f"""
import json, sys
from axsearch.cli import main
sys.argv = ["axsearch", *{arguments!r}]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
finally:
    packages = sorted({{name.partition(".")[0] for name in sys.modules}})
    print(json.dumps(packages), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_the_list_of_commands_imports_none_of_them() -> None:
    found = loaded_by("--help")
    needed_by_commands = {
        *HEAVY, "optuna", "optuna_dashboard", "sqlalchemy", "alembic", "pydantic", "numpy", "scipy",
        "sklearn", "plotly", "jinja2",
    }  # fmt: skip
    assert found.isdisjoint(needed_by_commands)
    assert "axsearch" in found


def test_the_front_needs_no_torch_figures_scipy_or_migrations(tiny_study: tuple[str, str]) -> None:
    storage, study = tiny_study
    found = loaded_by("front", "--storage", storage, "--study", study)
    assert "optuna" in found
    assert found.isdisjoint(
        {*HEAVY, "alembic", "scipy", "sklearn", "plotly", "optuna_dashboard", "waitress"}
    )


def test_every_public_name_is_there() -> None:
    for name in axsearch.__all__:
        assert getattr(axsearch, name).__name__ == name
    assert set(axsearch.__all__) <= set(dir(axsearch))


def test_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="'nonsense'"):
        axsearch.nonsense  # noqa: B018

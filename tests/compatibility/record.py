"""Record what this release of axsearch does, so that later releases can be compared with it.

    python -m tests.compatibility.record tests/fixtures/release_0_1

Run it in a checkout of the release. It needs axsearch's public names only, but for the two
functions that :func:`everywhere` replaces.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import platform
import re
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from axsearch import Study, __version__, explain_trial, export_model, search, verify_export
from tests.compatibility.base import LAYERS, NEURONS, make_base, make_data

DATABASE, ANSWERS = "study.sqlite.gz", "study.json"
NAME, LAYERS_NAME = "recorded", "layers"
HOME = "/home/somebody"
"""The folder of base and data, as the database names it: one that is nowhere."""

SETTINGS: dict[str, Any] = {
    "trials": 24, "sampler": "auto", "batch_size": 4, "threads": 1, "dtype": "float32",
    "compensation": "sequential",
}  # fmt: skip
"""In float32, since losses in bfloat16, which guide the sampler, differ between processors."""

PICKS: tuple[dict[str, Any], ...] = (
    {"knee": True},
    {"max_drop": 0.05, "by": "latency"},
    {"max_latency_ratio": 0.6},
    {"max_size_ratio": 0.7, "by": "accuracy"},
)


def main(folder: Path) -> None:
    """Search, look, export, and write all of it to a new folder."""
    folder.mkdir(parents=True)
    torch.set_num_threads(1)
    with (
        tempfile.TemporaryDirectory() as temporary,
        pytest.MonkeyPatch.context() as patched,
        everywhere("worker_name", lambda _: lambda: "recorder|somewhere|1|1"),
    ):
        patched.setattr(platform, "node", lambda: "recorder")
        home = Path(temporary)
        base, data = str(make_base(home / "base")), str(make_data(home / "data"))
        database = home / "studies.db"
        storage = f"sqlite:///{database}"
        with times_by_units():
            study = search(base, data, storage=storage, study=NAME, **SETTINGS)
        layers = search(
            base, data, storage=storage, study=LAYERS_NAME, trials=5, approximations=("layer",),
            objectives=("accuracy", "size"), sampler="random",
        )  # fmt: skip
        where = ["--storage", storage, "--study", NAME]
        opened = [sys.executable, "-m", "axsearch", "front", *where, "--holdout", "--json"]
        subprocess.run(opened, check=True, stdout=subprocess.DEVNULL)
        study = Study.open(storage, NAME)
        for name, (of, trial, format) in exports(study, layers).items():
            export_model(of, trial, str(home / name), format=format, force=True)
            verify_export(str(home / name))
            (home / name).rename(folder / name)
        (folder / ANSWERS).write_text(written(answers(study)))
        study.database.close()
        layers.database.close()
        strip_database(database, home)
        (folder / DATABASE).write_bytes(gzip.compress(database.read_bytes(), mtime=0))


def exports(study: Study, layers: Study) -> dict[str, tuple[Study, int, str]]:
    """What to export: by folder, the study, the trial and the format."""

    def best(of: Study, pattern: str, without: str = "no such thing") -> int:
        found = [
            m
            for m in of.measurements
            if re.search(pattern, text := json.dumps(m.recipe)) and not re.search(without, text)
        ]
        return max(found, key=lambda m: m.accuracy).trial or 0

    units = best(study, r'"heads": .*"ffn": .*sequential', without="topk")
    topk, whole = best(study, "topk"), best(layers, "layer00.*layer02", without="layer01")
    return {
        "hf_units": (study, units, "hf"),
        "hf_topk": (study, topk, "hf"),
        "hf_layers": (layers, whole, "hf"),
        "onnx": (study, topk, "onnx"),
        "openvino": (layers, whole, "openvino"),
    }


def written(data: Any) -> str:
    """JSON with a line for each trial, so that a diff shows which of them changed."""
    lines = []
    for key, value in data.items():
        items = [json.dumps(item) for item in value] if isinstance(value, list) else None
        shown = json.dumps(value) if items is None else "[\n" + ",\n".join(items) + "\n]"
        lines.append(f"{json.dumps(key)}: {shown}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


@contextmanager
def everywhere(name: str, change: Callable[[Any], Any]) -> Iterator[None]:
    """Replace a function in every module of axsearch that has it, by ``change`` of it."""
    with pytest.MonkeyPatch.context() as patched:
        for module in [m for n, m in sys.modules.items() if n.partition(".")[0] == "axsearch"]:
            if name in vars(module):
                patched.setattr(module, name, change(vars(module)[name]))
        yield


def times_by_units() -> AbstractContextManager[None]:
    """Make the latency table proportional to units: the time of a model this small is overhead."""

    def shares(blocks: dict[str, float]) -> dict[str, float]:
        found = {}
        for key in blocks:
            kind, _, choice = key.partition(" ")
            share = 0.4 / LAYERS if kind == "attention" else 0.5 / LAYERS
            name, _, value = choice.partition("=")
            if name in ("heads", "ffn"):
                share *= int(value) / (4 if name == "heads" else NEURONS)
            elif name:
                share *= 0.5 + int(value.partition(".")[0]) / 64
            found[key] = share
        return found

    def changed(measure: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*args: Any, **options: Any) -> Any:
            table = measure(*args, **options)
            return dataclasses.replace(table, rest=0.1, blocks=shares(table.blocks), errors={})

        return measured

    return everywhere("measure_latency_table", changed)


def answers(study: Study) -> dict[str, Any]:
    """All that later releases must report of the study, too."""
    return {
        "release": __version__,
        "machine": study.spec.machine,
        "settings": SETTINGS,
        "trials": trials_of(study),
        "baseline": study.baseline.model_dump(mode="json"),
        "front": [member.model_dump(mode="json") for member in study.front()],
        "picks": [
            {"limits": limits, "picked": study.pick(**limits).model_dump(mode="json")}
            for limits in PICKS
        ],
        "explained": {
            str(member.trial): explain_trial(study, member.trial or 0).to_dict()["cuts"]
            for member in study.measurements
        },
    }


def trials_of(study: Study) -> list[dict[str, Any]]:
    """Genome, recipe and accuracy of every trial, in order."""
    with study.database.engine.connect() as connection:
        recipes = dict(iter(connection.exec_driver_sql("SELECT hash, json FROM ax_recipes")))
    return [
        {
            "number": trial.number,
            "state": trial.state.name,
            "params": trial.params,
            "hash": trial.user_attrs["recipe"],
            "recipe": json.loads(recipes[trial.user_attrs["recipe"]]),
            "values": trial.values,
            "stopped": trial.user_attrs.get("stopped"),
        }
        for trial in study.optuna.get_trials(deepcopy=False)
    ]


def strip_database(path: Path, home: Path) -> None:
    """Remove from a SQLite file the folder that it was made in, and all free space."""
    columns = {
        "ax_studies": "spec", "ax_models": "name", "ax_tasks": "data", "ax_exports": "path",
    }  # fmt: skip
    with closing(sqlite3.connect(path)) as connection:
        for table, column in columns.items():
            connection.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(home), HOME)
            )
        connection.commit()
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("PRAGMA page_size=1024")
        connection.execute("VACUUM")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

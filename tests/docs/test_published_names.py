"""README's search of SST-2, as written, of models with the label names of those on the hub."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import datasets
import pytest

from axsearch import Study
from axsearch.cli import main
from axsearch.testing.latency import MEASURE, table_by_units
from axsearch.testing.text import reviews
from tests.docs.pages import blocks

SEARCH = next(
    command
    for block in blocks("README.md")
    for command in block.commands
    if command.startswith("axsearch search --model base --data nyu-mll/glue:sst2")
)


def as_on_the_hub(name: str, config: str) -> datasets.DatasetDict:
    """SST-2's columns, class names and hidden test labels, with the tests' sentences."""
    assert (name, config) == ("nyu-mll/glue", "sst2")
    features = datasets.Features(
        {
            "sentence": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["negative", "positive"]),
            "idx": datasets.Value("int32"),
        }
    )
    found = datasets.DatasetDict()
    for seed, (split, count) in enumerate((("train", 200), ("validation", 160), ("test", 40))):
        rows = [
            {"sentence": sentence, "label": -1 if split == "test" else label, "idx": row}
            for row, (sentence, label) in enumerate(reviews(count, seed))
        ]
        found[split] = datasets.Dataset.from_list(rows, features=features)
    return found


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ["NEGATIVE", "POSITIVE"],
            "regardless of case: negative as NEGATIVE, positive as POSITIVE",
        ),
        (["LABEL_0", "LABEL_1"], "ids are those of the data: 0 is negative, 1 is positive"),
        (["negative", "positive"], None),
    ],
)
def test_the_first_example_works_with_them(
    names: list[str],
    said: str | None,
    base_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(datasets, "load_dataset", as_on_the_hub)
    monkeypatch.setattr("axsearch.tasks.data.check_on_hub", lambda *_: None)
    monkeypatch.setattr(MEASURE, table_by_units)
    monkeypatch.chdir(tmp_path)
    config = json.loads(Path(shutil.copytree(base_dir, "base"), "config.json").read_text())
    config["id2label"] = dict(enumerate(names))
    config["label2id"] = {name: index for index, name in enumerate(names)}
    Path("base", "config.json").write_text(json.dumps(config))

    command = SEARCH.replace("--trials 100", "--trials 2")
    assert command != SEARCH
    monkeypatch.setattr("sys.argv", shlex.split(command))
    with pytest.raises(SystemExit) as ended:
        main()

    assert not ended.value.code
    printed = " ".join(capsys.readouterr().err.split())
    assert said is None or said in printed
    assert "The test split has no labels and is left out." in printed
    study = Study.open("sqlite:///studies.db", "sst2")
    assert study.baseline.accuracy > 0.85
    study.database.close()

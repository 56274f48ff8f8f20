"""The worst files, studies and exports on the command line: one sentence and exit status 2."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from axsearch.cli import main
from axsearch.export.manifest import NAME as MANIFEST
from axsearch.testing.processes import run
from tests.faults.studies import DROP_ATTRIBUTE, NAME, SET_ATTRIBUTE, SET_SPEC, SPEC, edit, make

FILES: dict[str, bytes] = {
    "empty.csv": b"",
    "header only.csv": b"text,label\n",
    "other encoding.csv": "text,label\ncafé,1\n".encode("latin-1"),
    "open quote.csv": b'text,label\n"a,1\nb,0\n',
    "NUL in a name.csv": b"text,la\0bel\na,1\n",
    "line break in a name.csv": b'"te\nxt",label\na,1\n',
    "long name.csv": b"x" * 200_000 + b",label\na,1\n",
    "labels that end in a terminal code.csv": b"text,label\na,1\nb,\x1b[31m\x07,\n",
    "null.jsonl": b'{"text": "a", "label": 1}\nnull\n',
    "deep.jsonl": b'{"text": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "other encoding.jsonl": b'{"text": "\xff", "label": 1}\n',
    "array.jsonl": b'[{"text": "a", "label": 1}]\n',
    "objects for texts.jsonl": b'{"text": {"a": 1}, "label": 1}\n',
    "half a character.jsonl": b'{"text": "\\ud800", "label": 1}\n',
    "no parquet.parquet": b"PAR1",
}


def refused(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> str:
    """What the command line says."""
    monkeypatch.setattr(sys, "argv", ["axsearch", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capfd.readouterr()
    assert (stop.value.code, out) == (2, "")
    assert err.startswith("axsearch: ")
    assert err.endswith(".\n")
    assert err[:-1].isprintable()
    return err


@pytest.mark.parametrize(
    ("split", "name"),
    [*(("train", name) for name in FILES), ("test", "null.jsonl"), ("validation", "empty.csv")],
)
def test_data(
    base_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    split: str,
    name: str,
) -> None:
    rows = [{"text": "a", "label": 0}, {"text": "b", "label": 1}] * 20
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    if split == "train":
        (tmp_path / "train.jsonl").unlink()
    (tmp_path / f"{split}{Path(name).suffix}").write_bytes(FILES[name])
    storage = f"sqlite:///{tmp_path / 'new.db'}"
    given = ["--model", str(base_dir), "--data", str(tmp_path), "--storage", storage]
    message = refused(["search", *given, "--study", "new", "--trials", "3"], monkeypatch, capfd)
    assert str(tmp_path) in message
    assert not (tmp_path / "new.db").exists()


DAMAGES = {
    "no JSON": (SET_SPEC, "{"),
    "no object": (SET_SPEC, "[]"),
    "a key missing": (SET_SPEC, json.dumps({k: v for k, v in SPEC.items() if k != "splits"})),
    "a key twice": (SET_SPEC, json.dumps(SPEC)[:-1] + ', "metric": "f1"}'),
    "another type": (SET_SPEC, json.dumps({**SPEC, "seed": True})),
    "a recipe missing": (DROP_ATTRIBUTE, "recipe", 3),
    "a measurement missing": (DROP_ATTRIBUTE, "measurement", 0),
    "a measurement of another": (SET_ATTRIBUTE, '{"accuracy": 1}', "measurement", 2),
}
COMMANDS = {
    "front": ["--json"],
    "pick": ["--knee"],
    "explain": ["--trial", "1"],
    "report": ["--out", "report.html"],
    "export": ["--trial", "1", "--out", "small"],
}


@pytest.mark.parametrize(
    ("command", "damage"),
    [
        *(("front", damage) for damage in DAMAGES),
        *(
            (command, damage)
            for command in COMMANDS
            if command != "front"
            for damage in ("a key missing", "a recipe missing")
        ),
    ],
)
def test_study(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    command: str,
    damage: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    url = make(tmp_path / "studies.db")
    edit(tmp_path / "studies.db", DAMAGES[damage])
    where = ["--storage", url, "--study", NAME]
    message = refused([command, *where, *COMMANDS[command]], monkeypatch, capfd)
    assert f"tudy {NAME!r}" in message
    assert "is damaged or was written by another version: " in message
    assert not (tmp_path / "report.html").exists()
    assert not (tmp_path / "small").exists()


def test_search_does_not_go_on_with_a_damaged_study(
    base_dir: Path,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    url = make(tmp_path / "studies.db")
    edit(tmp_path / "studies.db", DAMAGES["another type"])
    given = ["--model", str(base_dir), "--data", str(data_dir), "--storage", url]
    message = refused(["search", *given, "--study", NAME, "--trials", "9"], monkeypatch, capfd)
    assert f"Study {NAME!r} in this database is damaged" in message


@pytest.mark.parametrize(
    "content",
    ["", "[]", "null", '{"files": {"../a": {}}}', '{"version": 1, "version": 1}', "[" * 100_000],
    ids=lambda content: content[:20],
)
def test_export(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    content: str,
) -> None:
    (tmp_path / MANIFEST).write_text(content)
    assert MANIFEST in refused(["verify", str(tmp_path)], monkeypatch, capfd)


def test_in_a_process_of_its_own(base_dir: Path, tmp_path: Path) -> None:
    # A reader that crashes takes the process with it, and says nothing at all.
    (tmp_path / "train.jsonl").write_bytes(FILES["deep.jsonl"] + b"\nnull\n")
    given = ["--model", str(base_dir), "--data", str(tmp_path), "--out", str(tmp_path / "new")]
    done = run("-m", "axsearch", "finetune", *given)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("axsearch: ")
    assert done.stderr.count("\n") == 1

"""Exports of earlier releases: they verify, and open without axsearch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from axsearch import Recipe, verify_export
from axsearch.errors import UsageError
from axsearch.export import hf
from axsearch.export.manifest import NAME, Manifest
from axsearch.models.architectures import architectures
from axsearch.tasks.kinds import task_kinds
from axsearch.testing import processes

# Opens each folder with transformers, and prints how far its answers are from those written down.
OPEN = """
import json, sys
sys.modules["axsearch"] = None
import torch, transformers
for folder in sys.argv[1:]:
    probe = json.load(open(folder + "/probe.json"))
    remote = "auto_map" in json.load(open(folder + "/config.json"))
    transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=remote)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, trust_remote_code=remote
    ).eval()
    with torch.inference_mode():
        answer = model(**{name: torch.tensor(value) for name, value in probe["inputs"].items()})
    print((answer.logits - torch.tensor(probe["outputs"]["logits"])).abs().max().item())
"""

HF = ("hf_units", "hf_topk", "hf_layers")


def test_transformers_opens_them_without_axsearch(
    release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [release / name for name in HF]
    done = processes.run("-c", OPEN, *folders, check=True, for_exports=True)
    differences = [float(line) for line in done.stdout.splitlines()]
    assert len(differences) == len(HF)
    assert max(differences) <= 1e-5
    # `verify` would open each in one more process; the next test has one opened.
    monkeypatch.setattr(hf, "run_check", lambda *_: differences[0])
    for name in HF:
        found = verify_export(str(release / name))
        assert (found.format, found.files) == ("hf", len(list((release / name).iterdir())) - 1)


def test_one_with_code_of_its_own_verifies(release: Path) -> None:
    assert verify_export(str(release / "hf_topk")).difference <= 1e-5


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_other_formats_verify(release: Path, format: str) -> None:
    found = verify_export(str(release / format))
    assert found.format == format
    assert found.difference <= 1e-3


def test_their_recipes_are_those_of_the_study(release: Path, recorded: dict[str, object]) -> None:
    trials = recorded["trials"]
    assert isinstance(trials, list)
    known = {trial["hash"] for trial in trials}
    for name in ("hf_units", "hf_topk", "onnx"):
        assert Recipe.read(release / name / "recipe.json").hash in known


@pytest.fixture
def unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process may be started to open the folder."""

    def opened(*_: object) -> float:
        raise AssertionError("the folder was opened")

    monkeypatch.setattr(hf, "run_check", opened)


def sign(folder: Path) -> None:
    """A new manifest, as anybody can write it: it holds no secret."""
    (folder / NAME).unlink()
    Manifest.of(folder, "hf").write(folder)


@pytest.mark.parametrize("place", [0, 30_000, -2])
def test_a_modeling_file_with_another_byte_is_not_run(
    release: Path, tmp_path: Path, unopened: None, place: int
) -> None:
    folder = Path(shutil.copytree(release / "hf_units", tmp_path / "copy"))
    modeling = folder / "modeling_axsearch.py"
    for bit in (1, 128):  # the second leaves no UTF-8
        source = bytearray((release / "hf_units" / modeling.name).read_bytes())
        source[place] ^= bit
        modeling.write_bytes(source)
        sign(folder)
        with pytest.raises(UsageError, match=r"modeling_axsearch\.py is not the file .* so it is"):
            verify_export(str(folder))


@pytest.mark.parametrize(
    "changes",
    [
        {"SequenceClassification": "TokenClassification"},
        {"axsearch_bert": "axsearch_electra", '"BertFor': '"ElectraFor'},
    ],
    ids=["class", "family"],
)
def test_a_modeling_file_is_not_run_for_another_class_or_family(
    release: Path, tmp_path: Path, unopened: None, changes: dict[str, str]
) -> None:
    folder = Path(shutil.copytree(release / "hf_units", tmp_path / "copy"))
    text = (folder / "config.json").read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "config.json").write_text(text)
    sign(folder)
    with pytest.raises(UsageError, match=r"modeling_axsearch\.py is not the file"):
        verify_export(str(folder))


def test_the_table_of_earlier_files_names_what_there_is() -> None:
    classes = {kind.auto_class.__name__ for kind in task_kinds().values()}
    releases = json.loads(hf.EARLIER.read_text())
    assert [len(by_class) for by_class in releases.values()] == [3]
    for by_class in releases.values():
        assert set(by_class) <= classes
        assert all(set(by_family) <= set(architectures()) for by_family in by_class.values())
        checksums = [checksum for by_family in by_class.values() for checksum in by_family.values()]
        assert len(checksums) == len(set(checksums)) == 33  # eleven families that read text

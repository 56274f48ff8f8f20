"""What an OpenVINO export is; that every family's answers are right is in test_traced_families."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from axsearch.errors import AxsearchError, UsageError
from axsearch.export import Bundle, formats, verify_export
from axsearch.export import openvino as openvino_format
from axsearch.export.manifest import NAME, Manifest
from axsearch.testing.exports import write_export


@pytest.fixture(scope="module")
def exported(
    every_choice: Bundle, every_choice_onnx: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    def written(model: object, probe: object, path: Path) -> None:
        assert model is every_choice.small
        assert probe is every_choice.probe_inputs
        shutil.copy(every_choice_onnx / "model.onnx", path)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(openvino_format, "write_onnx", written)  # what it would write again
        return write_export(every_choice, tmp_path_factory.mktemp("openvino") / "small", "openvino")


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    shutil.copytree(exported, tmp_path / "copy")
    return tmp_path / "copy"


def sign_again(folder: Path) -> None:
    (folder / NAME).unlink()
    Manifest.of(folder, "openvino").write(folder)


def test_it_is_verified_without_what_made_it(exported: Path, every_choice: Bundle) -> None:
    found = verify_export(str(exported))
    assert found.format == "openvino"
    assert 0 < found.difference <= 1e-5  # sums in another order
    assert {"model.xml", "model.bin", "config.json", "tokenizer.json", "README.md"} <= {
        path.name for path in exported.iterdir()
    }
    assert not (exported / "model.onnx").exists()
    weights = 4 * sum(p.numel() for p in every_choice.small.parameters())
    assert weights <= (exported / "model.bin").stat().st_size <= weights + 2000  # not float16


def test_the_graph_says_nothing_of_this_machine(exported: Path) -> None:
    text = (exported / "model.xml").read_text()
    assert str(exported.parent) not in text
    assert "site-packages" not in text


def _replace(old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        text = (folder / "model.xml").read_text()
        assert old in text
        (folder / "model.xml").write_text(text.replace(old, new, 1))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_replace("</net>", ""), r"model\.xml is damaged"),
        (_replace("<net", '<!DOCTYPE x [<!ENTITY a "b">]><net'), r"model\.xml is damaged"),
        (_replace('version="opset1"', 'version="extension"'), r"model\.xml is not as axsearch"),
        (_replace("<rt_info>", '<rt_info><__weights_path value="x" />'), r"model\.xml is not as"),
        (lambda folder: (folder / "ops.so").write_bytes(b""), r"ops\.so is not as axsearch"),
        (lambda folder: (folder / "model.bin").unlink(), r"model\.bin is missing"),
    ],
)  # fmt: skip
def test_what_axsearch_did_not_write_is_not_opened(
    copy: Path, damage: Callable[[Path], None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_check(*arguments: object) -> float:
        raise AssertionError("it was opened")

    monkeypatch.setattr(openvino_format, "run_check", run_check)
    damage(copy)
    sign_again(copy)
    with pytest.raises(UsageError, match=message):
        verify_export(str(copy))


@pytest.mark.parametrize(
    ("value", "message"),
    [(0.5, "differ by"), (float("nan"), "differ by nan"), ([0.5, 0.5, 0.5], "another shape")],
)
def test_other_answers_are_found(copy: Path, value: object, message: str) -> None:
    probe = json.loads((copy / "probe.json").read_text())
    logits = probe["outputs"]["logits"]
    if isinstance(value, list):
        probe["outputs"]["logits"] = [value] * len(logits)
    else:
        logits[0][0] += value
    (copy / "probe.json").write_text(json.dumps(probe))
    sign_again(copy)
    with pytest.raises(AxsearchError, match=message):
        verify_export(str(copy))


def test_a_missing_package_is_named_with_the_extra(
    every_choice: Bundle, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_format, "PACKAGES", ("openvino_of_another_name",))
    reason = "openvino_of_another_name not installed, run pip install 'axsearch\\[export\\]'"
    refusal = formats()["openvino"].refusal(every_choice.measurement)
    assert refusal == reason.replace("\\", "")
    with pytest.raises(UsageError, match=reason):
        verify_export(str(exported))

"""Manifests of exports as anything may have written them: nothing outside the folder is read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axsearch.errors import UsageError
from axsearch.export.manifest import NAME, Manifest
from tests.faults.sentences import fuzz, sentence
from tests.mutations import KEYS, STRANGE, changed, doubled, parsed, spliced

FILES = {"config.json": b"{}", "model.safetensors": b"\0" * 64, "tokenizer.json": b'{"a": 1}'}


def entry(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


MANIFEST: dict[str, Any] = {
    "version": 1,
    "format": "hf",
    "files": {name: entry(content) for name, content in FILES.items()},
}


def signed(data: Any) -> Any:
    """With the checksum that anybody can work out."""
    if not isinstance(data, dict) or "sha256" in data:
        return data
    return {**data, "sha256": hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("exports")
    (parent / "outside.txt").write_bytes(b"{}")
    export = parent / "export"
    export.mkdir()
    for name, content in FILES.items():
        (export / name).write_bytes(content)
    return export


def accepted(folder: Path, written: str) -> Manifest | None:
    """The manifest, if it is taken and the folder is as it says."""
    (folder / NAME).write_text(written)
    try:
        manifest = Manifest.read(folder)
        manifest.check(folder)
    except UsageError as error:
        sentence(error)
        return None
    return manifest


OUTSIDE = st.sampled_from(
    [
        "../outside.txt", "./config.json", "/etc/passwd", "a/b", "", ".", "..", "a\0b", "a\nb",
        "a" * 300, "config.json/", "CONFIG.JSON", "\ud800", NAME, "__pycache__",
    ]
)  # fmt: skip
ENTRIES = st.sampled_from([entry(b"{}"), entry(b""), {"bytes": True, "sha256": ""}, {}])
SIGNED = st.one_of(
    changed(st.just(MANIFEST), STRANGE, KEYS | OUTSIDE),
    changed(st.just(MANIFEST), ENTRIES, OUTSIDE, most=2),
    st.builds(lambda name: {**MANIFEST, "format": name}, st.text(max_size=10)),
).map(signed)


@fuzz(300)
@given(
    st.one_of(
        SIGNED.map(json.dumps),
        doubled(st.just(signed(MANIFEST))),
        spliced(st.just(json.dumps(signed(MANIFEST)))),
        STRANGE.map(json.dumps),
        st.text(st.characters(exclude_categories=["Cs"])),
    )
)
def test_manifest(folder: Path, written: str) -> None:
    data = parsed(written)
    form = data.get("format") if isinstance(data, dict) else None
    right = isinstance(form, str) and same(data, signed({**MANIFEST, "format": form}))
    found = accepted(folder, written)
    assert (found is not None) == right
    assert found is None or found.format == form


def same(ours: Any, theirs: Any) -> bool:
    """Whether two documents say the same in the same types: true is not 1."""
    return json.dumps(ours, sort_keys=True) == json.dumps(theirs, sort_keys=True)


def test_the_manifest_as_it_is_written(folder: Path) -> None:
    assert accepted(folder, json.dumps(signed(MANIFEST))) is not None


@pytest.mark.parametrize("name", ["../outside.txt", "sub/../config.json", "./config.json"])
def test_a_name_that_leads_elsewhere(folder: Path, name: str) -> None:
    files = {**MANIFEST["files"], name: entry(b"{}")}
    assert (folder / "../outside.txt").is_file()
    assert accepted(folder, json.dumps(signed({**MANIFEST, "files": files}))) is None


@pytest.mark.parametrize("target", ["../outside.txt", "tokenizer.json", "nowhere", "."])
def test_a_link_in_the_place_of_a_file(tmp_path: Path, target: str) -> None:
    (tmp_path / "outside.txt").write_bytes(b"{}")
    export = tmp_path / "export"
    export.mkdir()
    for name, content in FILES.items():
        (export / name).write_bytes(content)
    (export / "config.json").unlink()
    (export / "config.json").symlink_to(target)
    assert accepted(export, json.dumps(signed(MANIFEST))) is None


@pytest.mark.parametrize("change", [{"version": True}, {"version": 1.0}, {"files": []}])
def test_another_type_is_not_taken_for_the_right_one(folder: Path, change: dict[str, Any]) -> None:
    assert accepted(folder, json.dumps(signed({**MANIFEST, **change}))) is None


@pytest.mark.parametrize("size", ["2", 2.0, True])
def test_a_size_of_another_type(folder: Path, size: Any) -> None:
    files = {**MANIFEST["files"], "config.json": {**entry(b"{}"), "bytes": size}}
    data = {**MANIFEST, "files": files}
    # The checksum is that of what would be read.
    read = json.loads(json.dumps(data))
    read["files"]["config.json"]["bytes"] = int(float(size))
    assert accepted(folder, json.dumps({**data, "sha256": signed(read)["sha256"]})) is None

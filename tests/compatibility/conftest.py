"""What earlier releases left, one folder of ``tests/fixtures`` each."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.compatibility.base import make_base, make_data
from tests.compatibility.record import ANSWERS, DATABASE

RELEASES = sorted((Path(__file__).parents[1] / "fixtures").glob("release_*"))


@pytest.fixture(scope="session", params=RELEASES, ids=lambda folder: folder.name)
def release(request: pytest.FixtureRequest) -> Path:
    """The folder of an earlier release."""
    folder: Path = request.param
    return folder


@pytest.fixture(scope="session")
def recorded(release: Path) -> dict[str, Any]:
    """What the release said of its study."""
    found: dict[str, Any] = json.loads((release / ANSWERS).read_text())
    return found


@pytest.fixture
def database(release: Path, tmp_path: Path) -> Path:
    """A copy of the release's database."""
    copy = tmp_path / "studies.db"
    copy.write_bytes(gzip.decompress((release / DATABASE).read_bytes()))
    return copy


@pytest.fixture(scope="session")
def model_and_data(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The base and the data of the recorded studies, as folders."""
    folder = tmp_path_factory.mktemp("recorded")
    return str(make_base(folder / "base")), str(make_data(folder / "data"))


@pytest.fixture(autouse=True, scope="package")
def _without_compiling() -> Iterator[None]:
    """Nothing here is about speed, and the numbers are the same without the native kernels."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AXSEARCH_NATIVE", "0")
        yield

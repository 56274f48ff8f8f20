"""Files of trained weights: kept, found again, and missed."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import optuna
import pytest
from optuna.artifacts.exceptions import ArtifactNotFound
from sqlalchemy import create_engine, text

from axsearch.errors import AxsearchError, UsageError
from axsearch.space.recipe import Recipe
from axsearch.store import trained_weights, weights_files
from axsearch.store.database import Database, open_database
from axsearch.store.trained_weights import weights_kept, weights_store
from axsearch.store.weights_files import WEIGHTS_VARIABLE
from axsearch.testing.processes import Process, run
from tests.common_fixtures import copied
from tests.faults.cheap import LAYERS, recipe_of

KEY, OTHER = "a" * 64, "b" * 64
MADE = {"study": "reviews", "trial": 7, "epochs": 3, "learning_rate": 3e-5, "seed": 0}
BYTES = bytes(range(256)) * 9000  # more than is read at once


def small() -> Recipe:
    return recipe_of({f"layer{layer:02d}.heads": 3 for layer in range(LAYERS)})


@pytest.fixture
def database(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    if not url.startswith("sqlite"):
        monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / "studies.db.weights"))
    opened = open_database(url)
    yield opened
    opened.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the weights are kept."""
    return tmp_path / "studies.db.weights"


def weights(folder: Path, data: bytes = BYTES) -> Path:
    """A file of weights, as training leaves it."""
    path = folder / "trained.safetensors"
    path.write_bytes(data)
    return path


def test_weights_are_kept_and_found(database: Database, folder: Path, tmp_path: Path) -> None:
    kept = weights_store(database.engine)
    assert kept.place == str(folder)
    assert kept.made(KEY) is None
    assert kept.made(KEY) is None
    assert not folder.exists()
    kept.save(KEY, small(), weights(tmp_path), MADE, 12.5)
    kept.save(OTHER, small(), weights(tmp_path, b"other"), {"seed": 1}, 1.0)
    again = weights_store(database.engine)
    assert again.made(KEY) == MADE
    assert again.is_whole(KEY)
    assert weights_kept(database.engine) == (2, len(BYTES) + 5)
    assert again.check() == []
    for _ in range(2):  # a file that is there is replaced
        again.fetch(KEY, tmp_path / "fetched")
        assert (tmp_path / "fetched").read_bytes() == BYTES
    with database.engine.connect() as connection:
        row = connection.execute(
            text("SELECT recipe, seconds FROM ax_weights WHERE seconds > 2")
        ).one()
    assert tuple(row) == (small().hash, 12.5)


def test_the_second_save_of_a_key_changes_nothing(
    database: Database, folder: Path, tmp_path: Path
) -> None:
    kept = weights_store(database.engine)
    kept.save(KEY, small(), weights(tmp_path), MADE, 1.0)
    kept.save(KEY, small(), weights(tmp_path, b"of another machine"), {"seed": 9}, 2.0)
    assert len([*folder.iterdir()]) == 1
    assert kept.made(KEY) == MADE
    kept.fetch(KEY, tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == BYTES


@pytest.mark.parametrize("theirs", [BYTES, b"of another machine"])
def test_another_process_saves_the_same_key_meanwhile(
    database: Database, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theirs: bytes
) -> None:
    """It saves between our file and our row."""
    keep = trained_weights.WeightsStore._keep

    def later(*arguments: Any) -> None:
        monkeypatch.setattr(trained_weights.WeightsStore, "_keep", keep)
        other = weights_store(database.engine)
        other.save(KEY, small(), weights(folder, theirs), {"seed": 9}, 2.0)
        (folder / "trained.safetensors").unlink()
        keep(*arguments)

    monkeypatch.setattr(trained_weights.WeightsStore, "_keep", later)
    kept = weights_store(database.engine)
    kept.save(KEY, small(), weights(tmp_path), MADE, 1.0)
    assert len([*folder.iterdir()]) == 1
    assert kept.check() == []
    assert kept.made(KEY) == {"seed": 9}
    kept.fetch(KEY, tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == theirs


SAVE = """
import sys
from pathlib import Path
from axsearch.store.database import open_database
from axsearch.store.trained_weights import weights_store
from tests.store.test_trained_weights import KEY, MADE, small
database = open_database(sys.argv[1])
weights_store(database.engine).save(KEY, small(), Path(sys.argv[2]), MADE, 1.0)
database.close()
"""
DIE = "import os, signal\ndie = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"


def test_processes_save_the_same_key_at_once(
    url: str, database: Database, folder: Path, tmp_path: Path
) -> None:
    files = []
    for number in range(6):
        (tmp_path / str(number)).mkdir()
        files.append(weights(tmp_path / str(number), BYTES + bytes([number % 2])))
    running = [Process("-c", SAVE, url, file) for file in files]
    told = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0] * 6, told
    assert len([*folder.iterdir()]) == 1
    assert weights_store(database.engine).check() == []
    assert weights_kept(database.engine)[0] == 1


@pytest.mark.parametrize("killed", ["within the file", "before its row"])
def test_a_process_that_is_killed_leaves_no_row_without_its_file(
    url: str, database: Database, folder: Path, tmp_path: Path, killed: str
) -> None:
    patch = {
        "within the file": "os.fsync = die\n",
        "before its row": (
            "from axsearch.store.trained_weights import WeightsStore\nWeightsStore._keep = die\n"
        ),
    }[killed]
    file = weights(tmp_path)
    assert run("-c", DIE + patch + SAVE, url, file).returncode == -signal.SIGKILL
    kept = weights_store(database.engine)
    assert kept.made(KEY) is None
    assert kept.check() == []
    (left,) = folder.iterdir()
    assert left.name.endswith(".part") == (killed == "within the file")
    yesterday = left.stat().st_mtime - weights_files.OLD - 60
    os.utime(left, (yesterday, yesterday))
    kept.save(KEY, small(), file, MADE, 1.0)
    (there,) = folder.iterdir()  # what was left is used or removed
    assert there.suffix == ".safetensors"
    assert kept.check() == []


def test_a_file_that_another_process_is_writing_stays(
    database: Database, folder: Path, tmp_path: Path
) -> None:
    folder.mkdir()
    (folder / ".of-another.part").write_bytes(b"half")
    weights_store(database.engine).save(KEY, small(), weights(tmp_path), MADE, 1.0)
    assert (folder / ".of-another.part").exists()


@pytest.mark.parametrize("fault", ["missing", "no folder", "a byte", "shorter"])
def test_a_lost_or_changed_file_is_said_and_made_again(
    database: Database, folder: Path, tmp_path: Path, fault: str
) -> None:
    kept = weights_store(database.engine)
    kept.save(KEY, small(), weights(tmp_path), MADE, 1.0)
    kept.save(OTHER, small(), weights(tmp_path, b"other"), {}, 1.0)
    (file,) = folder.glob(f"{KEY}*")
    if fault == "missing":
        file.unlink()
    elif fault == "no folder":
        folder.rename(tmp_path / "elsewhere")
    elif fault == "a byte":
        file.write_bytes(BYTES[:-1] + b"?")
    else:
        file.write_bytes(BYTES[:-1])
    (tmp_path / "fetched").write_bytes(b"before")
    with pytest.raises(UsageError) as caught:
        kept.fetch(KEY, tmp_path / "fetched")
    said = str(caught.value)
    wrong = "missing from" if fault in ("missing", "no folder") else "damaged in"
    assert said.startswith(
        f"The trained weights of trial 7 of study 'reviews' are {wrong} {folder}"
    )
    assert file.name in said
    assert "`axsearch recover` again" in said
    assert WEIGHTS_VARIABLE in said
    assert (tmp_path / "fetched").read_bytes() == b"before"
    assert not [*tmp_path.glob(".*.part")]
    assert kept.check() == ([KEY, OTHER] if fault == "no folder" else [KEY])
    assert kept.made(KEY) == MADE
    kept.save(KEY, small(), weights(tmp_path), {**MADE, "seed": 1}, 1.0)
    assert kept.check() == ([OTHER] if fault == "no folder" else [])
    assert kept.made(KEY) == {**MADE, "seed": 1}


def test_damaged_weights_are_made_again_otherwise(
    database: Database, folder: Path, tmp_path: Path
) -> None:
    """On another machine, for example: the damaged file goes."""
    kept = weights_store(database.engine)
    kept.save(KEY, small(), weights(tmp_path), MADE, 1.0)
    (file,) = folder.iterdir()
    file.write_bytes(b"damaged")
    kept.save(KEY, small(), weights(tmp_path, b"otherwise"), MADE, 1.0)
    assert [path.read_bytes() for path in folder.iterdir()] == [b"otherwise"]
    assert kept.check() == []


def test_a_key_that_nobody_knows(database: Database, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no trained weights aaaaaaaaaaaa…; run `axsearch rec"):
        weights_store(database.engine).fetch(KEY, tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()


def test_what_cannot_be_written_is_said(
    database: Database, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    kept = weights_store(database.engine)
    with pytest.raises(AxsearchError) as caught:
        kept.save(KEY, small(), weights(tmp_path), MADE, 1.0)
    assert str(caught.value).startswith(
        f"Trained weights cannot be written to {folder} (No space left on device); "
    )
    assert kept.made(KEY) is None
    assert not [*folder.iterdir()]


def test_a_record_that_was_edited_is_said(database: Database, tmp_path: Path) -> None:
    kept = weights_store(database.engine)
    kept.save(KEY, small(), weights(tmp_path), MADE, 1.0)
    # PostgreSQL itself refuses what is no JSON.
    for value in ("[1]", *(["{"] * (database.engine.dialect.name == "sqlite"))):
        with database.engine.begin() as connection:
            connection.execute(text("UPDATE ax_weights SET made = :value"), {"value": value})
        with pytest.raises(UsageError, match=r"record of trained weights .*is damaged"):
            kept.made(KEY)


# Where they are


def test_the_folder_that_the_variable_names(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / "shared" / "weights"))
    kept = weights_store(database.engine)
    assert kept.place == str(tmp_path / "shared" / "weights")
    kept.save(KEY, small(), weights(tmp_path), MADE, 1.0)
    assert len([*(tmp_path / "shared" / "weights").iterdir()]) == 1
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(weights(tmp_path)))
    with pytest.raises(UsageError, match=f"is a file, not a folder .* set {WEIGHTS_VARIABLE}"):
        weights_store(database.engine)


def test_a_server_s_weights_need_a_place(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WEIGHTS_VARIABLE, " ")
    engine = create_engine(postgresql_url)
    with pytest.raises(UsageError, match=f"{WEIGHTS_VARIABLE} to a folder that all machines reach"):
        weights_store(engine)
    engine.dispose()


def test_a_database_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    places = {weights_store(create_engine("sqlite://")).place for _ in range(2)}
    (place,) = places
    assert Path(place).is_dir()
    assert Path.cwd() not in Path(place).parents


def test_a_database_that_can_only_be_read(
    sqlite_template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    there = tmp_path / "there"
    there.mkdir()
    database = open_database(copied(sqlite_template, there))
    weights_store(database.engine).save(KEY, small(), weights(tmp_path), MADE, 1.0)
    database.close()
    before = {path: path.read_bytes() for path in there.rglob("*") if path.is_file()}
    read_only = open_database(f"sqlite:///file:{there / 'studies.db'}?mode=ro&uri=true")
    kept = weights_store(read_only.engine)
    assert kept.made(KEY) == MADE
    kept.fetch(KEY, tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == BYTES
    assert kept.check() == []
    read_only.close()
    assert {path: path.read_bytes() for path in there.rglob("*") if path.is_file()} == before


class InMemory:
    """A bucket; ``refuses`` is what it raises."""

    def __init__(self, bucket: str, **_: object) -> None:
        self.bucket = bucket
        self.files: dict[str, bytes] = {}
        self.refuses: Exception | None = None
        BUCKETS.append(self)

    def open_reader(self, artifact_id: str) -> BinaryIO:
        if self.refuses is not None:
            raise self.refuses
        if artifact_id not in self.files:
            raise ArtifactNotFound
        return io.BytesIO(self.files[artifact_id])

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        self.files[artifact_id] = content_body.read()

    def remove(self, artifact_id: str) -> None:
        del self.files[artifact_id]


BUCKETS: list[InMemory] = []


@pytest.mark.parametrize(
    ("place", "kind", "package"),
    [
        ("s3://bucket", "Boto3ArtifactStore", "boto3"),
        ("s3://bucket/of/mine/", "Boto3ArtifactStore", "boto3"),
        ("gs://bucket/mine", "GCSArtifactStore", "google-cloud-storage"),
    ],
)
def test_a_bucket(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    place: str, kind: str, package: str,
) -> None:  # fmt: skip
    monkeypatch.setenv(WEIGHTS_VARIABLE, place)

    def missing(*_: object, **__: object) -> None:
        raise ImportError

    monkeypatch.setattr(optuna.artifacts, kind, missing)
    with pytest.raises(UsageError, match=f"`pip install {package}`"):
        weights_store(database.engine)
    monkeypatch.setattr(optuna.artifacts, kind, InMemory)
    kept = weights_store(database.engine)
    bucket = BUCKETS.pop()
    assert bucket.bucket == "bucket"
    assert kept.place == place.rstrip("/")
    kept.save(KEY, small(), weights(tmp_path), MADE, 1.0)
    (name,) = bucket.files
    assert f"s3://bucket/{name}".startswith(place.replace("gs:", "s3:"))
    kept.fetch(KEY, tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == BYTES
    bucket.refuses = RuntimeError("Unable to locate credentials")
    with pytest.raises(AxsearchError, match=r"cannot be read from .*Unable to locate credentials"):
        kept.fetch(KEY, tmp_path / "fetched")
    bucket.refuses = None
    bucket.files.clear()
    assert kept.check() == [KEY]


@pytest.mark.parametrize(
    "place",
    [
        "https://secret@bucket", "s3://me:secret@bucket", "s3://", "s3://bucket?token=secret",
        "s3://[secret",
    ],
)  # fmt: skip
def test_a_url_that_is_no_bucket_s_is_not_repeated(
    database: Database, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv(WEIGHTS_VARIABLE, place)
    with pytest.raises(UsageError, match="must be a folder, s3://bucket or gs://bucket") as caught:
        weights_store(database.engine)
    assert "secret" not in str(caught.value)

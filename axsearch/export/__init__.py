"""The export formats, one file each, and what they share."""

from __future__ import annotations

import functools
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from axsearch import discovery
from axsearch.errors import AxsearchError, UsageError
from axsearch.export.base import Bundle, ExportFormat
from axsearch.export.manifest import Manifest
from axsearch.recipe import Recipe
from axsearch.study import Study
from axsearch.surgery import plan
from axsearch.task import load_config, load_model, load_tokenizer, model_fingerprint

__all__ = [
    "Bundle",
    "ExportFormat",
    "Verified",
    "export_model",
    "format_names",
    "formats",
    "verify_export",
]

TOLERANCE = 1e-5


@functools.cache
def formats() -> Mapping[str, ExportFormat]:
    """Every format by name."""
    found = discovery.classes(sys.modules[__name__], ExportFormat)  # type: ignore[type-abstract]
    return MappingProxyType({member.name: member() for member in found})


def format_names() -> tuple[str, ...]:
    """The names that ``--format`` takes."""
    return tuple(formats())


def export_model(study: Study, trial: int, out: str, *, format: str = "hf") -> Path:
    """Write a trial's model to a new folder; it appears there only when it is complete.

    Args:
        study: the study that has the trial.
        trial: number of a finished trial.
        out: a folder that does not exist or is empty.
        format: see :func:`format_names`.

    Raises:
        UsageError: no such trial or format, a folder that is not empty, or a base model that is
            not the one the study was made with.
    """
    if format not in formats():
        raise UsageError(
            f"Format {format!r} is not in this version; choose {', '.join(format_names())}."
        )
    measurement = study.trial(trial)
    folder = Path(out).resolve()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UsageError(f"The export folder {folder} is not empty; give another --out.")
    spec = study.spec
    load_config(spec.model)
    base = load_model(spec.model)
    if model_fingerprint(base) != spec.model_fingerprint:
        raise UsageError(
            f"The model {spec.model} is not the one that study {study.name!r} was made with."
        )
    recipe = Recipe.from_dict(measurement.recipe)
    plan(base, recipe)
    bundle = Bundle(
        base=base,
        tokenizer=load_tokenizer(spec.model),
        recipe=recipe,
        measurement=measurement,
        baseline=study.baseline,
        study=study.name,
        model_name=study.model_name,
        data_name=study.data_name,
        metric=spec.metric,
        scenario=study.scenario,
    )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        directory = tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent)
    except OSError as error:
        raise UsageError(f"The folder {folder} cannot be made: {error.strerror}.") from None
    with directory as temporary:
        inside = Path(temporary) / "export"
        inside.mkdir()
        formats()[format].write(bundle, inside)
        Manifest.of(inside, format).write(inside)
        if folder.is_dir():
            folder.rmdir()
        shutil.move(inside, folder)
    return folder


@dataclass(frozen=True)
class Verified:
    """What :func:`verify_export` found: all files as written, and how far the logits are apart."""

    format: str
    files: int
    size_bytes: int
    difference: float


def verify_export(folder: str) -> Verified:
    """Check an export: every file as it was written, and its logits in a new process.

    Raises:
        UsageError: not an export, or a file of it was changed, cut short or is missing.
        AxsearchError: the logits differ by more than 1e-5 from the searched model's.
    """
    path = Path(folder)
    manifest = Manifest.read(path)
    manifest.check(path)
    if manifest.format not in formats():
        raise UsageError(f"{path} has the format {manifest.format!r}, which is not known here.")
    difference = formats()[manifest.format].check(path)
    if not difference <= TOLERANCE:
        raise AxsearchError(
            f"The logits of {path} differ by {difference:.1e} from those of the searched model, "
            f"more than {TOLERANCE:.0e}; export it again."
        )
    return Verified(
        manifest.format,
        len(manifest.files),
        sum(entry.bytes for entry in manifest.files.values()),
        difference,
    )

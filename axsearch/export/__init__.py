"""The export formats, one file each, and what they share."""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch

from axsearch import discovery
from axsearch.errors import AxsearchError, UsageError
from axsearch.evaluation.loading import load_task, shown_evaluators
from axsearch.evaluation.serving import quantization_examples
from axsearch.export.base import Bundle, ExportFormat
from axsearch.export.forms import Form, dtype_of, holdout_accuracy, precision_of, searched_in, sized
from axsearch.export.manifest import NAME as MANIFEST
from axsearch.export.manifest import Manifest
from axsearch.models.weights import Rounded
from axsearch.progress import steps
from axsearch.space.recipe import EXACT, Recipe
from axsearch.space.scenario import PRECISION
from axsearch.statistics.measurement import Measurement
from axsearch.store.database import open_database
from axsearch.store.studies import Exported, exports_with, save_export
from axsearch.study.comparison import compared
from axsearch.study.study import Study
from axsearch.system.staging import staging
from axsearch.tasks.pretrained import on_device
from axsearch.tasks.task import Task

__all__ = [
    "Bundle",
    "ExportFormat",
    "Verified",
    "export_model",
    "format_names",
    "formats",
    "verify_export",
]

FULL = 2**16
"""A disk with fewer bytes left is full: some writers fail without saying why."""


@functools.cache
def formats() -> Mapping[str, ExportFormat]:
    """Every format by name."""
    found = discovery.classes(sys.modules[__name__], ExportFormat)  # type: ignore[type-abstract]
    return MappingProxyType({member.name: member() for member in found})


def format_names() -> tuple[str, ...]:
    """The name of every format."""
    return tuple(formats())


DTYPES = ("float32", "float16", "bfloat16")
"""The types in which an hf export may keep its weights."""


def export_model(
    study: Study,
    trial: int,
    out: str,
    *,
    format: str = "hf",
    force: bool = False,
    dtype: str | None = None,
    precision: str | None = None,
    model: str | None = None,
    data: str | None = None,
) -> Path:
    """Write a trial's model to a new folder; it appears there only when it is complete.

    The model and the base are evaluated on the holdout split, if that was not done before.

    Args:
        study: the study that has the trial.
        trial: number of a finished trial.
        out: a folder that does not exist or is empty.
        format: see :func:`format_names`.
        force: write the model even if it is no better than a constant prediction.
        dtype: in which an hf export keeps its weights: float32, float16 or bfloat16; the base's
            file's if None. Its accuracy is measured with weights rounded to it.
        precision: in which an onnx or openvino export computes: float32, bfloat16 (openvino) or
            int8; that of the study if None and the format is its runtime's, else float32.
        model: where the base lies on this machine, if elsewhere than where the study began.
        data: the same for the data.

    Raises:
        UsageError: no such trial or format, a recipe that the format cannot hold, a folder that is
            not empty, a base model or data that are not those the study was made with, or, without
            ``force``, a model that is no better than a constant prediction (one class, the mean or
            no answer for all examples); too little room on the disk.
        AxsearchError: the disk became full meanwhile; what was written is removed.
    """
    form = Form(format, precision_of(study, format, precision), dtype)
    _check_form(form)
    measurement = study.trial(trial)
    recipe = Recipe.from_dict(measurement.recipe)
    if dtype is None and recipe != EXACT:  # which transformers writes in any type
        form = form._replace(dtype=dtype_of(study, format))
    refusal = formats()[format].refusal(measurement)
    if refusal is not None:
        raise UsageError(f"Trial {trial} cannot be exported as {format}: {refusal}.")
    folder = Path(out).resolve()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UsageError(f"The export folder {folder} is not empty; give another `out`.")
    _check_room(folder, measurement, format)
    study.database.check_writable()
    with steps(3) as begin:
        begin("Loading model and data")
        task = load_task(study.spec, model=model, data=data)
        bundle = _bundle(study, task, measurement, recipe, force, form, begin)
        begin("Writing the model")
        _write(bundle, folder, format)
    checksum = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    engine, key = study.database.engine, bundle.weights.key
    save_export(engine, study.name, trial, recipe, format, str(folder), checksum, key)
    return folder


def _check_form(form: Form) -> None:
    format, precision, dtype = form
    if format not in formats():
        raise UsageError(
            f"Format {format!r} is not in this version; choose {', '.join(format_names())}."
        )
    if dtype is not None and format != "hf":
        raise UsageError(f"`dtype` is for the format hf; {format} has `precision`.")
    if precision not in formats()[format].precisions:
        if format == "hf":
            raise UsageError("`precision` is for the formats onnx and openvino; hf has `dtype`.")
        those = ", ".join(formats()[format].precisions)
        raise UsageError(f"Format {format} has no precision {precision!r}; choose {those}.")
    if precision != PRECISION and (lacking := form.runtime.missing(precision)) is not None:
        raise UsageError(f"Format {format} in {precision} cannot be written: {lacking}.")
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"`dtype` must be one of {', '.join(DTYPES)}, not {dtype!r}.")


def _bundle(
    study: Study,
    task: Task,
    measurement: Measurement,
    recipe: Recipe,
    force: bool,
    form: Form,
    begin: Callable[[str], None],
) -> Bundle:
    """The bundle that a format writes; raises UsageError for a model that is worth nothing."""
    spec, trial, dtype = study.spec, measurement.trial, form.dtype
    task.base.plan(recipe)  # refuses a recipe of another model
    evaluator = shown_evaluators(study, task, [recipe])[recipe.hash]
    if dtype not in (None, task.file_dtype):
        if recipe == EXACT:
            raise UsageError(
                f"Trial {trial} is the base itself, which transformers writes with another `dtype`."
            )
        evaluator.weights = Rounded(evaluator.weights, getattr(torch, dtype))
    measurement, baseline = sized(study, task, measurement, form)
    begin("Evaluating on the holdout split")
    holdout = holdout_accuracy(study, evaluator, recipe, form)
    trivial = task.kind.trivial(task.metric, task.calibration, task.holdout)
    if not holdout.value > trivial and not force:
        raise UsageError(
            f"Trial {trial} has {spec.metric} {holdout.value:.4f} on the holdout split, no better "
            f"than {task.kind.trivial_answer} with {trivial:.4f}; `force=True` exports it anyway."
        )
    base_holdout = evaluator.accuracy(EXACT, task.holdout)
    (held,) = compared("holdout", [holdout.outcome], base_holdout.outcome, spec.seed)
    expected = study.expectation(measurement)
    on_device(task.model, "cpu")
    return Bundle(
        base=task.base,
        tokenizer=task.tokenizer_of(recipe),
        recipe=recipe,
        weights=evaluator.weights,
        dtype=getattr(torch, dtype or task.file_dtype),
        measurement=measurement,
        baseline=baseline,
        expected=None if expected is None else expected.interval,
        holdout=holdout,
        base_holdout=base_holdout,
        against_base=held,
        study=study.name,
        task=task.kind.name,
        model_name=study.model_name,
        data_name=study.data_name,
        metric=spec.metric,
        scenario=study.scenario,
        runtime=study.runtime,
        machine=spec.machine,
        cut=task.cut,
        learnt=task.learnt,
        precision=form.precision,
        searched_in=searched_in(study, form),
        examples=quantization_examples(task, recipe),
    )


def _write(bundle: Bundle, folder: Path, format: str) -> None:
    """Write beside the folder, and move it there once it is complete."""
    with ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            inside = stack.enter_context(staging(folder.parent, folder.name))
        except OSError as error:
            raise UsageError(f"The folder {folder} cannot be made: {error.strerror}.") from None
        try:
            formats()[format].write(bundle, inside)
            Manifest.of(inside, format).write(inside)
        except Exception as error:  # each format's libraries report it in their own way
            if not _is_full(error, folder.parent):
                raise
            raise AxsearchError(
                f"The disk of {folder.parent} became full, and nothing was written; make room and "
                "run the same command again."
            ) from error
        if folder.is_dir():
            folder.rmdir()
        shutil.move(inside, folder)


def _check_room(folder: Path, measurement: Measurement, format: str) -> None:
    # A graph is written in float32, whatever it becomes.
    size = measurement.size_bytes if format == "hf" else 4 * measurement.parameters
    there = next(parent for parent in folder.parents if parent.is_dir())
    free = shutil.disk_usage(there).free
    if free < size:
        raise UsageError(
            f"The weights alone take {size / 1e6:.1f} MB, and the disk of {there} has "
            f"{free / 1e6:.1f} MB left; make room or give another `out`."
        )


def _is_full(error: BaseException | None, folder: Path) -> bool:
    if shutil.disk_usage(folder).free < FULL:
        return True
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        if os.strerror(errno.ENOSPC) in str(error):  # safetensors' errors have no number
            return True
        error = error.__cause__ or error.__context__
    return False


@dataclass(frozen=True)
class Verified:
    """Result of :func:`verify_export`: all files are unchanged; how far the answers are apart.

    Attributes:
        format: the export's, see :func:`format_names`.
        files: how many it has.
        size_bytes: of all of them.
        difference: the largest between an answer and the searched model's.
        card_edited: whether the model card was changed since, which is no fault.
        study: that the database names for it; None if no database was asked.
        trial: as ``study``.
    """

    format: str
    files: int
    size_bytes: int
    difference: float
    card_edited: bool = False
    study: str | None = None
    trial: int | None = None


def verify_export(folder: str, *, storage: str | None = None, study: str | None = None) -> Verified:
    """Check an export: every file as it was written, and its answers in a new process.

    Its manifest holds no secret, so whoever changes a file can write another; a database that knows
    the export shows whether that happened. What git and the Hugging Face hub put beside the files
    is ignored, and the model card may have been edited.

    Args:
        folder: the export.
        storage: database URL that the export must be recorded in; None asks no database.
        study: the study of that database that it must be of; None for any.

    Raises:
        UsageError: not an export, a file of it was changed, cut short or is missing, or the
            database does not have it.
        AxsearchError: the answers differ from the searched model's by more than the format allows:
            1e-5 for ``hf``, 1e-3 for ``onnx`` and ``openvino``; or opening it took too much time or
            memory.
    """
    path = Path(folder)
    with steps(2) as begin:
        begin("Checking the files")
        manifest = Manifest.read(path)
        card_edited = not manifest.check(path)
        if manifest.format not in formats():
            raise UsageError(f"{path} has the format {manifest.format!r}, which is not known here.")
        recorded = _recorded(path, manifest, storage, study)
        format = formats()[manifest.format]
        begin("Opening the model in a new process")
        difference = format.check(path)
    if not difference <= format.tolerance:
        raise AxsearchError(
            f"The answers of {path} differ by {difference:.1e} from those of the searched model, "
            f"more than {format.tolerance:.0e}; export it again."
        )
    return Verified(
        manifest.format,
        len(manifest.files),
        sum(entry.bytes for entry in manifest.files.values()),
        difference,
        card_edited,
        recorded.study if recorded else None,
        recorded.trial if recorded else None,
    )


def _recorded(
    path: Path, manifest: Manifest, storage: str | None, study: str | None
) -> Exported | None:
    """The record of an export in a database; raises UsageError where that has none."""
    if storage is None:
        if study is not None:
            raise UsageError("`study` is looked up in a database; give its `storage` too.")
        return None
    with closing(open_database(storage)) as database:
        found = exports_with(database.engine, manifest.sha256)
    wanted = [one for one in found if study in (None, one.study)]
    if wanted:
        return wanted[0]
    if found:
        raise UsageError(f"{path} was exported from the study {found[0].study!r}, not {study!r}.")
    raise UsageError(
        f"The database has no record of {path} as it is: its files were changed and its "
        f"{MANIFEST} written again, or it was exported from another database; export it again."
    )

"""Run a study, or resume it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import optuna
import torch
from optuna.study import StudyDirection

from axsearch.errors import UsageError
from axsearch.evaluation.bfloat16 import DTYPES, is_fast
from axsearch.evaluation.evaluator import Evaluator
from axsearch.evaluation.size import parameter_count, safetensors_bytes
from axsearch.progress import console, steps
from axsearch.reporting.dashboard.annotating import annotate
from axsearch.running.engines import Job, Place, check_place, run_workers
from axsearch.running.session import problem_of, spaces
from axsearch.running.worker import Worker
from axsearch.samplers import build_sampler, check_sampler, own_approximations
from axsearch.space.genome import check_names, shared_layers, supported
from axsearch.space.problem import Problem
from axsearch.space.recipe import Compensation
from axsearch.space.scenario import Scenario
from axsearch.store.database import Database, check_database, open_database
from axsearch.store.optuna_internals import id_of_study
from axsearch.store.studies import (
    ModelFacts,
    ask_for,
    delete_study,
    save_machine,
    save_study,
    study_spec,
)
from axsearch.study.spec import OBJECTIVES, Settings, StudySpec
from axsearch.study.study import Study
from axsearch.system.machine import machine_facts, machine_name
from axsearch.tasks.task import Task, check_device

HERE = Place()
"""One worker, in this process."""


def search(
    model: str,
    data: str,
    *,
    storage: str,
    study: str,
    trials: int,
    task: str | None = None,
    metric: str | None = None,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    approximations: Sequence[str] | None = None,
    freeze: Sequence[str] = (),
    compensation: Compensation | None = None,
    sampler: str = "auto",
    epsilon: float | None = None,
    staged: bool | None = None,
    objectives: Sequence[str] = ("accuracy", "latency", "size"),
    max_drop: float | None = None,
    max_latency_ratio: float | None = None,
    max_size_ratio: float | None = None,
    batch_size: int = 32,
    sequence_length: int | None = None,
    threads: int | None = None,
    search_examples: int | None = None,
    device: str = "cpu",
    dtype: str = "auto",
    place: Place = HERE,
    seed: int = 0,
) -> Study:
    """Search the approximations of a fine-tuned model until the study has ``trials`` trials.

    What a search must know of the model is measured first, once: the time of each block, the
    importance of heads and neurons, the damage of each choice
    (:mod:`axsearch.calibration.preparation`). The base and a warm start are tried first, then what
    the sampler proposes. In the end the front is timed on real models. A study that exists is
    resumed; Ctrl-C keeps what was finished.

    Args:
        model: local directory or hub name of a fine-tuned classifier.
        data: folder with train, validation and test files, or a hub dataset.
        storage: SQLAlchemy URL; a SQLite file is made where there is none.
        study: name of the study.
        trials: total number of finished trials wanted.
        task: see :meth:`Task.load`, as for the next three.
        metric: the accuracy metric.
        text_columns: columns with the text or the two texts.
        label_column: column with the label.
        approximations: names of those to try, see :mod:`axsearch.approximations`; heads, FFN
            neurons and top-k attention if None, or what the sampler is made for.
        freeze: layers and blocks to leave as they are, such as ``layer00`` and ``layer05.ffn``.
        compensation: how the units that are left make up for those that are gone, see
            :mod:`axsearch.models.refit.compensation`; ``least_squares`` if None, ``none`` for
            ``axformer``.
        sampler: see :func:`axsearch.samplers.sampler_names`.
        epsilon: for ``axformer``: keep a change while the loss is at most (1 + epsilon) times the
            base's (its speed-focused form); None for its accuracy-driven form.
        staged: stop evaluating a recipe that confidently adds next to nothing; if None, for all
            samplers but ``axformer``, which needs every loss.
        objectives: any of accuracy, latency, size.
        max_drop: models whose accuracy is further below the base's are infeasible.
        max_latency_ratio: models slower than this share of the base's time are infeasible, and not
            evaluated where that is known before.
        max_size_ratio: the same for the share of the base's bytes.
        batch_size: examples a batch, for latency.
        sequence_length: tokens an example, for latency; None for the examples' own lengths.
        threads: torch threads, for latency; None for all.
        search_examples: examples of the validation split to evaluate on; None for all.
        device: cpu, cuda or mps.
        dtype: what accuracy is evaluated in: float32, bfloat16 (the answers are those of float32,
            see :mod:`axsearch.evaluation.bfloat16`), or auto, what a study that exists began with,
            else bfloat16 where the device is faster in it and the sampler needs no exact losses.
        place: how many workers run, and where; by default one, in this process.
        seed: of the examples that are drawn, and of the sampler.

    Raises:
        UsageError: something given cannot be used; nothing expensive was done.
        AxsearchError: trials keep failing.
        KeyboardInterrupt: stopped by the user; finished trials are kept.
    """
    _check(trials, sampler, objectives, batch_size, sequence_length, threads, search_examples)
    if not study.isprintable() or not study.strip():
        raise UsageError(f"--study must be a name of printable characters, not {study!r}.")
    check_place(place)
    check_database(storage)
    limits = {
        "max_drop": max_drop,
        "max_latency_ratio": max_latency_ratio,
        "max_size_ratio": max_size_ratio,
    }
    _check_limits(limits)
    if epsilon is not None and (sampler != "axformer" or not 0 <= epsilon < math.inf):
        raise UsageError("--epsilon is a number from 0 up, and only for --sampler axformer.")
    if sampler == "axformer" and staged:
        raise UsageError("--staged cannot go with --sampler axformer, which needs every loss.")
    staged = sampler != "axformer" if staged is None else staged
    masks = own_approximations(sampler)
    if masks is not None and not set(approximations or ()) <= set(masks):
        raise UsageError(
            f"--sampler {sampler} works with --approximations {','.join(masks)} only, "
            f"not {','.join(approximations or ())}."
        )
    compensation = compensation or ("none" if masks else "least_squares")
    if compensation not in get_args(Compensation):
        raise UsageError(
            f"--compensation must be one of {', '.join(get_args(Compensation))}, "
            f"not {compensation!r}."
        )
    check_names(approximations or ())
    check_device(device)
    if dtype not in DTYPES:
        raise UsageError(f"--dtype must be one of {', '.join(DTYPES)}, not {dtype!r}.")
    if dtype == "bfloat16" and sampler == "axformer":
        raise UsageError("--dtype bfloat16 cannot go with axformer, which compares losses.")
    with steps(1) as begin:
        begin("Loading model and data")
        loaded = Task.load(
            model,
            data,
            task=task,
            metric=metric,
            text_columns=text_columns,
            label_column=label_column,
            search_examples=search_examples,
            seed=seed,
        )
    settles = loaded.kind.largest_logit
    if dtype == "bfloat16" and not settles:
        raise UsageError(
            f"--dtype bfloat16 is for answers that are the largest logit; {loaded.kind.name} needs "
            "float32."
        )
    positions = loaded.base.family.longest(loaded.model.config)
    if sequence_length is not None and sequence_length > positions:
        raise UsageError(f"--sequence-length {sequence_length} is above the model's {positions}.")
    timed = "latency" in objectives or max_latency_ratio is not None
    threads = threads or torch.get_num_threads()  # a number, or a resumed study could mix two
    scenario = Scenario(batch_size, sequence_length, threads, device) if timed else None
    database = open_database(storage, create=True)
    if masks is not None and not approximations:
        approximations = supported(masks, list(loaded.base.sites.values()))
    settings = Settings(
        sampler=sampler,
        epsilon=epsilon,
        staged=staged,
        approximations=None if approximations is None else tuple(approximations),
        freeze=tuple(freeze),
    )
    sites = list(loaded.base.sites.values())
    if compensation == "bias" and not any(site.units and site.units.bias for site in sites):
        raise UsageError(
            "--compensation bias does nothing here: this model's projections have no bias; use "
            "least_squares or none."
        )
    whole = spaces(loaded, settings, compensation)(
        {site.id: range(site.count) for site in sites}, {}
    )
    if masks is not None:  # whether the sampler finds what it needs is known before all measuring
        build_sampler(sampler, Problem(whole, tuple(objectives), {}), seed)
    known = _known_spec(database, study, objectives)
    if dtype == "auto" and known is not None:
        dtype = known.dtype
    elif dtype == "auto":
        half = settles and sampler != "axformer" and is_fast(device)
        dtype = "bfloat16" if half else "float32"
    spec = StudySpec(
        model=_lasting(model),
        data=_lasting(data),
        task=task or loaded.kind.name,
        metric=loaded.metric,
        text_columns=tuple(text_columns) if text_columns else None,
        label_column=label_column,
        search_examples=search_examples,
        objectives=tuple(objectives),
        scenario=scenario,
        max_drop=max_drop,
        max_latency_ratio=max_latency_ratio,
        max_size_ratio=max_size_ratio,
        device=device,
        machine=machine_name() if known is None else known.machine,
        seed=seed if known is None else known.seed,
        model_fingerprint=loaded.model_fingerprint,
        splits=loaded.split_fingerprints,
        levels=whole.to_dict(),
        compensation=compensation,
        dtype=dtype,
    )
    if known is not None:
        _refuse(study, spec, known)
    for note in (*loaded.notes, *shared_layers(sites)):
        console.print(note, style="dim")
    evaluator = Evaluator(loaded, database.engine, scenario, device, dtype, machine=spec.machine)
    problem = problem_of(evaluator, spec, settings)
    spec = spec.model_copy(
        update={
            "space_fingerprint": problem.space.fingerprint,
            "workload": None if scenario is None else evaluator.workload[1],
        }
    )
    made = _open(database, study, spec, evaluator)
    if scenario is not None and made.spec.machine != machine_name():
        console.print(
            f"Latencies are predicted for the machine that the study began on "
            f"({made.spec.machine}), not for this one.",
            style="yellow",
        )
    ask_for(database.engine, study, trials, settings.model_dump(mode="json"))
    worker = Worker(made, evaluator, problem, settings)
    if place == HERE:
        worker.until(trials)
    else:
        worker.until(1)  # the base, which all workers compare with
        run_workers(place, Job(storage, study))
        made.refresh()
        annotate(made)
    return made


def _open(database: Database, name: str, spec: StudySpec, evaluator: Evaluator) -> Study:
    """The study, made where there is none; one that another search just made is joined.

    Raises UsageError where it is another one.
    """
    directions = _directions(spec.objectives)
    made = optuna.create_study(
        study_name=name, storage=database.storage, directions=directions, load_if_exists=True
    )
    if made.directions != directions:  # Optuna takes any that exists
        raise UsageError(f"Study {name!r} exists with other objectives; use another name.")
    with warnings.catch_warnings():  # metric names are "experimental" since Optuna 3.2
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        made.set_metric_names([OBJECTIVES[o].field for o in spec.objectives])
    save_machine(database.engine, machine_name(), machine_facts())
    base = evaluator.base.model
    save_study(
        database.engine,
        name,
        id_of_study(made),
        spec.model_dump(mode="json"),
        ModelFacts(
            name=spec.model,
            architecture=base.config.model_type,
            size_bytes=safetensors_bytes(base.state_dict()),
            parameters=parameter_count(base.state_dict()),
        ),
    )
    study = Study.of(database, name)
    _refuse(name, spec, study.spec)
    return study


def _refuse(name: str, spec: StudySpec, known: StudySpec) -> None:
    if differences := spec.differences(known):
        raise UsageError(
            f"Study {name!r} exists with another {'; another '.join(differences)}: "
            "give this search another --study name."
        )


def _check_limits(limits: Mapping[str, float | None]) -> None:
    for name, limit in limits.items():
        option = f"--{name.replace('_', '-')}"
        if limit is not None and name == "max_drop" and not math.isfinite(limit):
            raise UsageError(f"{option} must be a number such as 0.01, not {limit}.")
        if limit is not None and name != "max_drop" and not 0 < limit < math.inf:
            raise UsageError(f"{option} must be above 0, not {limit}.")


def _lasting(name: str) -> str:
    # A folder must be found from another working directory too; a hub name stays as it is.
    path = Path(name).expanduser()
    return str(path.resolve()) if path.is_dir() else name


def _check(
    trials: int,
    sampler: str,
    objectives: Sequence[str],
    batch_size: int,
    sequence_length: int | None,
    threads: int | None,
    search_examples: int | None,
) -> None:
    counts = {
        "--trials": trials,
        "--batch-size": batch_size,
        "--sequence-length": sequence_length,
        "--threads": threads,
        "--search-examples": search_examples,
    }
    for option, value in counts.items():
        if value is not None and value < 1:
            raise UsageError(f"{option} must be at least 1, not {value}.")
    check_sampler(sampler)
    unknown = [name for name in objectives if name not in OBJECTIVES]
    if unknown or len(set(objectives)) != len(objectives) or "accuracy" not in objectives:
        raise UsageError(
            "--objectives takes accuracy and any of latency and size, each once, "
            f"not {','.join(objectives)}."
        )


def _known_spec(database: Database, name: str, objectives: Sequence[str]) -> StudySpec | None:
    known, storage = study_spec(database.engine, name), database.storage
    ids = {frozen.study_name: id_of_study(frozen) for frozen in storage.get_all_studies()}
    if known is not None and name in ids:
        return StudySpec.stored(name, known)
    if known is not None:  # it was deleted by something that does not know axsearch's tables
        delete_study(database.engine, name)
    elif name in ids and (  # one without trials may be another search's, a moment old
        storage.get_n_trials(ids[name])
        or storage.get_study_directions(ids[name]) != _directions(objectives)
    ):
        raise UsageError(
            f"Study {name!r} in this database was not made by axsearch; use another name."
        )
    return None


def _directions(objectives: Sequence[str]) -> list[StudyDirection]:
    return [StudyDirection[OBJECTIVES[name].direction.upper()] for name in objectives]

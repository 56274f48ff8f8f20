"""Run a study, or resume it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import get_args

import optuna
import torch

from axsearch.approximations import Level
from axsearch.architectures import architecture_of
from axsearch.calibration.problem import Problem
from axsearch.errors import UsageError
from axsearch.evaluation.bfloat16 import DTYPES, is_fast
from axsearch.evaluation.evaluator import Evaluator, machine_name
from axsearch.evaluation.latency import Scenario
from axsearch.preparation import prepare
from axsearch.progress import console
from axsearch.recipe import Compensation, SiteId
from axsearch.samplers import build_sampler, check_sampler, own_approximations
from axsearch.space import SearchSpace, check_names, frozen_sites, shared_layers, supported
from axsearch.store.database import Database, open_database
from axsearch.store.queries import (
    delete_study,
    save_study,
    study_spec,
)
from axsearch.study import (
    OBJECTIVES,
    Study,
    StudySpec,
)
from axsearch.surgery import sites_by_id
from axsearch.task import Task, check_device
from axsearch.worker import Worker


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
    seed: int = 0,
) -> Study:
    """Search the approximations of a fine-tuned model until the study has ``trials`` trials.

    What a search must know of the model is measured first, once: the time of each block, the
    importance of heads and neurons, the damage of each choice (:mod:`axsearch.preparation`). The
    base and a warm start are tried first, then what the sampler proposes. In the end the front is
    timed on real models. A study that exists is resumed; Ctrl-C keeps what was finished.

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
            :mod:`axsearch.compensation`; ``least_squares`` if None, ``none`` for ``axformer``.
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
        seed: of the examples that are drawn, and of the sampler.

    Raises:
        UsageError: something given cannot be used; nothing expensive was done.
        AxsearchError: trials keep failing.
        KeyboardInterrupt: stopped by the user; finished trials are kept.
    """
    _check(trials, sampler, objectives, batch_size, sequence_length, threads, search_examples)
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
    positions = architecture_of(loaded.model.config.model_type).longest(loaded.model.config)
    if sequence_length is not None and sequence_length > positions:
        raise UsageError(f"--sequence-length {sequence_length} is above the model's {positions}.")
    timed = "latency" in objectives or max_latency_ratio is not None
    threads = threads or torch.get_num_threads()  # a number, or a resumed study could mix two
    scenario = Scenario(batch_size, sequence_length, threads, device) if timed else None
    database = open_database(storage, create=True)
    sites = list(sites_by_id(loaded.model, loaded.longest).values())
    frozen = frozen_sites(freeze, sites)
    if compensation == "bias" and not any(site.units.bias for site in sites):
        raise UsageError(
            "--compensation bias does nothing here: this model's projections have no bias; use "
            "least_squares or none."
        )
    units = {site.id: range(site.units.count) for site in sites}
    ways = compensation
    if masks is not None:
        approximations = approximations or supported(masks, sites)
        # Whether the sampler finds what it needs is known before anything is measured.
        whole = SearchSpace(sites, units, names=approximations, frozen=frozen)
        build_sampler(sampler, Problem(whole, tuple(objectives), {}), seed)

    def space_of(
        orders: Mapping[SiteId, Sequence[int]], dropped: Mapping[str, Collection[Level]]
    ) -> SearchSpace:
        return SearchSpace(
            sites,
            orders,
            names=approximations,
            frozen=frozen,
            compensation=ways,
            dropped=dropped,
        )

    known = _known_spec(database, study)
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
        scenario=None if scenario is None else scenario.to_dict(),
        max_drop=max_drop,
        max_latency_ratio=max_latency_ratio,
        max_size_ratio=max_size_ratio,
        device=device,
        machine=machine_name(),
        seed=seed,
        model_fingerprint=loaded.model_fingerprint,
        splits=loaded.split_fingerprints,
        levels=space_of(units, {}).to_dict(),
        compensation=compensation,
        dtype=dtype,
    )
    if known is not None and (differences := spec.differences(known)):
        raise UsageError(
            f"Study {study!r} exists with another {'; another '.join(differences)}: "
            "give this search another --study name."
        )
    for note in (*loaded.notes, *shared_layers(sites)):
        console.print(note, style="dim")
    evaluator = Evaluator(loaded, database.engine, scenario, device, dtype)
    workload = None if scenario is None else evaluator.workload()[1]
    problem = prepare(
        evaluator,
        space_of,
        machine_name() if known is None else known.machine,
        objectives=objectives,
        limits={name: limit for name, limit in limits.items() if limit is not None},
        epsilon=epsilon,
        masks=masks is not None,
    )
    space = problem.space
    if known is None:
        spec = spec.model_copy(
            update={"space_fingerprint": space.fingerprint, "workload": workload}
        )
        save_study(database.engine, study, spec.model_dump(mode="json"))
        if _known_spec(database, study, made=True) != spec:
            raise UsageError(f"Study {study!r} was just made by another search; run this again.")
    elif known.space_fingerprint != space.fingerprint:
        raise UsageError(f"Study {study!r} exists with another search space; use another name.")
    else:
        spec = known
        if scenario is not None and known.machine != machine_name():
            console.print(
                f"Latencies are predicted for the machine that the study began on "
                f"({known.machine}), not for this one.",
                style="yellow",
            )
    Worker(Study(database, study, spec), evaluator, problem, sampler, staged).until(trials)
    return Study(database, study, spec)


def load_task(spec: StudySpec) -> Task:
    """The task of a study; raises UsageError where its model or data are not what they were."""
    check_device(spec.device)
    task = Task.load(
        spec.model,
        spec.data,
        task=spec.task,
        metric=spec.metric,
        text_columns=spec.text_columns,
        label_column=spec.label_column,
        search_examples=spec.search_examples,
        seed=spec.seed,
    )
    if task.model_fingerprint != spec.model_fingerprint:
        raise UsageError(f"The model {spec.model} is not the one that the study was made with.")
    if task.split_fingerprints != spec.splits:
        raise UsageError(f"The data {spec.data} are not those that the study was made with.")
    return task


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


def _known_spec(database: Database, name: str, *, made: bool = False) -> StudySpec | None:
    known = study_spec(database.engine, name)
    exists = made or name in optuna.get_all_study_names(database.storage)
    if known is not None and exists:
        return StudySpec.stored(name, known)
    if known is not None:  # it was deleted in the dashboard
        delete_study(database.engine, name)
    elif exists:
        raise UsageError(
            f"Study {name!r} in this database was not made by axsearch; use another name."
        )
    return None

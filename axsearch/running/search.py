"""Run a study, or resume it: resolve what is asked for, prepare the study, run its trials."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection

from axsearch.approximations.site import Site
from axsearch.errors import UsageError
from axsearch.evaluation.bfloat16 import is_fast
from axsearch.evaluation.closed_form import pays_to_polish, polished_key
from axsearch.evaluation.evaluator import Evaluator
from axsearch.evaluation.size import parameter_count, safetensors_bytes
from axsearch.models.weights import choose_compensation
from axsearch.options import describes, gather
from axsearch.progress import console, steps
from axsearch.running.base_check import check_base
from axsearch.running.engines import run_workers
from axsearch.running.finishing import finish_front, note
from axsearch.running.memory_check import check_room
from axsearch.running.recovering import check_recoverable, recover_searched
from axsearch.running.request import HERE, SearchRequest, WorkerPool, WorkerRequest
from axsearch.running.resolving import Resolved, resolve
from axsearch.running.serving import measure_baselines, scenario_of
from axsearch.running.session import problem_of, spaces, warn_of_tables
from axsearch.running.worker import Worker
from axsearch.space.genome import SearchSpace, shared_layers, supported
from axsearch.space.problem import Problem
from axsearch.space.recipe import Compensation
from axsearch.space.scenario import Scenario
from axsearch.store.calibration_keys import LATENCY_TABLES
from axsearch.store.database import Database, open_database, peek
from axsearch.store.models import CLOSED_FORM
from axsearch.store.optuna_internals import id_of_study
from axsearch.store.studies import (
    ModelFacts,
    ask_for,
    delete_study,
    save_machine,
    save_study,
    study_spec,
)
from axsearch.study.settings import Limits, Load, SearchSettings
from axsearch.study.spec import OBJECTIVES, StoredSettings, StudySpec
from axsearch.study.study import Study
from axsearch.system.machine import machine_facts, machine_name
from axsearch.tasks.spec import TaskSpec
from axsearch.tasks.task import Task


@describes(
    SearchRequest,
    {"place": "The number of workers and where they run; by default one, in this process."},
)
def search(
    model: str,
    data: str,
    *,
    storage: str,
    study: str,
    trials: int,
    task: str | None = TaskSpec.task,
    metric: str | None = TaskSpec.metric,
    text_columns: Sequence[str] | None = TaskSpec.text_columns,
    label_column: str | None = TaskSpec.label_column,
    labels: Mapping[str, str | int] | Sequence[str] | None = TaskSpec.labels,
    tokenizer: str | None = TaskSpec.tokenizer,
    encoding: str | None = TaskSpec.encoding,
    max_length: int | None = TaskSpec.max_length,
    vocabulary_from: str | None = TaskSpec.vocabulary_from,
    approximations: Sequence[str] | None = SearchSettings.approximations,
    portable: bool = SearchSettings.portable,
    freeze: Sequence[str] = SearchSettings.freeze,
    compensation: Compensation | None = None,
    sampler: str = SearchSettings.sampler,
    epsilon: float | None = SearchSettings.epsilon,
    staged: bool | None = SearchSettings.staged,
    objectives: Sequence[str] = SearchSettings.objectives,
    max_drop: float | None = Limits.max_drop,
    max_latency_ratio: float | None = Limits.max_latency_ratio,
    max_size_ratio: float | None = Limits.max_size_ratio,
    batch_size: int = Load.batch_size,
    sequence_length: int | None = Load.sequence_length,
    threads: int | None = Load.threads,
    runtime: str = Load.runtime,
    precision: str = Load.precision,
    search_examples: int | None = TaskSpec.search_examples,
    device: str = SearchRequest.device,
    dtype: str = SearchSettings.dtype,
    place: WorkerPool = HERE,
    seed: int = TaskSpec.seed,
    recover: bool = SearchRequest.recover,
    force: bool = SearchRequest.force,
) -> Study:
    """Search the approximations of a fine-tuned model until the study has ``trials`` trials.

    A base that is no better than a constant answer is refused: something was probably misread.
    First, and only once, the model is calibrated: the time of each block, the importance of heads
    and neurons and the damage of each choice are measured
    (:mod:`axsearch.calibration.preparation`). The base and a warm start are tried first, then the
    proposals of the sampler. Models that are known to break a limit on latency or size are pruned
    without being evaluated. At the end the front is timed on real models and, with sequential
    compensation, which is the default, polished (:mod:`axsearch.running.polishing`). With
    ``recover`` some models are trained further then, as :func:`axsearch.recover` does with
    ``candidates``. A study that exists is resumed, with its own compensation; a SQLite file that
    does not exist is created; Ctrl-C keeps all finished trials.

    Raises:
        UsageError: an argument cannot be used; nothing expensive was done.
        AxsearchError: trials keep failing.
        KeyboardInterrupt: stopped by the user; finished trials are kept.
    """
    return run(prepare(resolve(gather(SearchRequest, dict(locals())))))


@dataclass(frozen=True)
class Prepared:
    """A study that is ready for its trials.

    Attributes:
        study: as it stands in the database.
        evaluator: of its task.
        problem: all that is known before the first trial.
        settings: how trials are run, with nothing left to be decided.
        request: that the study was prepared for.
    """

    study: Study
    evaluator: Evaluator
    problem: Problem
    settings: SearchSettings
    request: SearchRequest


def prepare(resolved: Resolved) -> Prepared:
    """Load the task, open the study, and measure what is known before the first trial.

    Raises:
        UsageError: the model and the data do not go with the request or each other, or the study
            exists and is about something else.
    """
    request = resolved.request
    with steps(1) as begin:
        begin("Loading model and data")
        task = Task.of(replace(request.spec, **_as_it_began(request)))
        database = open_database(request.storage, create=True)
        known = _known_spec(database, request.study, request.settings.objectives)
        if known is not None:
            began = _as_then(request, known)
            if any(getattr(task, name, value) != value for name, value in began.items()):
                task = Task.of(replace(request.spec, **began))
    _check_task(resolved, task)
    if request.recover:
        check_recoverable(task, database.engine, request.device)
    sites = list(task.base.sites.values())
    settings, space = _space(resolved, task, sites, known)
    settings = replace(settings, dtype=_dtype(resolved, task, known))
    scenario = scenario_of(resolved, task, database, known)
    spec = _spec(request, settings, task, scenario, space, known)
    if known is not None:
        _refuse(request.study, spec, known)
    evaluator = Evaluator(
        task, database.engine, scenario, request.device, spec.dtype, machine=spec.machine
    )
    if known is None:
        check_room(evaluator, calibrated=resolved.sampler.needs_calibration)
        check_base(evaluator, force=request.force)
    measure_baselines(evaluator)
    for sentence in (*task.said, *task.notes, *shared_layers(sites)):
        console.print(sentence, style="dim")
    problem = problem_of(evaluator, spec, settings)
    spec = spec.model_copy(
        update={
            "space_fingerprint": problem.space.fingerprint,
            "workload": None if scenario is None else evaluator.workload[1],
        }
    )
    study = _open(database, request.study, spec, evaluator)
    if scenario is not None:
        warn_of_tables(study.spec)
    return Prepared(study, evaluator, problem, settings, request)


def run(prepared: Prepared) -> Study:
    """Run trials until the study has as many as are wanted, then recover models if asked to.

    Raises:
        AxsearchError: trials keep failing.
        KeyboardInterrupt: stopped by the user; finished trials are kept.
    """
    study, request = prepared.study, prepared.request
    stored = StoredSettings.of(prepared.settings).model_dump(mode="json")
    ask_for(study.database.engine, study.name, request.trials, stored)
    worker = Worker(study, prepared.evaluator, prepared.problem, prepared.settings)
    if request.place == HERE:
        worker.until(request.trials, polish=True)
    else:
        worker.until(1)  # the base, which all workers compare with
        run_workers(request.place, WorkerRequest(request.storage, study.name))
        finish_front(study, prepared.evaluator)
        note(study)
    if request.recover:
        recover_searched(study, prepared.evaluator)
    return study


def _as_it_began(request: SearchRequest) -> dict[str, Any]:
    """How a study that exists reads its data; what is wrong with a database is said later."""
    with suppress(UsageError), peek(request.storage) as engine:
        found = study_spec(engine, request.study)
        if found is not None:
            return _as_then(request, StudySpec.stored(request.study, found))
    return {}


def _as_then(request: SearchRequest, known: StudySpec) -> dict[str, Any]:
    """What was decided when a study read its data, and the user does not give now."""
    found = {"reading": known.reading, "file_dtype": known.file_dtype}
    for name in ("max_length", "vocabulary_from"):
        if getattr(request.spec, name) is None:
            found[name] = getattr(known, name)
    return found


def _check_task(resolved: Resolved, task: Task) -> None:
    """Raises UsageError for a dtype in which this kind of task cannot be evaluated."""
    if resolved.request.settings.dtype == "bfloat16" and not task.kind.largest_logit:
        raise UsageError(
            '`dtype="bfloat16"` is for answers that are the largest logit; '
            f"{task.kind.name} needs float32."
        )


def _space(
    resolved: Resolved, task: Task, sites: Sequence[Site], known: StudySpec | None
) -> tuple[SearchSettings, SearchSpace]:
    """The settings and the space, all of it and in no order yet, for the sites of this model.

    Raises UsageError where they have no such approximations, or nothing to be compensated.
    """
    sampler, settings = resolved.sampler, resolved.request.settings
    if known is not None and known.portable:
        settings = replace(settings, portable=True)
    if sampler.approximations is not None and not settings.approximations:
        own = supported(sampler.approximations, sites)
        settings = replace(settings, approximations=own)
    usual = sampler.default_compensation if known is None else known.compensation
    compensation = choose_compensation(settings.compensation, usual, task.base)
    settings = replace(settings, compensation=compensation)
    in_order = {site.id: range(site.count) for site in sites}
    runtime = resolved.request.load.runtime
    space = spaces(task, settings, compensation, known, runtime)(in_order, {})
    if sampler.approximations is not None:  # whether it finds what it needs, before all measuring
        sampler.build(Problem(space, settings.objectives, {}), resolved.request.spec.seed)
    return settings, space


def _dtype(resolved: Resolved, task: Task, known: StudySpec | None) -> str:
    """The precision of accuracy: as asked for, as the study began, or the faster one."""
    asked = resolved.request
    if asked.settings.dtype != "auto":
        return asked.settings.dtype
    if known is not None:
        return known.dtype
    exact = resolved.sampler.needs_exact_losses or not task.kind.largest_logit
    return "float32" if exact or not is_fast(asked.device) else "bfloat16"


def _spec(
    request: SearchRequest,
    settings: SearchSettings,
    task: Task,
    scenario: Scenario | None,
    space: SearchSpace,
    known: StudySpec | None,
) -> StudySpec:
    """The study's specification; an existing study keeps its machine and its seed."""
    asked = request.spec
    return StudySpec(
        model=_lasting(asked.model),
        data=_lasting(asked.data),
        task=asked.task or task.kind.name,
        metric=task.metric,
        text_columns=asked.text_columns or None,
        label_column=asked.label_column,
        labels=asked.labels,
        tokenizer=None if asked.tokenizer is None else _lasting(asked.tokenizer),
        encoding=asked.encoding,
        reading=task.reading,
        file_dtype=task.file_dtype,
        max_length=task.max_length,
        vocabulary_from=None if asked.vocabulary_from is None else _lasting(asked.vocabulary_from),
        search_examples=asked.search_examples,
        objectives=settings.objectives,
        scenario=scenario,
        **asdict(request.limits),
        device=request.device,
        machine=machine_name() if known is None else known.machine,
        seed=asked.seed if known is None else known.seed,
        model_fingerprint=task.model_fingerprint,
        splits=task.split_fingerprints,
        levels=space.to_dict(),
        compensation=settings.compensation,  # type: ignore[arg-type]
        dtype=settings.dtype,
        portable=settings.portable,
        weights=CLOSED_FORM,
        polished=_polished(settings, task) if known is None else known.polished,
        latency_tables=LATENCY_TABLES if known is None else known.latency_tables,
    )


def _polished(settings: SearchSettings, task: Task) -> str:
    polishes = settings.compensation == "sequential" and pays_to_polish(task)
    return polished_key(task) if polishes else ""


def _open(database: Database, name: str, spec: StudySpec, evaluator: Evaluator) -> Study:
    """The study, made where there is none; one that another search just made is joined.

    Raises UsageError where the existing one has another specification.
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
            size_bytes=safetensors_bytes(base.state_dict(), evaluator.base.dtype),
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
            "give this search another `study` name."
        )


def _lasting(name: str) -> str:
    # A folder must be found from another working directory too; a hub name stays as it is.
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name


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

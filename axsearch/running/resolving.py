"""Resolve a request: refuse what cannot be done, decide what was left open. No model is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args

from axsearch.approximations import approximations
from axsearch.errors import UsageError
from axsearch.running.engines import check_pool
from axsearch.running.request import SearchRequest
from axsearch.samplers import sampler_named, samplers
from axsearch.samplers.base import Sampler
from axsearch.space.genome import check_names
from axsearch.space.recipe import Compensation
from axsearch.store.database import check_database
from axsearch.study.settings import AUTO, DTYPES, Load, SearchSettings
from axsearch.study.spec import OBJECTIVES
from axsearch.system.devices import check_device
from axsearch.tasks.spec import TaskSpec


@dataclass(frozen=True)
class Resolved:
    """A request that passed every check which needs no weights of the model.

    Attributes:
        request: the one that was resolved; its settings have a sampler and staged. A compensation
            that was not asked for is that of the study, if it exists.
        sampler: the one that the settings name.
    """

    request: SearchRequest
    sampler: Sampler

    @property
    def timed(self) -> bool:
        """Whether latency is measured."""
        asked = self.request
        return "latency" in asked.settings.objectives or asked.limits.max_latency_ratio is not None


def resolve(request: SearchRequest) -> Resolved:
    """Decide what a request leaves open, in milliseconds once transformers is imported.

    It reads the model's config, but neither its weights nor the data, and of a database that exists
    only its version. Nothing is written.

    Raises:
        UsageError: something given cannot be used.
    """
    _check_counts(request)
    settings = request.settings
    sampler = sampler_named(settings.sampler)
    _check_objectives(settings.objectives)
    if not request.study.isprintable() or not request.study.strip():
        raise UsageError(f"`study` must be a name of printable characters, not {request.study!r}.")
    check_pool(request.place)
    check_database(request.storage)
    request.limits.check()
    _check_options(settings, sampler)
    settings = _decided(settings, sampler)
    check_names(settings.approximations or ())
    _check_vocabulary(request.spec)
    check_device(request.device)
    _check_dtype(settings, sampler)
    _check_runtime(request.load, settings)
    _check_model(request)
    return Resolved(replace(request, settings=settings), sampler)


def _check_runtime(load: Load, settings: SearchSettings) -> None:
    """Raises UsageError for a runtime that is not there, a precision that it lacks, or an
    approximation that saves no time in it.
    """
    if (load.runtime, load.precision) == (Load.runtime, Load.precision):
        return
    from axsearch.runtimes import check, runtimes  # with torch, which the default does without

    if load.precision == AUTO and load.runtime in runtimes():
        check(load.runtime, runtimes()[load.runtime].precisions[0])
    else:
        check(load.runtime, load.precision)
    if runtimes()[load.runtime].kernels:
        return
    every = approximations()
    for name in settings.approximations or ():
        if every[name].kernel:
            raise UsageError(
                f"`approximations={name}` saves no time in the runtime {load.runtime}, which has "
                "no kernel for it; leave it out, or search with `runtime=torch`."
            )


def _check_vocabulary(spec: TaskSpec) -> None:
    """Raises UsageError for texts that cannot be read."""
    if spec.vocabulary_from is None:
        return
    from axsearch.tasks.vocabulary import texts_of  # with transformers

    texts_of(spec.vocabulary_from, spec.encoding)


def _check_counts(request: SearchRequest) -> None:
    counts = {
        "trials": request.trials,
        "batch_size": request.load.batch_size,
        "sequence_length": request.load.sequence_length,
        "threads": request.load.threads,
    }
    for name, value in counts.items():
        if value is not None and value < 1:
            raise UsageError(f"`{name}` must be at least 1, not {value}.")
    request.spec.check()


def _check_objectives(objectives: tuple[str, ...]) -> None:
    unknown = [name for name in objectives if name not in OBJECTIVES]
    if unknown or len(set(objectives)) != len(objectives) or "accuracy" not in objectives:
        raise UsageError(
            "`objectives` takes accuracy and any of latency and size, each once, "
            f"not {','.join(objectives)}."
        )


def _check_options(settings: SearchSettings, sampler: Sampler) -> None:
    """Raises UsageError for an option of another sampler, or a value that cannot be used."""
    for name in dict.fromkeys(option for one in samplers().values() for option in one.options):
        value = getattr(settings, name)
        if value is None:
            continue
        if name not in sampler.options:
            those = " or ".join(key for key, one in samplers().items() if name in one.options)
            raise UsageError(f"`{name}` is for the sampler {those}, not for {settings.sampler}.")
        sampler.options[name](value)


def _decided(settings: SearchSettings, sampler: Sampler) -> SearchSettings:
    """The settings with those that depend on the sampler decided; raises UsageError."""
    if settings.staged and sampler.needs_exact_losses:
        raise UsageError(
            f"`staged=True` cannot go with the sampler {settings.sampler}, which needs every loss."
        )
    if settings.portable:
        _check_portable(settings, sampler)
    own, given = sampler.approximations, settings.approximations or ()
    if own is not None and not set(given) <= set(own):
        raise UsageError(
            f"The sampler {settings.sampler} works with `approximations={','.join(own)}` only, "
            f"not {','.join(given)}."
        )
    if settings.compensation not in (None, *get_args(Compensation)):
        raise UsageError(
            f"`compensation` must be one of {', '.join(get_args(Compensation))}, "
            f"not {settings.compensation!r}."
        )
    staged = not sampler.needs_exact_losses if settings.staged is None else settings.staged
    return replace(settings, staged=staged)


def _check_portable(settings: SearchSettings, sampler: Sampler) -> None:
    """Raises UsageError for approximations that leave no plain checkpoints."""
    if sampler.approximations is not None:
        raise UsageError(
            f"`portable=True` cannot go with the sampler {settings.sampler}, which works with "
            f"{', '.join(sampler.approximations)} only."
        )
    fit = [name for name, one in approximations().items() if one.portable]
    for name in settings.approximations or ():
        if name in approximations() and name not in fit:
            raise UsageError(
                f"`approximations={name}` leaves layers that no class of transformers makes; with "
                f"`portable=True` there are {', '.join(fit)}."
            )


def _check_dtype(settings: SearchSettings, sampler: Sampler) -> None:
    if settings.dtype not in DTYPES:
        raise UsageError(f"`dtype` must be one of {', '.join(DTYPES)}, not {settings.dtype!r}.")
    if settings.dtype == "bfloat16" and sampler.needs_exact_losses:
        raise UsageError(
            f'`dtype="bfloat16"` cannot go with the sampler {settings.sampler}, which compares '
            "losses."
        )


def _check_model(request: SearchRequest) -> None:
    """Raises UsageError for names, or a model's config, that do not go with the request."""
    # With torch and transformers, whose import takes longer than all the checks before.
    from axsearch.models.architectures import architecture_of
    from axsearch.tasks.kinds import check_names as check_task
    from axsearch.tasks.kinds import named_kind
    from axsearch.tasks.pretrained import check_head, check_length, load_config

    asked = request.spec
    check_task(asked.task, asked.metric)
    config = load_config(asked.model)
    check_head(asked.model, config, named_kind(asked.task))
    longest = architecture_of(config.model_type).longest(config)
    length = request.load.sequence_length
    if length is not None and length > longest:
        raise UsageError(f"`sequence_length={length}` is above the model's {longest}.")
    check_length(asked)

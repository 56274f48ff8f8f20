"""An existing study: what it is about, its Pareto front, and choosing from it.

Needs no torch: everything comes from the database.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from axsearch.errors import AxsearchError, UsageError
from axsearch.space.recipe import EXACT, Recipe
from axsearch.space.scenario import in_words
from axsearch.statistics.expectation import Expected
from axsearch.statistics.measurement import Measurement
from axsearch.statistics.outcome import Estimate
from axsearch.store.attributes import MEASUREMENT_ATTR, RECIPE_ATTR
from axsearch.store.database import Database, open_database
from axsearch.store.optuna_internals import id_of_study, searched_study
from axsearch.store.queries import (
    Evaluation,
    LatencyKey,
    load_ratios,
    load_recipes,
)
from axsearch.store.records import read_record
from axsearch.store.studies import (
    asked_for,
    front_candidates,
    study_identity,
    study_names,
    study_spec,
    trial_ids,
)
from axsearch.study import choosing
from axsearch.study.choosing import By, choose
from axsearch.study.evaluations import (
    polished_accuracies,
    served_accuracies,
    shown_accuracies,
    shown_weights,
    stored_evaluations,
    with_accuracy,
)
from axsearch.study.expecting import expectations
from axsearch.study.fronts import front_of
from axsearch.study.settings import Limits, SearchSettings
from axsearch.study.spec import OBJECTIVES, StoredSettings, StudySpec
from axsearch.study.trial_records import check_choices, read_measurement


class Study:
    """A study in a database, to read from and choose from.

    Example:
        >>> study = Study.open("sqlite:///studies.db", "reviews")  # doctest: +SKIP
        >>> study.pick(max_drop=0.01, by="latency").trial  # doctest: +SKIP

    Attributes:
        database: an open one, with the study.
        name: its name.
        spec: what it is about.
        identity: tells it from a later study of its name, see :mod:`axsearch.store.identity`.
        searched: the study itself, or the one of which it is a ranking.
    """

    def __init__(
        self, database: Database, name: str, spec: StudySpec, identity: str | None = None
    ) -> None:
        self.database = database
        self.name = name
        self.spec = spec
        self.identity = identity
        self.searched = self

    @classmethod
    def open(cls, storage: str, name: str) -> Study:
        """Open a study; raises UsageError where it is not there or is damaged."""
        database = open_database(storage)
        try:
            return cls.of(database, name)
        except UsageError:
            database.close()
            raise

    @classmethod
    def of(cls, database: Database, name: str) -> Study:
        """A study of an open database; raises UsageError where it is not there or is damaged."""
        # Before its specification: a study that is replaced in between is then noticed later.
        identity = study_identity(database.engine, name)
        spec = study_spec(database.engine, name)
        kept = optuna.get_all_study_names(database.storage)  # the dashboard can delete studies
        if spec is None or name not in kept:
            names = [known for known in study_names(database.engine) if known in kept]
            hint = f"it holds {', '.join(names)}" if names else "it holds no study yet"
            raise UsageError(f"There is no study {name!r} in this database; {hint}.")
        return cls(database, name, StudySpec.stored(name, spec), identity)

    @cached_property
    def searching(self) -> optuna.Study:
        """It as samplers are to see it: without the models that were trained further."""
        return searched_study(self.name, self.database.storage)

    @cached_property
    def optuna(self) -> optuna.Study:
        """The same study, as Optuna sees it."""
        return optuna.load_study(study_name=self.name, storage=self.database.storage)

    @property
    def asked(self) -> tuple[int, SearchSettings]:
        """The number of trials that its last search wanted, and their settings.

        Raises UsageError where they are not recorded, as in studies of older versions.
        """
        found = asked_for(self.database.engine, self.name)
        if found is None:
            raise UsageError(
                f"Study {self.name!r} was made by an older axsearch; run `axsearch search` on it "
                "once."
            )
        where = f"What study {self.name!r} was last asked for"
        return found[0], read_record(StoredSettings, found[1], where).settings(self.spec)

    @property
    def id(self) -> int:
        """Optuna's id of it."""
        return id_of_study(self.optuna)

    @property
    def count(self) -> int:
        """The number of complete trials."""
        return self.database.storage.completed(self.id)

    @cached_property
    def measurements(self) -> list[Measurement]:
        """Every finished trial, in the order of their numbers.

        Raises UsageError for a trial that cannot be what a search measured.
        """
        trials = self.optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return self.measured(trials)

    def measured(
        self, trials: Sequence[FrozenTrial], *, polished: bool = True
    ) -> list[Measurement]:
        """The measurements of some complete trials; :attr:`measurements` has those of all.

        Where models were polished or evaluated as they are served, accuracies are those, unless
        ``polished`` is false.
        """
        recipes = load_recipes(self.database.engine, map(_recipe_of, trials))
        holdout = self._evaluations("holdout", recipes)
        timed = self._timed(recipes)
        found = [self._measurement(trial, recipes, holdout, timed) for trial in trials]
        if polished and (shown := shown_accuracies(self.database.engine, self.spec, recipes)):
            found = [
                with_accuracy(one, shown.get(_recipe_of(trial)))
                for one, trial in zip(found, trials, strict=True)
            ]
        return check_choices(self._named, found, [recipes[_recipe_of(trial)] for trial in trials])

    @property
    def model_name(self) -> str:
        """The model's name for display: of an absolute path only the last part."""
        return public_name(self.spec.model)

    @property
    def data_name(self) -> str:
        """The data's name for display: of an absolute path only the last part."""
        return public_name(self.spec.data)

    @property
    def scenario(self) -> str | None:
        """The scenario of the latencies, in words; None where latency was not measured."""
        return None if self.spec.scenario is None else in_words(self.spec.scenario)

    @property
    def runtime(self) -> str:
        """The runtime of the latencies, in words."""
        scenario = self.spec.scenario
        return "PyTorch" if scenario is None or scenario.runtime == "torch" else scenario.runtime

    def refresh(self) -> None:
        """Forget what was read, so that additions to the database are seen."""
        for name in ("measurements", "_candidates", "expected"):
            self.__dict__.pop(name, None)

    @cached_property
    def _candidates(self) -> list[Measurement]:
        """Measurements that front and baseline are among, where not all were read already."""
        if "measurements" in self.__dict__:
            return self.measurements
        storage, exact = self.database.storage, EXACT.hash
        shown = shown_weights(self.spec)
        ids = front_candidates(self.database.engine, self.id, exact, shown)
        return self.measured(storage.trials(ids))

    @property
    def _members(self) -> list[Measurement]:
        """The candidates, the base being as the study's runtime serves it; drops are below the
        user's own model all the same.
        """
        return self._with_served_base(self._candidates)

    def _with_served_base(self, models: Sequence[Measurement]) -> list[Measurement]:
        served = self.served([EXACT.hash]).get(EXACT.hash) if self.spec.served else None
        exact = EXACT.to_dict()
        return [with_accuracy(m, served) if m.recipe == exact else m for m in models]

    @property
    def baseline(self) -> Measurement:
        """The base model, which is the study's first trial."""
        exact = EXACT.to_dict()
        for measurement in self._candidates:
            if measurement.recipe == exact:
                return measurement
        raise AxsearchError(
            f"Study {self.name!r} has not measured the base yet; run `axsearch search` again."
        )

    @property
    def has_baseline(self) -> bool:
        """Whether the base was measured; without it there is no front."""
        exact = EXACT.to_dict()
        return any(measurement.recipe == exact for measurement in self._candidates)

    def front(self) -> list[Measurement]:
        """The Pareto front over the study's objectives, fastest (or else smallest) first.

        Trials that break a limit of the study (drop, latency, size) are left out. Models that were
        polished count with the accuracy that they have since.
        """
        return front_of(self.spec, self.baseline, self._members)

    def front_as_cut(self) -> list[Measurement]:
        """The front that there would be without models that were trained further."""
        # Of all: the candidates lack what trained models beat.
        members = self._with_served_base(self.measurements)
        cut = [m for m in members if m.recovered_from is None]
        return front_of(self.spec, self.baseline, cut)

    @cached_property
    def expected(self) -> Mapping[int, Expected]:
        """What the base and each member of the front are expected to lose on new data, by trial.

        See :mod:`axsearch.statistics.expectation`. Empty where the answers to single examples are
        not stored, as in studies of older versions.
        """
        return self._expected([])

    def _expected(self, more: Sequence[Measurement]) -> dict[int, Expected]:
        engine, members = self.database.engine, [*self.front(), *more]
        return expectations(engine, self.spec, self.id, self.baseline, members)

    def expectation(self, member: Measurement) -> Expected | None:
        """What any finished model is expected to lose on new data, None where it is not known."""
        assert member.trial is not None
        return self.expected.get(member.trial) or self._expected([member]).get(member.trial)

    def pick(
        self,
        *,
        max_drop: float | None = None,
        max_latency_ratio: float | None = None,
        max_size_ratio: float | None = None,
        confidence: float | None = None,
        by: By | None = None,
        knee: bool = False,
    ) -> Measurement:
        """Choose one member of the front: the knee, or the best within limits (:func:`choose`).

        The drop is that of :attr:`expected`, or, where that is not known, of the search split.

        Raises:
            UsageError: neither or both are asked for, or no member is within the limits.
        """
        limits = Limits(
            max_drop=max_drop, max_latency_ratio=max_latency_ratio, max_size_ratio=max_size_ratio
        )
        if not knee:
            expected = {} if max_drop is None else self.expected
            return choose(
                self.front(), self.baseline, limits, expected, confidence=confidence, by=by
            )
        if by is not None or confidence is not None or limits.given:
            raise UsageError(
                "`knee` chooses by all objectives: give it without limits, `confidence` and `by`."
            )
        objectives = [OBJECTIVES[name] for name in self.spec.objectives]
        members = self.front()
        return choosing.knee(members, [[o.loss(m) for o in objectives] for m in members])

    def trial(self, number: int) -> Measurement:
        """The measurement of one trial; raises UsageError if it is not there or not finished."""
        for measurement in self.measurements:
            if measurement.trial == number:
                return measurement
        raise UsageError(
            f"Study {self.name!r} has no finished trial {number}; "
            f"it has {len(self.measurements)} finished trials."
        )

    def frozen(self, numbers: Sequence[int]) -> dict[int, FrozenTrial]:
        """Trials as Optuna has them, by their number."""
        ids = trial_ids(self.database.engine, self.id, numbers)
        return {trial.number: trial for trial in self.database.storage.trials(ids)}

    def outcomes(self, recipes: list[Recipe], split: str = "search") -> dict[str, Evaluation]:
        """Stored per-example outcomes by recipe hash, on ``search`` or ``holdout``."""
        return self._evaluations(split, {recipe.hash: recipe for recipe in recipes})

    def holdout(self, members: Sequence[Measurement]) -> dict[int, Estimate]:
        """The metric on the holdout split with its interval, by trial, where it was opened."""
        recipes = {m.trial: Recipe.from_dict(m.recipe) for m in members if m.trial is not None}
        known = self.outcomes(list(recipes.values()), "holdout")
        return {
            trial: Estimate(found.value, found.low, found.high)
            for trial, recipe in recipes.items()
            if (found := known.get(recipe.hash)) is not None
        }

    def _evaluations(self, split: str, recipes: Collection[str]) -> dict[str, Evaluation]:
        return stored_evaluations(self.database.engine, self.spec, split, recipes)

    def polished(self, recipes: Collection[str]) -> dict[str, Estimate]:
        """Accuracies of those models, by recipe hash, that were polished at the end of a search."""
        return polished_accuracies(self.database.engine, self.spec, recipes)

    def served(self, recipes: Collection[str]) -> dict[str, Estimate]:
        """Accuracies of those models, by recipe hash, that were evaluated as they are served."""
        return served_accuracies(self.database.engine, self.spec, recipes)

    def _timed(self, recipes: Mapping[str, Recipe]) -> dict[str, float]:
        """The ratios of models that were timed in the study's scenario on its machine."""
        spec = self.spec
        if spec.workload is None:
            return {}
        key = LatencyKey(spec.model_fingerprint, spec.workload, spec.machine, spec.weights)
        return load_ratios(self.database.engine, key, recipes)

    def _measurement(
        self,
        trial: FrozenTrial,
        recipes: Mapping[str, Recipe],
        holdout: Mapping[str, Evaluation],
        timed: Mapping[str, float],
    ) -> Measurement:
        recipe = _recipe_of(trial)
        opened = holdout.get(recipe)
        measured = read_measurement(
            self._named(trial.number),
            trial,
            trial.user_attrs.get(MEASUREMENT_ATTR),
            recipes.get(recipe),
            None if opened is None else opened.value,
            [OBJECTIVES[name].field for name in self.searched.spec.objectives],
        )
        if recipe not in timed or measured.latency_ms is None or measured.latency_ratio is None:
            return measured
        return measured.model_copy(
            update={
                "latency_ratio": timed[recipe],
                "latency_ms": timed[recipe] * (measured.latency_ms / measured.latency_ratio),
                "latency_measured": True,
                "latency_predicted": measured.latency_ratio,
            }
        )

    def _named(self, trial: int | None) -> str:
        return f"Trial {trial} of study {self.name!r}"


def _recipe_of(trial: FrozenTrial) -> str:
    # Empty where there is none: anybody may add a trial, with any attributes.
    recipe = trial.user_attrs.get(RECIPE_ATTR)
    return recipe if isinstance(recipe, str) and recipe.isalnum() else ""


def public_name(name: str) -> str:
    """A name for display: of an absolute path only the last part."""
    return Path(name).name if Path(name).is_absolute() else name

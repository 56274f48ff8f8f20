"""The report of a study: one HTML file that opens offline, or Markdown for a pull request."""

from __future__ import annotations

import base64
import gzip
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from jinja2 import Environment, StrictUndefined
from plotly import offline

from axsearch.errors import UsageError
from axsearch.progress import steps
from axsearch.reporting.baselines import served_words
from axsearch.reporting.drops import EXPECTED, UNKNOWN, recovered_words
from axsearch.reporting.explanation import Explanation, explain_trial, export_command, in_markdown
from axsearch.reporting.gallery import study_figures
from axsearch.space.latency_table import LatencyTable
from axsearch.space.recipe import Recipe
from axsearch.statistics.measurement import Measurement
from axsearch.statistics.outcome import Estimate
from axsearch.store.calibration_keys import LATENCY_TABLES
from axsearch.study.baselines import Baseline, baselines
from axsearch.study.comparison import (
    AgainstBase,
    SelectionBias,
    Ties,
    against_base,
    selection_bias,
    ties,
)
from axsearch.study.spec import StudySpec
from axsearch.study.study import Study, public_name
from axsearch.study.tables import Tables

Format = Literal["html", "md"]

DROP = 0.01
"""The accuracy that the explained model may lose, if the user named no model."""


def write_report(
    study: Study, out: str, *, format: Format | None = None, trial: int | None = None
) -> Path:
    """Write a report of a study's results, for people who did not follow the search.

    Args:
        study: with a finished base.
        out: the file to write.
        format: ``html`` or ``md``; if None, by the ending of the file's name, otherwise ``html``.
        trial: the model to explain; if None, the fastest (without latencies, the smallest) model of
            the front with an expected drop of at most 0.01, or the knee if there is none.

    Raises:
        UsageError: ``out`` cannot be written, or there is no such trial.
    """
    path = Path(out)
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"The report cannot be written to {path}; name a file in a folder.")
    if format is None:
        format = "md" if path.suffix.lower() in (".md", ".markdown") else "html"
    if format not in get_args(Format):
        raise UsageError(f"`format` must be one of {', '.join(get_args(Format))}, not {format!r}.")
    with steps(2) as begin:
        begin("Reading the study")
        report = Report(study, trial, in_markdown if format == "md" else str)
        begin("Drawing the figures")
        text = _render(report, format)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"The report cannot be written to {path}: {error.strerror}.") from None
    return path


def _render(report: Report, format: Format) -> str:
    environment = Environment(
        autoescape=format == "html", undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = lambda value, digits: (
        "" if value is None else f"{value:z.{digits}f}"
    )
    environment.filters["percent"] = lambda value: "" if value is None else f"{value:.1%}"
    source = Path(__file__).with_name(f"report.{format}.jinja").read_text(encoding="utf-8")
    return environment.from_string(source).render(report=report)


@dataclass(frozen=True)
class Row:
    """A model in the report's table; ``differs`` says whether the base's accuracy is another."""

    label: str
    member: Measurement
    letters: str
    differs: bool
    expected: float | None
    holdout: Estimate | None
    holdout_drop: float | None


class Report:
    """The content of the templates.

    Args:
        study: with a finished base.
        trial: the model to explain; see :func:`write_report`.
        escape: makes names safe in the format that is written.
    """

    def __init__(
        self, study: Study, trial: int | None = None, escape: Callable[[str], str] = str
    ) -> None:
        self.study = study
        self.name, self.model, self.data = map(
            escape, (study.name, study.model_name, study.data_name)
        )
        self.baseline = study.baseline
        self.served = baselines(study)
        self.front = study.front()
        self.ties: Ties | None = ties(study)
        self.bias: SelectionBias | None = selection_bias(study)
        self.why, number = self._chosen(trial)
        self.chosen: Explanation | None = (
            None if number is None else explain_trial(study, number, self.ties, self.bias)
        )

    def _chosen(self, trial: int | None) -> tuple[str, int | None]:
        if trial is not None:
            return "as asked for", trial
        by: Literal["latency", "size"] = (
            "size" if self.baseline.latency_ratio is None else "latency"
        )
        word = "fastest" if by == "latency" else "smallest"
        with suppress(UsageError):
            chosen = self.study.pick(max_drop=DROP, by=by).trial
            drop = "an expected drop" if self.study.expected else "a drop on the search split"
            return f"the {word} with {drop} of at most {DROP}", chosen
        with suppress(UsageError):
            return "the one nearest to the best of every objective", self.study.pick(
                knee=True
            ).trial
        return "", None

    @cached_property
    def holdout(self) -> dict[int, Estimate]:
        """The metric on the holdout split by trial."""
        chosen = [self.chosen.member] if self.chosen else []
        return self.study.holdout([self.baseline, *self.front, *chosen])

    @property
    def rows(self) -> list[Row]:
        """The base, then the front."""
        members = self.front
        if self.served:  # which say more than the recipe that removes nothing
            members = [m for m in members if m.recipe != self.baseline.recipe]
        models = [*members] if self.served else [self.baseline, *members]
        held = against_base(self.study, models, "holdout")
        return [*map(_served_row, self.served), *(self._row(model, held) for model in models)]

    def _row(self, m: Measurement, held: Mapping[int, AgainstBase]) -> Row:
        trial = m.trial or 0
        expected, opened = self.study.expected.get(trial), held.get(trial)
        against = self.ties and self.ties.against_base.get(trial)
        return Row(
            "base" if m is self.baseline else m.label,
            m,
            self.ties.letters.get(trial, "") if self.ties else "",
            bool(against and against.differs),
            None if expected is None else expected.drop,
            self.holdout.get(trial),
            None if opened is None else opened.drop.value,
        )

    @property
    def summary(self) -> Iterator[str]:
        """Three sentences."""
        study = self.study
        told = (
            ""
            if self.ties is None
            else f"; for {len(self.ties.as_base)} of them no difference in {study.spec.metric} to "
            "the base is shown"
        )
        yield (
            f'Of {study.count} models, the base "{self.model}" and approximations of it, evaluated '
            f'on "{self.data}", {len(self.front)} make up the Pareto front over '
            f"{', '.join(study.spec.objectives)}{told}."
        )
        yield self._of_the_chosen()
        others = [m for m in self.front if m.recipe != self.baseline.recipe]
        opened = [m for m in others if m.trial in self.holdout]
        if self.bias is not None:
            yield self.bias.words
        elif not others:
            yield "Only the base is on the front."
        elif opened:
            yield (
                f"The holdout split was opened for {len(opened)} of the {len(others)} models; "
                "`axsearch front --holdout` opens it for the others and estimates the selection "
                "bias."
            )
        else:
            yield (
                f"The holdout split has not been opened: {study.spec.metric} is that of the search "
                "split, by which the front was chosen, so it is too high by some selection bias."
            )

    @property
    def recovered(self) -> str:
        """What the labels of recovered models mean."""
        return recovered_words(row.member for row in self.rows)

    @property
    def marked(self) -> bool:
        """Whether the explained model has a row in the table."""
        chosen = self.chosen and self.chosen.member.trial
        return any(row.member.trial == chosen for row in self.rows)

    def _of_the_chosen(self) -> str:
        if self.chosen is None:
            return "None of them meets the limits of the study."
        member = self.chosen.member
        number, metric = member.trial or 0, self.study.spec.metric
        ours, base = (self.holdout.get(m.trial or 0) for m in (member, self.baseline))
        split = "holdout"
        if ours is None or base is None:
            split = "search"
            ours, base = (
                Estimate(m.accuracy, m.accuracy_low, m.accuracy_high)
                for m in (member, self.baseline)
            )
        time = (
            ""
            if member.latency_ratio is None
            else f"{member.latency_ratio:.3f} of the base's time ({1 / member.latency_ratio:.2f}x "
            "as fast) and "
        )
        return (
            f"Trial {number}, {self.why}, takes {time}{member.size_ratio:.3f} of its bytes, and "
            f"has {metric} {ours.value:.4f} ({ours.low:.4f} to {ours.high:.4f}) on the {split} "
            f"split, where the base has {base.value:.4f} ({base.low:.4f} to {base.high:.4f})."
        )

    @property
    def measured(self) -> Iterator[str]:
        """How the numbers were obtained, in a sentence or two each."""
        study, spec = self.study, self.study.spec
        exact = Recipe.from_dict(self.baseline.recipe)
        counts = {
            split: len(known[exact.hash].outcome)
            for split in ("search", "holdout")
            if exact.hash in (known := study.outcomes([exact], split))
        }
        on = " and ".join(
            f"{count:,} examples of the {split} split" for split, count in counts.items()
        )
        yield (
            f"Each trial builds the smaller model and measures that{f', on {on}' if on else ''}. "
            "Intervals are 95 %: Wilson's for a share of right answers, otherwise a bootstrap's. "
            "The holdout split is opened only for models that have already been chosen."
        )
        if self.served:
            yield served_words(study, self.served)
        if study.scenario is not None:
            table = Tables(study).latency
            fit = (
                ""
                if table is None
                else f" Trials were ranked by a latency table, which was off by {table.error:.1%} "
                f"on average over random whole models{_of_one_size(table, spec)}."
            )
            timed = sum(m.latency_measured for m in self.front)
            yield (
                f"Latency is for {study.scenario}, on {spec.machine}: the median of paired ratios, "
                f"base and model in turn on the same batches. Of the {len(self.front)} models on "
                f"the front, {timed} were timed themselves.{fit}"
            )
        yield (
            "Size is the exact number of bytes of the exported safetensors file; the base has "
            f"{self.baseline.size_bytes:,} bytes and {self.baseline.parameters:,} parameters."
        )
        yield EXPECTED if self.study.expected else UNKNOWN
        if self.ties is not None:
            yield self.ties.words
        if self.bias is not None:
            yield self.bias.words

    @property
    def commands(self) -> list[str]:
        """The commands that reproduce the report."""
        name = shlex.quote(self.study.name)
        trial = self.chosen.member.trial if self.chosen else None
        where = f"--storage URL --study {name}"
        spec, ranked = self.study.spec, self.study.searched is not self.study
        served = ""
        if ranked and spec.scenario is not None:
            served = f" --runtime {spec.scenario.runtime} --precision {spec.scenario.precision}"
        commands = [search_command(self.study)]
        if served:
            commands.append(f"axsearch remeasure {where}{served}")
        commands.append(f"axsearch front {where}{served} --holdout")
        if trial is not None:
            commands += [
                f"axsearch explain {where} --trial {trial}",
                export_command(self.study, trial),
                f"axsearch verify trial-{trial}",
            ]
        if self.study.scenario is not None and not served:
            commands.append(f"axsearch remeasure {where} --batch-size 1")
        return commands

    @property
    def figures(self) -> list[tuple[str, str]]:
        """An id and JSON of each figure, safe within a script element."""
        return [
            (f"{name}-{number}", figure.to_json().replace("<", "\\u003c"))
            for name, figures in study_figures(self.study).items()
            for number, figure in enumerate(figures, 1)
        ]

    @property
    def plotly(self) -> str:
        """plotly.js, compressed; uncompressed it would take nearly five megabytes."""
        return base64.b64encode(gzip.compress(offline.get_plotlyjs().encode(), mtime=0)).decode()


def _served_row(one: Baseline) -> Row:
    """The base as it would be served."""
    search, held = one.search, one.holdout
    return Row(
        f"base, {one.words}",
        one.measurement,
        "",
        bool(search and search.differs),
        None if search is None else search.drop.value,
        one.opened,
        None if held is None else held.drop.value,
    )


def _of_one_size(table: LatencyTable, spec: StudySpec) -> str:
    if spec.latency_tables < LATENCY_TABLES:
        return " (it was measured by axsearch 0.1, which could misjudge blocks of larger models)"
    return (
        f", and by {table.error_of_one_size:.1%} over models with one size of block in all layers"
    )


def search_command(study: Study) -> str:
    """The command that starts a study like this one; folders are shown without their paths."""
    study = study.searched
    spec = study.spec
    scenario = {} if spec.scenario is None else spec.scenario.to_dict()
    given: dict[str, object] = {
        "model": study.model_name,
        "data": study.data_name,
        "storage": "URL",
        "study": study.name,
        "trials": study.count,
        "task": spec.task,
        "metric": spec.metric,
        "text-columns": ",".join(spec.text_columns or ()) or None,
        "label-column": spec.label_column,
        "labels": ",".join(spec.labels or ()) or None,
        "tokenizer": spec.tokenizer and public_name(spec.tokenizer),
        "encoding": spec.encoding,
        "objectives": ",".join(spec.objectives),
        "max-drop": spec.max_drop,
        "max-latency-ratio": spec.max_latency_ratio,
        "max-size-ratio": spec.max_size_ratio,
        "batch-size": scenario.get("batch_size"),
        "sequence-length": scenario.get("sequence_length"),
        "threads": scenario.get("threads"),
        "runtime": scenario.get("runtime"),
        "precision": scenario.get("precision"),
        "search-examples": spec.search_examples,
        "compensation": spec.compensation,
        "device": spec.device,
        "dtype": spec.dtype,
        "seed": spec.seed,
    }
    with suppress(UsageError):  # studies of older versions did not store it
        wanted, settings = study.asked
        given["trials"] = wanted
        given["sampler"] = settings.sampler
        given["epsilon"] = settings.epsilon
        given["approximations"] = ",".join(settings.approximations or ()) or None
        given["freeze"] = ",".join(settings.freeze) or None
    options = " ".join(
        f"--{name} {shlex.quote(str(value))}" for name, value in given.items() if value is not None
    )
    return f"axsearch search {options}{' --portable' if spec.portable else ''}"

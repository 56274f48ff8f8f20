"""In words: what a trial's model gave up, and what each cut was worth."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from axsearch.approximations import approximations
from axsearch.calibration.block_times import KINDS
from axsearch.comparison import SelectionBias, Ties
from axsearch.measurement import Measurement
from axsearch.outcome import Estimate
from axsearch.recipe import Recipe, Setting, SiteId
from axsearch.study import Study
from axsearch.tables import Tables

EXACT = Recipe.of({})
UNITS = {"heads": "heads", "ffn": "neurons"}
SETTINGS = {"topk": "keys a query", "ffn_topk": "neurons a token"}


@dataclass(frozen=True)
class Cut:
    """What a model lacks in one block, or in a layer that is gone, and what that was worth.

    Attributes:
        layer: ``layer03``.
        block: ``attention``, ``ffn``, or ``layer`` where both are gone.
        kept: what is left, in words.
        damage: mean KL divergence from the base's outputs in nats, of these choices alone, added
            up; None where it was not measured.
        time: share of the base's time saved, by the latency table; None where there is none.
        size: share of the base's bytes saved; None where it is not known.
    """

    layer: str
    block: str
    kept: str
    damage: float | None
    time: float | None
    size: float | None

    @property
    def name(self) -> str:
        """Such as ``layer03 attention``."""
        return self.layer if self.block == "layer" else f"{self.layer} {self.block}"


@dataclass(frozen=True)
class Explanation:
    """A trial's model in words and numbers; see :func:`explain_trial`."""

    member: Measurement
    sentences: tuple[str, ...]
    cuts: tuple[Cut, ...]

    def has(self, field: str) -> bool:
        """Whether what the cuts were worth is known in this."""
        return any(getattr(cut, field) is not None for cut in self.cuts)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "model": self.member.model_dump(mode="json"),
            "sentences": list(self.sentences),
            "cuts": [asdict(cut) for cut in self.cuts],
        }


def export_command(study: Study, trial: int | str, storage: str = "URL") -> str:
    """The command that exports a trial's model."""
    name = shlex.quote(study.name)
    where = storage if storage == "URL" else shlex.quote(storage)
    return (
        f"axsearch export --storage {where} --study {name} --trial {trial} --format hf "
        f"--out trial-{trial}"
    )


def explain_trial(
    study: Study,
    trial: int,
    ties: Ties | None = None,
    bias: SelectionBias | None = None,
) -> Explanation:
    """What a trial's model gave up, what it has left, and what each cut was worth.

    Args:
        study: of the trial.
        trial: its number.
        ties: of the study's front, to be told where the trial is on it.
        bias: the same.

    Raises:
        UsageError: there is no such trial, or it is not finished.
    """
    member = study.trial(trial)
    recipe = Recipe.from_dict(member.recipe)
    cuts = tuple(cuts_of(study, member, Tables(study)))
    sentences = [
        *_given_up(study, member, recipe),
        *_latency(study, member),
        *_accuracy(study, member, recipe),
        *_trust(study, member, ties, bias),
        *_worth(cuts),
    ]
    return Explanation(member, tuple(sentences), cuts)


def _given_up(study: Study, member: Measurement, recipe: Recipe) -> Iterable[str]:
    base = study.baseline
    removed = base.parameters - member.parameters
    yield (
        f"Trial {member.trial} has {member.parameters:,} parameters, {removed:,} fewer than the "
        f"base, and {member.size_bytes:,} bytes ({member.size_ratio:.3f} of the base)."
    )
    gone = [layer for layer, kept in member.choices.items() if is_removed(kept)]
    parts = [f"{len(gone)} of {len(base.choices)} layers ({', '.join(gone)})"] if gone else []
    for name, units in UNITS.items():
        full, kept = (sum(c[name] or 0 for c in m.choices.values()) for m in (base, member))
        if kept < full:
            parts.append(f"{full - kept:,} of {full:,} {units}")
    if parts:
        yield f"It gave up {_and(parts)}."
    for name, words in SETTINGS.items():
        values = {
            layer: kept[name]
            for layer, kept in member.choices.items()
            if kept.get(name) is not None
        }
        if values:
            shown = ", ".join(f"{layer}: {value}" for layer, value in values.items())
            yield f"{len(values)} of its layers keep only some {words} ({shown})."
    if recipe.compensation != "none":
        yield f"What is left was compensated for what is gone: {recipe.compensation}."
    if any(isinstance(c, Setting) and c.mode == "hard" for _, _, c in recipe.choices()):
        yield "Its top-k attention is hard: probabilities are not renormalised."


def _latency(study: Study, member: Measurement) -> Iterable[str]:
    if member.latency_ratio is not None:
        yield (
            f"It takes {member.latency_ratio:.3f} of the base's time "
            f"({1 / member.latency_ratio:.2f}x as fast), "
            f"{'measured' if member.latency_measured else 'predicted'}: {study.scenario}."
        )


def _accuracy(study: Study, member: Measurement, recipe: Recipe) -> Iterable[str]:
    from axsearch.metrics import better_and_worse, paired_difference  # scipy takes a second

    base, metric = study.baseline, study.spec.metric
    yield (
        f"Its {metric} is {member.accuracy:.4f} ({member.accuracy_low:.4f} to "
        f"{member.accuracy_high:.4f}) on the search split, the base's {base.accuracy:.4f}."
    )
    recipes = [recipe, Recipe.from_dict(base.recipe)]
    for split in ("search", "holdout"):
        known = study.outcomes(recipes, split)
        if not all(recipe.hash in known for recipe in recipes):
            continue  # older versions kept less, and the holdout split may not have been opened
        ours, theirs = (known[recipe.hash] for recipe in recipes)
        if split == "holdout":
            yield (
                f"On the holdout split it has {ours.value:.4f} ({ours.low:.4f} to {ours.high:.4f}),"
                f" the base {theirs.value:.4f}."
            )
        better, worse = better_and_worse(ours.outcome, theirs.outcome)
        change = paired_difference(ours.outcome, theirs.outcome, study.spec.seed)
        yield (
            f"Of {len(ours.outcome)} {'' if split == 'search' else 'holdout '}examples it answers "
            f"{better} better than the base and {worse} worse: {_signed(change)} in {metric}, pair "
            "by pair."
        )


def _trust(
    study: Study, member: Measurement, ties: Ties | None, bias: SelectionBias | None
) -> Iterable[str]:
    assert member.trial is not None
    if ties is not None and member.trial in ties.tied:
        others = [
            "the base" if other == study.baseline.trial else f"trial {other}"
            for other in ties.tied[member.trial]
        ]
        if others:
            yield (
                f"In {study.spec.metric} it is tied with {_and(others)}: on {ties.examples} "
                f"examples of the {ties.split} split no difference shows, corrected for "
                f"{ties.comparisons} comparisons."
            )
        else:
            yield "No other model of the front is tied with it."
    if bias is not None and member.trial in bias.members:
        yield (
            "Selection bias: against the base it does better on the search split than on the "
            f"holdout split, by {_signed(bias.members[member.trial])}; the front's mean is "
            f"{_signed(bias.mean)}."
        )


def _worth(cuts: Sequence[Cut]) -> Iterable[str]:
    for field, what in (("time", "time"), ("size", "bytes")):
        known = [(getattr(cut, field), cut) for cut in cuts if getattr(cut, field)]
        if known:
            share, cut = max(known, key=lambda found: found[0])
            also = "" if cut.damage is None else f", for a damage of {cut.damage:.4f} nats"
            yield f"The cut that saves most {what} is {cut.name}: {share:.1%} of the base's{also}."
    damaged = [(cut.damage, cut) for cut in cuts if cut.damage]
    if damaged:
        damage, cut = max(damaged, key=lambda found: found[0])
        saved = "" if cut.time is None else f", for {cut.time:.1%} of the base's time"
        yield f"The cut that does most damage is {cut.name}: {damage:.4f} nats{saved}."


def cuts_of(study: Study, member: Measurement, tables: Tables) -> Iterable[Cut]:
    """What a finished trial's model lacks, block by block of the base."""
    base, recipe = study.baseline, Recipe.from_dict(member.recipe)
    assert member.trial is not None
    damage = _damage_by_block(tables, study.frozen(member.trial).params)
    for name, kept in member.choices.items():
        layer = int(name.removeprefix("layer"))
        sites = [SiteId(layer, kind) for kind in KINDS]
        cut = [site for site in sites if recipe.at(*site)]
        if is_removed(kept):
            yield Cut(
                name,
                "layer",
                "nothing",
                _total([damage.get((name, block)) for block in (*KINDS, "layer")]),
                None if tables.latency is None else tables.latency.layer(EXACT, layer),
                None if tables.size is None else tables.size.layers[layer],
            )
            continue
        for site in cut:
            words = _kept(kept, base.choices[name], site)
            yield Cut(
                name,
                site.kind,
                words,
                damage.get((name, site.kind)),
                _time(tables, recipe, site),
                None if tables.size is None else tables.size.saved(recipe, site),
            )


def _damage_by_block(tables: Tables, params: Mapping[str, int]) -> dict[tuple[str, str], float]:
    """What the levels of a genome do alone, added up by layer and block."""
    found: dict[tuple[str, str], float] = defaultdict(float)
    for parameter, level in params.items():
        layer, _, name = parameter.partition(".")
        kinds = approximations()[name].kinds if name in approximations() else ()
        levels = tables.damage.get(parameter, ())
        if level and kinds and level < len(levels):
            found[layer, kinds[0] if len(kinds) == 1 else "layer"] += levels[level]
    return found


def _time(tables: Tables, recipe: Recipe, site: SiteId) -> float | None:
    table = tables.latency
    if table is None:
        return None
    try:
        saved = table.block(EXACT, site) - table.block(recipe, site)
    except KeyError:  # a setting that the table does not know
        return None
    return saved * table.repeats.get(site.layer, 1)


def _kept(kept: Mapping[str, int | None], full: Mapping[str, int | None], site: SiteId) -> str:
    units, setting = ("heads", "topk") if site.kind == "attention" else ("ffn", "ffn_topk")
    parts = []
    if kept[units] != full[units]:
        parts.append(f"{kept[units]} of {full[units]} {UNITS[units]}" if kept[units] else "nothing")
    if kept.get(setting) is not None:
        parts.append(f"{kept[setting]} {SETTINGS[setting]}")
    return ", ".join(parts)


def is_removed(kept: Mapping[str, int | None]) -> bool:
    """Whether a layer that keeps this is gone."""
    return kept["heads"] == 0 and kept["ffn"] == 0


def _total(parts: Sequence[float | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _signed(change: Estimate) -> str:
    return f"{change.value:+.4f} ({change.low:+.4f} to {change.high:+.4f})"

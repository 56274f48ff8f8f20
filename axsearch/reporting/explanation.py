"""A trial's model in words: what it gave up, and what each cut was worth."""

from __future__ import annotations

import html
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from axsearch.approximations import UnitRemoval, approximations, is_removed, named, recorded
from axsearch.approximations.site import OUTSIDE, SiteId, layer_of
from axsearch.reporting.baselines import added_words
from axsearch.reporting.drops import UNKNOWN, expected_words, paired_words, signed
from axsearch.space.recipe import EXACT, Recipe
from axsearch.statistics.measurement import Measurement
from axsearch.study.baselines import timed_bases
from axsearch.study.comparison import SelectionBias, Split, Ties, against_base
from axsearch.study.study import Study
from axsearch.study.tables import Tables


@dataclass(frozen=True)
class Cut:
    """The part of a block, or of a removed layer, that a model gave up, and what it was worth.

    Attributes:
        layer: ``layer03``, or the site where it lies in no layer.
        block: ``attention``, ``ffn``, or ``layer`` if both were removed.
        kept: what remains, in words.
        damage: mean KL divergence from the base's outputs in nats, of each of these choices alone,
            summed; None if it was not measured.
        time: share of the base's time saved, by the latency table; None if there is no table.
        size: share of the base's bytes saved; None if it is not known.
    """

    layer: str
    block: str
    kept: str
    damage: float | None
    time: float | None
    size: float | None

    @property
    def name(self) -> str:
        """A name such as ``layer03 attention``."""
        return self.layer if self.block in ("layer", self.layer) else f"{self.layer} {self.block}"


@dataclass(frozen=True)
class Explanation:
    """A trial's model in words and numbers; see :func:`explain_trial`."""

    member: Measurement
    sentences: tuple[str, ...]
    cuts: tuple[Cut, ...]

    @property
    def headings(self) -> list[str]:
        """The headings of the table of cuts, without columns that are unknown for every cut."""
        return ["cut", "kept", *worth_headings(self.cuts)]

    @property
    def rows(self) -> list[list[str]]:
        """The table, one row for each cut."""
        known = worth_headings(self.cuts)
        return [[cut.name, cut.kept, *(worth([cut], name) for name in known)] for cut in self.cuts]

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "model": self.member.model_dump(mode="json"),
            "sentences": list(self.sentences),
            "cuts": [asdict(cut) for cut in self.cuts],
        }


WORTH = {
    "damage, nats": ("damage", ".4f"),
    "time saved": ("time", ".1%"),
    "bytes saved": ("size", ".1%"),
}
"""The columns of a cut's worth: by heading, the field of a Cut and its format."""


def worth_headings(cuts: Sequence[Cut]) -> list[str]:
    """The headings of the columns that are known for at least one of these cuts."""
    return [
        heading
        for heading, (field, _) in WORTH.items()
        if any(getattr(cut, field) is not None for cut in cuts)
    ]


def worth(cuts: Sequence[Cut], heading: str) -> str:
    """The sum of a column over these cuts, as text; empty if it is not known."""
    field, digits = WORTH[heading]
    known = [value for cut in cuts if (value := getattr(cut, field)) is not None]
    return format(sum(known), digits) if known else ""


def in_markdown(text: str) -> str:
    """A name escaped for Markdown, also within a table, so that it is shown as plain text."""
    flat = " ".join(html.escape(text, quote=False).split())
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", flat)


def export_command(study: Study, trial: int | str, storage: str = "URL") -> str:
    """The command that exports a trial's model; ``storage`` is a word for a shell."""
    name = shlex.quote(study.name)
    spec = study.spec
    own = [
        one for one in timed_bases(study) if spec.scenario and one.runtime == spec.scenario.runtime
    ]
    format = own[0].format if own else "hf"
    precision = ""
    if study.searched is not study and spec.scenario is not None and format != "hf":
        precision = f"--precision {spec.scenario.precision} "  # not that of the study
    return (
        f"axsearch export --storage {storage} --study {name} --trial {trial} --format {format} "
        f"{precision}--out trial-{trial}"
    )


def explain_trial(
    study: Study,
    trial: int,
    ties: Ties | None = None,
    bias: SelectionBias | None = None,
) -> Explanation:
    """Explain what a trial's model gave up, what remains, and what each cut was worth.

    Args:
        study: the study that has the trial.
        trial: its number.
        ties: of the study's front; adds a sentence if the trial is on it.
        bias: of the study's front; adds a sentence in the same case.

    Raises:
        UsageError: there is no such trial, or it is not finished.
    """
    member = study.trial(trial)
    recipe = Recipe.from_dict(member.recipe)
    params = study.frozen([trial])[trial].params
    cuts = tuple(cuts_of(study, member, Tables(study), params))
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
    layers = [place for place in base.choices if layer_of(place) != OUTSIDE]
    parts = [f"{len(gone)} of {len(layers)} layers ({', '.join(gone)})"] if gone else []
    every = named(dict.fromkeys(name for kept in base.choices.values() for name in kept))
    for one in every:
        if isinstance(one, UnitRemoval):
            full, left = (
                sum(c.get(one.name) or 0 for c in m.choices.values()) for m in (base, member)
            )
            if left < full:
                parts.append(f"{full - left:,} of {full:,} {one.unit}")
    if parts:
        yield f"It gave up {_and(parts)}."
    for one in every:
        values = {
            layer: kept[one.name]
            for layer, kept in member.choices.items()
            if kept.get(one.name) is not None
        }
        if values and not isinstance(one, UnitRemoval) and not one.choice_type.lossless:
            if all(layer_of(place) == OUTSIDE for place in values):
                yield f"It keeps {_and([f'{value:,} {one.unit}' for value in values.values()])}."
                continue
            shown = ", ".join(f"{layer}: {value}" for layer, value in values.items())
            yield f"{len(values)} of its layers keep only some {one.unit} ({shown})."
    if recipe.compensation != "none":
        yield f"Its remaining weights make up for what was left out ({recipe.compensation})."
    if member.recovered_from is not None:
        yield (
            f"Its weights were trained further than those of trial {member.recovered_from}, which "
            "has the same layers, with the base as their teacher."
        )
    for one in every:
        yield from one.remarks([c for _, name, c in recipe.choices() if name == one.name])


def _latency(study: Study, member: Measurement) -> Iterable[str]:
    if member.latency_ratio is not None:
        yield (
            f"It takes {member.latency_ratio:.3f} of the base's time "
            f"({1 / member.latency_ratio:.2f}x as fast), "
            f"{'measured' if member.latency_measured else 'predicted'}: {study.scenario}."
        )
        if (words := added_words(study, member)) is not None:
            yield words


def _accuracy(study: Study, member: Measurement, recipe: Recipe) -> Iterable[str]:
    base, metric = study.baseline, study.spec.metric
    yield (
        f"Its {metric} is {member.accuracy:.4f} ({member.accuracy_low:.4f} to "
        f"{member.accuracy_high:.4f}) on the search split, the base's {base.accuracy:.4f}."
    )
    held = study.holdout([member, base])
    splits: tuple[Split, ...] = ("search", "holdout")
    for split in splits:
        # Older versions stored less, and the holdout split may not have been opened.
        if split == "holdout" and len(held) == len({member.trial, base.trial}):
            ours, theirs = held[member.trial or 0], held[base.trial or 0]
            yield (
                f"On the holdout split it has {ours.value:.4f} ({ours.low:.4f} to {ours.high:.4f}),"
                f" the base {theirs.value:.4f}."
            )
        for found in against_base(study, [member], split).values():
            yield paired_words(found, metric)
    if recipe != EXACT:
        expected = study.expectation(member)
        yield UNKNOWN if expected is None else expected_words(study, member, expected)


def _trust(
    study: Study, member: Measurement, ties: Ties | None, bias: SelectionBias | None
) -> Iterable[str]:
    assert member.trial is not None
    if ties is not None and member.trial in ties.tied:
        others = [f"trial {other}" for other in ties.tied[member.trial]]
        if others:
            yield (
                f"Between it and {_and(others)} no difference in {study.spec.metric} is shown by "
                f"{ties.examples} examples of the {ties.split} split, corrected for "
                f"{ties.comparisons} comparisons; that does not mean that there is none."
            )
        elif ties.comparisons:
            yield f"It differs in {study.spec.metric} from every other model of the front."
    if bias is not None and member.trial in bias.members:
        yield (
            "Selection bias: the search split overstates its difference to the base by "
            f"{signed(bias.members[member.trial])}, compared with the holdout split; the front's "
            f"mean is {signed(bias.mean)}."
        )


def _worth(cuts: Sequence[Cut]) -> Iterable[str]:
    for field, what in (("time", "time"), ("size", "bytes")):
        known = [(getattr(cut, field), cut) for cut in cuts if getattr(cut, field)]
        if known:
            share, cut = max(known, key=lambda found: found[0])
            also = "" if not cut.damage else f", for a damage of {cut.damage:.4f} nats"
            most = f"The cut that saves the most {what} is {cut.name}"
            yield f"{most}: {share:.1%} of the base's{also}."
    damaged = [(cut.damage, cut) for cut in cuts if cut.damage]
    if damaged:
        damage, cut = max(damaged, key=lambda found: found[0])
        saved = "" if cut.time is None else f", for {cut.time:.1%} of the base's time"
        yield f"The cut that does the most damage is {cut.name}: {damage:.4f} nats{saved}."


def cuts_of(
    study: Study, member: Measurement, tables: Tables, params: Mapping[str, int]
) -> Iterable[Cut]:
    """The cuts of a finished trial's model, block by block; ``params`` are the trial's levels."""
    base, recipe = study.baseline, Recipe.from_dict(member.recipe)
    damage = _damage_by_block(tables, params, recipe)
    yield from _of_all_layers(tables, params)
    for name, kept in member.choices.items():
        layer = layer_of(name)
        cut = [site for site, _ in recipe.sites if site.place == name]
        if layer != OUTSIDE and is_removed(kept):
            yield Cut(
                name,
                "layer",
                "nothing",
                _most(damage.get((name, "layer")), [damage.get((name, s.kind)) for s in cut]),
                None if tables.latency is None else tables.latency.layer(EXACT, layer),
                None if tables.size is None else tables.size.layers[layer],
            )
            continue
        for site in cut:
            words = _remaining(kept, base.choices[name], site)
            yield Cut(
                name,
                site.kind,
                words,
                damage.get((name, site.kind)),
                _time(tables, recipe, site),
                None if tables.size is None else tables.size.saved(recipe, site),
            )


def _of_all_layers(tables: Tables, params: Mapping[str, int]) -> Iterable[Cut]:
    """What a parameter took of all layers; what that saves stands with each of them."""
    for parameter, level in params.items():
        levels, damage = tables.levels.get(parameter, ()), tables.damage.get(parameter, ())
        _, name, *_ = parameter.split(".")
        one = approximations().get(name)
        if one is None or not one.shared or not 0 < level < min(len(levels), len(damage)):
            continue
        words = f"{levels[level]} of {levels[0]} {one.unit} in each"
        yield Cut("all layers", one.kinds[0], words, damage[level], None, None)


def _damage_by_block(
    tables: Tables, params: Mapping[str, int], recipe: Recipe
) -> dict[tuple[str, str], float]:
    """The damage of a genome's levels, each alone, summed by layer and block.

    Only choices that the recipe has count: it drops the k of a removed block. If several parameters
    set the same units or the same k, the one that does the most damage counts.
    """
    alone: dict[tuple[str, str, str], dict[str, float]] = {}
    for parameter, level in params.items():
        levels = tables.damage.get(parameter, ())
        if not level or level >= len(levels):
            continue
        layer, name, *_ = parameter.split(".")
        if name not in approximations():  # written by another version
            continue
        approximation = approximations()[name]
        number = layer_of(layer)
        written = {kind: approximation.recorded(kind) for kind in approximation.kinds}
        if not any(written[kind] in recipe.at(number, kind) for kind in written):
            continue
        block, choice = ("layer", name) if len(written) > 1 else next(iter(written.items()))
        own = alone.setdefault((layer, block, choice), {})
        own[name] = own.get(name, 0.0) + levels[level]  # the parts of a mask add up
    found: dict[tuple[str, str], float] = defaultdict(float)
    for (layer, block, _), by_name in alone.items():
        found[layer, block] += max(by_name.values())
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


def _remaining(kept: Mapping[str, int | None], full: Mapping[str, int | None], site: SiteId) -> str:
    parts = []
    for one in named(recorded(site.kind)):
        left = kept.get(one.name)
        if not isinstance(one, UnitRemoval):
            parts += [] if left is None else [f"{left} {one.unit}"]
        elif left != full.get(one.name):
            parts.append(f"{left} of {full[one.name]} {one.unit}" if left else "nothing")
    return ", ".join(parts)


def _most(whole: float | None, blocks: Sequence[float | None]) -> float | None:
    """The damage of a removed layer: as a whole, or the sum of its blocks if that is more."""
    known = [damage for damage in blocks if damage is not None]
    found = [sum(known)] if known else []
    return max([*found, *([whole] if whole is not None else [])], default=None)


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"

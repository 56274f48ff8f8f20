"""How far a model lies below the base, in words: expected on new data, and seen on each split."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from axsearch.statistics.measurement import Measurement
from axsearch.statistics.outcome import Estimate
from axsearch.study.choosing import two_digits
from axsearch.study.comparison import AgainstBase, against_base
from axsearch.study.study import Study

if TYPE_CHECKING:
    from axsearch.statistics.expectation import Expected

SURE = 0.9
"""The probability up to which more search examples are recommended."""

EXPECTED = (
    "The expected drop is the one to count on with new data: that of the search split, corrected "
    "for the choice by what all models of the study lost."
)

UNKNOWN = (
    "The drop is that of the search split, not corrected for the choice: an older axsearch made "
    "this study, and did not store the answers to single examples."
)
"""What is said in place of an expected drop."""


def expected_words(study: Study, member: Measurement, found: Expected) -> str:
    """The expected drop in a sentence, beside that on the holdout split where it was opened."""
    held = against_base(study, [member], "holdout").get(member.trial or 0)
    beside = f"; the holdout split shows a drop of {held.drop.value:z.4f}" if held else ""
    low_to_high = f"{found.interval.low:z.4f} to {found.interval.high:z.4f}"
    return (
        f"Expected drop in {study.spec.metric} on new data, corrected for the choice: "
        f"{found.drop:z.4f} ({low_to_high}){beside}."
    )


def kept_words(found: Expected, most: float) -> str:
    """How likely it is that a limit on the drop is kept, and how many examples would show it."""
    likely = found.probability(most)
    words = f"The drop is at most {most:g} with a probability of {likely:.2f}"
    needed = found.examples_for(most, SURE)
    if likely >= SURE or needed is None:
        return f"{words}."
    return (
        f"{words}, after {found.examples:,} search examples; if it is as expected, about "
        f"{two_digits(needed):,} would raise that to {SURE:.2f}."
    )


def paired_words(found: AgainstBase, metric: str) -> str:
    """The comparison with the base on a split, example by example, in a sentence."""
    of = f"{found.examples} {'' if found.split == 'search' else 'holdout '}examples"
    change = Estimate(-found.drop.value, -found.drop.high, -found.drop.low)
    tells = "it differs from the base" if found.differs else "no difference to the base is shown"
    return (
        f"Of {of} it answers {found.better} better than the base and {found.worse} worse: "
        f"{signed(change)} in {metric}, pair by pair; {tells}."
    )


def signed(change: Estimate) -> str:
    """A change with its interval."""
    return f"{change.value:+.4f} ({change.low:+.4f} to {change.high:+.4f})"


def recovered_words(members: Iterable[Measurement]) -> str:
    """What the labels of recovered models mean; empty where there are none."""
    if all(one.recovered_from is None for one in members):
        return ""
    return (
        "Trials with '(from N)' are models of trials N that were trained further, with the base as "
        "their teacher."
    )

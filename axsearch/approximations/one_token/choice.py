"""One token in the last layer: tokens that the head does not read are not computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from axsearch.approximations.base import Approximation
from axsearch.approximations.choices import Choice, Level
from axsearch.approximations.site import ONE_TOKEN, STACK, Site


class Tokens(Choice):
    """How many tokens the last layer computes: those that the head reads."""

    lossless: ClassVar[bool] = True

    tokens: Literal[1]

    @property
    def level(self) -> int:
        """How many tokens."""
        return self.tokens


class OneToken(Approximation):
    """The last layer computes only one token, where the model's head reads no other.

    That is the first one, or the last one of a decoder. The answers are those of the whole layer,
    to rounding, and its weights stay as they are: the other tokens are attended to, but have no
    query and no FFN of their own. Which layer is the last depends on the layers that a recipe
    removes.
    """

    name = "one_token"
    kinds = (STACK,)
    summary = "tokens that the last layer computes"
    searched = True
    needs = (ONE_TOKEN,)
    choice_type = Tokens
    cuts = False
    narrows = True
    unit = "token in the last layer"
    short = "t"
    title = "tokens in the last layer"
    axis = "tokens computed"
    note = (
        "t1: the last layer computes only the one token that the head reads; answers stay the same."
    )
    hf_note = (
        "Its last layer computes only the token that the head reads, so `last_hidden_state` has no "
        "other. It uses\nthe weights of the keys' and values' projections as they are: adapters on "
        "these are not seen."
    )

    def levels(self, site: Site, part: int = 0) -> tuple[Level, ...]:
        """All tokens, then one."""
        return (None, 1)

    def choice(
        self, site: Site, level: Level, order: Sequence[int], part: int = 0
    ) -> Choice | None:
        """One token; there are no units."""
        return None if level is None else Tokens(tokens=1)

    def misfit(self, site: Site, choice: Choice) -> str | None:
        """Any choice of its own fits."""
        return None if isinstance(choice, Tokens) else "takes a number of tokens"

    def remarks(self, choices: Sequence[Choice]) -> tuple[str, ...]:
        """What it does to the answers: nothing."""
        if not choices:
            return ()
        return (
            "Its last layer computes only the one token that the head reads: the answers are the "
            "same.",
        )

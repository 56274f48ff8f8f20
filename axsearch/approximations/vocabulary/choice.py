"""A smaller vocabulary: tokens that the user's texts do not need have no row in the embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence

from axsearch.approximations.base import Approximation
from axsearch.approximations.choices import Choice, Level, Subset
from axsearch.approximations.site import EMBEDDINGS, REWRITABLE, Site

OCCURRENCES = (1, 2, 4, 8, 16, 32, 64)
"""How often a token must occur in the texts to stay, level by level."""

FEWER = 0.95
"""The share of the tokens of the level before above which a level makes no difference."""


class KeptTokens(Subset):
    """The tokens that stay."""

    @property
    def vocabulary(self) -> tuple[int, ...]:
        """Their ids."""
        return self.kept


class Vocabulary(Approximation):
    """Rows of the embeddings are removed, and their tokens from the tokenizer.

    What stays is what the training texts have, and all that is needed to spell any other text: a
    word whose token is removed is split into shorter ones, so that no text that was known before
    becomes unknown. Texts of which no token is removed are read as before, to the same answers.
    No time is saved, and texts that are spelled take a little more, but half of a small model's
    bytes, and three quarters of a multilingual one's, may be embeddings. Abdaoui et al. 2020 (arXiv
    2010.05609) select the tokens of single languages by their frequency; here the user's own texts
    decide.
    """

    name = "vocabulary"
    kinds = (EMBEDDINGS,)
    summary = "tokens of the vocabulary"
    needs = (REWRITABLE,)
    choice_type = KeptTokens
    timed = False
    plain = True
    portable = True
    unit = "tokens of the vocabulary"
    short = "v"
    title = "vocabulary"
    axis = "tokens kept"
    note = "v: the tokens that the vocabulary keeps; the tokenizer is exported with the model."
    hf_note = (
        "Its vocabulary has the tokens of the texts that it was made for, and those that spell any "
        "other word.\nUse the tokenizer of this folder: the ids of the original's are others."
    )

    def levels(self, site: Site, part: int = 0) -> tuple[Level, ...]:
        """All tokens, then those that occur ever more often; all alone where nobody counted.

        Between all and those that occur at all is a level that keeps, of the others, those with low
        ids: tokenizers number their tokens by how common they are in the texts they were made from.
        """
        if site.token_use is None:
            return (None,)
        wanted = [site.token_use.at_least(count) for count in OCCURRENCES]
        found: list[Level] = [None]
        left = site.rows
        for fewer in [round(math.sqrt(site.rows * wanted[0])), *wanted]:
            if 0 < fewer <= FEWER * left:
                found.append(fewer)
                left = fewer
        return tuple(found)

    def choice(
        self, site: Site, level: Level, order: Sequence[int], part: int = 0
    ) -> Choice | None:
        """The tokens that occur most, and those that are needed; the site has their order."""
        if level is None:
            return None
        if site.token_use is None or not 0 < level < site.rows:
            raise ValueError(f"{self.name} keeps 1 to {site.rows - 1} tokens that were counted")
        return KeptTokens(of=site.rows, kept=tuple(sorted(site.token_use.order[-level:])))

    def misfit(self, site: Site, choice: Choice) -> str | None:
        """A recipe of a model with another number of tokens does not fit."""
        if not isinstance(choice, KeptTokens):
            return "takes tokens to keep"
        if choice.of != site.rows:
            return f"was made for {choice.of} tokens, this model has {site.rows}"
        if not choice.kept or site.padding not in (None, *choice.kept):
            return "removes the token that pads"
        return None

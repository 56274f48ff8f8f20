"""Token classification: a tag for every word, such as named entities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from axsearch.errors import UsageError
from axsearch.statistics.outcome import Outcome
from axsearch.tasks.kinds.base import (
    TAG_COLUMNS,
    WORD_COLUMNS,
    Answered,
    Columns,
    TaskKind,
    feature_list,
    refuse_lists_as_text,
    word_column,
)
from axsearch.tasks.kinds.entities import OUTSIDE, entity_counts, placed
from axsearch.tasks.kinds.labels import (
    GENERIC,
    LabelHints,
    Labels,
    best_order,
    fit_labels,
    named_config,
    new_labels,
)
from axsearch.tasks.split import IGNORED, Split

NO_TAG = (-1, IGNORED)
"""Numbers that say that a word has no tag: IGNORED as in what transformers is trained on."""


class Tagged(NamedTuple):
    """Words and the tag of each; None where a word has none, which is then not scored."""

    words: tuple[str, ...]
    tags: tuple[str | None, ...]


@dataclass(frozen=True)
class Sentences(Split):
    """Tagged words; the targets are the tag of each word at its first token.

    Attributes:
        tags: for each example, the class id of every word, words that were cut off included;
            :data:`IGNORED` for a word without a tag.
        words: for each feature, the positions of the words whose first token has a target.
    """

    tags: Sequence[Sequence[int]] = ()
    words: Sequence[Sequence[int]] = ()

    def references(self) -> Sequence[Any]:
        """All tags, and their names, which decide where entities are."""
        return (self.tags, self.names)

    def take(self, examples: NDArray[np.int64]) -> Split:
        """These examples alone."""
        rows = [int(row) for row in np.flatnonzero(np.isin(self.owners, examples))]
        return self._features(
            rows, tags=[self.tags[row] for row in rows], words=[self.words[row] for row in rows]
        )


class TokenClassification(TaskKind[Tagged, Sentences]):
    """The answer is a tag for every word. F1 counts whole entities, accuracy counts words."""

    name = "token-classification"
    head = "ForTokenClassification"
    auto_class = AutoModelForTokenClassification
    metrics = ("f1", "accuracy")
    trivial_answer = "one tag for all"
    largest_logit = True

    def recognises(self, table: datasets.Dataset, label_column: str | None) -> bool:
        """Whether there is a column of tokens and none of labels."""
        given = label_column not in (None, *TAG_COLUMNS)
        return word_column(table) is not None and "label" not in table.column_names and not given

    def columns(
        self,
        source: str,
        table: datasets.Dataset,
        text_columns: Sequence[str] | None,
        label_column: str | None,
    ) -> Columns:
        """Lists of words and the first of :data:`TAG_COLUMNS`, unless others are named."""
        texts = tuple(text_columns or (word_column(table) or WORD_COLUMNS[0],))
        if len(texts) != 1:
            raise UsageError(f"Token classification takes one of `text_columns`, not {len(texts)}.")
        there = [column for column in TAG_COLUMNS if column in table.column_names]
        if label_column is None and not there:
            raise UsageError(
                f"{source} has none of the columns {', '.join(TAG_COLUMNS)}; it has "
                f"{', '.join(table.column_names)}: name the tags' with `label_column`."
            )
        return Columns(texts, label_column or there[0])

    def examples(
        self, source: str, name: str, table: datasets.Dataset, columns: Columns
    ) -> list[Tagged] | None:
        """Words, and the names of their tags; rows without any tag are left out."""
        names = self.classes(table, columns)
        for column in (columns.texts[0], columns.label):
            refuse_lists_as_text(source, name, column, table[column][:])
        found = []
        pairs = zip(table[columns.texts[0]][:], table[columns.label][:], strict=True)
        for number, (words, tags) in enumerate(pairs, 1):
            if words == [] == tags:  # an empty line of the corpus
                continue
            if (
                not isinstance(words, list)
                or not isinstance(tags, list)
                or len(words) != len(tags)
                or not words
                or not all(isinstance(word, str) for word in words)
                or not all(isinstance(tag, str) or type(tag) is int for tag in tags)
            ):
                raise UsageError(
                    f"{source}: row {number} of the {name} split must have a list of words and a "
                    "list of as many tags, which are strings or integers."
                )
            if names and not all(tag in NO_TAG or 0 <= tag < len(names) for tag in tags):
                raise UsageError(
                    f"{source}: row {number} of the {name} split has a tag that is not one of the "
                    f"ids 0 to {len(names) - 1}."
                )
            if all(tag in NO_TAG for tag in tags):
                continue
            called = (None if tag in NO_TAG else names[tag] if names else str(tag) for tag in tags)
            found.append(Tagged(tuple(words), tuple(called)))
        return found or None

    def unanswered(
        self, source: str, table: datasets.Dataset, columns: Columns, like: Tagged
    ) -> list[Tagged]:
        """Lists of words; a text is none, as it would have to be split as the data were."""
        refuse_lists_as_text(source, "unlabelled", columns.texts[0], table[columns.texts[0]][:])
        words = [one or [] for one in table[columns.texts[0]][:]]
        tag = next(tag for tag in like.tags if tag is not None)
        for number, own in enumerate(words, 1):
            if not isinstance(own, list) or not all(isinstance(word, str) for word in own):
                raise UsageError(
                    f"{source}: row {number} must have a list of words, as JSON lines, Parquet and "
                    "CoNLL's files (.conll) do."
                )
        return [Tagged(tuple(own), (tag,) * len(own)) for own in words if own]

    def classes(self, table: datasets.Dataset, columns: Columns) -> tuple[str, ...]:
        """The names of the tags' ids, if they have a type of ``datasets`` with names."""
        feature = getattr(table.features[columns.label], "feature", None)
        return tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else ()

    def learnable(self, examples: Sequence[Tagged]) -> bool:
        """Whether there are at least two tags."""
        return len(_tags(examples)) > 1

    def new_labels(
        self, train: Sequence[Tagged], others: Sequence[Tagged], hints: LabelHints | None = None
    ) -> Labels:
        """All tags, ``O`` first, then in alphabetical order."""
        return new_labels(
            sorted(_tags(train)),
            sorted(_tags(others)),
            hints or LabelHints(),
            lambda tag: (tag != OUTSIDE, tag),
        )

    def head_config(self, labels: Labels) -> dict[str, Any]:
        """A head with the tags' names."""
        return {"problem_type": None, **named_config(labels)}

    def labels(
        self,
        config: PreTrainedConfig,
        examples: Sequence[Tagged],
        hints: LabelHints | None = None,
    ) -> Labels:
        """The head's tags; where they have no names of their own, those of the data.

        Names decide where entities are.
        """
        found = fit_labels(config, sorted(_tags(examples)), hints)
        names, pairs = list(found.names), list(found.ids.items())
        if hints is not None and not hints.mapping and set(found.ids) <= set(hints.classes):
            pairs = [(label, i) for i, label in enumerate(hints.classes[: len(names)])]
        for label, index in sorted(pairs, key=lambda pair: pair[0] != OUTSIDE):
            if GENERIC.fullmatch(names[index]) and not GENERIC.fullmatch(label):
                names[index] = label
        return found._replace(names=tuple(names))

    def is_labelled(self, example: Tagged, labels: Labels) -> bool:
        """Whether the head knows all of its tags."""
        return all(tag is None or tag in labels.ids for tag in example.tags)

    def check_labels(self, labels: Labels, metric: str) -> None:
        """Raises UsageError for entity F1 if the data's tags do not mark entities.

        What else the head may answer, such as a class of padding, is no entity.
        """
        strange = [
            label
            for label, index in labels.ids.items()
            if labels.names[index] != OUTSIDE and placed(labels.names[index]) is None
        ]
        if metric == "f1" and strange:
            raise UsageError(
                f"The tag {strange[0]!r} marks no entity: F1 needs O and tags such as B-PER and "
                'I-PER, or B and I; choose `metric="accuracy"`, or let `labels` map it to O.'
            )

    def prepare_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Let each word begin with a space, as in running text; byte-level tokenizers need it."""
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        found: Any = getattr(backend, "pre_tokenizer", None)
        steps: Any = found if isinstance(found, pre_tokenizers.Sequence) else [found]
        for step in steps:
            if hasattr(step, "add_prefix_space"):
                step.add_prefix_space = True

    def lengths(
        self, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Tagged]
    ) -> Sequence[int]:
        """The tokens of all words of each example."""
        words = [list(example.words) for example in examples]
        return [len(ids) for ids in tokenizer(words, is_split_into_words=True)["input_ids"]]

    def split(
        self,
        name: str,
        examples: Sequence[Tagged],
        tokenizer: PreTrainedTokenizerBase,
        length: int,
        labels: Labels,
    ) -> Sentences:
        """One feature per example, cut to ``length`` tokens."""
        if not tokenizer.is_fast:
            raise UsageError(f"{self.name} needs a tokenizer with a tokenizer.json.")
        encoded = tokenizer(
            [list(example.words) for example in examples],
            is_split_into_words=True,
            truncation=True,
            max_length=length,
        )
        tags = [
            [IGNORED if tag is None else labels.ids[tag] for tag in example.tags]
            for example in examples
        ]
        targets, words = [], []
        for row, own in enumerate(tags):
            of_tokens = encoded.word_ids(row)
            first = [
                word is not None and (token == 0 or of_tokens[token - 1] != word)
                for token, word in enumerate(of_tokens)
            ]
            begun = list(zip(of_tokens, first, strict=True))
            targets.append([own[word] if starts else IGNORED for word, starts in begun])
            words.append([word for word, starts in begun if starts and own[word] != IGNORED])
        return Sentences(
            name,
            feature_list(encoded, list(encoded.keys())),
            targets,
            tokenizer.pad_token_id or 0,
            labels.names,
            tags=tags,
            words=words,
        )

    def losses(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross entropy over the words of each example."""
        each = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), targets, reduction="none", ignore_index=IGNORED
        )
        return each.sum(1) / (targets != IGNORED).sum(1).clamp(min=1)

    def divergence(
        self, logits: torch.Tensor, base: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """Mean divergence over the words of each example."""
        words = targets != IGNORED
        each = super().divergence(logits, base, targets)
        return (each * words).sum(1) / words.sum(1).clamp(min=1)

    def divergence_apart(self, ours: Answered, base: Answered) -> torch.Tensor:
        """Of the tokens that words begin with, up to where either text is cut, (1,)."""
        words = [read.logits[: len(read.targets)][read.targets != IGNORED] for read in (ours, base)]
        count = min(map(len, words))
        first, second = (one[None, :count] for one in words)
        return self.divergence(first, second, torch.zeros(1, count, device=first.device))

    def margins(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The smallest margin among the words of each example."""
        each = super().margins(logits, targets)
        return each.masked_fill(targets == IGNORED, torch.inf).amin(1)

    def decode(
        self, logits: torch.Tensor, split: Sentences, rows: NDArray[Any]
    ) -> Sequence[list[int]]:
        """The most likely tag of each word that was not cut off."""
        likeliest = logits.argmax(-1).cpu()
        read = split.collate_targets(rows) != IGNORED
        return [tags[words].tolist() for tags, words in zip(likeliest, read, strict=True)]

    def outcome(self, metric: str, split: Sentences, answers: Sequence[list[int]]) -> Outcome:
        """For each example, its :func:`entity_counts`; or words tagged correctly, and all words.

        Words that were cut off, or that have no token, count as tagged ``O``; words without a tag
        do not count, as in transformers' examples.
        """
        called = (*split.names, OUTSIDE)
        rows: list[tuple[int, ...]] = []
        for gold, words, tagged in zip(split.tags, split.words, answers, strict=True):
            answered = dict(zip(words, tagged, strict=True))
            scored = [word for word, tag in enumerate(gold) if tag != IGNORED]
            there = [called[gold[word]] for word in scored]
            said = [called[answered.get(word, len(split.names))] for word in scored]
            if metric == "accuracy":
                rows.append((sum(a == b for a, b in zip(there, said, strict=True)), len(scored)))
            else:
                rows.append(entity_counts(there, said))
        return Outcome("share" if metric == "accuracy" else "entity_f1", np.array(rows, np.int32))

    def reordered(
        self, split: Sentences, answers: Sequence[list[int]], rows: Sequence[int]
    ) -> tuple[list[int], Sequence[list[int]]]:
        """The order that fits the words' tags best."""
        gold = [split.tags[row][word] for row in rows for word in split.words[row]]
        said = [tag for row in rows for tag in answers[row]]
        order = best_order(said, gold, len(split.names))
        return order, [[order[tag] for tag in tagged] for tagged in answers]

    def trivial_answers(self, train: Sentences, split: Sentences) -> Iterable[Sequence[list[int]]]:
        """Each tag in turn, for every word; ``O`` is the best in most data."""
        return ([[tag] * len(words) for words in split.words] for tag in range(len(split.names)))


def _tags(examples: Sequence[Tagged]) -> set[str]:
    return {tag for example in examples for tag in example.tags if tag is not None}

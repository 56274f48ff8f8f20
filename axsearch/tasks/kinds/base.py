"""The contract of a task kind."""

from __future__ import annotations

import ast
import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import datasets
import torch
from numpy.typing import NDArray
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from axsearch.errors import UsageError
from axsearch.statistics import metrics
from axsearch.statistics.outcome import Outcome
from axsearch.tasks.kinds.labels import LabelHints, Labels
from axsearch.tasks.split import Split

LOOKED_AT = 100
"""Values of a column by which it is decided what it holds."""

NUMBERS = re.compile(r"\s*\[[-\s\d.]+\]\s*")
"""A list of numbers as numpy writes it."""

WORD_COLUMNS = ("tokens", "words")
"""Columns that are recognised as lists of words."""

TAG_COLUMNS = ("ner_tags", "tags", "labels")
"""Columns that are recognised as a tag for each of them."""

E = TypeVar("E")
S = TypeVar("S", bound=Split)


class Columns(NamedTuple):
    """The columns of the model's input texts and of the expected answer.

    ``label`` has commas between the names where the answer is in several columns; ``switches`` says
    that it is a list of a 0 or 1 for each class.
    """

    texts: tuple[str, ...]
    label: str
    switches: bool = False


class Answered(NamedTuple):
    """The logits for one feature, and its target."""

    logits: torch.Tensor
    targets: torch.Tensor


class TaskKind(ABC, Generic[E, S]):
    """One kind of task: its data, its head, its loss and its metrics.

    ``E`` is the type of an example as it is read, a tuple whose last entry is the answer, ``S``
    that of a split of tokenised examples. A
    subclass in this folder is found automatically; it holds no state.

    When data are read, :meth:`recognises` and :meth:`columns` find the columns, and
    :meth:`examples` reads each split. :meth:`new_labels` and :meth:`head_config` describe a head
    that is to be trained, :meth:`labels` reads a trained one. Then :meth:`split` tokenises, and of
    every evaluation :meth:`decode` turns logits to answers and :meth:`outcome` scores them.

    Attributes:
        name: what a user gives as ``task``.
        head: how the names of transformers' classes with a fitting head end.
        auto_class: transformers' class that loads a model with such a head.
        metrics: the names of the metrics that may be the accuracy objective, the default first.
        trivial_answer: :meth:`trivial_answers` in words.
        windows: whether a long example is read in windows, whose number depends on the tokenizer.
        largest_logit: whether the answer is the largest logit, for a feature or for each token.
    """

    name: ClassVar[str]
    head: ClassVar[str]
    auto_class: ClassVar[Any]
    metrics: ClassVar[tuple[str, ...]]
    trivial_answer: ClassVar[str]
    windows: ClassVar[bool] = False
    largest_logit: ClassVar[bool] = False

    @abstractmethod
    def recognises(self, table: datasets.Dataset, label_column: str | None) -> bool:
        """Whether the columns show that the data are of this kind."""

    @abstractmethod
    def columns(
        self,
        source: str,
        table: datasets.Dataset,
        text_columns: Sequence[str] | None,
        label_column: str | None,
    ) -> Columns:
        """The columns to read, recognised unless named; raises UsageError if there are none."""

    def label_columns(self, columns: Columns) -> tuple[str, ...]:
        """The columns of the answer."""
        return (columns.label,)

    @abstractmethod
    def examples(
        self, source: str, name: str, table: datasets.Dataset, columns: Columns
    ) -> list[E] | None:
        """The examples of the split ``name`` that have a label, or None if none has one.

        Raises UsageError for rows that cannot be used.
        """

    @abstractmethod
    def unanswered(
        self, source: str, table: datasets.Dataset, columns: Columns, like: E
    ) -> list[E]:
        """The examples of a table without answers; rows without a text are left out.

        Theirs is the one of ``like``, as far as it fits: it does not count where a teacher says
        what is learnt. Raises UsageError for rows that cannot be used.
        """

    def classes(self, table: datasets.Dataset, columns: Columns) -> tuple[str, ...]:
        """The names of the data's classes by id, if the data define them."""
        return ()

    def stratum(self, example: E) -> Any:
        """By what examples are sorted, so that splits cut from them get an even share of each."""
        return 0

    @abstractmethod
    def learnable(self, examples: Sequence[E]) -> bool:
        """Whether the training examples have more than one label."""

    @abstractmethod
    def new_labels(
        self, train: Sequence[E], others: Sequence[E], hints: LabelHints | None = None
    ) -> Labels:
        """The labels of a head that is to be trained.

        ``others`` are the examples of validation and test, whose labels may not all be in train.
        Raises UsageError if the user's mapping does not fit.
        """

    def check_labels(self, labels: Labels, metric: str) -> None:
        """Raises UsageError for labels that the metric cannot score."""
        return

    @abstractmethod
    def head_config(self, labels: Labels) -> dict[str, Any]:
        """The config entries of a head with these labels, in the order in which they are set.

        ``problem_type`` comes first: that of another head may not go with this number of labels.
        """

    @abstractmethod
    def labels(
        self, config: PreTrainedConfig, examples: Sequence[E], hints: LabelHints | None = None
    ) -> Labels:
        """The labels of a trained head; raises UsageError if the data do not fit it."""

    def is_labelled(self, example: E, labels: Labels) -> bool:
        """Whether an example has a label that the head knows, as :meth:`labels` found."""
        return True

    def check_config(self, model: str, config: PreTrainedConfig) -> None:
        """Raises UsageError for a head of the right class that was trained for another kind."""
        return

    def prepare_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Change a tokenizer as this kind needs it, after it is loaded."""
        return

    @abstractmethod
    def split(
        self,
        name: str,
        examples: Sequence[E],
        tokenizer: PreTrainedTokenizerBase,
        length: int,
        labels: Labels,
    ) -> S:
        """Tokenise examples to features of at most ``length`` tokens."""

    def lengths(
        self, tokenizer: PreTrainedTokenizerBase, examples: Sequence[E]
    ) -> Sequence[int] | None:
        """The tokens of each example if nothing were cut; None if long ones are read in parts."""
        return None

    def also_cut(self, splits: Sequence[S], length: int) -> str:
        """A sentence on texts that are cut although others are read in parts; empty if none is."""
        return ""

    def logits(self, outputs: Any) -> torch.Tensor:
        """The head's logits in a model's outputs: (features, …)."""
        logits: torch.Tensor = outputs.logits
        return logits

    @abstractmethod
    def losses(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of each feature of a batch, (features,), differentiable.

        ``logits`` come from :meth:`logits`, ``targets`` from :meth:`Split.collate_targets`.
        """

    def label_losses(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """:meth:`losses` on the scale of :meth:`divergence`, to be added to it, (features,)."""
        return self.losses(logits, targets)

    def margins(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The least change of a difference of two logits that changes an answer, (features,).

        Only for kinds whose answer is the :attr:`largest_logit`.
        """
        if logits.shape[-1] == 1:
            return torch.full(logits.shape[:-1], torch.inf, device=logits.device)
        two = logits.topk(2, dim=-1).values
        return two[..., 0] - two[..., 1]

    def loss(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        """The loss of a batch, a number: the sum over its features."""
        return self.losses(self.logits(outputs), targets).sum()

    def divergence(
        self, logits: torch.Tensor, base: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """KL divergence of the model's distribution from the base's, (features,), in nats."""
        ours, theirs = logits.log_softmax(-1), base.log_softmax(-1)
        return (theirs.exp() * (theirs - ours)).sum(-1)

    def divergence_apart(self, ours: Answered, base: Answered) -> torch.Tensor:
        """:meth:`divergence` of one example that two tokenizers read, (1,)."""
        return self.divergence(ours.logits[None], base.logits[None], ours.targets[None])

    @abstractmethod
    def decode(self, logits: torch.Tensor, split: S, rows: NDArray[Any]) -> Sequence[Any]:
        """The answer to each of these features, by its logits."""

    @abstractmethod
    def outcome(self, metric: str, split: S, answers: Sequence[Any]) -> Outcome:
        """The contributions to the metric of the answers, one per feature in the split's order."""

    def reordered(
        self, split: S, answers: Sequence[Any], rows: Sequence[int]
    ) -> tuple[list[int], Sequence[Any]] | None:
        """In which order the head's classes fit these rows' labels best, and all answers in it.

        The order is for each class of the head the one that it would have to be. None for kinds
        whose answer is not one class of several, the :attr:`largest_logit`.
        """
        return None

    @abstractmethod
    def trivial_answers(self, train: S, split: S) -> Iterable[Sequence[Any]]:
        """The constant answers to try, learnt from train: each is one answer to every example."""

    def trivial(self, metric: str, train: S, split: S) -> float:
        """The metric of the best constant answer; a model no better than that is worthless."""
        return metrics.value(self.trivial_outcome(metric, train, split))

    def trivial_outcome(self, metric: str, train: S, split: S) -> Outcome:
        """The outcome of the best constant answer."""
        answers = self.trivial_answers(train, split)
        return max((self.outcome(metric, split, own) for own in answers), key=metrics.value)


def word_column(table: datasets.Dataset) -> str | None:
    """The column of lists of words: ``tokens``; or ``words``, where they can be nothing else.

    That is where there is no text, and a column has as many tags.
    """
    tokens, words = WORD_COLUMNS
    names = table.column_names
    if tokens in names:
        return tokens
    if words not in names or {"text", "sentence", "context"} & {*names}:
        return None
    lists = table[words][:LOOKED_AT]
    for column in (name for name in TAG_COLUMNS if name in names):
        pairs = zip(lists, table[column][:LOOKED_AT], strict=True)
        if all(isinstance(w, list) and isinstance(t, list) and len(w) == len(t) for w, t in pairs):
            return words
    return None


def require_columns(
    source: str, tables: Mapping[str, datasets.Dataset], columns: Sequence[str]
) -> None:
    """Raises UsageError for a split that lacks one of the columns."""
    for name, table in tables.items():
        for column in columns:
            if column not in table.column_names:
                raise UsageError(
                    f"{source}: the {name} split has no column {column!r}; "
                    f"it has {', '.join(table.column_names)}."
                )


def refuse_lists_as_text(source: str, name: str, column: str, values: Iterable[object]) -> None:
    """Raises UsageError for a column of texts that are lists, as a CSV file has to write them."""
    given = (value for value in values if isinstance(value, str) and value.strip())
    first = list(itertools.islice(given, LOOKED_AT))
    if first and all(map(_is_list, first)):
        raise UsageError(
            f"{source}: column {column!r} of the {name} split holds lists that were written as "
            f"text, such as {first[0][:60]!r}; save the data as JSON lines or Parquet, which have "
            "lists."
        )


def _is_list(text: str) -> bool:
    """Whether a text is a list as Python, JSON or numpy write it."""
    if NUMBERS.fullmatch(text):
        return True
    try:
        return isinstance(ast.literal_eval(text.strip()), list)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False


def require_texts(source: str, name: str, column: str, values: Iterable[object]) -> None:
    """Raises UsageError for a value that is neither text nor missing; none is converted to text."""
    for number, value in enumerate(values, 1):
        if value is not None and not isinstance(value, str):
            raise UsageError(
                f"{source}: the {name} split has no text in column {column!r} of row {number}, but "
                f"{str(value)[:60]!r}; write texts as strings."
            )


def feature_list(encoded: Mapping[str, Any], keys: Sequence[str]) -> list[dict[str, list[int]]]:
    """A tokenizer's columns as one dictionary per feature."""
    return [
        dict(zip(keys, values, strict=True))
        for values in zip(*(encoded[key] for key in keys), strict=True)
    ]

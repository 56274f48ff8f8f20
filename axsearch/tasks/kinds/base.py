"""The contract of a task kind."""

from __future__ import annotations

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
from axsearch.tasks.split import Split

E = TypeVar("E")
S = TypeVar("S", bound=Split)


class Columns(NamedTuple):
    """The columns of the model's input texts and of the expected answer."""

    texts: tuple[str, ...]
    label: str


class Labels(NamedTuple):
    """A head's classes: their names by id, and the id of each label of the data."""

    names: tuple[str, ...]
    ids: Mapping[str, int]

    @classmethod
    def of(cls, names: Sequence[str]) -> Labels:
        """The labels of a new head with these names."""
        return cls(tuple(names), {name: index for index, name in enumerate(names)})


class TaskKind(ABC, Generic[E, S]):
    """One kind of task: its data, its head, its loss and its metrics.

    ``E`` is the type of an example as it is read, ``S`` that of a split of tokenised examples. A
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
        largest_logit: whether the answer is the largest logit, for a feature or for each token.
    """

    name: ClassVar[str]
    head: ClassVar[str]
    auto_class: ClassVar[Any]
    metrics: ClassVar[tuple[str, ...]]
    trivial_answer: ClassVar[str]
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

    @abstractmethod
    def examples(
        self, source: str, name: str, table: datasets.Dataset, columns: Columns
    ) -> list[E] | None:
        """The examples of the split ``name``, or None if their labels are hidden.

        Raises UsageError for rows that cannot be used.
        """

    @abstractmethod
    def learnable(self, examples: Sequence[E]) -> bool:
        """Whether the training examples have more than one label."""

    @abstractmethod
    def new_labels(self, train: Sequence[E], others: Sequence[E]) -> Labels:
        """The labels of a head that is to be trained.

        Raises UsageError if ``others``, the examples of validation and test, have a label that
        train does not have.
        """

    def check_labels(self, labels: Labels, metric: str) -> None:
        """Raises UsageError for labels that the metric cannot score."""
        return

    @abstractmethod
    def head_config(self, labels: Labels) -> dict[str, Any]:
        """The config entries of a head with these labels."""

    @abstractmethod
    def labels(self, config: PreTrainedConfig, examples: Sequence[E]) -> Labels:
        """The labels of a trained head; raises UsageError if the data do not fit it."""

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

    def logits(self, outputs: Any) -> torch.Tensor:
        """The head's logits in a model's outputs: (features, …)."""
        logits: torch.Tensor = outputs.logits
        return logits

    @abstractmethod
    def losses(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of each feature of a batch, (features,), differentiable.

        ``logits`` come from :meth:`logits`, ``targets`` from :meth:`Split.collate_targets`.
        """

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

    @abstractmethod
    def decode(self, logits: torch.Tensor, split: S, rows: NDArray[Any]) -> Sequence[Any]:
        """The answer to each of these features, by its logits."""

    @abstractmethod
    def outcome(self, metric: str, split: S, answers: Sequence[Any]) -> Outcome:
        """The contributions to the metric of the answers, one per feature in the split's order."""

    @abstractmethod
    def trivial_answers(self, train: S, split: S) -> Iterable[Sequence[Any]]:
        """The constant answers to try, learnt from train: each is one answer to every example."""

    def trivial(self, metric: str, train: S, split: S) -> float:
        """The metric of the best constant answer; a model no better than that is worthless."""
        return max(
            metrics.value(self.outcome(metric, split, answers))
            for answers in self.trivial_answers(train, split)
        )


def require_columns(source: str, tables: Mapping[str, datasets.Dataset], columns: Columns) -> None:
    """Raises UsageError for a split that lacks one of the columns."""
    for name, table in tables.items():
        for column in (*columns.texts, columns.label):
            if column not in table.column_names:
                raise UsageError(
                    f"{source}: the {name} split has no column {column!r}; "
                    f"it has {', '.join(table.column_names)}."
                )


def require_texts(source: str, name: str, column: str, values: Iterable[object]) -> None:
    """Raises UsageError for a value that is neither text nor missing; none is converted to text."""
    for number, value in enumerate(values, 1):
        if value is not None and not isinstance(value, str):
            raise UsageError(
                f"{source}: the {name} split has no text in column {column!r} of row {number}, but "
                f"{str(value)[:60]!r}; write texts as strings."
            )


def fit_labels(config: PreTrainedConfig, labels: Sequence[str]) -> Labels:
    """The class id of each label in a trained head; raises UsageError if they do not fit."""
    found = sorted(set(labels))
    given: dict[str, Any] = dict(config.label2id or {})
    named = {str(name): int(index) for name, index in given.items()}
    by_id: dict[int, str] = {int(i): str(name) for i, name in (config.id2label or {}).items()}
    names = tuple(by_id.get(index, str(index)) for index in range(len(by_id)))
    if set(found) <= set(named):
        return Labels(names, {label: named[label] for label in found})
    numbered = any(name.isdecimal() for name in named)  # then '1' may be the name of class 0
    if not numbered and all(label.isdecimal() and int(label) < len(names) for label in found):
        return Labels(names, {label: int(label) for label in found})
    shown = ", ".join(map(repr, found[:6])) + (", …" if len(found) > 6 else "")
    raise UsageError(
        f"The labels of the data ({shown}) do not fit the model's head, "
        f"which knows {', '.join(map(repr, list(named)[:6]))}."
    )


def check_known(train: set[str], others: set[str]) -> None:
    """Raises UsageError for a label that train does not have."""
    unknown = sorted(others - train)
    if unknown:
        raise UsageError(f"Label {unknown[0]!r} is in validation or test but not in train.")


def named_config(labels: Labels) -> dict[str, Any]:
    """The config entries of a head with named classes."""
    return {
        "num_labels": len(labels.names),
        "id2label": dict(enumerate(labels.names)),
        "label2id": dict(labels.ids),
    }


def feature_list(encoded: Mapping[str, Any], keys: Sequence[str]) -> list[dict[str, list[int]]]:
    """A tokenizer's columns as one dictionary per feature."""
    return [
        dict(zip(keys, values, strict=True))
        for values in zip(*(encoded[key] for key in keys), strict=True)
    ]

"""Task: a fine-tuned model, its tokenizer, three disjoint splits of data and a metric."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from cachetools import LRUCache
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from axsearch.approximations.site import EMBEDDINGS, REWRITABLE, Site, TokenUse
from axsearch.models.base_model import Base
from axsearch.models.fingerprint import model_fingerprint
from axsearch.space.recipe import Recipe
from axsearch.tasks.data import Data, read_data
from axsearch.tasks.kinds import Columns, TaskKind, check_names, named_kind, resolve_metric
from axsearch.tasks.kinds.labels import LabelHints, Labels, read_mapping
from axsearch.tasks.pretrained import (
    check_head,
    check_length,
    check_vocabulary,
    dtype_of_file,
    input_length,
    load_config,
    load_model,
    load_tokenizer,
)
from axsearch.tasks.record import learnt_by, length_of
from axsearch.tasks.spec import LEFT_OUT, UNKNOWN, USUAL, TaskSpec
from axsearch.tasks.split import Split
from axsearch.tasks.tokens import tokenise, tokens_read
from axsearch.tasks.unlabelled import read_unlabelled
from axsearch.tasks.vocabulary import count_tokens, ids_of, texts_of, why_not, with_tokens

CALIBRATION_EXAMPLES = 512
TRAINING_EXAMPLES = 2_048
FLOAT32 = "float32"
VOCABULARIES = 8
"""Smaller vocabularies whose tokenizers and splits are kept in memory."""


@dataclass(frozen=True)
class Source:
    """The examples of a task as they were read.

    Attributes:
        kind: of the task.
        tokenizer: of the base.
        labels: of the head.
        length: tokens to which inputs are cut.
        train: all examples for training.
        others: all of validation and test.
        drawn: those of the three splits, by their names.
        spec: of the task.
        columns: that were read.
    """

    kind: TaskKind[Any, Any]
    tokenizer: PreTrainedTokenizerBase
    labels: Labels
    length: int
    train: list[Any]
    others: list[Any]
    drawn: Mapping[str, list[Any]]
    spec: TaskSpec
    columns: Columns

    def read(self, name: str, tokenizer: PreTrainedTokenizerBase) -> Split:
        """One of the three splits as a tokenizer reads it."""
        return self.split(name, self.drawn[name], tokenizer)

    def training(self) -> Split:
        """Up to :data:`TRAINING_EXAMPLES` of train."""
        some = _some(self.labelled, TRAINING_EXAMPLES, self.spec.seed)
        return self.split("training", some, self.tokenizer)

    def ids(self) -> Iterator[Sequence[int]]:
        """The token ids of all of train, and of the texts that the user names for a vocabulary."""

        def of_examples(some: list[Any]) -> Iterable[Sequence[int]]:
            return (one["input_ids"] for one in self.split("train", some, self.tokenizer).inputs)

        def of_texts(some: list[str]) -> Iterable[Sequence[int]]:
            found: list[list[int]] = self.tokenizer(some)["input_ids"]
            return found

        yield from ids_of(self.labelled, of_examples)
        if self.spec.vocabulary_from is not None:
            yield from ids_of(texts_of(self.spec.vocabulary_from, self.spec.encoding), of_texts)

    @property
    def labelled(self) -> list[Any]:
        """The examples for training whose label the head knows."""
        return [one for one in self.train if self.kind.is_labelled(one, self.labels)]

    def unlabelled(self, path: str) -> list[Any]:
        """The examples of a file without labels, see :func:`read_unlabelled`."""
        encoding, known = self.spec.encoding, [*self.train, *self.others]
        return read_unlabelled(path, self.kind, self.columns, encoding, self.labelled[0], known)

    def split(self, name: str, some: list[Any], tokenizer: PreTrainedTokenizerBase) -> Split:
        """Examples as a tokenizer reads them."""
        found: Split = self.kind.split(name, some, tokenizer, self.length, self.labels)
        return found


@dataclass(frozen=True)
class Task:
    """The model and data of a study.

    Attributes:
        model_name: local directory or hub name of the base.
        data_name: local directory or hub name of the data.
        kind: the kind of task: its loss, its answers and how they are scored.
        metric: name of the accuracy metric.
        model: the base, in evaluation mode, fp32.
        calibration: up to 512 examples of train, for importance and damage.
        search: the validation split (or ``search_examples`` of it), for the objective.
        holdout: the test split, opened only to report the chosen models.
        labels: which class of the head each label of the data is.
        notes: the decisions made while reading the data.
        said: what was read of them, columns and tokens, in sentences.
        max_length: tokens to which inputs are cut, as given or decided; less if the model reads
            less.
        cut: a sentence on texts that are longer; empty if none is.
        source: the texts, to be tokenised when they are needed.
        reading: how splits were cut, see :data:`axsearch.tasks.spec.LEFT_OUT`.
        file_dtype: in which the model's file keeps its weights.
        learnt: SHA-256 of the training examples that the base was fine-tuned on; None where that is
            not known.
    """

    model_name: str
    data_name: str
    kind: TaskKind[Any, Any]
    metric: str
    seed: int
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    calibration: Split
    search: Split
    holdout: Split
    labels: Labels
    notes: tuple[str, ...]
    source: Source
    said: tuple[str, ...] = ()
    max_length: int = USUAL
    cut: str = ""
    reading: int = UNKNOWN
    file_dtype: str = FLOAT32
    learnt: str | None = None

    @classmethod
    def load(
        cls,
        model: str,
        data: str,
        *,
        task: str | None = None,
        metric: str | None = None,
        text_columns: Sequence[str] | None = None,
        label_column: str | None = None,
        labels: Mapping[str, str | int] | Sequence[str] | None = None,
        tokenizer: str | None = None,
        encoding: str | None = None,
        max_length: int | None = None,
        search_examples: int | None = None,
        seed: int = 0,
    ) -> Task:
        """Load a fine-tuned model and its data.

        Args:
            model: local directory or hub name of a fine-tuned model.
            data: folder with train, validation and test files, or a hub dataset.
            task: a kind of :func:`axsearch.tasks.kinds.task_kinds`, or a GLUE name such as
                ``glue/sst2``; inferred from the columns if None.
            metric: one of the kind's metrics; the task's own if None.
            text_columns: columns holding the text or the two texts; recognised if None.
            label_column: column of the targets; recognised if None.
            labels: the head's class, by id or name, of each label of the data; found by name if
                None.
            tokenizer: local directory or hub name of the tokenizer; the model's own if None.
            encoding: of text files; UTF-8 if None.
            max_length: tokens to which inputs are cut; decided as :func:`tokenise` says if None.
            search_examples: use this many examples of the validation split, drawn by ``seed``.
            seed: of the examples that are drawn. (Missing splits are always cut in the same way.)

        Raises:
            UsageError: the model, the data or their combination cannot be used.
        """
        spec = TaskSpec(
            model,
            data,
            task=task,
            metric=metric,
            text_columns=text_columns,  # type: ignore[arg-type]  # a list becomes a tuple
            label_column=label_column,
            labels=labels,  # type: ignore[arg-type]  # a mapping becomes pairs
            tokenizer=tokenizer,
            encoding=encoding,
            max_length=max_length,
            search_examples=search_examples,
            seed=seed,
        )
        spec.check()
        check_length(spec)
        return cls.of(spec)

    @classmethod
    def of(cls, spec: TaskSpec) -> Task:
        """Load the model and data of a spec; raises UsageError as :meth:`load` does.

        A ``max_length`` above what the model reads is that: it may be a study's, of before there
        was a choice. :func:`check_length` refuses it where a user gives it.
        """
        model = spec.model
        check_names(spec.task, spec.metric)
        config = load_config(model)
        check_head(model, config, named_kind(spec.task))
        read, reading = _read(spec)
        kind = read.kind
        check_head(model, config, kind)
        metric = resolve_metric(kind, spec.task, spec.metric)
        hints = LabelHints(read.classes, read_mapping(spec.labels))
        labels = kind.labels(config, [*read.train, *read.validation, *read.test], hints)
        kind.check_labels(labels, metric)
        tokenizer = load_tokenizer(model, spec.tokenizer)
        kind.prepare_tokenizer(tokenizer)
        check_vocabulary(model, tokenizer, config)
        limit = input_length(tokenizer, config)
        notes = [*read.notes, *([labels.note] if labels.note else [])]
        drawn = _drawn(kind, read, labels, spec, notes)
        asked = spec.max_length or length_of(model)
        made = tokenise(kind, tokenizer, drawn, labels, limit=limit, asked=asked)
        others = [*read.validation, *read.test]
        splits = read.train, others, drawn
        source = Source(kind, tokenizer, labels, made.length, *splits, spec, read.columns)
        said = [read.said, tokens_read(tokenizer, made), made.note, made.cut.advice(limit)]
        loaded = load_model(model, kind.auto_class)  # before its file is looked at
        dtype = spec.file_dtype or dtype_of_file(model, config)
        if dtype != FLOAT32:
            said.append(
                f"The base's file is in {dtype}: sizes are shares of it, and exports keep it."
            )
        return cls(
            model_name=model,
            data_name=spec.data,
            kind=kind,
            metric=metric,
            seed=spec.seed,
            model=loaded,
            tokenizer=tokenizer,
            notes=tuple(notes),
            source=source,
            said=tuple(sentence for sentence in said if sentence),
            max_length=asked or made.length,
            cut=made.cut.sentence,
            reading=reading,
            file_dtype=dtype,
            learnt=read.learnt if reading == LEFT_OUT else None,
            labels=labels,
            **made.splits,
        )

    @cached_property
    def model_fingerprint(self) -> str:
        """SHA-256 of the base's shapes and weights, and of the type that its file keeps them in."""
        found = model_fingerprint(self.model)
        if self.file_dtype == FLOAT32:
            return found
        # What is refitted is rounded to it, so that the same recipe has other accuracies.
        return hashlib.sha256(f"{found} {self.file_dtype}".encode()).hexdigest()

    @cached_property
    def training(self) -> Split:
        """Up to 2,048 examples of train, those of :attr:`calibration` among them.

        They are tokenised when they are first asked for.
        """
        return self.source.training()

    @cached_property
    def token_use(self) -> TokenUse:
        """How often tokens occur in all of train, and in the texts that the user names for it."""
        return count_tokens(self.tokenizer, self.model.config, self.source.ids())

    def with_token_use(self, sites: Sequence[Site], use: TokenUse | None = None) -> list[Site]:
        """The sites, the embeddings with ``use``, else :attr:`token_use`, or why they have none."""
        reason = why_not(self.tokenizer)
        if self.kind.windows:
            reason = f"{self.kind.name} reads texts in windows, which depend on the tokens"
        return [
            site
            if site.id.kind != EMBEDDINGS
            else replace(site, lacks={**site.lacks, REWRITABLE: reason})
            if reason
            else replace(site, token_use=use or self.token_use)
            for site in sites
        ]

    def tokenizer_of(self, recipe: Recipe) -> PreTrainedTokenizerBase:
        """The tokenizer of a recipe's model: the base's, unless it has fewer tokens."""
        tokens = recipe.vocabulary
        if tokens is None:
            return self.tokenizer
        if tokens not in self._tokenizers:
            self._tokenizers[tokens] = with_tokens(self.tokenizer, tokens)
        return self._tokenizers[tokens]

    def read(self, split: Split, recipe: Recipe) -> Split:
        """One of the three splits as the tokenizer of a recipe's model reads it."""
        tokens = recipe.vocabulary
        if tokens is None:
            return split
        key = split.name, tokens
        if key not in self._read_splits:
            self._read_splits[key] = self.source.read(split.name, self.tokenizer_of(recipe))
        return self._read_splits[key]

    @cached_property
    def _tokenizers(self) -> LRUCache[tuple[int, ...], PreTrainedTokenizerBase]:
        return LRUCache(VOCABULARIES)

    @cached_property
    def _read_splits(self) -> LRUCache[tuple[str, tuple[int, ...]], Split]:
        return LRUCache(3 * VOCABULARIES)

    @cached_property
    def base(self) -> Base:
        """The base with its family and sites; inputs are as long as the longest of the splits."""
        return Base(self.model, self.longest, getattr(torch, self.file_dtype))

    @property
    def split_fingerprints(self) -> dict[str, str]:
        """Split name to fingerprint."""
        return {s.name: s.fingerprint for s in (self.calibration, self.search, self.holdout)}

    @cached_property
    def longest(self) -> int:
        """The longest input of calibration and search, in tokens."""
        return int(max(self.calibration.lengths.max(), self.search.lengths.max()))


def _read(spec: TaskSpec) -> tuple[Data, int]:
    """The data, and how they were read: as those were that the model was fine-tuned on, if known.

    Splits that are missing are cut from train only if the model's fine-tuning left them out.
    """

    def read(reading: int) -> Data:
        return read_data(
            spec.data,
            task=spec.task,
            text_columns=spec.text_columns,
            label_column=spec.label_column,
            encoding=spec.encoding,
            reading=reading,
        )

    if spec.reading is not None:
        return read(spec.reading), spec.reading
    known, learnt = learnt_by(spec.model)
    if known == LEFT_OUT:
        found = read(LEFT_OUT)
        return (found, LEFT_OUT) if found.learnt == learnt else (read(UNKNOWN), UNKNOWN)
    return read(known), known


def _drawn(
    kind: TaskKind[Any, Any], read: Data, labels: Labels, spec: TaskSpec, notes: list[str]
) -> dict[str, list[Any]]:
    """The examples of each split of a task; adds to the notes what is left out."""
    drawn = {}
    for name, examples, most in (
        ("calibration", read.train, CALIBRATION_EXAMPLES),
        ("search", read.validation, spec.search_examples),
        ("holdout", read.test, None),
    ):
        known = [example for example in examples if kind.is_labelled(example, labels)]
        if len(known) < len(examples):
            notes.append(
                f"{len(examples) - len(known)} of the {len(examples)} examples for {name} have the "
                "label -1, which is none of the head's classes, and are left out."
            )
        drawn[name] = _some(known, most, spec.seed)
    return drawn


def _some(examples: list[Any], most: int | None, seed: int) -> list[Any]:
    """Examples drawn by a seed, in their order; those of a smaller number are among them."""
    if most is None or most >= len(examples):
        return examples
    rows = np.random.default_rng(seed).permutation(len(examples))[:most]
    return [examples[row] for row in sorted(rows)]

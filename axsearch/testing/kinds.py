"""The contract of kinds of task: the tests that each of them passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, BertModel, PreTrainedModel

from axsearch import Task, finetune
from axsearch.calibration.importance import fisher_importance
from axsearch.errors import UsageError
from axsearch.evaluation.accuracy import NonFiniteError, predict
from axsearch.models.base_model import Base
from axsearch.statistics import metrics
from axsearch.statistics.inference import estimate, paired_difference
from axsearch.tasks.data import read_data
from axsearch.tasks.kinds import TaskKind
from axsearch.tasks.kinds.question_answering import FIRST, LAST, Span
from axsearch.tasks.split import IGNORED, Split
from axsearch.testing.samples import HEAD_CONFIGS, KINDS, with_head, write_data
from axsearch.testing.text import tiny_bert, tiny_tokenizer


class TaskKindContract:
    """The tests of one kind; a subclass sets ``kind``, a fixture of the scope of a class.

    :mod:`axsearch.testing.samples` must have a head and data for it. If its answers are not its
    targets, ``_perfect`` needs a branch that makes them.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls, kind: TaskKind[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A folder with data of the kind."""
        return write_data(kind.name, tmp_path_factory.mktemp("data"))

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, kind: TaskKind[Any, Any]) -> PreTrainedModel:
        """A tiny BERT with the kind's head and random weights."""
        made = with_head(kind.name, tiny_bert())
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        return made

    @pytest.fixture(scope="class")
    @classmethod
    def split(cls, kind: TaskKind[Any, Any], data: Path, model: PreTrainedModel) -> Split:
        """The 60 validation examples, tokenised."""
        examples = read_data(str(data)).validation
        labels = kind.labels(model.config, examples)
        made: Split = kind.split("search", examples, tiny_tokenizer(), 48, labels)
        return made

    def test_describes_itself(self, kind: TaskKind[Any, Any]) -> None:
        assert kind.name in HEAD_CONFIGS
        assert kind.metrics
        assert kind.trivial_answer

    def test_data_are_recognised(self, kind: TaskKind[Any, Any], data: Path) -> None:
        read = read_data(str(data))
        assert read.kind is kind
        assert (len(read.train), len(read.validation), len(read.test)) == (200, 60, 40)
        assert read_data(str(data), task=kind.name) == read

    def test_loss_is_the_sum_over_examples(
        self, kind: TaskKind[Any, Any], model: PreTrainedModel, split: Split
    ) -> None:
        def loss(chosen: list[int]) -> torch.Tensor:
            return kind.loss(model(**split.collate(chosen)), split.collate_targets(chosen))

        together = loss([0, 1, 2, 3])
        assert together.shape == ()
        alone = [loss([row]).item() for row in range(4)]
        assert together.item() == pytest.approx(sum(alone), rel=1e-4)
        (slope,) = torch.autograd.grad(together, [next(model.parameters())])
        assert slope.abs().sum().item() > 0

    def test_losses_are_those_of_each_feature(
        self, kind: TaskKind[Any, Any], model: PreTrainedModel, split: Split
    ) -> None:
        chosen = np.argsort(split.lengths, kind="stable")[[0, 11, 23, 35, 47, -1]]
        assert split.lengths[chosen[0]] < split.lengths[chosen[-1]]  # so some are padded
        outputs, targets = model(**split.collate(chosen)), split.collate_targets(chosen)
        together = kind.losses(kind.logits(outputs), targets)
        assert together.shape == (6,)
        assert kind.loss(outputs, targets).item() == pytest.approx(together.sum().item(), rel=1e-5)
        for row, found in zip(chosen, together.tolist(), strict=True):
            own = split.collate_targets([row])
            (alone,) = kind.losses(kind.logits(model(**split.collate([row]))), own).tolist()
            assert found == pytest.approx(alone, rel=1e-4, abs=1e-5)
            assert found >= 0
        assert len(set(together.tolist())) > 3

    def test_losses_follow_the_targets(
        self, kind: TaskKind[Any, Any], model: PreTrainedModel, split: Split
    ) -> None:
        """The loss falls where the model learns what is asked for, feature by feature."""
        rows = list(range(6))
        logits = kind.logits(model(**split.collate(rows))).detach().requires_grad_()
        targets = split.collate_targets(rows)
        before = kind.losses(logits, targets)
        (slope,) = torch.autograd.grad(before.sum(), [logits])
        after = kind.losses(logits - 0.05 * slope, targets)
        assert (after < before).all()

    def test_divergence(
        self, kind: TaskKind[Any, Any], model: PreTrainedModel, split: Split
    ) -> None:
        chosen = np.argsort(split.lengths, kind="stable")[[0, 11, 23, 35, 47, -1]]
        other = with_head(kind.name, tiny_bert(seed=3))

        def logits(of: PreTrainedModel, rows: Any) -> torch.Tensor:
            with torch.inference_mode():
                return kind.logits(of(**split.collate(rows)))

        targets = split.collate_targets(chosen)
        base, ours = logits(model, chosen), logits(other, chosen)
        none = kind.divergence(base, base, targets)
        assert none.shape == (6,)
        assert (none == 0).all()
        found = kind.divergence(ours, base, targets)
        assert (found > 0).all()
        for row, together in zip(chosen, found.tolist(), strict=True):
            # A feature's is its own: neither padding nor its neighbours matter.
            one = [row]
            (alone,) = kind.divergence(
                logits(other, one), logits(model, one), split.collate_targets(one)
            ).tolist()
            assert together == pytest.approx(alone, rel=1e-3, abs=1e-6)
        # What stands at padding is not looked at.
        wild, there = ours.clone(), targets
        if targets.ndim > 1:
            wild[there == IGNORED] += 3.0 * torch.randn_like(wild[there == IGNORED])
        torch.testing.assert_close(kind.divergence(wild, base, targets), found)
        # Near the base it is quadratic.
        small, large = (
            kind.divergence(base + step * (ours - base), base, targets) for step in (0.02, 0.04)
        )
        torch.testing.assert_close(large / small, torch.full((6,), 4.0), rtol=0.1, atol=0)

    @pytest.mark.parametrize("chosen", [[3], [0, 1, 2], [59, 4, 17, 30], list(range(60))], ids=len)
    def test_taking_some_examples_is_splitting_them_alone(
        self,
        kind: TaskKind[Any, Any],
        model: PreTrainedModel,
        data: Path,
        chosen: list[int],
    ) -> None:
        examples = read_data(str(data)).validation
        if kind.name == "question-answering":  # some of several windows
            examples = [
                e._replace(context=e.context + " word2" * (80 if i % 3 == 0 else 0))
                for i, e in enumerate(examples)
            ]
        labels = kind.labels(model.config, examples)

        def of(some: list[Any]) -> Split:
            made: Split = kind.split("search", some, tiny_tokenizer(), 48, labels)
            return made

        whole, alone = of(examples), of([examples[i] for i in sorted(chosen)])
        taken = whole.take(np.array(chosen))
        assert type(taken) is type(whole)
        assert taken.inputs == alone.inputs
        assert taken.fingerprint == alone.fingerprint
        assert (taken.name, taken.names, taken.pad_id) == (alone.name, alone.names, alone.pad_id)
        np.testing.assert_array_equal(taken.owners, alone.owners)
        np.testing.assert_array_equal(taken.lengths, alone.lengths)
        rows = np.flatnonzero(np.isin(whole.owners, chosen)).tolist()
        assert torch.equal(
            taken.collate_targets(range(len(taken))), alone.collate_targets(range(len(alone)))
        )
        answers = predict(model, whole, kind)
        for metric in kind.metrics:
            own = kind.outcome(metric, taken, [answers[row] for row in rows])
            np.testing.assert_array_equal(
                own.values, kind.outcome(metric, alone, [answers[row] for row in rows]).values
            )
            np.testing.assert_array_equal(
                own.values, kind.outcome(metric, whole, answers).values[sorted(chosen)]
            )
        again = taken.take(np.arange(len(chosen)))
        assert again.fingerprint == taken.fingerprint

    def test_owners(self, kind: TaskKind[Any, Any], split: Split) -> None:
        assert len(split.owners) == len(split)
        assert (np.diff(split.owners) >= 0).all()
        assert set(split.owners) == set(range(60))

    def test_answers_are_in_the_order_of_the_split(
        self, kind: TaskKind[Any, Any], model: PreTrainedModel, split: Split
    ) -> None:
        answers = predict(model, split, kind)
        for row in range(0, len(split), 7):
            with torch.inference_mode():
                logits = kind.logits(model(**split.collate([row])))
            (alone,) = kind.decode(logits, split, np.array([row]))
            assert answers[row] == pytest.approx(alone, abs=1e-5)

    def test_every_metric_is_scored(
        self, kind: TaskKind[Any, Any], model: PreTrainedModel, split: Split
    ) -> None:
        answers = predict(model, split, kind)
        for metric in kind.metrics:
            outcome = kind.outcome(metric, split, answers)
            assert len(outcome) == 60
            found = estimate(outcome)
            assert found.low <= found.value <= found.high
            assert paired_difference(outcome, outcome) == (0, 0, 0)

    def test_the_metric_of_some_examples_follows_from_the_outcome(
        self, kind: TaskKind[Any, Any], model: PreTrainedModel, split: Split, data: Path
    ) -> None:
        examples = read_data(str(data)).validation[10:40]
        part = kind.split(
            "search", examples, tiny_tokenizer(), 48, kind.labels(model.config, examples)
        )
        for metric in kind.metrics:
            whole = kind.outcome(metric, split, predict(model, split, kind))
            own = kind.outcome(metric, part, predict(model, part, kind))
            chosen = type(whole)(whole.statistic, whole.values[10:40])
            assert metrics.value(chosen) == pytest.approx(metrics.value(own), abs=1e-6)

    def test_perfect_answers(
        self, kind: TaskKind[Any, Any], model: PreTrainedModel, split: Split
    ) -> None:
        answers = _perfect(kind, split)
        for metric in kind.metrics:
            assert metrics.value(kind.outcome(metric, split, answers)) == pytest.approx(1)

    def test_classes_in_another_order(self, kind: TaskKind[Any, Any], split: Split) -> None:
        answers, count = _perfect(kind, split), len(split.names)
        if not kind.largest_logit:
            assert kind.reordered(split, answers, range(len(split))) is None
            return
        next_one = [(np.asarray(answer) + 1) % count for answer in answers]
        moved = [answer.tolist() for answer in next_one]
        found = kind.reordered(split, moved, range(len(split)))
        assert found is not None
        there = {int(tag) for answer in next_one for tag in answer.ravel()}
        assert {tag: found[0][tag] for tag in there} == {tag: (tag - 1) % count for tag in there}
        assert sorted(found[0]) == list(range(count))
        for metric in kind.metrics:
            assert metrics.value(kind.outcome(metric, split, found[1])) == pytest.approx(1)

    def test_trivial_answers_are_poor(self, kind: TaskKind[Any, Any], split: Split) -> None:
        for metric in kind.metrics:
            found = kind.trivial(metric, split, split)
            assert 0 <= found < 0.9
        if kind.name in ("regression", "question-answering"):  # one class for all may score
            assert kind.trivial(kind.metrics[0], split, split) == 0

    def test_fingerprint(self, kind: TaskKind[Any, Any], split: Split, data: Path) -> None:
        examples = read_data(str(data)).validation
        names = kind.new_labels(examples, [])

        def made(chosen: list[Any], length: int = 48) -> str:
            return str(kind.split("x", chosen, tiny_tokenizer(), length, names).fingerprint)

        assert made(examples) == made(list(examples))
        assert len({made(examples), made(examples[1:]), made(examples[::-1])}) == 3
        assert made(examples) != made(examples, 12)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_numbers_that_are_not_finite(
        self, kind: TaskKind[Any, Any], split: Split, value: float
    ) -> None:
        broken = with_head(kind.name, tiny_bert())
        with torch.no_grad():
            next(reversed(list(broken.parameters()))).fill_(value)
        with pytest.raises(NonFiniteError):
            predict(broken, split, kind)

    def test_importance_is_found(
        self, kind: TaskKind[Any, Any], model: PreTrainedModel, split: Split
    ) -> None:
        scores = fisher_importance(Base(model), split, kind).scores
        assert all((found > 0).all() for found in scores.values())

    @pytest.mark.parametrize("task", KINDS)
    def test_a_model_with_another_head_is_refused(
        self,
        kind: TaskKind[Any, Any],
        model: PreTrainedModel,
        data: Path,
        task: str,
        tmp_path: Path,
    ) -> None:
        model.save_pretrained(tmp_path)
        tiny_tokenizer().save_pretrained(tmp_path)
        if task == kind.name:
            assert Task.load(str(tmp_path), str(data)).kind is kind
        else:
            other = tmp_path / "data"
            other.mkdir()
            with pytest.raises(UsageError, match="does not fit") as caught:
                Task.load(str(tmp_path), str(write_data(task, other)))
            assert str(caught.value).count("\n") == 0

    def test_fine_tuning_gives_a_base(
        self,
        kind: TaskKind[Any, Any],
        data: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("axsearch.training.finetuning.LEARNING_RATE", 3e-3)  # for so few steps
        bare, out = tmp_path / "bare", tmp_path / "base"
        BertModel(tiny_bert().config).save_pretrained(bare)
        tiny_tokenizer().save_pretrained(bare)
        done = finetune(str(bare), str(data), str(out), epochs=5, max_length=32)
        assert done.metric == kind.metrics[0]
        task = Task.load(str(out), str(data))
        config = AutoConfig.from_pretrained(out)
        assert config.architectures[0].endswith(kind.head)
        answers = predict(task.model, task.search, kind)
        found = metrics.value(kind.outcome(done.metric, task.search, answers))
        assert found == pytest.approx(done.validation.value, abs=1e-6)
        trained = torch.stack([
            kind.loss(m(**task.calibration.collate(range(64))),
                      task.calibration.collate_targets(range(64)))
            for m in (task.model, with_head(kind.name, tiny_bert()))
        ])  # fmt: skip
        assert trained[0] < trained[1]
        record = json.loads((out / "finetune.json").read_text())
        assert record["metric"] == done.metric
        assert finetune(str(bare), str(data), str(out), epochs=5, max_length=32).cached


def _perfect(kind: TaskKind[Any, Any], split: Split) -> list[Any]:
    """The answers that are all right."""
    answers: list[Any] = list(split.targets)
    if kind.name == "question-answering":
        places = [own.index(FIRST + LAST) for own in answers]
        return [Span(1.0, place, place, 0.0) for place in places]
    if kind.name == "multi-label-classification":
        return [np.flatnonzero(own) for own in answers]
    if kind.name == "token-classification":
        return [[tag for tag in own if tag != IGNORED] for own in answers]
    return answers

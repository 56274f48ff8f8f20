"""Recovery: what a cut has left is trained, with the base as its teacher.

The loss is the divergence of the model's outputs from the base's, both softened, and the loss by
labels (knowledge distillation, Hinton et al., arXiv 1503.02531, section 2), and the distance of the
hidden states of the layers that stay from the base's (as in TinyBERT, arXiv 1909.10351, section
3.1, but of the token alone that the head reads: with all tokens small models came out further from
the base). The base answers once, since texts do not change between passes. Training starts from the
refitted weights. The base itself can learn nothing from its own outputs: it is trained on the
labels, plain further fine-tuning, as the control of what training alone is worth. A part of train
that nothing is learnt from says which weights are best; the base has learnt that part before, so of
the control the last step counts. The splits that rank and report models are not touched.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import (
    PreTrainedModel,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import set_seed

from axsearch.errors import AxsearchError
from axsearch.evaluation.accuracy import NonFiniteError, Predictor
from axsearch.evaluation.bfloat16 import is_fast
from axsearch.models.architectures import architecture_of
from axsearch.models.base_model import Base
from axsearch.tasks.kinds import TaskKind
from axsearch.tasks.split import FULL
from axsearch.training.adapters import adapt, merge
from axsearch.training.checkpoints import Kept, Order, last_checkpoint
from axsearch.training.lesson import Lesson, read_token, watched
from axsearch.training.long_inputs import (
    InParts,
    Part,
    attend_as,
    check_room,
    in_parts,
    prepared,
)
from axsearch.training.request import LABEL_WEIGHT

BATCH_SIZE = 32
TEMPERATURE = 2.0
"""By which logits of both are divided: a base is nearly sure of texts that it was trained on."""
WARM_UP_SHARE = 0.06
DROPOUT = 0.0
LOOK = 250
"""Steps after which the held part is looked at and a checkpoint written, at most. The best look
counts, but none ends a training: with the first, large steps a model is further from the base than
it was, and with the last, small ones it comes near."""

SMALLER = "The model's numbers are not finite in training; give a smaller `learning_rate`."


class NotFiniteError(AxsearchError):
    """Training led to numbers that are not finite."""


@dataclass(frozen=True)
class Trained:
    """What a recovery has found.

    Attributes:
        state: the tensors that are the model's own, trained or refitted, by their names in the
            smaller model, on the CPU.
        loss: on the held part, a feature, see :meth:`_Distilling.held_loss`.
        before: the same before training.
        steps: how many were made, of ``planned``.
        planned: the most steps.
        rate: the learning rate.
    """

    state: dict[str, Tensor]
    loss: float
    before: float
    steps: int
    planned: int
    rate: float


@dataclass(frozen=True)
class Pupil:
    """The model that is trained, as its teacher knows it.

    Attributes:
        kind: of its task.
        base: that it was made from.
        layers: for each of its layers the number in the base.
        plain: whether it answers as the base does, and learns from the labels alone.
    """

    kind: TaskKind[Any, Any]
    base: Base
    layers: tuple[int, ...]
    plain: bool = False


@dataclass(frozen=True)
class Run:
    """One training: where it keeps its checkpoints, and whom it tells how far it is.

    Attributes:
        folder: of checkpoints; a run with the same inputs goes on from the last in it.
        rate: the learning rate; None where it is yet to be chosen.
        epochs: the most passes over what is learnt from.
        seed: of the order of examples.
        told: called after each step with the steps made and planned.
        stopped: whether the run is to end now, with the best that it has found.
        most: steps, if fewer than the passes have.
        label_weight: of the loss by labels, beside the divergence from the base's outputs.
        adapters: the rank of adapters, which are trained in place of the layers' weights; None to
            train these.
    """

    folder: Path
    rate: float | None
    epochs: int
    seed: int
    told: Callable[[int, int], None] = lambda done, planned: None
    stopped: Callable[[], bool] = lambda: False
    most: int | None = None
    label_weight: float = LABEL_WEIGHT
    adapters: int | None = None


def train(model: PreTrainedModel, lesson: Lesson, pupil: Pupil, run: Run, device: str) -> Trained:
    """Train a smaller model towards its teacher; the model itself is changed.

    Input embeddings stay as they are: they are most of a small model's numbers, and hardly move in
    a short training.

    Args:
        model: with refitted weights, of its own: it shares no tensor with another.
        lesson: what is learnt from and what is held, with the teacher's outputs.
        pupil: what the model is.
        run: how; with a learning rate.
        device: where.

    Raises:
        UsageError: too little memory.
        NotFiniteError: the loss is not finite.
    """
    longest = int(max(lesson.train.lengths.max(), lesson.held.lengths.max()))
    set_seed(run.seed)
    model = prepared(model, longest, None)
    if longest <= FULL and architecture_of(model.config.model_type).attention == "sdpa":
        attend_as(model, "eager")  # its backward pass is faster on a CPU
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = DROPOUT  # it has no room to overfit, and dropout is a tenth of the time
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    model.get_input_embeddings().requires_grad_(False)
    # Adapters leave some of them as they are: as refitted, which the base's own are not.
    kept = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if run.adapters is not None:
        adapt(model, [*pupil.base.layers(model)], run.adapters)
    check_room(model, lesson.train, device)
    trainer = _Distilling(model, lesson, pupil, run, device)
    before = trainer.held_loss()
    trainer.learn()
    found = trainer.state
    # Without a best one it was stopped before its first look.
    last = pupil.plain or found.best_metric is None
    best = trainer.held_loss() if last else float(found.best_metric or 0.0)
    if run.adapters is not None:
        merge(model)
    state = {
        name: parameter.detach().float().cpu().contiguous()
        for name, parameter in model.eval().named_parameters()
        if name in kept
    }
    rate = trainer.args.learning_rate
    return Trained(state, best, before, found.global_step, found.max_steps, rate)


def planned_steps(run: Run, features: int) -> int:
    """The steps of a run that learns from so many features."""
    return min(run.epochs * -(-features // BATCH_SIZE), run.most or sys.maxsize)


def own_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A model that shares no tensor with the base, to be trained."""
    with torch.no_grad():
        return copy.deepcopy(model)


class _Distilling(InParts):
    """A trainer whose loss is the divergence from a teacher's outputs, and that by labels."""

    def __init__(
        self,
        model: PreTrainedModel,
        lesson: Lesson,
        pupil: Pupil,
        run: Run,
        device: str,
    ) -> None:
        self._lesson, self._kind, self._run, self._device = lesson, pupil.kind, run, device
        self._reads, self._plain = pupil.base.family.reads, pupil.plain
        # Its own layers whose hidden states the teacher has, and their places in the lesson.
        there = {layer: place for place, layer in enumerate(lesson.layers)}
        seen = () if pupil.plain else pupil.layers
        pairs = [(own, there[n]) for own, n in enumerate(seen) if n in there]
        layers = pupil.base.layers(model)
        self._layers = [layers[own] for own, _ in pairs]
        self._places = torch.tensor([place for _, place in pairs], dtype=torch.long)
        self._scales = torch.ones(0)
        if lesson.hidden is not None:
            some = lesson.hidden[:: -(-len(lesson.hidden) // 1024)].float()
            self._scales = some.var(dim=(0, 2))[self._places].clamp(min=1e-6)
        super().__init__(
            model,
            _arguments(run, len(lesson.train), device, best=not pupil.plain),
            train_dataset=datasets.Dataset.from_dict(
                {"row": range(len(lesson.train)), "length": lesson.train.lengths}
            ),
            eval_dataset=datasets.Dataset.from_dict({"row": range(len(lesson.held))}),
            data_collator=self._parts,
        )
        self.remove_callback(PrinterCallback)  # it prints to stdout
        self.add_callback(Kept(run.folder, run.told, run.stopped))

    def _get_train_sampler(self, *_: Any, **__: Any) -> Sampler[int]:
        return Order(self._lesson.train.lengths, BATCH_SIZE, self._run.seed, self._epoch)

    def _epoch(self) -> int:
        return int((self.state.epoch or 0.0) + 1e-6)

    def _parts(self, features: Sequence[Mapping[str, int]]) -> dict[str, list[Part]]:
        rows = [feature["row"] for feature in features]
        return in_parts(self._lesson.train, rows, self._device, self._lesson.taught)

    def compute_loss(self, model: nn.Module, inputs: Part, *_: Any, **__: Any) -> Tensor:
        """The sum of the losses of a part's features, as a share of the batch's."""
        given = dict(inputs)
        targets, taught = given.pop("labels"), given.pop("taught")
        labelled = given.pop("labelled")
        states, lengths = given.pop("hidden", None), given.pop("lengths", None)
        with watched(self._layers) as seen:
            logits = self._kind.logits(model(**given)).float()
        if self._plain:
            return self._kind.losses(logits, targets).sum() / self._features
        divergence: Tensor = self._kind.divergence(
            logits / TEMPERATURE, taught / TEMPERATURE, targets
        )
        # Else its gradients would be smaller by the square.
        loss = divergence.sum() * TEMPERATURE**2
        if self._run.label_weight:
            by_label = self._kind.label_losses(logits, targets)[labelled].sum()
            loss = loss + self._run.label_weight * by_label
        if states is not None and lengths is not None and seen:
            loss = loss + self._distance(seen, states, lengths)
        return loss / self._features

    def _distance(self, seen: Sequence[Tensor], states: Tensor, lengths: Tensor) -> Tensor:
        """The mean over layers of the squared distances of hidden states, as shares of their
        variance in the base, summed over features.

        Args:
            seen: the model's hidden states, layer by layer, (rows, tokens, width).
            states: the teacher's, (rows, layers, width).
            lengths: tokens of each row, (rows,).
        """
        own = torch.stack([read_token(one, lengths, self._reads) for one in seen], dim=1).float()
        apart = (own - states[:, self._places].float()).square().mean(2)
        distance: Tensor = (apart / self._scales.to(apart.device)).mean(1).sum()
        return distance

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The loss on the held part."""
        found = {"eval_loss": self.held_loss()}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    def held_loss(self) -> float:
        """The mean over features of the held part of what is learnt from outputs and labels.

        That is the divergence from the teacher's outputs, in nats, and the weighted loss by labels;
        of a plain pupil the loss by labels alone.
        """
        weight = 1.0 if self._plain else self._run.label_weight
        held, total = self._lesson.held, 0.0
        model = self.model
        assert isinstance(model, PreTrainedModel)
        model.eval()

        def see(rows: NDArray[np.int64], logits: Tensor, targets: Tensor) -> None:
            nonlocal total
            if weight:
                total += weight * float(self._kind.label_losses(logits, targets).sum())
            if not self._plain:
                taught = self._lesson.held_taught(rows, logits.device)
                total += float(self._kind.divergence(logits, taught, targets).sum())

        try:
            Predictor(self._kind, str(model.device), memory=0).run(model, held, see)
        except NonFiniteError:
            raise NotFiniteError(SMALLER) from None
        if not math.isfinite(total):  # of finite logits, where a loss squares them
            raise NotFiniteError(SMALLER)
        return total / len(held)

    def learn(self) -> None:
        """Train, from the last whole checkpoint where there is one; the best model is left."""
        self.train(resume_from_checkpoint=last_checkpoint(self._run.folder))


def _arguments(run: Run, features: int, device: str, *, best: bool) -> TrainingArguments:
    assert run.rate is not None
    per_epoch = -(-features // BATCH_SIZE)
    looks = -(-per_epoch // LOOK)
    steps = planned_steps(run, features)
    every = min(steps, -(-per_epoch // looks))
    arguments = TrainingArguments(
        str(run.folder),
        max_steps=steps,
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=run.rate,
        warmup_steps=WARM_UP_SHARE,
        bf16=is_fast(device),
        use_cpu=device == "cpu",
        train_sampling_strategy="group_by_length",
        remove_unused_columns=False,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        load_best_model_at_end=best,
        metric_for_best_model="loss",
        greater_is_better=False,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=run.seed,
    )
    arguments._n_gpu = 1  # or it would split batches between all GPUs
    return arguments

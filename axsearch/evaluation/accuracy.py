"""Run a model over a split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from axsearch.errors import AxsearchError
from axsearch.split import Split
from axsearch.tasks import TaskKind

BATCH_SIZE = 64


class NonFiniteError(AxsearchError):
    """The model gave NaN or infinity; the trial fails."""


def predict(
    model: PreTrainedModel, split: Split, kind: TaskKind[Any, Any], *, device: str = "cpu"
) -> Sequence[Any]:
    """The model's answer to every feature, in the split's order, as ``kind`` decodes it.

    Batches are bucketed by length and always the same for a split, so the same model gives the
    same answers. Raises NonFiniteError where a logit is not finite.
    """
    answers: list[Any] = [None] * len(split)
    with torch.inference_mode():
        for rows, batch in split.batches(BATCH_SIZE):
            inputs = {key: tensor.to(device) for key, tensor in batch.items()}
            logits = kind.logits(model(**inputs))
            if not torch.isfinite(logits).all():
                raise NonFiniteError("The model's logits are not finite.")
            for row, answer in zip(rows, kind.decode(logits, split, rows), strict=True):
                answers[row] = answer
    return answers

"""Run a model over a split."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from axsearch.errors import AxsearchError
from axsearch.task import Split

BATCH_SIZE = 64


class NonFiniteError(AxsearchError):
    """The model gave NaN or infinity; the trial fails."""


def predict(
    model: PreTrainedModel,
    split: Split,
    *,
    device: str = "cpu",
) -> NDArray[np.int64]:
    """The predicted class of every example, (examples,), in the split's order.

    Batches are bucketed by length and always the same for a split, so the same model gives the
    same answers. Raises NonFiniteError where a logit is not finite.
    """
    predicted = np.empty(len(split), dtype=np.int64)
    with torch.inference_mode():
        for rows, batch in split.batches(BATCH_SIZE):
            logits = model(**{key: tensor.to(device) for key, tensor in batch.items()}).logits
            if not torch.isfinite(logits).all():
                raise NonFiniteError("The model's logits are not finite.")
            predicted[rows] = logits.argmax(-1).cpu().numpy()
    return predicted

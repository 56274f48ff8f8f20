"""How top-k attention is reached from a transformers model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from axsearch.approximations.choices import Setting
from axsearch.approximations.site import SiteId
from axsearch.approximations.topk import attention_interface
from axsearch.kernels.native import SWITCH
from axsearch.models.weights import shrink
from axsearch.space.recipe import Recipe
from axsearch.testing.models import padded_batch, tiny_model

RECIPE = Recipe.of({SiteId(0, "attention"): {"topk": Setting(value=8, mode="renormalised")}})


@pytest.mark.parametrize("native", ["0", "1"])
def test_a_padding_mask_is_not_as_large_as_the_scores(
    native: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Size] = []
    attend = attention_interface.topk_attention

    def noted(*arguments: Any, mask: Tensor, **options: Any) -> Tensor:
        seen.append(mask.shape)
        return attend(*arguments, mask=mask, **options)

    monkeypatch.setenv(SWITCH, native)
    monkeypatch.setattr(attention_interface, "topk_attention", noted)
    batch = padded_batch("bert")
    with torch.inference_mode():
        shrink(tiny_model("bert"), RECIPE)(**batch)
    rows, length = batch["input_ids"].shape
    assert seen == [(rows, 1, 1, length)]


def test_both_carriers_give_the_same_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    model, found = shrink(tiny_model("bert"), RECIPE), []
    for native in ("0", "1"):
        monkeypatch.setenv(SWITCH, native)
        with torch.inference_mode():
            found.append(model(**padded_batch("bert")).logits)
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)

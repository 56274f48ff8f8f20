"""Which rows and columns of a tensor belong to the kept units."""

from __future__ import annotations

import pytest
import torch

from axsearch.approximations import approximations, recorded
from axsearch.approximations.choices import Kept, Setting
from axsearch.approximations.site import Axis, Site, SiteId, Units

HEADS, WIDTH = 3, 2
HEADS_MODELING = approximations()["heads"].modeling


def site(*axes: Axis) -> Site:
    units = Units(
        count=HEADS,
        width=WIDTH,
        axes=axes,
        whole=("output.bias",),
        output=axes[-1],
        bias="output.bias",
    )
    return Site(SiteId(0, "attention"), units, 1, 8)


def numbered(parts: int) -> torch.Tensor:
    """A matrix whose rows say which part, head and row of the head they are."""
    return torch.tensor(
        [
            [100 * part + 10 * head + row] * 4
            for part in range(parts)
            for head in range(HEADS)
            for row in range(WIDTH)
        ]
    )


def test_rows_of_a_fused_projection() -> None:
    state = {"qkv": numbered(3), "output.bias": torch.ones(4)}
    choice = Kept(of=HEADS, kept=(0, 2))
    HEADS_MODELING.cut(site(Axis("qkv", 0, parts=3)), choice.to_dict(), state)
    assert state["qkv"][:, 0].tolist() == [0, 1, 20, 21, 100, 101, 120, 121, 200, 201, 220, 221]
    assert state["output.bias"].equal(torch.ones(4))


def test_columns() -> None:
    state = {"output": numbered(1).T.contiguous()}
    choice = Kept(of=HEADS, kept=(1,))
    HEADS_MODELING.cut(site(Axis("output", 1)), choice.to_dict(), state)
    assert state["output"].tolist() == [[10, 11]] * 4


def test_projection_without_bias() -> None:
    state = {"query": numbered(1)}
    choice = Kept(of=HEADS, kept=(1,))
    HEADS_MODELING.cut(site(Axis("query", 0), Axis("query.bias", 0)), choice.to_dict(), state)
    assert set(state) == {"query"}


def test_removed_block_takes_all_its_tensors() -> None:
    state = {"query": numbered(1), "output.bias": torch.ones(4), "norm": torch.ones(4)}
    choice = Kept(of=HEADS, kept=())
    HEADS_MODELING.cut(site(Axis("query", 0), Axis("query.bias", 0)), choice.to_dict(), state)
    assert set(state) == {"norm"}


def test_columns_of_a_projection_that_is_stored_in_by_out() -> None:
    state = {"qkv": numbered(3).T.contiguous(), "qkv.bias": numbered(3)[:, 0].contiguous()}
    choice = Kept(of=HEADS, kept=(1,))
    axes = Axis("qkv", 1, parts=3), Axis("qkv.bias", 0, parts=3)
    HEADS_MODELING.cut(site(*axes), choice.to_dict(), state)
    assert state["qkv"].tolist() == [[10, 11, 110, 111, 210, 211]] * 4
    assert state["qkv.bias"].tolist() == [10, 11, 110, 111, 210, 211]


@pytest.mark.parametrize("name", ["topk", "topk_hard", "ffn_topk"])
def test_a_k_cuts_nothing(name: str) -> None:
    state = {"query": numbered(1)}
    before = dict(state)
    approximation = approximations()[name]
    kind = approximation.kinds[0]
    modeling = recorded(kind)[approximation.recorded(kind)].modeling
    modeling.cut(site(Axis("query", 0)), Setting(value=2, mode="hard").to_dict(), state)
    assert state["query"] is before["query"]

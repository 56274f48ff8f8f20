"""The predicted bytes of a safetensors file against files that safetensors writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from torch import Tensor

from axsearch.approximations.choices import Kept, Setting
from axsearch.approximations.site import SiteId
from axsearch.evaluation.size import METADATA, parameter_count, safetensors_bytes
from axsearch.models.base_model import Base
from axsearch.space.recipe import Recipe
from axsearch.testing.text import tiny_bert

ATTENTION, FFN = SiteId(1, "attention"), SiteId(1, "ffn")
NO_LAYER = {ATTENTION: {"heads": Kept(of=4, kept=())}, FFN: {"ffn": Kept(of=64, kept=())}}
RECIPES = {
    "exact": Recipe.of({}),
    "one head": Recipe.of({ATTENTION: {"heads": Kept(of=4, kept=(2,))}}),
    "odd width": Recipe.of({FFN: {"ffn": Kept(of=64, kept=tuple(range(0, 37)))}}),
    "no ffn": Recipe.of({FFN: NO_LAYER[FFN]}),
    "no layer": Recipe.of(NO_LAYER),
    "top-k": Recipe.of({ATTENTION: {"topk": Setting(value=8, mode="hard")}}),
}
TYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool,
]  # fmt: skip


def written(state: dict[str, Tensor], path: Path) -> int:
    save_file({n: t.contiguous() for n, t in state.items()}, path, metadata=METADATA)
    return path.stat().st_size


@pytest.mark.parametrize("layers", [1, 3, 12])
def test_whole_models(layers: int, tmp_path: Path) -> None:
    state = dict(tiny_bert(layers=layers).state_dict())
    assert safetensors_bytes(state) == written(state, tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_recipes(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    state = Base(tiny_bert().to(dtype)).cut(RECIPES[name])
    assert safetensors_bytes(state) == written(state, tmp_path / "model.safetensors")


def test_half_of_the_model_in_half_precision(tmp_path: Path) -> None:
    state = {
        name: tensor.half() if number % 2 else tensor
        for number, (name, tensor) in enumerate(tiny_bert().state_dict().items())
    }
    assert safetensors_bytes(state) == written(state, tmp_path / "model.safetensors")


@settings(deadline=None, max_examples=200)
@given(
    st.dictionaries(
        st.text('abc.é"\\\n', min_size=1, max_size=8),
        st.tuples(st.sampled_from(TYPES), st.lists(st.integers(0, 30), max_size=3)),
        max_size=8,
    )
)
def test_any_types_shapes_and_names(tensors: dict[str, tuple[torch.dtype, list[int]]]) -> None:
    state = {name: torch.zeros(shape, dtype=dtype) for name, (dtype, shape) in tensors.items()}
    assert safetensors_bytes(state) == len(save(state, metadata=METADATA))


def test_types_of_one_width(tmp_path: Path) -> None:
    # safetensors sorts by type and then by name, so offsets have other digits than by name alone.
    state = {
        "a": torch.zeros(3, dtype=torch.int32),
        "b": torch.zeros(1000),
        "zzz": torch.zeros(7, dtype=torch.int32),
    }
    assert safetensors_bytes(state) == written(state, tmp_path / "model.safetensors")


def test_meta_tensors_count_as_real_ones() -> None:
    state = dict(tiny_bert().state_dict())
    meta = {name: tensor.to("meta") for name, tensor in state.items()}
    assert safetensors_bytes(meta) == safetensors_bytes(state)
    assert parameter_count(meta) == parameter_count(state)


def test_parameter_count() -> None:
    model = tiny_bert()
    expected = sum(parameter.numel() for parameter in model.parameters())
    assert parameter_count(model.state_dict()) == expected
    assert parameter_count({}) == 0

"""Each token's k largest pre-activations, by compiled kernels and by plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, relu, silu

from axsearch.kernels.native import SWITCH, native_library
from axsearch.kernels.topk_activation import topk_activation


@pytest.fixture(params=["native", "torch"], autouse=True)
def carrier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What selects: the compiled kernels or plain PyTorch."""
    name: str = request.param
    monkeypatch.setenv(SWITCH, "1" if name == "native" else "0")
    if name == "native" and native_library() is None:
        pytest.skip("the compiled kernels cannot be had on this machine")
    return name


def scores(*shape: int) -> Tensor:
    """A random order of numbers that are well apart, in every row."""
    draw = torch.rand(shape, generator=torch.Generator().manual_seed(0)).argsort(-1)
    return (draw - shape[-1] // 2) / 7


def reference(values: Tensor, k: int, activation: Callable[[Tensor], Tensor]) -> Tensor:
    rows = []
    for row in values.flatten(0, -2).double():
        best = sorted(range(len(row)), key=lambda n, row=row: -row[n].item())[:k]
        kept = torch.zeros_like(row)
        kept[best] = activation(row[best])
        rows.append(kept)
    return torch.stack(rows).view(values.shape)


@pytest.mark.parametrize("activation", [relu, gelu, silu])
@pytest.mark.parametrize("k", [1, 5, 39, 40, 41])
@pytest.mark.parametrize("shape", [(40,), (3, 40), (2, 5, 40)], ids=str)
def test_output(shape: tuple[int, ...], k: int, activation: Callable[[Tensor], Tensor]) -> None:
    values = scores(*shape)
    found = topk_activation(values, k, activation)
    assert found.shape == shape
    expected = reference(values.view(-1, 40), k, activation).view(shape)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dtype_stays(dtype: torch.dtype) -> None:
    found = topk_activation(scores(3, 40).to(dtype), 7, relu)
    assert found.dtype == dtype
    assert ((found != 0).sum(-1) <= 7).all()


def test_gradient_goes_through_what_was_kept() -> None:
    values = scores(3, 40).requires_grad_()
    topk_activation(values, 7, gelu).sum().backward()
    again = values.detach().clone().requires_grad_()
    best = again.detach().topk(7).indices
    kept = torch.zeros(3, 40).scatter(-1, best, 1.0)
    (gelu(again) * kept).sum().backward()
    torch.testing.assert_close(values.grad, again.grad)
    assert (values.grad != 0).sum() == 21  # type: ignore[union-attr]


def test_values_are_the_same_with_and_without_a_graph() -> None:
    values = scores(3, 40)
    with torch.no_grad():
        plain = topk_activation(values, 7, gelu)
    torch.testing.assert_close(topk_activation(values.requires_grad_(), 7, gelu), plain)


def test_an_exported_graph_gives_the_same() -> None:
    class Module(torch.nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            return topk_activation(values, 7, relu)

    values = scores(3, 40)
    exported = torch.export.export(Module(), (values,)).module()
    torch.testing.assert_close(exported(values), topk_activation(values, 7, relu))

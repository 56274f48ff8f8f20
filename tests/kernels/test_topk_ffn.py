"""The top-k feed-forward layer, by compiled kernels and by plain PyTorch, against a reference."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, relu, silu
from torch.utils._python_dispatch import TorchDispatchMode

from axsearch.kernels import topk_ffn as module_under_test
from axsearch.kernels.native import SWITCH, native_library
from axsearch.kernels.topk_ffn import topk_ffn

WIDTH, NEURONS, OUT = 6, 40, 5
Activation = Callable[[Tensor], Tensor]
ACTIVATIONS: tuple[Activation, ...] = (relu, gelu, silu)
Arguments = tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor | None]


@pytest.fixture(params=["native", "torch"], autouse=True)
def carrier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What selects: the compiled kernels or plain PyTorch."""
    name: str = request.param
    monkeypatch.setenv(SWITCH, "1" if name == "native" else "0")
    if name == "native" and native_library() is None:
        pytest.skip("the compiled kernels cannot be had on this machine")
    return name


def reference(
    hidden: Tensor,
    w_in: Tensor,
    b_in: Tensor | None,
    w_out: Tensor,
    b_out: Tensor | None,
    k: int,
    activation: Activation,
) -> Tensor:
    """The layer in float64 with every pre-activation in memory, with gradients."""
    hidden, w_in, w_out = hidden.double(), w_in.double(), w_out.double()
    b_in, b_out = (None if bias is None else bias.double() for bias in (b_in, b_out))
    scores = linear(hidden, w_in, b_in)
    best = scores.topk(min(k, scores.shape[-1]), -1).indices
    kept = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, best, True)
    return linear(activation(scores) * kept, w_out, b_out)


def drawn(
    k: int,
    shape: tuple[int, ...] = (2, 7),
    neurons: int = NEURONS,
    biases: tuple[bool, bool] = (True, True),
) -> Arguments:
    """Random inputs of which no rounding to float32 moves a pre-activation across the border."""
    for seed in itertools.count():
        generator = torch.Generator().manual_seed(seed)
        hidden, w_in, b_in, w_out, b_out = (
            torch.randn(size, generator=generator)
            for size in ((*shape, WIDTH), (neurons, WIDTH), (neurons,), (OUT, neurons), (OUT,))
        )
        scores = linear(hidden.double(), w_in.double(), b_in.double() if biases[0] else None)
        best = scores.topk(min(k + 1, neurons), -1).values
        if k >= neurons or (best[..., k - 1] - best[..., k]).min() > 1e-5:
            return hidden, w_in, b_in if biases[0] else None, w_out, b_out if biases[1] else None
    raise AssertionError


def leaves(tensors: Arguments, dtype: torch.dtype | None = None) -> Any:
    return tuple(
        None if tensor is None else tensor.detach().to(dtype).clone().requires_grad_()
        for tensor in tensors
    )


def gradients(function: Callable[..., Tensor], tensors: Arguments) -> list[Tensor]:
    output = function(*tensors)
    generator = torch.Generator().manual_seed(5)
    grad = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
    wanted = [tensor for tensor in tensors if tensor is not None and tensor.requires_grad]
    return list(torch.autograd.grad(output, wanted, grad))


def assert_near(found: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=atol)


class TestAgainstReference:
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    @pytest.mark.parametrize("shape", [(9,), (2, 7), (2, 2, 3), ()], ids=str)
    def test_output(self, shape: tuple[int, ...], activation: Activation) -> None:
        for k in (1, 3, 16, 39, 40, 41):
            arguments = drawn(k, shape)
            found = topk_ffn(*arguments, k, activation)
            assert found.shape == (*shape, OUT)
            assert_near(found, reference(*arguments, k, activation), 2e-5)

    @pytest.mark.parametrize("biases", list(itertools.product([False, True], repeat=2)), ids=str)
    def test_biases(self, biases: tuple[bool, bool]) -> None:
        arguments = drawn(5, biases=biases)
        assert_near(topk_ffn(*arguments, 5, gelu), reference(*arguments, 5, gelu), 2e-5)

    @pytest.mark.parametrize("neurons", [127, 128, 200, 513, 1100])
    def test_numbers_of_neurons(self, neurons: int) -> None:
        for k in (1, 16, 17, 64):
            arguments = drawn(k, (3,), neurons)
            assert_near(topk_ffn(*arguments, k, relu), reference(*arguments, k, relu), 1e-4)

    @pytest.mark.parametrize("chunk", [None, 1, 4, 14, 1000])
    def test_token_chunk(self, chunk: int | None) -> None:
        arguments = drawn(5)
        found = topk_ffn(*arguments, 5, gelu, token_chunk=chunk)
        assert_near(found, reference(*arguments, 5, gelu), 2e-5)

    def test_small_budget(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module_under_test, "TORCH_BUDGET", 20 * NEURONS)
        arguments = drawn(5, (3, 17))
        assert_near(topk_ffn(*arguments, 5, gelu), reference(*arguments, 5, gelu), 2e-5)

    def test_strided_hidden(self) -> None:
        hidden, *weights = drawn(5)
        strided = hidden.transpose(0, 1).contiguous().transpose(0, 1)
        torch.testing.assert_close(
            topk_ffn(strided, *weights, 5, gelu), topk_ffn(hidden, *weights, 5, gelu)
        )

    def test_relu_is_exact_where_enough_are_kept(self) -> None:
        hidden, w_in, b_in, w_out, b_out = drawn(1)
        scores = linear(hidden, w_in, b_in)
        k = int((scores > 0).sum(-1).max())
        assert k < NEURONS
        found = topk_ffn(hidden, w_in, b_in, w_out, b_out, k, relu)
        torch.testing.assert_close(found, linear(relu(scores), w_out, b_out))

    def test_inputs_are_left_as_they_are(self) -> None:
        arguments = drawn(5)
        before = [tensor.clone() for tensor in arguments if tensor is not None]
        topk_ffn(*arguments, 5, gelu)
        assert all(torch.equal(one, other) for one, other in zip(arguments, before, strict=True))


class TestGradients:
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    @pytest.mark.parametrize("k", [1, 7, 40])
    @pytest.mark.parametrize("shape", [(9,), (2, 7)], ids=str)
    def test_against_reference(
        self, shape: tuple[int, ...], k: int, activation: Activation
    ) -> None:
        arguments = drawn(k, shape)
        expected = gradients(
            lambda *a: reference(*a, k, activation), leaves(arguments, torch.float64)
        )
        for chunk in (None, 4):
            found = gradients(
                lambda *a, c=chunk: topk_ffn(*a, k, activation, token_chunk=c), leaves(arguments)
            )
            for one, other in zip(found, expected, strict=True):
                assert_near(one, other, 5e-5)

    @pytest.mark.parametrize("biases", list(itertools.product([False, True], repeat=2)), ids=str)
    def test_biases(self, biases: tuple[bool, bool]) -> None:
        arguments = drawn(7, biases=biases)
        found = gradients(lambda *a: topk_ffn(*a, 7, gelu), leaves(arguments))
        expected = gradients(lambda *a: reference(*a, 7, gelu), leaves(arguments, torch.float64))
        for one, other in zip(found, expected, strict=True):
            assert_near(one, other, 5e-5)

    @pytest.mark.parametrize("activation", [gelu, torch.tanh])
    def test_by_finite_differences(self, activation: Activation, carrier: str) -> None:
        if carrier == "native":
            pytest.skip("float64 always runs in plain PyTorch")
        arguments = leaves(drawn(3, (3,), 7), torch.float64)
        assert torch.autograd.gradcheck(
            lambda *a: topk_ffn(*a, 3, activation, token_chunk=2), arguments
        )

    def test_frozen_inputs_get_none(self) -> None:
        arguments = leaves(drawn(7))
        expected = gradients(lambda *a: topk_ffn(*a, 7, gelu), arguments)
        for wanted in list(itertools.product([False, True], repeat=5))[1:]:
            some: Any = tuple(
                t.detach().clone().requires_grad_(w) for t, w in zip(arguments, wanted, strict=True)
            )
            found = gradients(lambda *a: topk_ffn(*a, 7, gelu), some)
            kept = [tensor for tensor, want in zip(expected, wanted, strict=True) if want]
            for one, other in zip(found, kept, strict=True):
                assert torch.equal(one, other)

    @pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
    def test_none_where_they_are_off(self, context: Callable[[], Any]) -> None:
        arguments = leaves(drawn(7))
        with context():
            found = topk_ffn(*arguments, 7, gelu)
        assert not found.requires_grad
        assert torch.equal(found, topk_ffn(*arguments, 7, gelu))

    def test_twice_backward_through_a_kept_graph(self) -> None:
        arguments = leaves(drawn(7))
        output = topk_ffn(*arguments, 7, gelu).sum()
        first = torch.autograd.grad(output, arguments, retain_graph=True)
        second = torch.autograd.grad(output, arguments)
        assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))

    def test_uninitialised_memory_is_never_read(self, request: pytest.FixtureRequest) -> None:
        request.addfinalizer(lambda: torch.use_deterministic_algorithms(False))
        torch.use_deterministic_algorithms(True)  # fills new memory with NaN
        grads = gradients(lambda *a: topk_ffn(*a, 7, gelu, token_chunk=4), leaves(drawn(7)))
        assert all(grad.isfinite().all() for grad in grads)

    @pytest.mark.parametrize("activation", [nn.ReLU(inplace=True), lambda x: x, nn.GELU()])
    def test_activations_in_place_and_none(self, activation: Activation) -> None:
        arguments = drawn(7)
        found = gradients(lambda *a: topk_ffn(*a, 7, activation), leaves(arguments))
        expected = gradients(
            lambda *a: reference(*a, 7, activation), leaves(arguments, torch.float64)
        )
        for one, other in zip(found, expected, strict=True):
            assert_near(one, other, 5e-5)


class TestStrangeInputs:
    @pytest.mark.parametrize("neurons", [20, 200])
    @pytest.mark.parametrize("k", [1, 3, 16])
    def test_of_ties_exactly_k_are_kept(self, neurons: int, k: int) -> None:
        generator = torch.Generator().manual_seed(neurons + k)
        scores = torch.randint(1, 4, (neurons, 1), generator=generator).float()
        kept = topk_ffn(torch.ones(1, 1), scores, None, torch.eye(neurons), None, k, relu)[0] > 0
        border = scores[:, 0].sort(descending=True).values[k - 1]
        assert kept.sum() == k
        assert kept[scores[:, 0] > border].all()
        assert not kept[scores[:, 0] < border].any()

    @pytest.mark.parametrize("neurons", [20, 200])
    def test_nan_counts_as_the_largest(self, neurons: int) -> None:
        hidden, w_in, b_in, w_out, b_out = drawn(3, (9,), neurons)
        expected = topk_ffn(hidden, w_in, b_in, w_out, b_out, 3, gelu)
        hidden[4, 0] = float("nan")
        found = topk_ffn(hidden, w_in, b_in, w_out, b_out, 3, gelu)
        assert found[4].isnan().all()
        found[4] = expected[4]
        assert torch.equal(found, expected)

    @pytest.mark.parametrize("neurons", [20, 200])
    def test_one_nan_neuron_makes_every_token_nan(self, neurons: int) -> None:
        hidden, w_in, b_in, w_out, b_out = drawn(3, (9,), neurons)
        assert b_in is not None
        b_in[neurons // 2] = float("nan")
        assert topk_ffn(hidden, w_in, b_in, w_out, b_out, 3, gelu).isnan().all()

    def test_minus_infinity_is_kept_last(self) -> None:
        hidden, w_in, b_in, w_out, b_out = drawn(3)
        assert b_in is not None
        b_in[10:] = float("-inf")
        found = topk_ffn(hidden, w_in, b_in, w_out, b_out, 10, relu)
        expected = reference(hidden, w_in[:10], b_in[:10], w_out[:, :10], b_out, 10, relu)
        assert_near(found, expected, 2e-5)

    @pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0)], ids=str)
    @pytest.mark.parametrize("k", [3, NEURONS])
    def test_no_tokens(self, shape: tuple[int, ...], k: int) -> None:
        arguments = leaves(drawn(3))
        hidden = torch.empty(*shape, WIDTH, requires_grad=True)
        found = topk_ffn(hidden, *arguments[1:], k, gelu)
        assert found.shape == (*shape, OUT)
        grads = torch.autograd.grad(found.sum(), (hidden, *arguments[1:]))
        assert not any(grad.any() for grad in grads)


class TestTypes:
    @pytest.mark.parametrize(
        ("dtype", "tolerance"),
        [(torch.bfloat16, 2e-2), (torch.float16, 3e-3), (torch.float64, 1e-12)],
    )
    def test_output_and_gradients(self, dtype: torch.dtype, tolerance: float) -> None:
        _, _, _, w_out, b_out = drawn(7)
        generator = torch.Generator().manual_seed(0)
        orders = [torch.randperm(NEURONS, generator=generator) for _ in range(WIDTH)]
        w_in = (torch.stack(orders, 1) - 20) / 16  # every pre-activation is exact, none is twice
        arguments = leaves((torch.eye(WIDTH), w_in, torch.zeros(NEURONS), w_out, b_out), dtype)
        k = 7
        output = topk_ffn(*arguments, k, gelu)
        assert output.dtype == dtype
        expected = reference(*arguments, k, gelu)
        assert (output - expected).norm() <= tolerance * expected.norm()
        found = gradients(lambda *a: topk_ffn(*a, k, gelu), arguments)
        others = gradients(lambda *a: reference(*a, k, gelu).to(dtype), arguments)
        for one, other in zip(found, others, strict=True):
            assert one.dtype == dtype
            assert (one - other).double().norm() <= tolerance * other.double().norm()

    @pytest.mark.parametrize("inside", [False, True])
    @pytest.mark.parametrize("k", [7, NEURONS])
    def test_autocast(self, k: int, inside: bool) -> None:
        arguments = drawn(7)
        low = leaves(arguments, torch.bfloat16)
        expected = topk_ffn(*low, k, gelu)
        expected.float().sum().backward()
        tensors = leaves(arguments)
        with torch.autocast("cpu", torch.bfloat16):
            found = topk_ffn(*tensors, k, gelu)
            if inside:
                found.float().sum().backward()
        if not inside:
            found.float().sum().backward()
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, expected)
        for one, other in zip(tensors, low, strict=True):
            assert one.grad.dtype == torch.float32
            assert torch.equal(one.grad, other.grad.float())


class Layer(nn.Module):
    def forward(self, *arguments: Tensor) -> Tensor:
        return topk_ffn(*arguments, 7, gelu) * 2


@pytest.mark.filterwarnings("ignore:.*torch.jit.script", "ignore:The .grad attribute of")
class TestTransforms:
    def test_compile_breaks_the_graph(self) -> None:
        arguments: Any = drawn(7)
        compiled = torch.compile(Layer(), backend="eager")
        assert torch.equal(compiled(*arguments), Layer()(*arguments))
        found, expected = (gradients(one, leaves(arguments)) for one in (compiled, Layer()))
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))

    def test_compile_refuses_a_full_graph(self) -> None:
        torch.compiler.reset()
        compiled = torch.compile(Layer(), backend="eager", fullgraph=True)
        with pytest.raises(RuntimeError, match="the top-k feed-forward layer runs in tiles"):
            compiled(*drawn(7))

    @pytest.mark.parametrize(
        "transform",
        [
            lambda f, tensors: torch.func.grad(lambda *a: f(*a).sum())(*tensors),
            lambda f, tensors: torch.func.vmap(f)(*(t[None] for t in tensors)),
        ],
        ids=["grad", "vmap"],
    )
    def test_functions_transforms_are_refused(self, transform: Callable[..., Any]) -> None:
        with pytest.raises(RuntimeError, match="functorch transforms"):
            transform(Layer(), drawn(7))

    @pytest.mark.parametrize("loss", [Tensor.sum, lambda output: output.square().sum()])
    def test_second_derivative_is_refused(self, loss: Callable[[Tensor], Tensor]) -> None:
        arguments = leaves(drawn(7))

        def gradient_penalty() -> None:
            output = loss(topk_ffn(*arguments, 7, gelu))
            (grad,) = torch.autograd.grad(output, arguments[0], create_graph=True)
            (grad.square().sum() + arguments[0].sum()).backward()

        with pytest.raises(RuntimeError, match="differentiated twice"):
            gradient_penalty()

    def test_export_with_an_open_length(self, carrier: str) -> None:
        if carrier == "native":
            pytest.skip("an exported graph always runs in plain PyTorch")
        tokens = torch.export.Dim("tokens", min=2, max=512)
        program = torch.export.export(
            Layer(), drawn(7), strict=False, dynamic_shapes=(({1: tokens}, *(None,) * 4),)
        )
        arguments: Any = drawn(7, (2, 31))
        torch.testing.assert_close(program.module()(*arguments), Layer()(*arguments))


class TestBadArguments:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"k": 0}, "k must be at least 1, not 0"),
            ({"k": -3}, "k must be at least 1, not -3"),
            ({"token_chunk": 0}, "token_chunk must be at least 1, not 0"),
        ],
    )
    def test_options(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            topk_ffn(*drawn(3), **{"k": 3, "activation": gelu, **options})

    @pytest.mark.parametrize(
        ("which", "shape"),
        [
            (0, (2, 7)),
            (1, (NEURONS, WIDTH + 1)),
            (1, (WIDTH,)),
            (2, (NEURONS + 1,)),
            (2, (1,)),
            (3, (OUT, NEURONS - 1)),
            (3, (NEURONS,)),
            (4, (OUT + 1,)),
        ],
        ids=str,
    )
    def test_shapes(self, which: int, shape: tuple[int, ...]) -> None:
        arguments: list[Any] = list(drawn(3))
        arguments[which] = torch.zeros(shape)
        with pytest.raises(ValueError, match="must be"):
            topk_ffn(*arguments, 3, gelu)


class Largest(TorchDispatchMode):
    """Remembers the size in bytes of the largest memory an operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.size = max(self.size, result.untyped_storage().nbytes())
        return result


def test_nothing_is_as_large_as_all_pre_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = 1 << 16
    monkeypatch.setattr(module_under_test, "TORCH_BUDGET", budget)
    arguments = leaves(drawn(4, (2048,), 512))
    with Largest() as largest:
        topk_ffn(*arguments, 4, gelu).sum().backward()
    assert largest.size <= 4 * budget  # of 16 budgets of pre-activations


def test_number_of_torch_threads(request: pytest.FixtureRequest) -> None:
    request.addfinalizer(lambda: torch.set_num_threads(1))
    arguments = drawn(7, (2, 100))
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(topk_ffn(*arguments, 7, gelu))
    assert torch.equal(*results)

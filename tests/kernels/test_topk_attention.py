"""Top-k attention, by compiled kernels and by plain PyTorch, against dense references."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from axsearch.kernels import native_topk, torch_topk
from axsearch.kernels.native import SWITCH, native_library
from axsearch.kernels.topk_attention import topk_attention
from axsearch.testing.references import topk_rows

MODES = ("renormalised", "hard")
BATCH, HEADS, QUERIES, KEYS, WIDTH = 2, 3, 5, 7, 4
MINUS_INFINITY = float("-inf")
MASK_SHAPES = (
    *((), (20,), (9, 20), (9, 1), (1, 1, 1, 20), (2, 1, 1, 20), (2, 1, 9, 20), (2, 3, 9, 20)),
    *((1, 3, 1, 20), (1, 3, 9, 20), (2, 3, 1, 20), (2, 3, 9, 1), (2, 1, 9, 1), (2, 3, 1, 1)),
    (3, 1, 1),
)


@pytest.fixture(params=["native", "torch"], autouse=True)
def carrier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What selects and gathers: the compiled kernels or plain PyTorch."""
    name: str = request.param
    monkeypatch.setenv(SWITCH, "1" if name == "native" else "0")
    if name == "native" and native_library() is None:
        pytest.skip("the compiled kernels cannot be had on this machine")
    return name


@pytest.fixture
def torch_carrier(carrier: str) -> None:
    """For tests of what never runs natively: float64, exported graphs."""
    if carrier == "native":
        pytest.skip("always runs in plain PyTorch")


def all_scores(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Every score, in float64; -inf where attending is forbidden."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = query.double() @ key.double().mT * scale
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, MINUS_INFINITY)
    elif mask is not None:
        scores = scores + mask.double()
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, MINUS_INFINITY)
    return scores


def border_gap(scores: Tensor, k: int) -> float:
    """How far the k-th score is from the next, in the row where they are nearest."""
    if k >= scores.shape[-1]:
        return float("inf")
    best = scores.detach().topk(k + 1, -1).values
    gaps = torch.where(best[..., k] == MINUS_INFINITY, torch.inf, best[..., k - 1] - best[..., k])
    return gaps.min().item()


def dense_weights(scores: Tensor, k: int, mode: str = "renormalised") -> Tensor:
    """The weights of top-k attention, as a matrix of the scores' shape, with gradients."""
    best = scores.topk(min(k, scores.shape[-1]), -1).indices
    dropped = torch.ones_like(scores, dtype=torch.bool).scatter(-1, best, False)
    dropped = dropped | (scores == MINUS_INFINITY)
    empty = (scores == MINUS_INFINITY).all(-1, keepdim=True)
    summed = scores if mode == "hard" else scores.masked_fill(dropped, MINUS_INFINITY)
    return summed.masked_fill(empty, 0.0).softmax(-1).masked_fill(dropped, 0.0)


def dense(
    query: Tensor, key: Tensor, value: Tensor, k: int, mode: str = "renormalised", **masks: Any
) -> Tensor:
    """Top-k attention in float64 with every score in memory, with gradients."""
    return dense_weights(all_scores(query, key, **masks), k, mode) @ value.double()


def drawn(
    k: int,
    *,
    batch: int = 2,
    heads: int = 3,
    queries: int = 9,
    keys: int = 20,
    width: int = 8,
    value_width: int = 8,
    **masks: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Random inputs of which no rounding to float32 moves a score across the border."""
    for seed in itertools.count():
        generator = torch.Generator().manual_seed(seed)
        query, key, value = (
            torch.randn(batch, heads, *size, generator=generator)
            for size in ((queries, width), (keys, width), (keys, value_width))
        )
        if border_gap(all_scores(query, key, **masks), k) > 1e-5:
            return query, key, value
    raise AssertionError


def distinct(dtype: torch.dtype, keys: int = 200) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs of which every score is exact in every dtype: multiples of 1/16, none twice."""
    generator = torch.Generator().manual_seed(0)
    query = torch.eye(4).repeat(2, 1)[None, None].expand(2, 3, -1, -1)
    key = torch.stack([torch.randperm(keys, generator=generator) for _ in range(24)])
    key = key.float().view(2, 3, 4, keys).mT
    value = torch.randn(2, 3, keys, 24, generator=generator)
    return query.to(dtype), key.to(dtype), value.to(dtype)


def random_mask(shape: tuple[int, ...], kind: str, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if kind == "boolean":
        return torch.rand(shape, generator=generator) < 0.7
    return torch.randn(shape, generator=generator)


def leaves(*tensors: Tensor, dtype: torch.dtype | None = None) -> list[Tensor]:
    return [tensor.detach().to(dtype).clone().requires_grad_() for tensor in tensors]


def gradients(
    function: Callable[..., Tensor], tensors: list[Tensor], seed: int = 5
) -> list[Tensor]:
    output = function(*tensors)
    generator = torch.Generator().manual_seed(seed)
    grad = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
    return list(torch.autograd.grad(output, tensors, grad))


def assert_near(found: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=atol)


def assert_gradients(
    function: Callable[..., Tensor], reference: Callable[..., Tensor], *tensors: Tensor
) -> None:
    found = gradients(function, leaves(*tensors))
    expected = gradients(reference, leaves(*tensors, dtype=torch.float64))
    for one, other in zip(found, expected, strict=True):
        assert_near(one, other, 2e-5)


def inputs(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(BATCH, HEADS, QUERIES, WIDTH, generator=generator, dtype=dtype)
    key = torch.randn(BATCH, HEADS, KEYS, WIDTH, generator=generator, dtype=dtype)
    value = torch.randn(BATCH, HEADS, KEYS, WIDTH, generator=generator, dtype=dtype)
    return query, key, value


def allowed_keys() -> Tensor:
    """Who may attend to whom: rows with all keys, fewer than three, one and none."""
    allowed = torch.rand(BATCH, 1, QUERIES, KEYS, generator=torch.Generator().manual_seed(1)) < 0.6
    allowed[0, 0, 0] = True
    allowed[0, 0, 1] = False
    allowed[0, 0, 1, 2:4] = True
    allowed[1, 0, 0] = False
    allowed[1, 0, 0, 6] = True
    allowed[1, 0, 3] = False
    return allowed


def as_bias(allowed: Tensor) -> Tensor:
    return torch.zeros(allowed.shape).masked_fill(~allowed, MINUS_INFINITY)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("k", range(1, KEYS + 2))
class TestAgainstReference:
    def test_without_mask(self, k: int, mode: str) -> None:
        query, key, value = inputs()
        expected = torch.from_numpy(topk_rows(query, key, value, k, None, mode)).float()
        found = topk_attention(query, key, value, k, mode=mode)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)

    def test_boolean_mask(self, k: int, mode: str) -> None:
        query, key, value = inputs()
        allowed = allowed_keys()
        rows = topk_rows(query, key, value, k, as_bias(allowed), mode)
        found = topk_attention(query, key, value, k, mask=allowed, mode=mode)
        torch.testing.assert_close(found, torch.from_numpy(rows).float(), rtol=0, atol=1e-5)

    def test_additive_mask(self, k: int, mode: str) -> None:
        query, key, value = inputs()
        noise = torch.randn(BATCH, HEADS, QUERIES, KEYS, generator=torch.Generator().manual_seed(2))
        bias = as_bias(allowed_keys()) + noise
        rows = topk_rows(query, key, value, k, bias, mode)
        found = topk_attention(query, key, value, k, mask=bias, mode=mode)
        torch.testing.assert_close(found, torch.from_numpy(rows).float(), rtol=0, atol=1e-5)

    def test_fully_masked_rows_give_zeros(self, k: int, mode: str) -> None:
        query, key, value = inputs()
        allowed = allowed_keys()
        for mask in (allowed, as_bias(allowed)):
            found = topk_attention(query, key, value, k, mask=mask, mode=mode)
            assert not found[1, :, 3].any()
            assert found[0].any(-1).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("k", [KEYS, KEYS + 1, 1000])
@pytest.mark.parametrize("masked", [False, True])
def test_as_many_keys_as_there_are_is_dense_attention(k: int, mode: str, masked: bool) -> None:
    query, key, value = inputs()
    mask = allowed_keys() if masked else None
    expected = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    found = topk_attention(query, key, value, k, mask=mask, mode=mode)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_smallest_number_as_mask_forbids_too() -> None:
    # transformers also writes masks with the least finite number in the place of -infinity.
    query, key, value = inputs()
    allowed = allowed_keys()
    allowed[1, 0, 3, 0] = True  # no row without a key: there the two differ, as in PyTorch
    finite = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    torch.testing.assert_close(
        topk_attention(query, key, value, 3, mask=finite),
        topk_attention(query, key, value, 3, mask=allowed),
    )


@pytest.mark.parametrize("mode", MODES)
def test_scale(mode: str) -> None:
    query, key, value = inputs()
    rows = topk_rows(query, key, value, 3, None, mode, scale=1.7)
    found = topk_attention(query, key, value, 3, scale=1.7, mode=mode)
    torch.testing.assert_close(found, torch.from_numpy(rows).float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_huge_scores_do_not_overflow(mode: str) -> None:
    query, key, value = inputs()
    rows = topk_rows(query * 1e4, key, value, 2, None, mode)
    found = topk_attention(query * 1e4, key, value, 2, mode=mode)
    torch.testing.assert_close(found, torch.from_numpy(rows).float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("k", range(1, KEYS))
@pytest.mark.parametrize("mode", MODES)
def test_ties_keep_exactly_k(k: int, mode: str) -> None:
    query = torch.zeros(1, 1, 2, WIDTH)  # every score is zero
    key, value = torch.randn(1, 1, KEYS, WIDTH), torch.eye(KEYS)[None, None]
    weights = topk_attention(query, key, value, k, mode=mode)
    assert (weights > 0).sum(-1).tolist() == [[[k, k]]]
    share = 1 / k if mode == "renormalised" else 1 / KEYS
    torch.testing.assert_close(weights[weights > 0], torch.full((2 * k,), share))


def test_hard_mode_does_not_renormalise() -> None:
    query, key, _ = inputs()
    weights = topk_attention(
        query, key, torch.eye(KEYS).expand(BATCH, HEADS, -1, -1), 2, mode="hard"
    )
    assert (weights.sum(-1) < 1).all()


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1, not {k}"):
        topk_attention(*inputs(), k)


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="'soft'"):
        topk_attention(*inputs(), 2, mode="soft")  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["boolean", "additive"])
def test_fully_masked_rows_pass_no_gradient(mode: str, kind: str) -> None:
    query, key, value = (tensor.requires_grad_() for tensor in inputs())
    allowed = allowed_keys()
    mask = allowed if kind == "boolean" else as_bias(allowed)
    topk_attention(query, key, value, 3, mask=mask, mode=mode).sum().backward()
    for tensor in (query, key, value):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
    assert query.grad is not None
    assert not query.grad[1, :, 3].any()


def test_dropout_drops_kept_weights_and_scales_the_others() -> None:
    query, key, _ = inputs()
    value = torch.eye(KEYS).expand(BATCH, HEADS, -1, -1)
    torch.manual_seed(0)
    plain = topk_attention(query, key, value, 4)
    dropped = topk_attention(query, key, value, 4, dropout=0.5)
    gone = (plain > 0) & (dropped == 0)
    assert gone.any()
    assert (dropped > 0).any()
    torch.testing.assert_close(dropped[dropped > 0], 2 * plain[dropped > 0])


def test_type_is_kept() -> None:
    found = topk_attention(*(tensor.bfloat16() for tensor in inputs()), 2)
    assert found.dtype == torch.bfloat16


class TestAgainstDenseReference:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize(
        ("width", "value_width"), [(1, 1), (1, 24), (5, 100), (24, 5), (100, 64), (64, 130)]
    )
    def test_widths(self, width: int, value_width: int, mode: str) -> None:
        arguments = drawn(7, keys=150, width=width, value_width=value_width)
        found = topk_attention(*arguments, 7, mode=mode)
        assert_near(found, dense(*arguments, 7, mode))

    @pytest.mark.parametrize(
        "keys", [65, 127, 128, 129, 191, 193, 255, 256, 257, 300, 511, 513, 640, 1023, 1100]
    )
    def test_numbers_of_keys(self, keys: int) -> None:
        for k, mode in itertools.product((1, 3, 16, 17, 37, 64), MODES):
            arguments = drawn(k, keys=keys, batch=1, heads=2, queries=3)
            assert_near(topk_attention(*arguments, k, mode=mode), dense(*arguments, k, mode))

    @pytest.mark.parametrize("k", [100, 255, 256, 299, 300])
    @pytest.mark.parametrize("mode", MODES)
    def test_large_k(self, k: int, mode: str) -> None:
        arguments = drawn(k, keys=300)
        assert_near(topk_attention(*arguments, k, mode=mode), dense(*arguments, k, mode))

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("causal", [False, True])
    def test_query_chunk(self, causal: bool, mode: str) -> None:
        arguments = drawn(6, queries=40, keys=40, causal=causal)
        for chunk in (None, 1, 7, 16, 40, 1000):
            found = topk_attention(*arguments, 6, mode=mode, causal=causal, query_chunk=chunk)
            assert_near(found, dense(*arguments, 6, mode, causal=causal))

    @pytest.mark.parametrize("causal", [False, True])
    def test_small_budget(self, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        for module, name in ((native_topk, "NATIVE_BUDGET"), (torch_topk, "TORCH_BUDGET")):
            monkeypatch.setattr(module, name, 1500)
        mask = random_mask((2, 1, 50, 40), "additive")
        arguments = drawn(6, queries=50, keys=40, heads=5, causal=causal, mask=mask)
        found = topk_attention(*arguments, 6, causal=causal, mask=mask)
        assert_near(found, dense(*arguments, 6, causal=causal, mask=mask))

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize(("queries", "keys"), [(1, 30), (5, 30), (30, 5), (30, 12), (12, 13)])
    def test_causal_with_as_many_queries_as_it_likes(
        self, queries: int, keys: int, mode: str
    ) -> None:
        for k, chunk in itertools.product((1, 4, 12), (None, 4)):
            arguments = drawn(k, queries=queries, keys=keys, causal=True)
            found = topk_attention(*arguments, k, causal=True, mode=mode, query_chunk=chunk)
            assert_near(found, dense(*arguments, k, mode, causal=True))

    @pytest.mark.parametrize("kind", ["boolean", "additive"])
    @pytest.mark.parametrize("shape", MASK_SHAPES, ids=str)
    def test_mask_shapes(self, shape: tuple[int, ...], kind: str) -> None:
        mask = random_mask(shape, kind)
        for mode, causal in itertools.product(MODES, (False, True)):
            options: dict[str, Any] = {"mode": mode, "causal": causal, "mask": mask}
            arguments = drawn(4, mask=mask, causal=causal)
            for chunk in (None, 4):
                found = topk_attention(*arguments, 4, query_chunk=chunk, **options)
                assert_near(found, dense(*arguments, 4, **options))

    @pytest.mark.parametrize("kind", ["boolean", "additive"])
    @pytest.mark.parametrize("layout", ["transposed", "every other", "expanded", "offset"])
    def test_mask_layouts(self, layout: str, kind: str) -> None:
        mask = {
            "transposed": lambda: random_mask((2, 1, 20, 9), kind).mT,
            "every other": lambda: random_mask((2, 3, 9, 40), kind)[..., ::2],
            "expanded": lambda: random_mask((2, 1, 1, 20), kind).expand(2, 3, 9, 20),
            "offset": lambda: random_mask((2, 3, 11, 23), kind)[:, :, 2:, 3:],
        }[layout]()
        arguments = drawn(4, mask=mask)
        assert_near(
            topk_attention(*arguments, 4, mask=mask, query_chunk=4),
            dense(*arguments, 4, mask=mask),
        )

    def test_layout_of_transformers(self) -> None:
        arguments = drawn(5, queries=20)
        strided = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in arguments]
        torch.testing.assert_close(topk_attention(*strided, 5), topk_attention(*arguments, 5))

    def test_keys_shared_by_heads(self) -> None:
        query, key, value = drawn(5)
        key, value = key[:, :1].expand_as(key), value[:, :1].expand_as(value)
        assert_near(topk_attention(query, key, value, 5), dense(query, key, value, 5))

    def test_many_heads(self) -> None:
        arguments = drawn(3, batch=64, heads=16, queries=3, keys=12)
        assert_near(topk_attention(*arguments, 3), dense(*arguments, 3))

    def test_inputs_are_left_as_they_are(self) -> None:
        mask = random_mask((2, 1, 9, 20), "additive")
        arguments = [*drawn(5), mask]
        before = [tensor.clone() for tensor in arguments]
        topk_attention(*arguments[:3], 5, mask=mask, causal=True)
        assert all(torch.equal(one, other) for one, other in zip(arguments, before, strict=True))


class TestGradients:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("causal", [False, True])
    @pytest.mark.parametrize("kind", [None, "boolean", "additive"])
    @pytest.mark.parametrize("chunk", [None, 7])
    def test_against_dense_reference(
        self, chunk: int | None, kind: str | None, causal: bool, mode: str
    ) -> None:
        mask = None if kind is None else random_mask((2, 1, 30, 30), kind)
        options: dict[str, Any] = {"mask": mask, "causal": causal, "mode": mode}
        assert_gradients(
            lambda q, x, v: topk_attention(q, x, v, 6, query_chunk=chunk, **options),
            lambda q, x, v: dense(q, x, v, 6, **options),
            *drawn(6, queries=30, keys=30, mask=mask, causal=causal),
        )

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize(
        ("width", "value_width", "keys", "k"),
        [(1, 1, 20, 3), (5, 100, 150, 37), (24, 5, 300, 16), (100, 64, 1030, 64), (16, 33, 20, 19)],
    )
    def test_widths(self, width: int, value_width: int, keys: int, k: int, mode: str) -> None:
        assert_gradients(
            lambda q, x, v: topk_attention(q, x, v, k, mode=mode),
            lambda q, x, v: dense(q, x, v, k, mode),
            *drawn(k, keys=keys, width=width, value_width=value_width),
        )

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize(("queries", "keys"), [(5, 30), (30, 5), (30, 12)])
    def test_causal_lengths(self, queries: int, keys: int, mode: str) -> None:
        for k, chunk in itertools.product((1, 4, 12), (None, 4)):
            options: dict[str, Any] = {"k": k, "mode": mode, "causal": True}
            assert_gradients(
                lambda q, x, v, c=chunk, o=options: topk_attention(q, x, v, query_chunk=c, **o),
                lambda q, x, v, o=options: dense(q, x, v, **o),
                *drawn(k, queries=queries, keys=keys, causal=True),
            )

    @pytest.mark.parametrize("shape", MASK_SHAPES, ids=str)
    def test_of_an_additive_mask(self, shape: tuple[int, ...]) -> None:
        mask = random_mask(shape, "additive")
        for mode, causal in itertools.product(MODES, (False, True)):
            options: dict[str, Any] = {"mode": mode, "causal": causal}
            assert_gradients(
                lambda q, x, v, m, o=options: topk_attention(
                    q, x, v, 4, mask=m, query_chunk=4, **o
                ),
                lambda q, x, v, m, o=options: dense(q, x, v, 4, mask=m, **o),
                *(*drawn(4, mask=mask, causal=causal), mask),
            )

    @pytest.mark.parametrize("mode", MODES)
    def test_of_a_mask_expanded_by_the_caller(self, mode: str) -> None:
        mask = random_mask((1, 3, 1, 20), "additive")
        assert_gradients(
            lambda q, x, v, m: topk_attention(q, x, v, 4, mask=m.expand(2, 3, 9, 20), mode=mode),
            lambda q, x, v, m: dense(q, x, v, 4, mode, mask=m),
            *(*drawn(4, mask=mask), mask),
        )

    @pytest.mark.parametrize("mode", MODES)
    def test_of_the_mask_alone(self, mode: str) -> None:
        mask = random_mask((3, 1, 20), "additive")
        query, key, value = drawn(4, mask=mask)
        assert_gradients(
            lambda m: topk_attention(query, key, value, 4, mask=m, mode=mode),
            lambda m: dense(query, key, value, 4, mode, mask=m),
            mask,
        )

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("causal", [False, True])
    @pytest.mark.usefixtures("torch_carrier")
    def test_by_finite_differences(self, causal: bool, mode: str) -> None:
        mask = random_mask((2, 1, 4, 5), "additive").double().requires_grad_()
        sizes = {"heads": 2, "queries": 4, "keys": 5, "width": 2, "value_width": 2}
        arguments = drawn(2, **sizes, mask=mask, causal=causal)
        assert torch.autograd.gradcheck(
            lambda q, x, v, m: topk_attention(
                q, x, v, 2, mask=m, causal=causal, mode=mode, query_chunk=3
            ),
            (*leaves(*arguments, dtype=torch.float64), mask),
            fast_mode=True,
        )

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("wanted", list(itertools.product([False, True], repeat=3))[1:-1])
    def test_frozen_inputs_get_none(self, wanted: tuple[bool, ...], mode: str) -> None:
        arguments = drawn(4)
        expected = gradients(lambda *a: topk_attention(*a, 4, mode=mode), leaves(*arguments))
        some = [t.clone().requires_grad_(w) for t, w in zip(arguments, wanted, strict=True)]
        chosen = [t for t in some if t.requires_grad]
        found = gradients(lambda *_: topk_attention(*some, 4, mode=mode), chosen)
        kept = [t for t, w in zip(expected, wanted, strict=True) if w]
        assert all(torch.equal(one, other) for one, other in zip(found, kept, strict=True))

    @pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
    def test_none_where_they_are_off(self, context: Callable[[], Any]) -> None:
        arguments = leaves(*drawn(4))
        with context():
            found = topk_attention(*arguments, 4)
        assert not found.requires_grad
        assert torch.equal(found, topk_attention(*arguments, 4))

    def test_of_strided_inputs(self) -> None:
        arguments = drawn(4)
        expected = gradients(lambda *a: topk_attention(*a, 4), leaves(*arguments))
        swapped = leaves(*(t.transpose(1, 2).contiguous() for t in arguments))
        found = gradients(lambda *a: topk_attention(*(t.transpose(1, 2) for t in a), 4), swapped)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.transpose(1, 2), other)

    def test_of_an_expanded_output_gradient(self) -> None:
        arguments = leaves(*drawn(4))
        found = torch.autograd.grad(topk_attention(*arguments, 4).sum(), arguments)
        doubles = leaves(*arguments, dtype=torch.float64)
        expected = torch.autograd.grad(dense(*doubles, 4).sum(), doubles)
        for one, other in zip(found, expected, strict=True):
            assert_near(one, other, 2e-5)

    def test_twice_backward_through_a_kept_graph(self) -> None:
        arguments = leaves(*drawn(4))
        output = topk_attention(*arguments, 4).sum()
        first = torch.autograd.grad(output, arguments, retain_graph=True)
        second = torch.autograd.grad(output, arguments)
        assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))

    @pytest.mark.parametrize("mode", MODES)
    def test_uninitialised_memory_is_never_read(
        self, mode: str, request: pytest.FixtureRequest
    ) -> None:
        request.addfinalizer(lambda: torch.use_deterministic_algorithms(False))
        torch.use_deterministic_algorithms(True)  # fills new memory with NaN
        mask = random_mask((2, 1, 30, 30), "boolean")
        assert_gradients(
            lambda q, x, v: topk_attention(
                q, x, v, 12, mask=mask, causal=True, mode=mode, query_chunk=7
            ),
            lambda q, x, v: dense(q, x, v, 12, mode, mask=mask, causal=True),
            *drawn(12, queries=30, keys=30, mask=mask, causal=True),
        )


class TestDropout:
    def weights(self, query: Tensor, key: Tensor, k: int, **options: Any) -> Tensor:
        value = torch.eye(key.shape[2], dtype=key.dtype).expand(*key.shape[:2], -1, -1)
        torch.manual_seed(3)
        return topk_attention(query, key, value, k, dropout=0.4, **options)

    @pytest.mark.parametrize("mode", MODES)
    def test_share_that_is_dropped(self, mode: str) -> None:
        query, key, _ = drawn(16, queries=100, keys=64)
        kept = (self.weights(query, key, 16, mode=mode) > 0).float().sum(-1).mean() / 16
        assert kept.item() == pytest.approx(0.6, abs=0.02)  # 9600 weights: 4 standard errors

    def test_heads_and_queries_are_dropped_apart(self) -> None:
        query, key, _ = (t[:1, :1].expand(2, 3, -1, -1) for t in drawn(16, queries=1, keys=64))
        kept = self.weights(query.expand(-1, -1, 30, -1), key, 16, query_chunk=7) > 0
        assert len(kept.flatten(0, 2).unique(dim=0)) > 170  # of 180 rows with the same 16 keys

    def test_same_seed_same_weights(self) -> None:
        query, key, _ = drawn(4)
        assert torch.equal(self.weights(query, key, 4), self.weights(query, key, 4))

    def test_next_call_drops_others(self) -> None:
        arguments = drawn(4)
        torch.manual_seed(0)
        first, second = (topk_attention(*arguments, 4, dropout=0.5) for _ in range(2))
        assert not torch.equal(first, second)

    def test_as_many_keys_as_there_are(self) -> None:
        query, key, _ = drawn(20)
        weights = self.weights(query, key, 20)
        assert 0.5 < (weights > 0).float().mean() < 0.7

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("causal", [False, True])
    @pytest.mark.parametrize("k", [4, 12])
    def test_backward_drops_the_same(self, k: int, causal: bool, mode: str) -> None:
        arguments = drawn(k, queries=20, causal=causal)
        options: dict[str, Any] = {"causal": causal, "mode": mode, "query_chunk": 7}
        factor = (self.weights(*arguments[:2], k, **options) > 0).double() / 0.6

        def found(q: Tensor, x: Tensor, v: Tensor) -> Tensor:
            torch.manual_seed(3)
            return topk_attention(q, x, v, k, dropout=0.4, **options)

        assert_gradients(
            found,
            lambda q, x, v: (
                dense_weights(all_scores(q, x, causal=causal), k, mode) * factor @ v.double()
            ),
            *arguments,
        )

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.usefixtures("torch_carrier")
    def test_backward_by_finite_differences(self, mode: str) -> None:
        mask = random_mask((4, 5), "additive").double().requires_grad_()

        def function(q: Tensor, x: Tensor, v: Tensor, m: Tensor) -> Tensor:
            torch.manual_seed(3)
            return topk_attention(q, x, v, 2, mask=m, mode=mode, dropout=0.4, query_chunk=3)

        sizes = {"batch": 1, "queries": 4, "keys": 5, "width": 2, "value_width": 2}
        arguments = drawn(2, **sizes, mask=mask)
        assert torch.autograd.gradcheck(
            function, (*leaves(*arguments, dtype=torch.float64), mask), fast_mode=True
        )


class TestMaskedRows:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("kind", ["boolean", "additive"])
    @pytest.mark.parametrize("causal", [False, True])
    @pytest.mark.parametrize("k", [3, KEYS, KEYS + 1])
    def test_no_key_gives_zeros_and_no_gradient(
        self, k: int, causal: bool, kind: str, mode: str
    ) -> None:
        arguments = leaves(*inputs())
        allowed = allowed_keys()
        mask = allowed if kind == "boolean" else as_bias(allowed)
        output = topk_attention(*arguments, k, mask=mask, causal=causal, mode=mode)
        assert not output[1, :, 3].any()
        (grad,) = torch.autograd.grad(output[1, :, 3].sum(), arguments[1], retain_graph=True)
        assert not grad.any()
        grads = torch.autograd.grad(output.sum(), arguments)
        assert all(tensor.isfinite().all() for tensor in grads)
        assert not grads[0][1, :, 3].any()

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("k", [3, KEYS])
    def test_gradient_of_a_mask_with_empty_rows(self, k: int, mode: str) -> None:
        mask = as_bias(allowed_keys()).requires_grad_()
        output = topk_attention(*inputs(), k, mask=mask, mode=mode)
        (grad,) = torch.autograd.grad(output.square().sum(), mask)
        assert grad.isfinite().all()
        assert not grad[mask == MINUS_INFINITY].any()

    @pytest.mark.parametrize("kind", ["boolean", "additive"])
    def test_every_row_empty(self, kind: str) -> None:
        allowed = torch.zeros(1, 1, 1, 200, dtype=torch.bool)
        mask = allowed if kind == "boolean" else as_bias(allowed)
        found = topk_attention(*drawn(4, keys=200), 4, mask=mask)
        assert not found.any()

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("keys", [40, 200, 700])
    def test_fewer_allowed_than_k(self, keys: int, mode: str) -> None:
        allowed = random_mask((9, keys), "boolean")
        allowed &= torch.arange(keys) % 29 == 1
        arguments = drawn(30, keys=keys)
        found = topk_attention(*arguments, 30, mask=allowed, mode=mode)
        assert_near(found, dense(*arguments, 30, mode, mask=allowed))

    @pytest.mark.parametrize("causal", [False, True])
    @pytest.mark.parametrize("kind", ["boolean", "additive"])
    @pytest.mark.parametrize("k", [20, 50])
    def test_as_many_as_keys_is_dense(self, k: int, kind: str, causal: bool) -> None:
        mask = random_mask((2, 1, 9, 20), kind)
        arguments = drawn(20)
        found = topk_attention(*arguments, k, mask=mask, causal=causal)
        assert_near(found, dense(*arguments, 20, mask=mask, causal=causal))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("k", [3, 20])
    def test_smallest_number_leaves_no_forbidden_key(self, dtype: torch.dtype, k: int) -> None:
        query, key, value = drawn(3)
        allowed = random_mask((2, 1, 9, 20), "boolean")
        allowed[..., :3] = True  # k of them are allowed in every row
        finite = torch.zeros(allowed.shape, dtype=dtype)
        finite = finite.masked_fill(~allowed, torch.finfo(dtype).min)
        found = topk_attention(query, key, value, k, mask=finite)
        assert_near(found, topk_attention(query, key, value, k, mask=allowed))

    @pytest.mark.parametrize("k", [3, 20])
    def test_smallest_number_everywhere_is_no_nan(self, k: int) -> None:
        mask = torch.full((9, 20), torch.finfo(torch.float32).min)
        query, key, _ = drawn(3)
        weights = topk_attention(query, key, torch.eye(20).expand(2, 3, -1, -1), k, mask=mask)
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 9))

    @pytest.mark.parametrize("k", [3, 20])
    def test_float64_mask_below_float32_is_minus_infinity(self, k: int) -> None:
        allowed = random_mask((2, 1, 9, 20), "boolean")
        allowed[0, 0, 2] = False
        mask = torch.zeros(allowed.shape, dtype=torch.float64)
        mask = mask.masked_fill(~allowed, torch.finfo(torch.float64).min)
        arguments = drawn(3, mask=allowed)
        found = topk_attention(*arguments, k, mask=mask)
        assert_near(found, topk_attention(*arguments, k, mask=allowed))


class TestTies:
    def kept(self, keys: Tensor, k: int, **options: Any) -> Tensor:
        """Which keys one query keeps, whose scores are the numbers ``keys``."""
        query, value = torch.ones(1, 1, 1, 1), torch.eye(len(keys))[None, None]
        weights = topk_attention(query, keys[None, None, :, None], value, k, scale=1.0, **options)
        return weights[0, 0, 0] > 0

    @pytest.mark.parametrize("keys", [20, 127, 128, 200, 700])
    def test_all_equal(self, keys: int) -> None:
        found = [int(self.kept(torch.full((keys,), 1.5), k).sum()) for k in (1, 3, 16, 17)]
        assert found == [1, 3, 16, 17]

    @pytest.mark.parametrize("keys", [20, 127, 128, 200, 700])
    def test_many_at_the_border(self, keys: int) -> None:
        for k, levels in itertools.product((1, 3, 16, 17), (2, 3, 10)):
            generator = torch.Generator().manual_seed(keys + k)
            scores = torch.randint(levels, (keys,), generator=generator).float()
            kept = self.kept(scores, k)
            border = scores.sort(descending=True).values[k - 1]
            assert kept.sum() == k
            assert kept[scores > border].all()
            assert not kept[scores < border].any()

    @pytest.mark.parametrize("mode", MODES)
    def test_share_of_equal_scores(self, mode: str) -> None:
        query, key = torch.zeros(1, 1, 1, 4), torch.randn(1, 1, 200, 4)
        value = torch.eye(200)[None, None]
        weights = topk_attention(query, key, value, 7, mode=mode)
        share = 1 / 7 if mode == "renormalised" else 1 / 200
        torch.testing.assert_close(weights.max().item(), share)

    @pytest.mark.parametrize("keys", [20, 200])
    def test_zeros_of_both_signs(self, keys: int) -> None:
        scores = torch.zeros(keys)
        scores[::2] = -0.0
        scores[5] = -1.0
        kept = self.kept(scores, 4)
        assert kept.sum() == 4
        assert not kept[5]

    @pytest.mark.parametrize("keys", [20, 200])
    def test_forbidden_keys_are_never_preferred_to_equal_ones(self, keys: int) -> None:
        allowed = torch.arange(keys) % 3 == 2
        kept = self.kept(torch.zeros(keys), 4, mask=allowed)
        assert kept.sum() == 4
        assert not kept[~allowed].any()

    @pytest.mark.parametrize("mode", MODES)
    def test_gradients_are_those_of_the_kept_keys(self, mode: str) -> None:
        query, key = torch.zeros(1, 1, 1, 4), torch.randn(1, 1, 200, 4)
        value = torch.eye(200)[None, None].clone().requires_grad_()
        weights = topk_attention(query, key, value, 7, mode=mode)
        weights.sum().backward()
        assert value.grad is not None
        torch.testing.assert_close(value.grad[0, 0, :, 0], weights[0, 0, 0].detach())


class TestStrangeScores:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("keys", [20, 200])
    @pytest.mark.parametrize("strange", [float("nan"), float("inf")])
    def test_in_a_bias_makes_its_rows_nan(self, strange: float, keys: int, mode: str) -> None:
        arguments = drawn(4, keys=keys)
        mask = torch.zeros(9, keys)
        expected = topk_attention(*arguments, 4, mask=mask, mode=mode)
        mask[2, keys // 2] = mask[7, keys - 1] = strange
        found = topk_attention(*arguments, 4, mask=mask, mode=mode)
        assert found[:, :, [2, 7]].isnan().all()
        others = [0, 1, 3, 4, 5, 6, 8]
        assert torch.equal(found[:, :, others], expected[:, :, others])

    @pytest.mark.parametrize("mode", MODES)
    def test_nan_query(self, mode: str) -> None:
        query, key, value = drawn(4, keys=200)
        expected = topk_attention(query, key, value, 4, mode=mode)
        query[1, 2, 5, 0] = float("nan")
        found = topk_attention(query, key, value, 4, mode=mode)
        assert found[1, 2, 5].isnan().all()
        found[1, 2, 5] = expected[1, 2, 5]
        assert torch.equal(found, expected)

    @pytest.mark.parametrize("k", [3, 12])
    def test_nan_in_a_later_key_is_not_seen(self, k: int) -> None:
        query, key, value = drawn(k, queries=20, causal=True)
        expected = topk_attention(query, key, value, k, causal=True)
        key[0, 0, 10] = float("nan")
        found = topk_attention(query, key, value, k, causal=True)
        assert found[0, 0, 10:].isnan().all()
        assert torch.equal(found[0, 0, :10], expected[0, 0, :10])
        assert torch.equal(found[1], expected[1])

    def test_nan_in_a_forbidden_key_is_not_seen(self) -> None:
        allowed = random_mask((20,), "boolean")
        allowed[3] = False
        query, key, value = drawn(4, mask=allowed)
        expected = topk_attention(query, key, value, 4, mask=allowed)
        key[:, :, 3] = float("nan")
        found = topk_attention(query, key, value, 4, mask=allowed)
        assert torch.equal(found, expected)

    @pytest.mark.parametrize("mode", MODES)
    def test_gradients_of_other_queries_stay(self, mode: str) -> None:
        arguments = drawn(4, keys=200)
        grad = torch.ones(2, 3, 9, 8)

        def query_grad(mask: Tensor) -> Tensor:
            tensors = leaves(*arguments)
            output = topk_attention(*tensors, 4, mask=mask, mode=mode)
            return torch.autograd.grad(output, tensors[0], grad)[0]

        mask = torch.zeros(9, 200)
        expected = query_grad(mask)
        mask[2, 50] = float("nan")
        found = query_grad(mask)
        assert found[:, :, 2].isnan().all()
        found[:, :, 2] = expected[:, :, 2]
        assert torch.equal(found, expected)

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("keys", [20, 200])
    @pytest.mark.parametrize("size", [1e30, 1e19, 1e-19, 1e-30])
    def test_sizes(self, size: float, keys: int, mode: str) -> None:
        query, key, value = drawn(4, keys=keys, width=1)
        for factor in (size, -size):
            found = topk_attention(query * factor, key, value, 4, mode=mode, scale=1.0)
            assert_near(found, dense(query * factor, key, value, 4, mode, scale=1.0))

    @pytest.mark.parametrize("mode", MODES)
    def test_huge_spread(self, mode: str) -> None:
        exponents = torch.linspace(-37, 38, 200)
        scores = torch.cat([10.0**exponents, -(10.0**exponents)])[torch.randperm(400)]
        arguments = torch.ones(1, 1, 1, 1), scores[None, None, :, None], torch.eye(400)[None, None]
        found = topk_attention(*arguments, 5, mode=mode, scale=1.0)
        assert_near(found, dense(*arguments, 5, mode, scale=1.0))

    @pytest.mark.parametrize("keys", [20, 200])
    def test_denormals_are_ordered(self, keys: int) -> None:
        order = torch.randperm(keys, generator=torch.Generator().manual_seed(0))
        bias = (order + 1).float() * 1e-44
        query, key = torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, keys, 1)
        found = topk_attention(query, key, torch.eye(keys)[None, None], 5, mask=bias)
        torch.testing.assert_close(found[0, 0, 0], (order >= keys - 5) / 5)

    @pytest.mark.parametrize("mode", MODES)
    def test_scores_far_below_zero(self, mode: str) -> None:
        arguments = drawn(4, keys=200)
        mask = torch.full((200,), -1000.0)
        found = topk_attention(*arguments, 4, mask=mask, mode=mode)
        assert_near(found, topk_attention(*arguments, 4, mode=mode), 1e-3)

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("offset", [-(2.0**20), 2.0**16])
    def test_offset_of_all_scores_changes_nothing(self, offset: float, mode: str) -> None:
        query, key, value = distinct(torch.float32)
        mask = torch.full((200,), offset)  # every sum of a score and the offset is exact
        found = topk_attention(query, key, value, 6, mode=mode, scale=1 / 8, mask=mask)
        assert_near(found, dense(query, key, value, 6, mode, scale=1 / 8))

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("mask_needs_grad", [False, True])
    def test_offset_changes_no_gradient(self, mask_needs_grad: bool, mode: str) -> None:
        mask = torch.full((200,), -(2.0**20), requires_grad=mask_needs_grad)
        assert_gradients(
            lambda q, x, v: topk_attention(q, x, v, 6, mode=mode, scale=1 / 8, mask=mask),
            lambda q, x, v: dense(q, x, v, 6, mode, scale=1 / 8),
            *distinct(torch.float32),
        )


class TestSizes:
    @pytest.mark.parametrize("empty", ["batch", "heads", "queries", "value_width"])
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("causal", [False, True])
    def test_empty(self, empty: str, causal: bool, mode: str) -> None:
        sizes = {"batch": 2, "heads": 3, "queries": 5, "value_width": 8} | {empty: 0}
        generator = torch.Generator().manual_seed(0)
        shape = sizes["batch"], sizes["heads"]
        arguments = [
            torch.randn(*shape, *size, generator=generator, requires_grad=True)
            for size in ((sizes["queries"], 8), (20, 8), (20, sizes["value_width"]))
        ]
        found = topk_attention(*arguments, 4, causal=causal, mode=mode)
        assert found.shape == (*shape, sizes["queries"], sizes["value_width"])
        grads = torch.autograd.grad(found.sum(), arguments)
        assert not any(grad.any() for grad in grads)

    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize("causal", [False, True])
    def test_no_keys_give_zeros(self, causal: bool, masked: bool) -> None:
        arguments = torch.ones(2, 3, 5, 8), torch.ones(2, 3, 0, 8), torch.ones(2, 3, 0, 8)
        mask = torch.ones(5, 0, dtype=torch.bool) if masked else None
        found = topk_attention(*arguments, 4, causal=causal, mask=mask)
        torch.testing.assert_close(found, torch.zeros(2, 3, 5, 8))

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("causal", [False, True])
    @pytest.mark.parametrize("masked", [False, True])
    def test_one_key(self, masked: bool, causal: bool, mode: str) -> None:
        query, key, value = drawn(1, keys=1)
        mask = torch.ones(9, 1, dtype=torch.bool) if masked else None
        found = topk_attention(query, key, value, 1, causal=causal, mask=mask, mode=mode)
        torch.testing.assert_close(found, value.expand(-1, -1, 9, -1))

    def test_k_of_one_gives_the_best_value(self) -> None:
        query, key, value = drawn(1, keys=300)
        best = all_scores(query, key).argmax(-1, keepdim=True).expand(-1, -1, -1, 8)
        torch.testing.assert_close(topk_attention(query, key, value, 1), value.gather(2, best))


TOLERANCES = {torch.bfloat16: 2e-2, torch.float16: 3e-3, torch.float64: 1e-12}


class TestTypes:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
    def test_output(self, dtype: torch.dtype, mode: str) -> None:
        arguments = distinct(dtype)
        found = topk_attention(*arguments, 6, mode=mode, scale=1 / 16)
        assert found.dtype == dtype
        assert_near(found, dense(*arguments, 6, mode, scale=1 / 16), TOLERANCES[dtype])

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
    def test_gradients(self, dtype: torch.dtype, mode: str) -> None:
        arguments = distinct(dtype)
        found = gradients(
            lambda *a: topk_attention(*a, 6, mode=mode, scale=1 / 16), leaves(*arguments)
        )
        expected = gradients(
            lambda *a: dense(*a, 6, mode, scale=1 / 16).to(dtype), leaves(*arguments)
        )
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == dtype
            assert (one - other).double().norm() <= TOLERANCES[dtype] * other.double().norm()

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("mode", MODES)
    def test_gradient_uses_the_weights_of_the_output(self, dtype: torch.dtype, mode: str) -> None:
        query, key, _ = (t.to(dtype) for t in drawn(4, queries=1, keys=30, width=24))
        value = torch.eye(30, dtype=dtype).repeat(2, 3, 1, 1).requires_grad_()
        output = topk_attention(query * 20, key, value, 4, mode=mode)
        output.sum().backward()
        assert value.grad is not None
        assert_near(value.grad[..., 0], output.detach()[:, :, 0], 1e-2)

    @pytest.mark.parametrize("mask_type", [torch.float64, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("k", [4, 20])
    def test_additive_mask_of_another_type(self, mask_type: torch.dtype, k: int) -> None:
        mask = random_mask((2, 1, 9, 20), "additive").to(mask_type).requires_grad_(k == 4)
        arguments = leaves(*drawn(4, mask=mask))
        found = topk_attention(*arguments, k, mask=mask)
        assert found.dtype == torch.float32
        assert_near(found, dense(*arguments, k, mask=mask))
        if k == 4:
            (grad,) = torch.autograd.grad(found.sum(), mask)
            assert grad.dtype == mask_type

    @pytest.mark.parametrize("kind", ["boolean", "additive"])
    @pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
    def test_float32_mask(self, dtype: torch.dtype, kind: str) -> None:
        mask = random_mask((2, 1, 8, 200), kind)
        mask = mask if kind == "boolean" else (mask * 16).round() / 16 * 64  # spreads the ties
        arguments = distinct(dtype)
        found = topk_attention(*arguments, 200, mask=mask, scale=1 / 16)
        assert found.dtype == dtype
        assert_near(found, dense(*arguments, 200, mask=mask, scale=1 / 16), TOLERANCES[dtype])

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("inside", [False, True])
    def test_autocast(self, inside: bool, mode: str) -> None:
        arguments = distinct(torch.float32)
        low = leaves(*arguments, dtype=torch.bfloat16)
        expected = topk_attention(*low, 6, mode=mode, scale=1 / 16)
        expected.float().sum().backward()
        tensors = leaves(*arguments)
        with torch.autocast("cpu", torch.bfloat16):
            found = topk_attention(*tensors, 6, mode=mode, scale=1 / 16)
            if inside:
                found.float().sum().backward()
        if not inside:
            found.float().sum().backward()
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, expected)
        for one, other in zip(tensors, low, strict=True):
            assert one.grad is not None
            assert other.grad is not None
            assert torch.equal(one.grad, other.grad.float())

    def test_autocast_with_a_mask_that_needs_a_gradient(self) -> None:
        mask = torch.zeros(8, 200, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            output = topk_attention(*distinct(torch.float32), 6, mask=mask, scale=1 / 16)
        (grad,) = torch.autograd.grad(output.float().sum(), mask)
        assert grad.dtype == torch.float32
        assert grad.any()


class Attention(nn.Module):
    def __init__(self, k: int, **options: Any) -> None:
        super().__init__()
        self.k, self.options = k, options

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        return topk_attention(query, key, value, self.k, mask=mask, **self.options) * 2


# torch's own: its compiler and its forward derivatives warn of themselves.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script", "ignore:The .grad attribute of")
class TestTransforms:
    def test_compile_breaks_the_graph(self) -> None:
        module = Attention(4, causal=True)
        arguments = drawn(4)
        compiled = torch.compile(module, backend="eager")
        assert torch.equal(compiled(*arguments), module(*arguments))
        found, expected = (gradients(one, leaves(*arguments)) for one in (compiled, module))
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))

    def test_compile_refuses_a_full_graph(self) -> None:
        torch.compiler.reset()
        compiled = torch.compile(Attention(4), backend="eager", fullgraph=True)
        with pytest.raises(RuntimeError, match="top-k attention runs in tiles"):
            compiled(*drawn(4))

    @pytest.mark.parametrize(
        "transform",
        [
            lambda f, tensors: torch.func.grad(lambda *a: f(*a).sum())(*tensors),
            lambda f, tensors: torch.func.jacrev(f)(*tensors),
            lambda f, tensors: torch.func.jvp(f, tensors, tensors),
            lambda f, tensors: torch.func.vmap(f)(*(t[None] for t in tensors)),
        ],
        ids=["grad", "jacrev", "jvp", "vmap"],
    )
    def test_functions_transforms_are_refused(self, transform: Callable[..., Any]) -> None:
        with pytest.raises(RuntimeError, match="functorch transforms"):
            transform(Attention(4), drawn(4))

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("loss", [Tensor.sum, lambda output: output.square().sum()])
    def test_second_derivative_is_refused(
        self, loss: Callable[[Tensor], Tensor], mode: str
    ) -> None:
        arguments = leaves(*drawn(4))

        def gradient_penalty() -> None:
            output = loss(topk_attention(*arguments, 4, mode=mode))
            (grad,) = torch.autograd.grad(output, arguments[0], create_graph=True)
            (grad.square().sum() + arguments[0].sum()).backward()

        with pytest.raises(RuntimeError, match="differentiated twice"):
            gradient_penalty()

    @pytest.mark.usefixtures("torch_carrier")
    @pytest.mark.parametrize("options", [{}, {"causal": True, "mode": "hard"}], ids=str)
    def test_export(self, options: dict[str, Any]) -> None:
        module, example = Attention(3, **options), drawn(3, keys=9)
        program = torch.export.export(module, example, strict=False)
        arguments = drawn(3, keys=9, causal=options.get("causal", False), value_width=8)
        torch.testing.assert_close(program.module()(*arguments), module(*arguments))

    @pytest.mark.usefixtures("torch_carrier")
    @pytest.mark.parametrize("options", [{"causal": True, "mode": "hard"}], ids=str)
    def test_export_with_an_open_length(self, options: dict[str, Any]) -> None:
        module, length = Attention(3, **options), torch.export.Dim("length", min=5, max=512)
        mask = random_mask((2, 1, 9, 9), "boolean")
        shapes = ({2: length}, {2: length}, {2: length}, {2: length, 3: length})
        program = torch.export.export(
            module, (*drawn(3, keys=9), mask), strict=False, dynamic_shapes=shapes
        )
        mask = random_mask((2, 1, 31, 31), "boolean")
        causal = options.get("causal", False)
        arguments = (*drawn(3, queries=31, keys=31, mask=mask, causal=causal), mask)
        torch.testing.assert_close(program.module()(*arguments), module(*arguments))

    @pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
    def test_trace(self) -> None:
        module, arguments = Attention(4), drawn(4)
        traced = torch.jit.trace(module, arguments)
        torch.testing.assert_close(traced(*arguments), module(*arguments))

    def test_checkpointing_drops_the_same(self) -> None:
        arguments = drawn(4)
        module = Attention(4, dropout=0.5)
        grads = []
        for function in (
            module,
            lambda *a: torch.utils.checkpoint.checkpoint(module, *a, use_reentrant=False),
        ):
            torch.manual_seed(1)
            grads.append(gradients(function, leaves(*arguments)))
        assert all(torch.equal(one, other) for one, other in zip(*grads, strict=True))


class TestDefaults:
    """PyTorch's defaults, which transformers sets too, are not the kernels' business."""

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_dtype(self, dtype: torch.dtype) -> None:
        arguments = drawn(4)
        expected = topk_attention(*arguments, 4)
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            found = topk_attention(*leaves(*arguments), 4, dropout=0.0)
            found.sum().backward()
        finally:
            torch.set_default_dtype(before)
        assert torch.equal(found, expected)

    def test_device(self) -> None:
        arguments = drawn(4)
        with torch.device("meta"):
            found = topk_attention(*leaves(*arguments), 4, dropout=0.5)
            found.sum().backward()
        assert found.device.type == "cpu"


class TestBadArguments:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"k": 0}, "k must be at least 1, not 0"),
            ({"query_chunk": 0}, "query_chunk must be at least 1, not 0"),
            ({"mode": "soft"}, "mode must be 'renormalised' or 'hard', not 'soft'"),
            ({"dropout": 1.0}, "dropout must be at least 0 and below 1, not 1.0"),
            ({"dropout": -0.1}, "dropout must be at least 0 and below 1"),
            ({"dropout": float("nan")}, "dropout must be at least 0 and below 1"),
            ({"mask": torch.ones(5, 7, dtype=torch.int64)}, "mask must be boolean or floating"),
            ({"mask": torch.ones(5, 7, dtype=torch.complex64)}, "mask must be boolean or floating"),
            ({"mask": torch.ones(3, 7)}, r"mask \(3, 7\) does not broadcast"),
            ({"mask": torch.ones(5, 1, 5, 7)}, r"mask \(5, 1, 5, 7\) does not broadcast"),
            ({"mask": torch.ones(2, 3, 5, 8)}, r"mask \(2, 3, 5, 8\) does not broadcast"),
            ({"mask": torch.ones(0, 7)}, r"mask \(0, 7\) does not broadcast"),
            ({"mask": torch.ones(1, 2, 3, 5, 7)}, "does not broadcast"),
        ],
    )
    @pytest.mark.parametrize("k", [2, 100])
    def test_options(self, options: dict[str, Any], message: str, k: int) -> None:
        with pytest.raises(ValueError, match=message):
            topk_attention(*inputs(), **{"k": k, **options})

    @pytest.mark.parametrize(
        "shapes",
        [
            ((3, 5, 4), (3, 7, 4), (3, 7, 4)),
            ((2, 3, 5, 4), (2, 1, 7, 4), (2, 1, 7, 4)),
            ((2, 3, 5, 4), (1, 3, 7, 4), (1, 3, 7, 4)),
            ((2, 3, 5, 4), (2, 3, 7, 5), (2, 3, 7, 4)),
            ((2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 8, 4)),
        ],
        ids=str,
    )
    def test_shapes(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        with pytest.raises(ValueError, match="query, key and value must be"):
            topk_attention(*(torch.zeros(shape) for shape in shapes), 2)

    @pytest.mark.parametrize("which", range(3))
    def test_types(self, which: int) -> None:
        tensors = list(inputs())
        tensors[which] = tensors[which].bfloat16()
        with pytest.raises(ValueError, match="one dtype"):
            topk_attention(*tensors, 2)


class Largest(TorchDispatchMode):
    """Remembers the size in bytes of the largest memory an operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.size = max(self.size, tensor.untyped_storage().nbytes())
        return result


class TestMemory:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("options", [{}, {"causal": True, "dropout": 0.1}], ids=str)
    def test_nothing_is_as_large_as_all_scores(
        self, options: dict[str, Any], mode: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        budget = 1 << 18
        for module, name in ((native_topk, "NATIVE_BUDGET"), (torch_topk, "TORCH_BUDGET")):
            assert getattr(module, name) <= 1 << 23
            monkeypatch.setattr(module, name, budget)
        arguments = leaves(*(torch.randn(1, 1, 2048, 8) for _ in range(3)))
        mask = torch.ones(1, 1, 1, 2048, dtype=torch.bool)
        with Largest() as largest:
            output = topk_attention(*arguments, 8, mask=mask, mode=mode, **options)
            output.sum().backward()
        assert largest.size <= 4 * budget  # of 16 budgets of scores

    def test_gradient_of_a_broadcast_mask(self, monkeypatch: pytest.MonkeyPatch) -> None:
        budget = 1 << 16
        for module, name in ((native_topk, "NATIVE_BUDGET"), (torch_topk, "TORCH_BUDGET")):
            monkeypatch.setattr(module, name, budget)
        arguments = leaves(*(torch.randn(2, 2, 512, 8) for _ in range(3)))
        mask = torch.zeros(2, 1, 1, 512, requires_grad=True)
        with Largest() as largest:
            topk_attention(*arguments, 8, mask=mask).sum().backward()
        assert largest.size <= 4 * budget


class TestThreads:
    def test_python_threads_at_once(self) -> None:
        problems = [drawn(4, queries=30, keys=100 + 10 * number) for number in range(8)]

        def solved(arguments: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
            return gradients(lambda *a: topk_attention(*a, 4, causal=True), leaves(*arguments))

        expected = [solved(arguments) for arguments in problems]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(solved, problems * 3))
        for one, other in zip(found, expected * 3, strict=True):
            for a, b in zip(one, other, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("mode", MODES)
    def test_number_of_torch_threads(self, mode: str, request: pytest.FixtureRequest) -> None:
        request.addfinalizer(lambda: torch.set_num_threads(1))
        arguments = drawn(4, queries=60, keys=150)
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            tensors = leaves(*arguments)
            output = topk_attention(*tensors, 4, mode=mode)
            results.append([output, *torch.autograd.grad(output.square().sum(), tensors)])
        assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_no_warning_escapes() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        arguments = leaves(*drawn(4))
        topk_attention(*arguments, 4, mask=random_mask((9, 20), "boolean")).sum().backward()


def test_float64_is_never_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_topk, "_library", pytest.fail)
    arguments = [tensor.double() for tensor in drawn(4)]
    assert_near(topk_attention(*arguments, 4), dense(*arguments, 4), 1e-12)


def test_carrier_is_the_one_asked_for(carrier: str) -> None:
    assert native_topk.runs_natively(torch.zeros(1)) == (carrier == "native")

"""The top-k kernel against the reference row by row."""

from __future__ import annotations

import pytest
import torch
from reference import topk_rows
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from axsearch.kernels.topk_attention import topk_attention

MODES = ("renormalised", "hard")
BATCH, HEADS, QUERIES, KEYS, WIDTH = 2, 3, 5, 7, 4
MINUS_INFINITY = float("-inf")


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
@pytest.mark.parametrize("masked", [False, True])
def test_gradients(mode: str, masked: bool) -> None:
    arguments = tuple(tensor.requires_grad_() for tensor in inputs(dtype=torch.float64))
    allowed = allowed_keys() if masked else None
    assert torch.autograd.gradcheck(
        lambda q, k, v: topk_attention(q, k, v, 3, mask=allowed, mode=mode), arguments
    )


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

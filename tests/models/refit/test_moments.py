"""Moments against one sequence at a time, without padding."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from axsearch.approximations.site import SiteId
from axsearch.models.architectures import architectures
from axsearch.models.base_model import Base
from axsearch.models.refit import moments, moments_cache
from axsearch.models.refit.compensation import Moments
from axsearch.models.refit.moments import SENSITIVE, felt, measure_moments
from axsearch.models.refit.moments_cache import cached_moments
from axsearch.system import tensor_files
from axsearch.tasks.kinds import task_kinds
from axsearch.tasks.split import Split
from axsearch.testing.models import PICTURES, random_model, tiny_model
from tests.common_fixtures import fill

Floats = NDArray[np.float64]
COUNT = 40
KIND = task_kinds()["text-classification"]
TEXT = [
    name
    for name, family in architectures().items()
    if name == family.model_types[0] and name not in PICTURES
]


def split() -> Split:
    """Sequences of 3 to 29 random tokens, in no order of length."""
    draw = np.random.default_rng(1)
    rows = [draw.integers(2, 60, draw.integers(3, 30)).tolist() for _ in range(COUNT)]
    inputs = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in rows]
    return Split("calibration", inputs, draw.integers(0, 2, COUNT), pad_id=0)


SPLIT = split()


DRAWN = np.random.default_rng(0).permutation(COUNT)  # the order in which examples are taken


def tokens(model: PreTrainedModel, rows: NDArray[np.int64]) -> dict[SiteId, tuple[Floats, Floats]]:
    """(tokens, n) what goes into each block's output projection, and each token's weight."""
    seen: list[tuple[SiteId, Tensor, Tensor]] = []

    def look(site: SiteId) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen.append((site, inputs[0], output))

        return hook

    handles = [
        gate.register_forward_hook(look(site)) for site, gate in Base(model).gates(model).items()
    ]
    found: dict[SiteId, tuple[list[Floats], list[Floats]]] = {
        site: ([], []) for site, there in Base(model).sites.items() if there.units is not None
    }
    for row, label in ((SPLIT.inputs[i], SPLIT.targets[i]) for i in rows):
        seen.clear()
        logits = model(**{key: torch.tensor([value]) for key, value in row.items()}).logits
        loss = cross_entropy(logits, torch.tensor([label]))
        slopes = torch.autograd.grad(loss, [output for _, _, output in seen])
        for (site, x, _), slope in zip(seen, slopes, strict=True):
            felt = slope[0].double().square().sum(-1).numpy()
            even = np.full(len(felt), 1 / len(felt))
            share = felt / felt.sum() if felt.sum() > 0 else even
            found[site][0].append(x[0].detach().double().numpy())
            found[site][1].append(SENSITIVE * share + (1 - SENSITIVE) * even)
    for handle in handles:
        handle.remove()
    return {site: (np.concatenate(x), np.concatenate(w)) for site, (x, w) in found.items()}


def assert_moments_of(model: PreTrainedModel, rows: NDArray[np.int64]) -> None:
    found = measure_moments(Base(model), SPLIT, KIND)
    expected = tokens(model, rows)
    assert set(found.mean) == set(found.covariance) == set(expected)
    for site, (x, weights) in expected.items():
        mean = np.average(x, axis=0, weights=weights)
        covariance = np.cov(x.T, bias=True, aweights=weights)
        np.testing.assert_allclose(found.mean[site], mean, atol=1e-4)
        np.testing.assert_allclose(found.covariance[site], covariance, atol=3e-4)
        assert np.abs(mean - x.mean(0)).max() > 1e-3  # or the weights would not show


@pytest.mark.parametrize("model_type", TEXT)
def test_equal_those_of_one_sequence_at_a_time(model_type: str) -> None:
    assert_moments_of(tiny_model(model_type), np.arange(COUNT))


def test_the_answer_rests_on_one_token_in_the_last_ffn() -> None:
    # BERT's classifier reads the first token; a tenth of the weight is that of all alike.
    x, weights = tokens(tiny_model("bert"), np.arange(COUNT))[SiteId(1, "ffn")]
    first = np.cumsum([0, *SPLIT.lengths[:-1]])
    even = 1 / SPLIT.lengths
    np.testing.assert_allclose(weights[first], SENSITIVE + (1 - SENSITIVE) * even, atol=1e-6)
    found = measure_moments(Base(tiny_model("bert")), SPLIT, KIND).mean[SiteId(1, "ffn")]
    expected = SENSITIVE * x[first].mean(0) + (1 - SENSITIVE) * np.average(
        x, axis=0, weights=np.repeat(even, SPLIT.lengths)
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_loss_that_feels_nothing_weighs_all_tokens_alike() -> None:
    base = random_model("bert")
    with torch.no_grad():
        base.classifier.weight.zero_()
    found = measure_moments(Base(base), SPLIT, KIND)
    for site, (x, _) in tokens(base, np.arange(COUNT)).items():
        even = np.repeat(1 / SPLIT.lengths, SPLIT.lengths)
        np.testing.assert_allclose(found.mean[site], np.average(x, 0, even), atol=1e-4)


def test_only_as_many_examples_as_needed_from_all_over_the_split(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needed = int(SPLIT.lengths[DRAWN[:7]].sum())
    monkeypatch.setattr(moments, "FEWEST", 1)
    monkeypatch.setattr(moments, "TOKENS", needed + 1)
    assert_moments_of(tiny_model("bert"), DRAWN[:7])
    assert max(DRAWN[:7]) > COUNT // 2  # data may be in the order of their labels
    monkeypatch.setattr(moments, "TOKENS", 1)  # one at least
    assert_moments_of(tiny_model("bert"), DRAWN[:1])
    monkeypatch.setattr(moments, "FEWEST", 9)  # of texts so long that few would be enough
    assert_moments_of(tiny_model("bert"), DRAWN[:9])


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    measure_moments(
        Base(tiny_model("bert")),
        SPLIT,
        KIND,
        on_batch=lambda done, total: told.append((done, total)),
    )
    assert told == [(32, 40), (40, 40)]


@pytest.mark.parametrize("fails", [False, True])
def test_base_is_as_it_was(fails: bool) -> None:
    model = random_model("bert")
    frozen = {"classifier.bias", "bert.embeddings.word_embeddings.weight"}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if fails:
        unknown = [{"input_ids": [999], "attention_mask": [1]}]
        with pytest.raises(IndexError):
            measure_moments(Base(model), Split("calibration", unknown, np.zeros(1, int), 0), KIND)
    else:
        measure_moments(Base(model), SPLIT, KIND)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(model.state_dict()[name], t) for name, t in before.items())
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == frozen
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_base_without_trainable_parameters_has_the_same_moments() -> None:
    free, frozen = tiny_model("bert"), random_model("bert").requires_grad_(False)
    wanted, found = (measure_moments(Base(model), SPLIT, KIND) for model in (free, frozen))
    assert len(wanted.covariance) == 4
    for site in wanted.covariance:
        torch.testing.assert_close(found.covariance[site], wanted.covariance[site])


class TestKept:
    """Moments are measured once a machine."""

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        return tmp_path / "axsearch" / "moments"

    @staticmethod
    def some(seed: int) -> Moments:
        draw = torch.Generator().manual_seed(seed)
        sites = [SiteId(0, "attention"), SiteId(11, "ffn")]
        return Moments(
            {site: torch.randn(8, generator=draw, dtype=torch.float64) for site in sites},
            {site: torch.randn(8, 8, generator=draw) for site in sites},
        )

    def equal(self, first: Moments, second: Moments) -> bool:
        return all(
            ours.keys() == theirs.keys()
            and all(torch.equal(ours[site], theirs[site]) for site in ours)
            for ours, theirs in ((first.mean, second.mean), (first.covariance, second.covariance))
        )

    def test_the_second_time_they_are_read(self) -> None:
        first = cached_moments(("model", "data", "cpu"), lambda: self.some(1))
        again = cached_moments(("model", "data", "cpu"), never)
        assert self.equal(first, self.some(1))
        assert self.equal(again, first)
        assert {mean.dtype for mean in again.mean.values()} == {torch.float64}
        other = cached_moments(("model", "other data", "cpu"), lambda: self.some(2))
        assert self.equal(other, self.some(2))

    @pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
    def test_a_file_that_was_cut_off_is_made_again(self, folder: Path, kept: float) -> None:
        cached_moments(("model",), lambda: self.some(1))
        (file,) = folder.glob("*.safetensors")
        data = file.read_bytes()
        file.write_bytes(data[: int(len(data) * kept)])
        assert self.equal(cached_moments(("model",), lambda: self.some(1)), self.some(1))
        assert file.read_bytes() == data

    def test_those_used_last_are_kept(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("a", "b", "c"):
            cached_moments((name,), lambda: self.some(1))
        size = max(file.stat().st_size for file in folder.glob("*.safetensors"))
        monkeypatch.setattr(moments_cache, "MOST_BYTES", 2 * size)
        for age, file in enumerate(folder.glob("*.safetensors")):
            os.utime(file, (age, age))
        cached_moments(("a",), never)
        cached_moments(("d",), lambda: self.some(1))
        assert len([*folder.glob("*.safetensors")]) == 2
        cached_moments(("a",), never)
        cached_moments(("d",), never)

    def test_a_full_disk_or_no_folder_is_no_obstacle(
        self, folder: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(small_disk))
        cached_moments(("first",), lambda: self.some(1))
        fill(small_disk, 0)
        assert self.equal(cached_moments(("model",), lambda: self.some(1)), self.some(1))
        assert self.equal(cached_moments(("first",), never), self.some(1))
        monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
        assert self.equal(cached_moments(("model",), lambda: self.some(1)), self.some(1))

    def test_processes_that_need_them_at_once_measure_them_once(self) -> None:
        measured = []

        def slowly() -> Moments:
            measured.append(1)
            time.sleep(0.2)
            return self.some(1)

        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: cached_moments(("model",), slowly), range(4)))
        assert len(measured) == 1
        assert all(self.equal(one, self.some(1)) for one in found)

    def test_one_that_does_not_get_on_is_not_waited_for(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tensor_files, "PATIENCE", 0.1)
        cached_moments(("other",), lambda: self.some(2))
        with FileLock(folder / "lock"):
            found = cached_moments(("model",), lambda: self.some(1))
        assert self.equal(found, self.some(1))


def never() -> Moments:
    raise AssertionError("moments were measured again")


def test_sensitivity_is_the_second_moment_of_the_gradients_of_each_example() -> None:
    model = tiny_model("bert")
    expected: dict[SiteId, Floats] = {}
    for row in range(COUNT):
        found = felt(Base(model), SPLIT, KIND, np.array([row]), "cpu")
        for _, _, sites in found:
            for site, _, slope in sites:
                g = slope[0].double().numpy()
                expected[site] = expected.get(site, 0.0) + g.T @ g
    measured = measure_moments(Base(model), SPLIT, KIND).sensitivity
    assert set(measured) == set(expected)
    for site, own in expected.items():
        np.testing.assert_allclose(measured[site], own, rtol=1e-3, atol=1e-4 * np.abs(own).max())

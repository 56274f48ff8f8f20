"""First and second moments of what the heads and neurons of the base give out."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from axsearch.architectures import architecture_of
from axsearch.cache import private_folder
from axsearch.compensation import Moments
from axsearch.recipe import SiteId
from axsearch.split import Split
from axsearch.tasks import TaskKind

BATCH_SIZE = 32
TOKENS = 32_768
"""Enough for the covariance of a few thousand neurons; more changes the fit little."""

PATIENCE = 600.0
"""Seconds to wait for another process that measures the same."""

MOST_BYTES = 2 * 2**30
"""Of files kept, those used last: a model of 12 layers and 3,072 neurons has half a gigabyte."""

SENSITIVE = 0.9
"""The part of an example's weight that its tokens share by how much the loss depends on them."""


def measure_moments(
    model: PreTrainedModel,
    split: Split,
    kind: TaskKind[Any, Any],
    *,
    device: str = "cpu",
    on_batch: Callable[[int, int], None] | None = None,
) -> Moments:
    """Weighted mean and covariance of the inputs of every attention's and FFN's output projection.

    They are taken in the base, over the tokens of examples of the split, drawn until they have
    32,768 tokens. Every example weighs the same. A tenth of its weight is spread evenly over its
    tokens (padding has none), the rest in proportion to the squared gradient of the loss by the
    block's output at the token: in the last layers of a classifier the answer rests on one token,
    and a fit to all of them alike serves the others. It is the empirical Fisher information again
    (Kwon et al. 2022, arXiv 2204.09656), here of tokens, not of gates.

    ``on_batch`` is told how many examples were done, and of how many. The result is on the CPU.
    """
    family = architecture_of(model.config.model_type)
    modules: dict[SiteId, nn.Module] = {}
    for layer, (heads, neurons) in enumerate(family.gates(model)):
        modules[SiteId(layer, "attention")] = heads
        modules[SiteId(layer, "ffn")] = neurons
    sums: dict[SiteId, Tensor] = {}
    squares: dict[SiteId, Tensor] = {}
    totals = dict.fromkeys(modules, 0.0)
    # A site whose layers share their parameters is seen once for each of them.
    seen: list[tuple[SiteId, Tensor, Tensor]] = []

    def see(site: SiteId, _: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        seen.append((site, inputs[0].detach(), output))

    hooks = [module.register_forward_hook(partial(see, site)) for site, module in modules.items()]
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    # Data may be in the order of their labels, so examples are drawn, always the same ones.
    drawn = np.random.default_rng(0).permutation(len(split))
    within = np.cumsum(split.lengths[drawn]) <= TOKENS
    drawn = drawn[: max(1, int(within.sum()))]
    examples = len(drawn)
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)  # or the first layer's outputs have no gradient
        by_length = drawn[np.argsort(split.lengths[drawn], kind="stable")]
        for start in range(0, examples, BATCH_SIZE):
            rows = by_length[start : start + BATCH_SIZE]
            batch = {key: tensor.to(device) for key, tensor in split.collate(rows).items()}
            seen.clear()
            loss = kind.loss(model(**batch), split.collate_targets(rows).to(device))
            slopes = torch.autograd.grad(loss, [output for _, _, output in seen])
            for (site, inputs, _), slope in zip(seen, slopes, strict=True):
                weights = _weights(slope, batch.get("attention_mask"))
                counts = weights > 0  # padding would only cost time
                values, flat = inputs[counts], weights[counts][:, None]
                if site not in sums:
                    width = values.shape[1]
                    sums[site] = torch.zeros(width, dtype=torch.float64)
                    squares[site] = torch.zeros(width, width)  # a float64 of 3,072 neurons is 75 MB
                sums[site] += (flat * values).sum(0).cpu().double()
                squares[site] += (values.T @ (flat * values)).cpu()
                totals[site] += float(weights.sum())
            if on_batch is not None:
                on_batch(start + len(rows), examples)
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in frozen:
            parameter.requires_grad_(False)
    mean = {site: total / totals[site] for site, total in sums.items()}
    covariance = {
        site: square / totals[site] - torch.outer(mean[site], mean[site]).float()
        for site, square in squares.items()
    }
    return Moments(mean, covariance)


def kept_moments(key: Sequence[str], measure: Callable[[], Moments]) -> Moments:
    """What ``measure`` gives, once a machine: later processes read it from the user's cache.

    So several workers need not all measure it, and compensate with the very same numbers, whatever
    number of threads they have.

    Args:
        key: what moments depend on: fingerprints of model and calibration split, the device.
        measure: see :func:`measure_moments`.
    """
    folder = private_folder("moments")
    if folder is None:
        return measure()
    source = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    made_with = (version("axsearch"), torch.__version__, source)
    name = hashlib.sha256(" ".join([*key, *made_with]).encode()).hexdigest()
    path = folder / f"{name}.safetensors"
    lock: AbstractContextManager[Any]
    try:
        lock = FileLock(folder / "lock", timeout=PATIENCE).acquire()
    except (Timeout, OSError, NotImplementedError):
        lock = nullcontext()  # whoever has it does not get on, or the disk knows no locks
    with lock:
        known = _read(path)
        if known is None:
            known = measure()
            with suppress(OSError, SafetensorError):  # a disk may be full: then it is not kept
                _write(path, known)
        return known


def _read(path: Path) -> Moments | None:
    try:
        tensors = load_file(path)
        os.utime(path)
    except (OSError, SafetensorError):  # not there, or cut off
        return None
    found: dict[str, dict[SiteId, Tensor]] = {"mean": {}, "covariance": {}}
    for name, tensor in tensors.items():
        what, _, site = name.partition(" ")
        found[what][SiteId.parse(site)] = tensor
    return Moments(found["mean"], found["covariance"])


def _write(path: Path, moments: Moments) -> None:
    tensors = {f"mean {site}": tensor for site, tensor in moments.mean.items()}
    tensors |= {f"covariance {site}": tensor for site, tensor in moments.covariance.items()}
    with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
        whole = Path(temporary) / path.name
        save_file(tensors, whole)
        whole.replace(path)
    kept = 0
    for other in sorted(path.parent.glob("*.safetensors"), key=lambda f: -f.stat().st_mtime):
        kept += other.stat().st_size
        if kept > MOST_BYTES and other != path:
            other.unlink(missing_ok=True)


def _weights(slope: Tensor, mask: Tensor | None) -> Tensor:
    # One for each token, (batch, length); an example that the loss does not feel is spread evenly.
    tiny = torch.finfo(slope.dtype).tiny
    slope = slope / slope.abs().amax((1, 2), keepdim=True).clamp_min(tiny)  # squares may vanish
    sizes = slope.square().sum(-1)
    even = torch.ones_like(sizes) if mask is None else mask.to(sizes.dtype)
    even = even / even.sum(1, keepdim=True)
    felt = sizes * (even > 0)
    total = felt.sum(1, keepdim=True)
    share = torch.where(total > 0, felt / total.clamp_min(tiny), even)
    return SENSITIVE * share + (1 - SENSITIVE) * even

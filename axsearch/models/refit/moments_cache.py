"""Moments in the user's cache: measured once a machine, read by every later process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from axsearch.approximations.site import SiteId
from axsearch.models.refit import moments as measuring
from axsearch.models.refit.compensation import Moments
from axsearch.system.tensor_files import TensorFiles

MOST_BYTES = 2 * 2**30
"""Size of the cache; files used longest ago are deleted. BERT-base has half a gigabyte."""


def cached_moments(key: Sequence[str], measure: Callable[[], Moments]) -> Moments:
    """The result of ``measure``, once a machine: later processes read it from the user's cache. So
    not all of several workers measure it, and all compensate with the very same numbers, however
    many threads they have.

    Args:
        key: what moments depend on: fingerprints of model and calibration split, the device.
        measure: see :func:`measure_moments`.
    """
    files = TensorFiles("moments", MOST_BYTES, [measuring.__file__])
    tensors = files.once(key, lambda: _flat(measure()))
    found: dict[str, dict[SiteId, Tensor]] = {"mean": {}, "covariance": {}, "sensitivity": {}}
    for name, tensor in tensors.items():
        what, _, site = name.partition(" ")
        found[what][SiteId.parse(site)] = tensor
    return Moments(**found)


def _flat(moments: Moments) -> dict[str, Tensor]:
    return {
        f"{what} {site}": tensor
        for what, tensors in vars(moments).items()
        for site, tensor in tensors.items()
    }

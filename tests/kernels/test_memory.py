"""The peak of a process's memory: what tensors, C++ and autograd hold together."""

from __future__ import annotations

import sys

import pytest

from axsearch.testing.processes import run

HEADS, LENGTH = 4, 4096
SCORES = 4 * HEADS * LENGTH**2  # bytes of all scores, which explicit attention holds thrice

MEASURE = """
import ctypes, pathlib, sys, torch
from axsearch.kernels.topk_attention import topk_attention
torch.set_num_threads(2)
ctypes.CDLL(None).mallopt(-3, 1 << 20)  # freed blocks go back at once: the peak is a true one

def memory(field):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))

def run(length):
    inputs = [torch.randn(1, int(sys.argv[1]), length, 64, requires_grad=True) for _ in range(3)]
    before = memory("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    topk_attention(*inputs, 64, mode=sys.argv[3]).sum().backward()
    return memory("VmHWM") - before

run(256)
print(run(int(sys.argv[2])))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("native", "mode", "share"), [("1", "renormalised", 5), ("1", "hard", 1), ("0", "hard", 1)]
)
def test_forward_and_backward(
    native: str, mode: str, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AXSEARCH_NATIVE", native)
    done = run("-c", MEASURE, HEADS, LENGTH, mode, check=True)
    assert int(done.stdout) < SCORES / share

"""Time and peak memory of top-k attention and the top-k FFN, compared with PyTorch's own.

Each point runs in a process of its own: one call for its peak memory, then calls in turn with
PyTorch's own attention (or the dense FFN), for their paired ratios. Inputs are random. Run it on an
idle Linux machine (about 40 minutes on 2 cores; less with fewer --lengths):

    pip install -e '.[benchmarks]'
    python studies/benchmarks/topk_attention.py --out studies/benchmarks/results

It writes topk_attention.json (the points and the machine), .svg and .md. Points that are already in
the JSON, from this machine and these kernels, are not measured again.
"""

import argparse
import ctypes
import hashlib
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch
from rich.progress import track
from topk_results import plot, tables
from torch import Tensor
from torch.nn.functional import gelu, linear, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from axsearch.kernels.native import SWITCH, native_library
from axsearch.kernels.native_source import SOURCE
from axsearch.kernels.topk_attention import topk_attention
from axsearch.kernels.topk_ffn import topk_ffn
from axsearch.system.allocator import MMAP_THRESHOLD, TRIM_THRESHOLD

HEADS, WIDTH, THREADS = 12, 64, 2
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
KS = (16, 32, 64, 128, 256)
TOKENS, HIDDEN, NEURONS = 2048, 768, (1024, 4096, 16384, 65536)
CHUNK_SCORES = 1 << 19  # of chunked dense attention: the tile of the compiled top-k kernels
CHUNK_NEURONS = 1 << 23  # of the chunked dense FFN: the tile of the top-k FFN
FITS = 8 << 30  # bytes that a contender may take on a machine of 24 GiB
PAIRS = 15  # calls in turn with the baseline at most; as many as the patience allows

Point = dict[str, int | str | bool | None]


def attention(name: str, k: int | None, causal: bool) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A contender; each takes (batch, heads, length, width)."""

    def masked(scores: Tensor, first: int = 0) -> Tensor:
        if not causal:
            return scores
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu_(first + 1)
        return scores.masked_fill_(later, float("-inf"))

    def explicit(query: Tensor, key: Tensor, value: Tensor, first: int = 0) -> Tensor:
        scores = masked(query @ key.transpose(-1, -2) * WIDTH**-0.5, first)
        return scores.softmax(-1) @ value

    def scatter(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scores = masked(query @ key.transpose(-1, -2) * WIDTH**-0.5)
        kept, index = scores.topk(min(k or 0, scores.shape[-1]), dim=-1)
        return torch.zeros_like(scores).scatter_(-1, index, kept.softmax(-1)) @ value

    def chunked(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        length = query.shape[2]
        rows = max(16, CHUNK_SCORES // (HEADS * length))
        parts = []
        for first in range(0, length, rows):
            end = min(length, first + rows) if causal else length
            inputs = (query[:, :, first : first + rows], key[:, :, :end], value[:, :, :end], first)
            parts.append(
                checkpoint(explicit, *inputs, use_reentrant=False)
                if query.requires_grad
                else explicit(*inputs)
            )
        return torch.cat(parts, 2)

    def sdpa(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return scaled_dot_product_attention(query, key, value, is_causal=causal)

    def scores(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        rows = max(128, CHUNK_SCORES // key.shape[2])  # the tile of the compiled kernels
        tile = query.new_empty(rows, key.shape[2])
        for one, other in zip(query[0], key[0], strict=True):
            for part in one.split(rows):
                torch.mm(part, other.T, out=tile[: len(part)])
        return tile

    def topk(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return topk_attention(query, key, value, k or 0, causal=causal)

    contenders = {
        "sdpa": sdpa, "explicit": explicit, "chunked": chunked, "scatter": scatter, "topk": topk,
        "topk, plain PyTorch": topk, "scores": scores,
    }  # fmt: skip
    return contenders[name]


def ffn(name: str, k: int | None) -> Callable[..., Tensor]:
    """A contender; each takes hidden (tokens, width), w_in, b_in, w_out, b_out."""

    def dense(hidden: Tensor, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor) -> Tensor:
        return linear(gelu(linear(hidden, w_in, b_in)), w_out, b_out)

    def chunked(hidden: Tensor, *weights: Tensor) -> Tensor:
        rows = max(16, CHUNK_NEURONS // len(weights[0]))
        return torch.cat([dense(part, *weights) for part in hidden.split(rows)])

    def recomputed(hidden: Tensor, *weights: Tensor) -> Tensor:
        rows = max(16, CHUNK_NEURONS // len(weights[0]))
        parts = hidden.split(rows)
        return torch.cat([checkpoint(dense, p, *weights, use_reentrant=False) for p in parts])

    def topk(hidden: Tensor, *weights: Tensor) -> Tensor:
        return topk_ffn(hidden, *weights, k or 0, gelu)

    contenders = {"dense": dense, "chunked": chunked, "recomputed": recomputed, "topk": topk}
    return contenders[name]


def points(lengths: list[int], neurons: list[int]) -> list[Point]:
    """Everything to measure that fits the memory."""
    found: list[Point] = []
    for length, causal, backward in product(lengths, (False, True), (False, True)):
        square = 4 * HEADS * length**2
        names = [("sdpa", None), *(("topk", k) for k in KS if k < length)]
        # Gradients of all keys are added up once a chunk: minutes a call from 16,384 on.
        if length <= (8192 if backward else 16384):
            names += [("chunked", None)]
        if not causal and not backward and length <= 4096:
            names += [("scores", None)]  # what an exact top-k cannot do without
        if square * (4 if backward else 2) <= FITS:
            names += [("explicit", None), ("scatter", 64), ("topk, plain PyTorch", 64)]
        for name, k in names:
            found.append({
                "what": "attention", "contender": name, "k": k, "length": length,
                "causal": causal, "backward": backward,
            })  # fmt: skip
    for width, backward in product(neurons, (False, True)):
        names = [("dense", None), ("chunked", None), *(("topk", k) for k in KS)]
        names += [("recomputed", None)] if backward else []
        for name, k in names:
            found.append({
                "what": "ffn", "contender": name, "k": k, "neurons": width,
                "backward": backward,
            })  # fmt: skip
    return found


def memory(field: str) -> int:
    """VmRSS or VmHWM, its peak, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))


def keep_blocks(keep: bool) -> None:
    """Let malloc return large blocks at once, for a true peak, or keep them, for steady times.

    By default it does one or the other depending on earlier sizes, and aligned blocks leave holes
    into which the next does not fit: a loop over chunks then seems to hold all of them.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(MMAP_THRESHOLD, 32 << 20 if keep else 1 << 20)
    libc.mallopt(TRIM_THRESHOLD, 64 << 20 if keep else 1 << 20)


def measure(
    point: Point,
    threads: int,
    tokens: int,
    patience: float,
    results: "multiprocessing.SimpleQueue[Point]",
) -> None:
    """Measure one point, in a process of its own, for about ``patience`` seconds per side."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    k, backward = point["k"], bool(point["backward"])
    os.environ[SWITCH] = "0" if "plain" in str(point["contender"]) else "1"
    if point["what"] == "attention":
        run = attention(str(point["contender"]), k, bool(point["causal"]))
        base = attention("sdpa", None, bool(point["causal"]))
        shapes = [(1, HEADS, point["length"], WIDTH)] * 3
        small = [(1, HEADS, 96, WIDTH)] * 3
    else:
        run, base = ffn(str(point["contender"]), k), ffn("dense", None)
        neurons = point["neurons"]
        shapes = [(tokens, HIDDEN), (neurons, HIDDEN), (neurons,), (HIDDEN, neurons), (HIDDEN,)]
        small = [(16, HIDDEN), (512, HIDDEN), (512,), (HIDDEN, 512), (HIDDEN,)]

    def once(function: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor | None) -> float:
        began = time.perf_counter()
        if grad is None:
            with torch.inference_mode():
                function(*inputs)
        else:
            function(*inputs).backward(grad)
        took = time.perf_counter() - began
        for tensor in inputs:
            tensor.grad = None
        return took

    def made(shapes: list[tuple[int, ...]]) -> tuple[list[Tensor], Tensor | None]:
        inputs = [
            (torch.randn(shape) / (shape[-1] ** 0.5 if len(shape) == 2 else 1)).requires_grad_(
                backward
            )
            for shape in shapes
        ]
        return inputs, torch.randn(shapes[0]) if backward else None

    keep_blocks(False)
    once(run, *made(small))  # threads, libraries and kernels are there before memory is counted
    inputs, grad = made(shapes)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    first = once(run, inputs, grad)
    peak = memory("VmHWM") - before
    keep_blocks(True)
    seconds, ratios = [first], []
    # Without room for both, or the time for some pairs, the baseline's own point stands beside it.
    if point["contender"] not in ("sdpa", "dense") and first < 2:
        once(base, inputs, grad)
        deadline, least = time.perf_counter() + patience, 5 if first < 1 else 2
        while len(ratios) < PAIRS and (len(ratios) < least or time.perf_counter() < deadline):
            order = (run, base) if len(ratios) % 2 else (base, run)
            took = {function: once(function, inputs, grad) for function in order}
            seconds.append(took[run])
            ratios.append(took[run] / took[base])
    else:
        while len(seconds) < PAIRS and sum(seconds) < patience:
            seconds.append(once(run, inputs, grad))
    results.put({
        **point, "seconds": statistics.median(seconds[1:] or seconds), "calls": len(seconds),
        "ratio": statistics.median(ratios) if ratios else None,
        "ratios": [round(ratio, 4) for ratio in ratios],
        "peak_bytes": peak,
        "inputs_bytes": 4 * sum(tensor.numel() for tensor in inputs),
    })  # fmt: skip


def machine(threads: int, tokens: int) -> dict[str, str | int]:
    """Facts about the machine."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    total = Path("/proc/meminfo").read_text().split()[1]
    flags = next((line for line in info if line.startswith("flags")), "").split()
    return {
        "processor": next((x.split(": ")[1] for x in info if x.startswith("model name")), "?"),
        "instructions": " ".join(x for x in ("avx2", "avx512f", "amx_bf16") if x in flags),
        "cores": os.cpu_count() or 0, "threads": threads, "memory_bytes": int(total) << 10,
        "system": f"{platform.system()} {platform.machine()}", "python": platform.python_version(),
        "torch": torch.__version__, "dtype": "float32", "batch": 1, "heads": HEADS,
        "head_width": WIDTH, "ffn_tokens": tokens, "ffn_width": HIDDEN,
        "kernels": hashlib.sha256(SOURCE.encode()).hexdigest()[:12],
        "compiled": native_library() is not None,
    }  # fmt: skip


def main() -> None:
    """Measure the points that are not in the file yet, and draw all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--lengths", type=int, nargs="*", default=LENGTHS)
    parser.add_argument("--neurons", type=int, nargs="*", default=NEURONS)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of the FFN")
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--patience", type=float, default=3, help="seconds of calls a point")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    target = options.out / "topk_attention.json"
    data = {"machine": machine(options.threads, options.tokens), "points": []}
    if target.exists() and (found := json.loads(target.read_text()))["machine"] == data["machine"]:
        data["points"] = found["points"]
    wanted = points(options.lengths, options.neurons)
    missing = [p for p in wanted if not any(p.items() <= found.items() for found in data["points"])]
    fork = multiprocessing.get_context("fork")
    for point in track(missing, description="measuring"):
        results = fork.SimpleQueue()
        process = fork.Process(
            target=measure,
            args=(point, options.threads, options.tokens, options.patience, results),
        )
        process.start()
        process.join()
        if process.exitcode != 0:
            raise SystemExit(f"A point failed: {point}")
        data["points"].append(results.get())
        lines = ",\n".join(json.dumps(found) for found in data["points"])
        head = json.dumps(data["machine"], indent=1)
        target.write_text(f'{{"machine": {head},\n"points": [\n{lines}\n]}}\n')
    plot(data, options.out / "topk_attention.svg")
    (options.out / "topk_attention.md").write_text(tables(data) + "\n")


if __name__ == "__main__":
    main()

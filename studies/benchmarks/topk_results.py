"""The figure and the tables of topk_attention.py."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("svg")
from matplotlib import pyplot as plt
from matplotlib.ticker import NullFormatter, StrMethodFormatter

# Okabe and Ito's colours, which colour-blind readers can tell apart; markers for print.
STYLES = {
    "topk": ("#0072B2", "o"), "topk, plain PyTorch": ("#56B4E9", "s"), "scatter": ("#D55E00", "v"),
    "sdpa": ("#000000", "x"), "explicit": ("#E69F00", "^"), "chunked": ("#009E73", "D"),
    "dense": ("#E69F00", "^"), "recomputed": ("#CC79A7", "P"), "scores": ("#999999", "+"),
}  # fmt: skip
NAMES = {
    "topk": "top-k, k = 64", "topk, plain PyTorch": "top-k, k = 64, plain PyTorch",
    "scatter": "torch.topk and scatter, k = 64", "sdpa": "dense, PyTorch's SDPA",
    "explicit": "dense, explicit softmax", "chunked": "dense, in chunks", "dense": "dense",
    "recomputed": "dense, in chunks, recomputed", "scores": "product of queries and keys alone",
}  # fmt: skip


def plot(data: dict[str, Any], path: Path) -> None:
    """Times relative to SDPA, and peak memory, against length; the FFN's against its width."""
    machine = data["machine"]
    with mpl.rc_context({"svg.hashsalt": "axsearch", "font.size": 9, "axes.grid": True}):
        figure, panels = plt.subplots(2, 2, figsize=(11, 8.6), layout="constrained")
        attention = [
            p for p in data["points"]
            if p["what"] == "attention" and not p["causal"] and p["k"] in (None, 64)
        ]  # fmt: skip
        ffn = [
            p for p in data["points"]
            if p["what"] == "ffn" and p["k"] in (None, 64) and p["backward"]
        ]  # fmt: skip
        for panel, backward in zip(panels[0], (False, True), strict=True):
            chosen = [p for p in attention if p["backward"] is backward]
            base = {p["length"]: p["seconds"] for p in chosen if p["contender"] == "sdpa"}
            relative = [p | {"y": p["ratio"] or p["seconds"] / base[p["length"]]} for p in chosen]
            lines(panel, relative, "length")
            panel.set(
                title="forward and backward" if backward else "forward (inference)",
                xlabel="length", ylabel="time relative to SDPA",
            )  # fmt: skip
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
        chosen = [p for p in attention if p["backward"] and p["length"] >= 1024]
        lines(panels[1][0], [p | {"y": p["peak_bytes"] / 2**20} for p in chosen], "length")
        panels[1][0].set(
            title="forward and backward", xlabel="length", ylabel="peak MiB beyond the inputs"
        )
        lines(panels[1][1], [p | {"y": p["peak_bytes"] / 2**20} for p in ffn], "neurons")
        panels[1][1].set(
            title=f"FFN, {machine['ffn_tokens']} tokens of width {machine['ffn_width']}, "
            "forward and backward",
            xlabel="neurons", ylabel="peak MiB beyond the inputs",
        )  # fmt: skip
        panels[1][1].legend(fontsize=8)
        figure.suptitle(
            f"batch 1, {machine['heads']} heads of width {machine['head_width']}, float32, "
            f"{machine['threads']} threads, {machine['processor']}, torch {machine['torch']}"
        )
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def lines(panel: Any, points: list[dict[str, Any]], x: str) -> None:
    """One line per contender, on logarithmic axes."""
    for name in dict.fromkeys(p["contender"] for p in points):
        line = sorted((p[x], p["y"]) for p in points if p["contender"] == name)
        colour, marker = STYLES[name]
        panel.plot(
            *zip(*line, strict=True), color=colour, marker=marker, markersize=4, label=NAMES[name]
        )
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())


def tables(data: dict[str, Any]) -> str:
    """Markdown: times relative to SDPA, peak memory, and a summary of the memory figures."""
    attention = [p for p in data["points"] if p["what"] == "attention"]
    found: dict[tuple[Any, ...], dict[str, Any]] = {
        (p["contender"], p["k"], p["length"], p["causal"], p["backward"]): p for p in attention
    }
    lengths = sorted({p["length"] for p in attention})
    ks = sorted({p["k"] for p in attention if p["contender"] == "topk"})
    rows = [
        *(("topk", k, f"top-k, k = {k}") for k in ks),
        *((name, 64, NAMES[name]) for name in ("topk, plain PyTorch", "scatter")),
        *((name, None, NAMES[name]) for name in ("explicit", "chunked", "scores")),
    ]

    def relative(name: str, k: int | None, length: int, causal: bool, backward: bool) -> str:
        point = found.get((name, k, length, causal, backward))
        if point is None:
            return ""
        base = found["sdpa", None, length, causal, backward]["seconds"]
        # Without pairs, two single calls in different processes are compared.
        return f"{point['ratio']:.2f}" if point["ratio"] else f"({point['seconds'] / base:.2f})"

    def mebibytes(name: str, k: int | None, length: int, causal: bool, backward: bool) -> str:
        point = found.get((name, k, length, causal, backward))
        return "" if point is None else f"{point['peak_bytes'] / 2**20:,.0f}"

    head = f"| | {' | '.join(map(str, lengths))} |\n|---|{'---|' * len(lengths)}"
    text = []
    for causal, backward in ((False, False), (False, True), (True, False), (True, True)):
        title = f"{'causal' if causal else 'self'}, forward{' and backward' if backward else ''}"
        for cell, what in ((relative, "time relative to SDPA"), (mebibytes, "peak MiB")):
            text += [f"\n{title}: {what}\n", head]
            sdpa = [("sdpa", None, NAMES["sdpa"])] if cell is mebibytes else []
            for name, k, label in [*rows, *sdpa]:
                cells = [cell(name, k, length, causal, backward) for length in lengths]
                if any(cells):
                    text.append(f"| {label} | {' | '.join(cells)} |")
    text.append("\nFFN, peak MiB and time relative to the dense one\n")
    text.append(
        "| | neurons | k | forward | | forward and backward | |\n|---|---|---|---|---|---|---|"
    )
    ffn = [p for p in data["points"] if p["what"] == "ffn"]
    for neurons, name, k in dict.fromkeys((p["neurons"], p["contender"], p["k"]) for p in ffn):
        cells = []
        for backward in (False, True):
            base = ffn_point(ffn, neurons, "dense", None, backward)
            point = ffn_point(ffn, neurons, name, k, backward)
            cells += (
                ["", ""]
                if point is None
                else [
                    f"{point['peak_bytes'] / 2**20:,.0f}",
                    f"{point['ratio'] or point['seconds'] / base['seconds']:.2f}",
                ]
            )
        label = "top-k" if name == "topk" else NAMES[name]
        text.append(f"| {label} | {neurons} | {k or ''} | {' | '.join(cells)} |")
    return "\n".join([*text, "", *verdicts(found)])


def ffn_point(
    ffn: list[dict[str, Any]], neurons: int, name: str, k: int | None, backward: bool
) -> dict[str, Any] | None:
    """The point of these settings, if it was measured."""
    wanted = {"neurons": neurons, "contender": name, "k": k, "backward": backward}
    return next((p for p in ffn if wanted.items() <= p.items()), None)


def verdicts(found: dict[tuple[Any, ...], dict[str, Any]]) -> list[str]:
    """How linear the memory is, and how much less than explicit attention's."""
    text = []
    for backward in (False, True):
        points = [
            (length, point["peak_bytes"] + point["inputs_bytes"])
            for (name, k, length, causal, back), point in found.items()
            if (name, k, causal, back) == ("topk", 64, False, backward) and length >= 4096
        ]
        if len(points) > 2:
            lengths, peaks = np.array(sorted(points), dtype=float).T
            square = np.corrcoef(lengths, peaks)[0, 1] ** 2
            what = "forward and backward" if backward else "forward"
            text.append(f"peak memory with inputs from 4,096 on, {what}: R^2 = {square:.5f}")
    topk = found.get(("topk", 64, 4096, False, True))
    for name in ("explicit", "chunked"):
        other = found.get((name, None, 4096, False, True))
        if topk and other:
            inputs = topk["inputs_bytes"]
            times = other["peak_bytes"] / topk["peak_bytes"]
            with_inputs = (other["peak_bytes"] + inputs) / (topk["peak_bytes"] + inputs)
            text.append(
                f"{NAMES[name]} at 4,096, forward and backward: {times:.1f} times the memory of "
                f"top-k beyond the inputs, {with_inputs:.1f} times with them"
            )
    return text

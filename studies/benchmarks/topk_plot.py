"""The figure of topk_attention.py."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

# Okabe and Ito's colours, which colour-blind readers can tell apart; markers for print.
STYLES = {
    "topk": ("#0072B2", "o"), "topk, plain PyTorch": ("#56B4E9", "s"), "scatter": ("#D55E00", "v"),
    "sdpa": ("#000000", "x"), "explicit": ("#E69F00", "^"), "chunked": ("#009E73", "D"),
    "dense": ("#E69F00", "^"), "recomputed": ("#CC79A7", "P"),
}  # fmt: skip
NAMES = {
    "topk": "top-k, k = 64", "topk, plain PyTorch": "top-k, k = 64, plain PyTorch",
    "scatter": "torch.topk and scatter, k = 64", "sdpa": "dense, PyTorch's SDPA",
    "explicit": "dense, explicit softmax", "chunked": "dense, in chunks", "dense": "dense",
    "recomputed": "dense, in chunks, recomputed",
}  # fmt: skip


def plot(data: dict[str, Any], path: Path) -> None:
    """Times relative to SDPA, and peak memory, against length; the FFN's against its width."""
    machine = data["machine"]
    with mpl.rc_context({"svg.hashsalt": "axsearch", "font.size": 9, "axes.grid": True}):
        figure, panels = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
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
            for p in chosen:
                p["y"] = p["ratio"] or p["seconds"] / base[p["length"]]
            lines(panel, chosen, "length")
            panel.set(
                title="forward and backward" if backward else "forward (inference)",
                xlabel="length", ylabel="time relative to SDPA",
            )  # fmt: skip
        panels[0][0].legend(fontsize=8)
        chosen = [p | {"y": p["peak_bytes"] / 2**20} for p in attention if p["backward"]]
        lines(panels[1][0], chosen, "length")
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
    """One line a contender, on logarithmic axes."""
    for name in dict.fromkeys(p["contender"] for p in points):
        line = sorted((p[x], p["y"]) for p in points if p["contender"] == name)
        colour, marker = STYLES[name]
        panel.plot(
            *zip(*line, strict=True), color=colour, marker=marker, markersize=4, label=NAMES[name]
        )
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")

"""Time of an exported model with half of its encoder's parameters, relative to the whole model.

A BERT of MiniLM's shape with random weights, from which a recipe removes half of the heads,
unevenly, and half of the neurons. Both models are exported, and run in turn with random tokens
(A B A B …). The result is the median of the paired ratios, with their quartiles. Run it on an idle
machine:

    pip install -e '.[export]'
    python studies/benchmarks/onnx_half_size.py --out studies/benchmarks/results

It writes onnx_half_size.json: the ratio in ONNX Runtime, in OpenVINO and in PyTorch itself, the
model and the machine, and how many layers ONNX Runtime fused.
"""

# ruff: noqa: E402
import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.modules["openvino_telemetry"] = None  # it would report this run

import numpy as np
import onnx
import onnxruntime
import openvino
import torch
from rich.progress import track
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from axsearch import Recipe, shrink
from axsearch.approximations.choices import Kept
from axsearch.approximations.site import SiteId
from axsearch.export.openvino import CONVERT
from axsearch.graphs.conversion import write_onnx
from axsearch.models.architectures import architecture_of
from axsearch.system.new_process import run_check

HEADS = (10, 8, 6, 6, 4, 2)  # of 12
GOAL = 0.65  # of ONNX Runtime's ratio

Run = Callable[[], object]


def base(layers: int) -> PreTrainedModel:
    """MiniLM's shape: hidden 384, 12 heads, FFN 1536."""
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=384, num_hidden_layers=layers, num_attention_heads=12, intermediate_size=1536
    )
    return BertForSequenceClassification(config).eval()


def half(model: PreTrainedModel) -> PreTrainedModel:
    """Half of the neurons of each layer and half of all heads."""
    layers = model.config.num_hidden_layers
    sites = {}
    for layer in range(layers):
        heads = tuple(range(HEADS[layer % len(HEADS)]))
        sites[SiteId(layer, "attention")] = {"heads": Kept(of=12, kept=heads)}
        sites[SiteId(layer, "ffn")] = {"ffn": Kept(of=1536, kept=tuple(range(768)))}
    return shrink(model, Recipe.of(sites))


def encoder_parameters(model: PreTrainedModel) -> int:
    """The parameters of all layers, without the embeddings and the head."""
    return sum(p.numel() for p in model.bert.encoder.parameters())


def runners(
    model: PreTrainedModel,
    folder: Path,
    batch: dict[str, torch.Tensor],
    threads: int,
    core: openvino.Core,
) -> tuple[dict[str, Run], dict[str, int]]:
    """The model in each runtime, and the nodes that ONNX Runtime runs."""
    folder.mkdir()
    probe = architecture_of("bert").example(model.config, 4, 24)
    write_onnx(model, probe, folder / "model.onnx")
    run_check(CONVERT, folder)
    arrays = {name: tensor.numpy() for name, tensor in batch.items()}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "fused.onnx")
    session = onnxruntime.InferenceSession(
        folder / "model.onnx", options, providers=["CPUExecutionProvider"]
    )
    compiled = core.compile_model(
        folder / "model.xml", "CPU",
        {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads},
    )  # fmt: skip
    nodes = Counter(node.op_type for node in onnx.load(folder / "fused.onnx").graph.node)

    def pytorch() -> object:
        with torch.inference_mode():
            return model(**batch).logits

    run = {
        "onnx": lambda: session.run(None, arrays),
        "openvino": lambda: compiled(arrays),
        "pytorch": pytorch,
    }
    fused = ("FusedMatMul", "SkipLayerNormalization", "BiasGelu")
    return run, {name: nodes[name] for name in fused}


def seconds(run: Run) -> float:
    """Of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    """Export, measure in turn, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--pairs", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    whole = base(options.layers)
    smaller = half(whole)
    shape = (options.batch_size, options.length)
    ids = torch.randint(whole.config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # One for both. OpenVINO's CPU plugin gives this thread a stack for signals, and the one
        # before it back at its end; of two that do not end in turn, a freed one is left, and
        # Ctrl-C would be a segmentation fault.
        core = openvino.Core()
        whole_runs, whole_nodes = runners(whole, folder / "whole", batch, options.threads, core)
        smaller_runs, smaller_nodes = runners(
            smaller, folder / "half", batch, options.threads, core
        )
        results = {}
        for runtime in track(whole_runs, description="timing"):
            pair = (whole_runs[runtime], smaller_runs[runtime])
            for run in pair:
                run()
            times = np.array([[seconds(run) for run in pair] for _ in range(options.pairs)])
            low, ratio, high = np.quantile(times[:, 1] / times[:, 0], (0.25, 0.5, 0.75))
            whole_ms, half_ms = np.median(times, axis=0) * 1e3
            figures = {
                "ratio": ratio, "low": low, "high": high, "whole_ms": whole_ms, "half_ms": half_ms
            }  # fmt: skip
            results[runtime] = {name: round(float(value), 4) for name, value in figures.items()}
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    data = {
        "machine": {
            "processor": next((x.split(": ")[1] for x in lines if x.startswith("model name")), "?"),
            "cores": os.cpu_count(), "threads": options.threads,
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(), "torch": torch.__version__,
            "onnxruntime": onnxruntime.__version__,
            "openvino": openvino.get_version().partition("-")[0],
        },
        "workload": {
            "batch_size": options.batch_size, "length": options.length, "pairs": options.pairs,
            "layers": options.layers, "heads": [m.attention.self.num_attention_heads
            for m in smaller.bert.encoder.layer],
            "encoder_parameters": round(encoder_parameters(smaller) / encoder_parameters(whole), 4),
        },
        "fused": {"whole": whole_nodes, "half": smaller_nodes},
        "half_relative_to_whole": results,
        "goal": {"onnx_ratio_at_most": GOAL, "reached": results["onnx"]["ratio"] <= GOAL},
    }  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "onnx_half_size.json").write_text(json.dumps(data, indent=1) + "\n")
    for runtime, row in results.items():
        print(f"{runtime}: {row['ratio']:.3f} ({row['low']:.3f} to {row['high']:.3f})")


if __name__ == "__main__":
    main()

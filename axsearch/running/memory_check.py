"""Whether a search fits into the memory of this machine, before anything is run."""

from __future__ import annotations

from axsearch.calibration.importance import BATCH_SIZE as CALIBRATED
from axsearch.evaluation.accuracy import BATCH_SIZE as EVALUATED
from axsearch.evaluation.evaluator import Evaluator
from axsearch.evaluation.footprint import Need, Shapes, check_memory, sizes

SHORTER = "give a smaller `max_length`, or use a machine with more"


def check_room(evaluator: Evaluator, *, calibrated: bool) -> None:
    """Compare the largest batches of a search with the memory that is free.

    Args:
        evaluator: of the search.
        calibrated: whether importance is measured, for which all layers' activations are kept.

    Raises:
        UsageError: there is too little for a stage.
    """
    task, shapes = evaluator.task, Shapes.of(evaluator.base.model)
    share = 2 if evaluator.dtype == "bfloat16" else 1
    needs = [
        Need(f"Evaluating {_inputs(*size)}", shapes.forward(*size) // share, SHORTER)
        for size in sizes(task.search, EVALUATED)
    ]
    if calibrated:
        needs += [
            Need(f"Calibrating with {_inputs(*size)}", shapes.backward(*size), SHORTER)
            for size in sizes(task.calibration, CALIBRATED)
        ]
    check_memory(needs, evaluator.device)
    scenario = evaluator.scenario
    if scenario is not None:
        timed: list[tuple[int, ...]]
        if scenario.sequence_length is not None:  # whose batches may themselves be too large
            timed = [(scenario.batch_size, scenario.sequence_length)]
        else:
            timed = [tuple(batch["input_ids"].shape) for batch in evaluator.workload[0]]
        less = "give a smaller `batch_size`, or use a machine with more"
        check_memory(
            [Need(f"Timing {_inputs(*size)}", shapes.forward(*size), less) for size in timed],
            scenario.device,
        )


def _inputs(rows: int, length: int) -> str:
    return f"{rows:,} {'input' if rows == 1 else 'inputs'} of {length:,} tokens"

"""Search the approximations of a fine-tuned transformer; export a smaller, faster model.

The names below are the public ones. They are imported when first used, so that importing
axsearch imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from axsearch.errors import AxsearchError, UsageError
    from axsearch.evaluation.evaluator import Evaluator
    from axsearch.export import export_model, verify_export
    from axsearch.models.weights import shrink
    from axsearch.reporting.dashboard.serving import serve
    from axsearch.reporting.explanation import explain_trial
    from axsearch.reporting.gallery import compare_fronts, study_figures
    from axsearch.reporting.report import write_report
    from axsearch.running.holdout import evaluate_front, holdout_speed
    from axsearch.running.recovering import recover
    from axsearch.running.remeasuring import remeasure
    from axsearch.running.search import search
    from axsearch.space.recipe import Recipe
    from axsearch.study.comparison import selection_bias, ties
    from axsearch.study.study import Study
    from axsearch.tasks.task import Task
    from axsearch.training.finetuning import finetune

__version__ = "0.1.0"

_HOME = {
    "AxsearchError": "errors",
    "Evaluator": "evaluation.evaluator",
    "Recipe": "space.recipe",
    "Study": "study.study",
    "Task": "tasks.task",
    "UsageError": "errors",
    "compare_fronts": "reporting.gallery",
    "evaluate_front": "running.holdout",
    "explain_trial": "reporting.explanation",
    "export_model": "export",
    "finetune": "training.finetuning",
    "holdout_speed": "running.holdout",
    "recover": "running.recovering",
    "remeasure": "running.remeasuring",
    "search": "running.search",
    "selection_bias": "study.comparison",
    "serve": "reporting.dashboard.serving",
    "shrink": "models.weights",
    "study_figures": "reporting.gallery",
    "ties": "study.comparison",
    "verify_export": "export",
    "write_report": "reporting.report",
}

__all__ = [
    "AxsearchError",
    "Evaluator",
    "Recipe",
    "Study",
    "Task",
    "UsageError",
    "compare_fronts",
    "evaluate_front",
    "explain_trial",
    "export_model",
    "finetune",
    "holdout_speed",
    "recover",
    "remeasure",
    "search",
    "selection_bias",
    "serve",
    "shrink",
    "study_figures",
    "ties",
    "verify_export",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'axsearch' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"axsearch.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])

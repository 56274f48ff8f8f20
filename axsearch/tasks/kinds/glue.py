"""GLUE's nine tasks by name (Wang et al. 2019, arXiv 1804.07461, table 1)."""

from __future__ import annotations

from typing import NamedTuple


class GlueTask(NamedTuple):
    """The kind of a GLUE task, and the metric of its objective."""

    kind: str
    metric: str


GLUE: dict[str, GlueTask] = {
    "glue/cola": GlueTask("text-classification", "matthews_correlation"),
    "glue/mnli": GlueTask("text-classification", "accuracy"),
    "glue/mrpc": GlueTask("text-classification", "f1"),  # and accuracy
    "glue/qnli": GlueTask("text-classification", "accuracy"),
    "glue/qqp": GlueTask("text-classification", "f1"),  # and accuracy
    "glue/rte": GlueTask("text-classification", "accuracy"),
    "glue/sst2": GlueTask("text-classification", "accuracy"),
    "glue/stsb": GlueTask("regression", "pearson"),  # and Spearman's
    "glue/wnli": GlueTask("text-classification", "accuracy"),
}
"""Where GLUE ranks by two metrics, the second is the comment's: give it as ``metric``."""

"""Names of attributes of Optuna's trials: those that axsearch sets, and Optuna's that it reads."""

from __future__ import annotations

RECIPE_ATTR = "recipe"
"""Of a trial: the hash of its recipe."""

MEASUREMENT_ATTR = "measurement"
"""Of a complete trial: its :class:`axsearch.statistics.measurement.Measurement`."""

MEAN_LOSS_ATTR = "mean_loss"
"""Of a complete trial: the mean loss on the search split."""

NOT_WORSE_ATTR = "not_worse"
"""Of a complete trial: the share of examples whose loss is not above the base's."""

DIVERGENCE_ATTR = "divergence"
"""Of a complete trial: the divergence from the base's outputs, in nats."""

STOPPED_ATTR = "stopped"
"""Of a trial that was stopped early: what was seen, or why."""

FAILED_ATTR = "failed"
"""Of a failed trial: why."""

DROPPED_ATTR = "dropped"
"""Of a failed trial that was not evaluated: which trial has its recipe."""

GENERATION_ATTR = "hat:generation"
"""The system attribute that tells the generation of a trial that this sampler proposed."""

WORKER_ATTR = "axsearch:worker"
"""Who began a trial last."""

INTERRUPTED_ATTR = "interrupted"
"""Of a failed trial: it was stopped or lost, and says nothing of its recipe."""

RETRY_ATTR = "retry_of"
"""Of a trial that tries a lost one's recipe again: the number of the lost one."""

GIVEN_UP_ATTR = "given_up"
"""Of a failed trial: how many trials had its recipe, all of them lost."""

FIXED_ATTR = "fixed_params"
"""Where Optuna keeps what a waiting trial is to be tried with."""

CONSTRAINTS_ATTR = "constraints"
"""Where Optuna kept constraints before version 5; its dashboard reads only this."""

"""Names of attributes of Optuna's trials and studies: axsearch's, and Optuna's that it reads."""

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
"""Of a trial that was stopped early: its partial result, or the reason."""

RECOVERED_ATTR = "recovered_from"
"""Of a complete trial: the number of the trial whose model was trained further to its own.

No search asked for it: it is part of no budget, and samplers do not see it.
"""

FAILED_ATTR = "failed"
"""Of a failed trial: why."""

DROPPED_ATTR = "dropped"
"""Of a failed trial that was not evaluated: the trial that has its recipe."""

GENERATION_ATTR = "hat:generation"
"""The system attribute with the generation of a trial that this sampler proposed."""

WORKER_ATTR = "axsearch:worker"
"""Who began a trial last."""

IDENTITY_ATTR = "axsearch:identity"
"""Of a study: random, so that no other study ever has it, see :mod:`axsearch.store.identity`."""

INTERRUPTED_ATTR = "interrupted"
"""Of a failed trial: it was stopped or lost, so it is no evidence about its recipe."""

RETRY_ATTR = "retry_of"
"""Of a trial that tries a lost one's recipe again: the number of the lost one."""

GIVEN_UP_ATTR = "given_up"
"""Of a failed trial: how many trials had its recipe, all of them lost."""

FIXED_ATTR = "fixed_params"
"""Where Optuna stores the parameters that a waiting trial is to have."""

CONSTRAINTS_ATTR = "constraints"
"""Where Optuna stored constraints before version 5; its dashboard reads only this."""

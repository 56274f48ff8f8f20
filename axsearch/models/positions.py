"""More positions for a model that has learnt an embedding of each."""

from __future__ import annotations

import copy

from transformers import PreTrainedModel

from axsearch.models.architectures import architecture_of


def with_positions(model: PreTrainedModel, length: int) -> PreTrainedModel:
    """A model that reads ``length`` tokens, its position embeddings being repeated.

    Longformer was made from RoBERTa in this way (Beltagy et al. 2020, arXiv 2004.05150, section on
    pretraining): each token sees its near ones at the distances that the model has learnt, and only
    across the seams has training something to mend. Inputs that the model could read before have
    the same answers. Rows of the table that come before the first position stay as they are.

    Args:
        model: of a family with a table of positions; it is left as it is.
        length: more tokens than it reads.
    """
    family = architecture_of(model.config.model_type)
    config = copy.deepcopy(model.config)
    before = config.max_position_embeddings - family.longest(config)
    config.max_position_embeddings = before + length
    longer = type(model)(config)  # with buffers of the new length
    state = model.state_dict()
    name = f"{model.base_model_prefix}.{family.positions}.weight"
    table = state[name]
    learnt = table[before:]
    repeated = learnt.repeat(-(-length // len(learnt)), 1)[:length]
    state[name] = table.new_empty(before + length, table.shape[1])
    state[name][:before], state[name][before:] = table[:before], repeated
    longer.load_state_dict(state)
    longer.train(model.training)
    return longer

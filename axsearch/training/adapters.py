"""LoRA adapters: low-rank changes of the layers' weights, trained in place of these.

Hu et al., LoRA: Low-Rank Adaptation of Large Language Models (arXiv 2106.09685, section 4.1), with
the peft library. A weight W of (outputs, inputs) becomes W + s B A, with A of (rank, inputs) and B
of (outputs, rank), which begins as zeros. For each number that is trained
the optimizer keeps two more, and there is a gradient: three times the weights of the layers, which
is what adapters save. Merged into the weights they cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

SCALE = 2
"""How many times the rank ``alpha`` is, so that s does not depend on it."""


def adapt(model: PreTrainedModel, layers: Sequence[nn.Module], rank: int) -> None:
    """Freeze the layers of a model, and give their linear modules adapters to be trained.

    What else is trained, such as the head, stays so: it is mostly small. Where an approximation
    reads a module's weight directly, its adapter learns nothing.

    Args:
        model: which is changed, until :func:`merge`.
        layers: of the model.
        rank: of the adapters.
    """
    from peft import LoraConfig, inject_adapter_in_model

    inside = {module for layer in layers for module in layer.modules()}
    linear = {
        name: module
        for name, module in model.named_modules()
        if module in inside and isinstance(module, nn.Linear | Conv1D)
    }
    frozen = {parameter for layer in layers for parameter in layer.parameters()}
    above = {
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter not in frozen
    }
    settings = LoraConfig(
        r=rank,
        lora_alpha=SCALE * rank,
        target_modules=[*linear],
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in linear.values()),
    )
    if linear:  # every block may have been removed
        inject_adapter_in_model(settings, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name or name in above)


def merge(model: PreTrainedModel) -> None:
    """Add what adapters have learnt to the weights that they are for, and remove them."""
    from peft.tuners.lora import LoraLayer

    for name, module in [*model.named_modules()]:
        if isinstance(module, LoraLayer):
            module.merge()
            model.set_submodule(name, module.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config

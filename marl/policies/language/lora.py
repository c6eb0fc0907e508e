"""Low-rank adapters of ``peft``, one for each role: named by number, and picked from their layers one by one.

``peft`` keeps an adapter's parameters under the adapter's own name among those of the model, and saves the one that is
called ``default`` elsewhere. A role may bear any name, so no adapter bears a role's, and nothing is ever looked for in
the name of a parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from marl.errors import UserError


def adapter_names(roles: Sequence[str]) -> dict[str, str]:
    """Role -> the name of its adapter inside the model."""
    return {role: f"adapter_{number}" for number, role in enumerate(roles)}


def adapter_layers(module: nn.Module) -> dict[str, Any]:
    """The layers of a model that have adapters, by name."""
    return {name: layer for name, layer in module.named_modules() if hasattr(layer, "adapter_layer_names")}


def adapter_parameters(module: nn.Module, adapter: str) -> dict[str, nn.Parameter]:
    """The parameters of one adapter, and no others, by the names that ``peft`` gives them in a file.

    Args:
        module: a model with adapters.
        adapter: which of them, by its name inside the model (``adapter_names``).
    """
    found: dict[str, nn.Parameter] = {}
    for name, layer in adapter_layers(module).items():
        for kind in layer.adapter_layer_names:
            parts = getattr(layer, kind, {})
            if adapter not in parts:
                continue
            part = parts[adapter]
            if isinstance(part, nn.Parameter):
                found[f"{name}.{kind}"] = part
            else:
                found |= {f"{name}.{kind}.{each}": parameter for each, parameter in part.named_parameters()}
    return found


@torch.no_grad()
def load_parameters(own: Mapping[str, Tensor], state: Mapping[str, Tensor], whose: str) -> None:
    """Copy values into parameters, all or none.

    Args:
        own: parameters by name, written in place.
        state: their new values, by the same names.
        whose: what an error calls them.

    Raises:
        UserError: names or shapes differ.
    """
    for name in sorted(own.keys() ^ state.keys()):
        where = "lack" if name in own else "have the surplus"
        raise UserError(f"the saved weights of {whose} do not fit: they {where} '{name}'; keep folder and lora_rank")
    for name, value in state.items():
        if own[name].shape != value.shape:
            shapes = f"{tuple(value.shape)}, not {tuple(own[name].shape)}"
            raise UserError(f"the saved weights of {whose} do not fit: '{name}' is {shapes}; keep folder and lora_rank")
    for name, value in state.items():
        own[name].copy_(value)

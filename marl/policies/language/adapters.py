"""A tiny policy with a low-rank adapter per role, through ``peft``: one body, trained by imitation, then frozen.

LoRA (Hu et al., arXiv 2106.09685), with the adapters of all roles in one model, as the policy ``hf`` has them.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from marl.errors import UserError
from marl.policies.language.base import Request
from marl.policies.language.lora import adapter_layers, adapter_names, adapter_parameters, load_parameters
from marl.policies.language.tiny import TinyPolicy
from marl.policies.language.tokenizer import ChatTokenizer
from marl.policies.language.transformer import TransformerConfig, weight_of

_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class AdaptedPolicy(TinyPolicy):
    """Speaks by a ``Transformer`` whose linear layers have an adapter for each of ``roles``. rank: of the adapters.

    Adapters begin as the identity. What learns for a role is its adapter; ``body`` is the rest, as a model of its own.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        config: TransformerConfig,
        generator: torch.Generator,
        roles: Sequence[str],
        rank: int,
        max_tokens: int = 24,
        temperature: float = 1.0,
        context: int = 512,
    ):
        super().__init__(tokenizer, config, generator, max_tokens, temperature, context)
        try:
            peft: Any = importlib.import_module("peft")
        except ImportError:
            raise UserError("adapters need the extra 'llm': pip install 'marl-platform[llm]'") from None
        options = peft.LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=_TARGETS)
        names = adapter_names(roles)
        # Their own first weights come from the same generator as the body's.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
            for name in names.values():
                peft.inject_adapter_in_model(options, self.module, adapter_name=name)
        self._layers = adapter_layers(self.module)
        self._names = names
        self._own = {role: adapter_parameters(self.module, name) for role, name in names.items()}
        adapted = {id(parameter) for own in self._own.values() for parameter in own.values()}
        #: Parameters of the body, by name.
        self.shared = {name: p for name, p in self.module.named_parameters() if id(p) not in adapted}
        self.body = Body(self)

    def parameters_of(self, role: str) -> list[torch.nn.Parameter]:
        return list(self._own[role].values())

    def state_of(self, role: str) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self._own[role].items()}

    def load_state_of(self, role: str, state: Mapping[str, Tensor]) -> None:
        load_parameters(self._own[role], state, f"role '{role}'")

    def logits_at(self, role: str, token: Tensor, position: Tensor, mask: Tensor, at: Tensor) -> Tensor:
        self._select(role, learns=True)
        return super().logits_at(role, token, position, mask, at)

    @torch.inference_mode()
    def complete(self, requests: Sequence[Request], greedy: bool = False) -> list[str | None]:
        texts: dict[int, str | None] = {}
        by_role: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            by_role.setdefault(request.turn.agent, []).append(number)
        for role, numbers in by_role.items():
            self._select(role, learns=False)
            texts |= zip(numbers, super().complete([requests[n] for n in numbers], greedy), strict=True)
        return [texts[number] for number in range(len(requests))]

    def merged(self) -> dict[str, Tensor]:
        """The weights of the role that spoke last, with its adapter worked in, by the names of a plain model."""
        plain = {name.replace(".base_layer", ""): value.detach().clone() for name, value in self.shared.items()}
        adapted = {f"{name}.weight": weight_of(layer).detach().clone() for name, layer in self._layers.items()}
        return plain | adapted

    def _select(self, role: str | None, learns: bool) -> None:
        """Speak by a role's adapter. learns: whether its adapter does; with no role, whether the body does."""
        for layer in self._layers.values():
            if role is not None:
                layer.set_adapter(self._names[role])
        for own in self._own.values():
            for parameter in own.values():
                parameter.requires_grad_(learns and role is not None)
        for parameter in self.shared.values():
            parameter.requires_grad_(learns and role is None)


class Body:
    """All but the adapters, as something that learns from the tokens of all roles (``TokenModel``)."""

    packs = True
    pretrained = False

    def __init__(self, policy: AdaptedPolicy):
        self._policy = policy

    def parameters_of(self, role: str) -> list[torch.nn.Parameter]:
        return list(self._policy.shared.values())

    def state_of(self, role: str) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self._policy.shared.items()}

    def load_state_of(self, role: str, state: Mapping[str, Tensor]) -> None:
        load_parameters(self._policy.shared, state, "the body")

    def logits_at(self, role: str, token: Tensor, position: Tensor, mask: Tensor, at: Tensor) -> Tensor:
        self._policy._select(None, learns=True)
        return TinyPolicy.logits_at(self._policy, role, token, position, mask, at)

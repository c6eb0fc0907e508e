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
        # Their own first weights come from the same generator as the body's.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
            for role in roles:
                peft.inject_adapter_in_model(options, self.module, adapter_name=role)
        self._layers: list[Any] = [m for m in self.module.modules() if hasattr(m, "active_adapters")]
        self.body = Body(self)

    def parameters_of(self, role: str) -> list[torch.nn.Parameter]:
        return [parameter for name, parameter in self.module.named_parameters() if f".{role}." in name]

    def state_of(self, role: str) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.module.named_parameters() if f".{role}." in name}

    @torch.no_grad()
    def load_state_of(self, role: str, state: Mapping[str, Tensor]) -> None:
        named = dict(self.module.named_parameters())
        for name, value in state.items():
            named[name].copy_(value)

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
        layers = {name: layer for name, layer in self.module.named_modules() if layer in self._layers}
        plain = {
            name.replace(".base_layer", ""): value.detach().clone()
            for name, value in self.module.state_dict().items()
            if ".lora_" not in name
        }
        return plain | {f"{name}.weight": weight_of(layer).detach().clone() for name, layer in layers.items()}

    def _select(self, role: str | None, learns: bool) -> None:
        """Speak by a role's adapter. learns: whether its adapter does; with no role, whether the body does."""
        for layer in self._layers:
            if role is not None:
                layer.set_adapter(role)
        for name, parameter in self.module.named_parameters():
            adapter = ".lora_" in name
            parameter.requires_grad_(learns and (role is None) != adapter)


class Body:
    """All but the adapters, as something that learns from the tokens of all roles (``TokenModel``)."""

    def __init__(self, policy: AdaptedPolicy):
        self._policy = policy

    def _named(self) -> dict[str, torch.nn.Parameter]:
        return {name: p for name, p in self._policy.module.named_parameters() if ".lora_" not in name}

    def parameters_of(self, role: str) -> list[torch.nn.Parameter]:
        return list(self._named().values())

    def state_of(self, role: str) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self._named().items()}

    @torch.no_grad()
    def load_state_of(self, role: str, state: Mapping[str, Tensor]) -> None:
        named = self._named()
        for name, value in state.items():
            named[name].copy_(value)

    def logits_at(self, role: str, token: Tensor, position: Tensor, mask: Tensor, at: Tensor) -> Tensor:
        self._policy._select(None, learns=True)
        return TinyPolicy.logits_at(self._policy, role, token, position, mask, at)

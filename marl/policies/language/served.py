"""A model that a server speaks for and that learns here: rollouts come with token ids, new weights go back as files.

The server (vLLM, with ``return_token_ids``) samples from the same weights that lie in a local folder. It is sent token
ids and returns token ids (``POST {base_url}/completions``), so nothing is ever spelt twice. Its log-probabilities
differ a little from ours, so the ratio to them is computed in every update; afterwards the weights are written where
the server can load them, and it is asked to. A server that returns no ids cannot be trained from.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from marl.errors import UserError
from marl.policies.language.base import Request
from marl.policies.language.hf import HfPolicy
from marl.policies.language.openai import OpenAIPolicy, are_ids, usable_log_probs


class ServedPolicy(OpenAIPolicy):
    """Speaks through a server, learns in ``local``. Roles with adapters are asked for as the model ``MODEL-ROLE``.

    publish: folder for the weights, one below it per role where there are adapters. reload_url: gets a POST
    ``{"lora_name", "lora_path"}`` for each of them after each update, as vLLM's ``/v1/load_lora_adapter`` takes it.
    """

    trainable = True
    pretrained = True
    #: Its log-probabilities are another program's, so that ratios to them are not exactly 1.
    sampled_elsewhere = True

    def __init__(self, local: HfPolicy, roles: Sequence[str], publish: Path, reload_url: str = "", **server: Any):
        super().__init__(**server)
        self.endpoint.url = self.endpoint.url.removesuffix("/chat/completions") + "/completions"
        self.local, self._roles, self._folder, self._reload = local, tuple(roles), publish, reload_url
        self._published = False

    def complete(self, requests: Sequence[Request], greedy: bool = False) -> list[str | None]:
        if not self._published:
            self._publish()
        for request in requests:
            self.hear(request)
        return super().complete(requests, greedy)

    def _say(self, request: Request, greedy: bool) -> str | None:
        body = {
            "model": f"{self._model}-{request.turn.agent}" if self.local.adapters else self._model,
            "prompt": request.transcript.ids,
            **self._common(request, greedy),
            "logprobs": 1,
            **self._extra,
        }
        reply = self.endpoint.ask(
            lambda without: {name: value for name, value in body.items() if name not in without}, self._sound
        )
        if reply is None:
            return None
        ids, entries = reply.get("token_ids"), reply.get("logprobs")
        log_probs = usable_log_probs(entries.get("token_logprobs") if isinstance(entries, dict) else None)
        if not are_ids(ids) or len(log_probs) != len(ids):
            raise UserError(
                f"the server at {self.endpoint.url} returns no token ids, so nothing can be learned from it: start "
                f"vLLM (which knows return_token_ids), or leave algorithm.policy.weights out and use it for rollouts"
            )
        request.transcript.say(ids, log_probs)
        return self._reader.read(self.local.text(ids))

    def _sound(self, choice: dict[str, Any]) -> bool:
        return isinstance(choice["text"], str)

    def forget(self) -> None:
        """The weights have changed: a server that speaks by them is to load them."""
        if self._published:
            self._publish()

    # Being shown how to speak (Speller)

    def hear(self, request: Request) -> None:
        self.local.hear(request)

    def said(self, text: str) -> list[int]:
        return self.local.said(text)

    # Learning (TokenModel)

    @property
    def packs(self) -> bool:
        return self.local.packs

    def parameters_of(self, role: str) -> list[torch.nn.Parameter]:
        return self.local.parameters_of(role)

    def state_of(self, role: str) -> dict[str, Tensor]:
        return self.local.state_of(role)

    def load_state_of(self, role: str, state: Mapping[str, Tensor]) -> None:
        self.local.load_state_of(role, state)
        self.forget()

    def logits_at(self, role: str, token: Tensor, position: Tensor, mask: Tensor, at: Tensor) -> Tensor:
        return self.local.logits_at(role, token, position, mask, at)

    def _publish(self) -> None:
        names = [f"{self._model}-{role}" for role in self._roles] if self.local.adapters else [self._model]
        self._published = True
        self.local.save(self._folder)
        for name, role in zip(names, self._roles, strict=False):
            path = self.local.folder_of(self._folder, role)
            if self._reload:
                self._ask_to_load({"lora_name": name, "lora_path": str(path.resolve())})

    def _ask_to_load(self, body: dict[str, str]) -> None:
        headers = {"Content-Type": "application/json"}
        call = urllib.request.Request(self._reload, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(call, timeout=self._timeout):
                pass
        except (OSError, ValueError) as error:
            # One that goes on with old weights would be trained on what it no longer is.
            reason = getattr(error, "reason", error)
            raise UserError(f"the server does not load new weights by {self._reload}: {reason}") from None

"""A policy behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, ``transformers serve``, or a vendor's.

How it is asked, and what becomes of requests that fail, is in ``endpoint``. A server cannot be trained from here; where
it returns token ids and their log-probabilities (vLLM's ``return_token_ids``) transcripts hold them, for traces and for
learning elsewhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeGuard

from marl.envs.chat import Message
from marl.errors import UserError
from marl.policies.language.base import Request
from marl.policies.language.chat_form import listed
from marl.policies.language.endpoint import Endpoint
from marl.policies.language.reading import Reader, spelt_call

_PARALLEL = 32


class OpenAIPolicy:
    """Speaks through ``POST {base_url}/chat/completions``.

    Args:
        base_url: such as ``http://localhost:8000/v1``.
        model: as the server knows it.
        key_variable: environment variable that holds the key; it may be unset for servers that ask for none.
        timeout_seconds: of one request.
        retries: further attempts after a failed one, with growing pauses.
        max_tokens: of one turn.
        temperature: of sampling.
        require_ids: refuse replies without token ids.
        extra_body: further fields of each request.
        parser: ``module:function`` of somebody's own that reads calls (``reading.Reader``).

    Raises:
        UserError: an address that is none; when asked, a server that answers nothing that it is asked.
    """

    trainable = False

    def __init__(
        self,
        base_url: str,
        model: str,
        key_variable: str = "OPENAI_API_KEY",
        timeout_seconds: float = 60.0,
        retries: int = 3,
        max_tokens: int = 256,
        temperature: float = 1.0,
        require_ids: bool = False,
        extra_body: Mapping[str, Any] | None = None,
        parser: str | None = None,
    ):
        if not base_url.startswith(("http://", "https://")):
            raise UserError(f"base_url '{base_url}' must begin with http:// or https://")
        url = base_url.rstrip("/") + "/chat/completions"
        self.endpoint = Endpoint(url, key_variable, timeout_seconds, retries)
        self._model, self._timeout, self._extra = model, timeout_seconds, dict(extra_body or {})
        self._max_tokens, self._temperature, self._require_ids = max_tokens, temperature, require_ids
        self._reader = Reader(parser)
        self._told = False

    @property
    def failures(self) -> Mapping[str, int]:
        """Reason -> how often an attempt failed."""
        return self.endpoint.failures

    @property
    def echo(self) -> Callable[[str], None]:
        """Is told once what the server does without."""
        return self.endpoint.echo

    @echo.setter
    def echo(self, echo: Callable[[str], None]) -> None:
        self.endpoint.echo = echo

    def complete(self, requests: Sequence[Request], greedy: bool = False) -> list[str | None]:
        with ThreadPoolExecutor(min(_PARALLEL, len(requests))) as pool:
            return list(pool.map(lambda request: self._say(request, greedy), requests))

    def forget(self) -> None:
        """The server keeps what it keeps."""

    def _say(self, request: Request, greedy: bool) -> str | None:
        def build(without: frozenset[str]) -> dict[str, Any]:
            turn = request.turn
            body = {
                "model": self._model,
                "messages": _all_spelt(turn.messages, turn.tools if "tools" in without else None),
                "tools": list(turn.tools),
                **self._common(request, greedy),
                "logprobs": True,
            }
            if not turn.tools:
                del body["tools"]  # an empty list is refused by many
            return {name: value for name, value in (body | self._extra).items() if name not in without}

        reply = self.endpoint.ask(build, self._sound)
        return None if reply is None else self._read(request, reply)

    def _common(self, request: Request, greedy: bool) -> dict[str, Any]:
        return {
            "max_tokens": self._max_tokens,
            "temperature": 0.0 if greedy else self._temperature,
            "seed": request.key & 0x7FFFFFFF,
            "return_token_ids": True,
        }

    def _sound(self, choice: dict[str, Any]) -> bool:
        """Whether a choice has what has to be in it."""
        return isinstance(choice["message"], dict)

    def _read(self, request: Request, choice: dict[str, Any]) -> str | None:
        message = choice["message"]
        refusal = message.get("refusal")
        if choice.get("finish_reason") == "content_filter" or (isinstance(refusal, str) and refusal):
            self.endpoint.give_up("refusal", str(refusal or "content_filter"))
            return None
        self._keep(request, choice)
        return self._reader.read(text_of(message))

    def _keep(self, request: Request, choice: dict[str, Any]) -> None:
        """Put token ids into the transcript, where there are any."""
        transcript = request.transcript
        ids, prompt = choice.get("token_ids"), choice.get("prompt_token_ids")
        log_probs = _log_probs(choice)
        if are_ids(ids) and are_ids(prompt) and len(log_probs) == len(ids):
            # Only a prompt that extends the ids so far keeps the transcript one sequence.
            if prompt[: len(transcript.ids)] == transcript.ids:
                transcript.hear(prompt[len(transcript.ids) :])
                transcript.say(ids, log_probs)
        elif self._require_ids:
            raise UserError(
                f"the server at {self.endpoint.url} returns no token ids, so nothing can be learned from it: start "
                f"vLLM (which knows return_token_ids), or use the policy for rollouts only"
            )
        elif not self._told:
            self._told = True
            lacks = "token ids" if log_probs else "token ids and no log-probabilities"
            self.echo(f"the server at {self.endpoint.url} returns no {lacks}: its turns are played, not learned from")


def _all_spelt(messages: Sequence[Message], written: Sequence[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """Messages as servers take them. written: tools that such a one does not take, as text of the prompt."""
    if written is None:
        return [spelt(message) for message in messages]
    plain: list[dict[str, Any]] = []
    for message in messages:
        role, content = message["role"], message["content"]
        content = f"Result of {message['name']}: {content}" if "tool_call_id" in message else content
        role = "user" if role == "tool" else role
        if plain and plain[-1]["role"] == role == "user":
            plain[-1]["content"] += f"\n{content}"
        else:
            plain.append({"role": role, "content": content})
    if written:
        plain[0]["content"] += f"\n\n{listed(written)}"
    return plain


def spelt(message: Message) -> dict[str, Any]:
    """A message as servers take it: an executed call as ``tool_calls``, its result with the same id."""
    role, content = message["role"], message["content"]
    if role == "assistant" and "tool_calls" in message:
        calls = []
        for call in message["tool_calls"]:
            function = call["function"] | {"arguments": json.dumps(call["function"]["arguments"])}
            calls.append({**call, "id": f"call_{call['id']}", "function": function})
        return {"role": role, "content": None, "tool_calls": calls}
    if role == "tool" and "tool_call_id" in message:
        return {"role": role, "content": content, "tool_call_id": f"call_{message['tool_call_id']}"}
    return {"role": "user" if role == "tool" else role, "content": content}


def text_of(message: dict[str, Any]) -> str:
    """What a server's message says, as text: its thought, and its calls in the form that every world reads."""
    thought = message.get("reasoning_content") or message.get("reasoning")
    thought = f"<think>{thought}</think>" if isinstance(thought, str) else ""
    calls = message.get("tool_calls")
    functions = [call.get("function") if isinstance(call, dict) else None for call in calls or ()]
    if functions:
        return thought + "\n".join(map(_call_text, functions))
    content = message.get("content")
    # Half a surrogate pair is legal in JSON but cannot be written down again.
    return (thought + content).encode(errors="replace").decode() if isinstance(content, str) else ""


def _call_text(function: Any) -> str:
    function = function if isinstance(function, dict) else {}
    arguments = function.get("arguments")
    with suppress(ValueError, RecursionError):  # broken arguments are the agent's mistake: the world will say so
        arguments = json.loads(arguments) if isinstance(arguments, str) and arguments.strip() else arguments or {}
    return spelt_call(str(function.get("name", "")), arguments).encode(errors="replace").decode()


def are_ids(ids: Any) -> TypeGuard[list[int]]:
    return isinstance(ids, list) and all(type(token) is int and 0 <= token < 1 << 31 for token in ids)


def _log_probs(choice: dict[str, Any]) -> list[float]:
    entries = choice.get("logprobs")
    content = entries.get("content") if isinstance(entries, dict) else None
    if not isinstance(content, list):
        return []
    return usable_log_probs([entry.get("logprob") if isinstance(entry, dict) else None for entry in content])


def usable_log_probs(values: Any) -> list[float]:
    """The values if all of them are logarithms of probabilities, else nothing."""
    usable = isinstance(values, list) and all(
        type(value) in (int, float) and -math.inf < value <= 0 for value in values
    )
    return [float(value) for value in values] if usable else []

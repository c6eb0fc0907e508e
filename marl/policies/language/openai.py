"""A policy behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, or a vendor's.

Servers fail: a request that goes unanswered, times out or brings back no JSON is repeated, and given up after that; the
episode is then dropped and counted. A server cannot be trained from here; where it returns token ids and their
log-probabilities (vLLM's ``return_token_ids``) transcripts hold them, for traces and for learning elsewhere.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeGuard

from marl.envs.chat import Message
from marl.errors import UserError
from marl.policies.language.base import Request

_PARALLEL = 32
_MAX_REPLY = 4 << 20
_FIRST_WAIT_SECONDS = 0.2


class OpenAIPolicy:
    """Speaks through ``POST {base_url}/chat/completions``.

    key_variable: environment variable that holds the key; it may be unset for servers that ask for none.
    retries: further attempts after a failed one, with growing pauses. require_ids: refuse replies without token ids.
    failures: reason -> how often an attempt failed.
    Raises ``UserError`` when the server refuses a request as wrong, which no repetition mends.
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
    ):
        if not base_url.startswith(("http://", "https://")):
            raise UserError(f"base_url '{base_url}' must begin with http:// or https://")
        self._url = base_url.rstrip("/") + "/chat/completions"
        self._model, self._timeout, self._retries = model, timeout_seconds, retries
        self._max_tokens, self._temperature, self._require_ids = max_tokens, temperature, require_ids
        self._key = os.environ.get(key_variable, "")
        self.failures: dict[str, int] = {}

    def complete(self, requests: Sequence[Request], greedy: bool = False) -> list[str | None]:
        with ThreadPoolExecutor(min(_PARALLEL, len(requests))) as pool:
            return list(pool.map(lambda request: self._say(request, greedy), requests))

    def forget(self) -> None:
        """The server keeps what it keeps."""

    def _say(self, request: Request, greedy: bool) -> str | None:
        body = {
            "model": self._model,
            "messages": [spelt(message) for message in request.turn.messages],
            "tools": list(request.turn.tools),
            "max_tokens": self._max_tokens,
            "temperature": 0.0 if greedy else self._temperature,
            "seed": request.key & 0x7FFFFFFF,
            "return_token_ids": True,
            "logprobs": True,
        }
        reply = self._asked(body)
        return None if reply is None else self._read(request, reply)

    def _asked(self, body: dict[str, Any]) -> dict[str, Any] | None:
        """The first choice of a reply, after as many attempts as it takes; None if none of them brought one."""
        for attempt in range(self._retries + 1):
            if attempt:
                time.sleep(_FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
            reply = self._post(body)
            if reply is not None:
                return reply
        return None

    def _sound(self, choice: dict[str, Any]) -> bool:
        """Whether a choice has what has to be in it."""
        return isinstance(choice["message"], dict)

    def _post(self, body: dict[str, Any]) -> dict[str, Any] | None:
        """The first choice of a reply with what belongs to it, or None if the attempt failed in a way that may pass."""
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        call = urllib.request.Request(self._url, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(call, timeout=self._timeout) as answer:
                data = json.loads(answer.read(_MAX_REPLY))
            choice: dict[str, Any] = data["choices"][0]
            if not self._sound(choice):
                raise TypeError
        except urllib.error.HTTPError as error:
            if 400 <= error.code < 500 and error.code not in (408, 409, 429):
                detail = error.read(300).decode(errors="replace").strip()
                raise UserError(f"the server at {self._url} refuses the request ({error.code}): {detail}") from None
            why = f"status {error.code}"
        except OSError as error:
            slow = isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError)
            why = "timeout" if slow else "no connection"
        except (ValueError, LookupError, TypeError, RecursionError, http.client.HTTPException):
            why = "broken reply"
        else:
            return choice | {"prompt_token_ids": data.get("prompt_token_ids")}
        self.failures[why] = self.failures.get(why, 0) + 1
        return None

    def _read(self, request: Request, choice: dict[str, Any]) -> str:
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
                f"the server at {self._url} returns no token ids, so nothing can be learned from it: start vLLM (which "
                f"knows return_token_ids), or use the policy for rollouts only"
            )
        return text_of(choice["message"])


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
    """What a server's message says, as text: a tool call becomes its JSON."""
    calls = message.get("tool_calls")
    if isinstance(calls, list) and calls and isinstance(calls[0], dict):
        function = calls[0].get("function")
        if isinstance(function, dict):
            name, arguments = str(function.get("name", "")), function.get("arguments")
            try:
                parsed = json.loads(arguments) if isinstance(arguments, str) else arguments
            except (ValueError, RecursionError):
                parsed = arguments  # broken arguments are the agent's mistake: the world will say so
            return json.dumps({"name": name, "arguments": parsed}, separators=(",", ":"))
    content = message.get("content")
    # Half a surrogate pair is legal in JSON but cannot be written down again.
    return content.encode(errors="replace").decode() if isinstance(content, str) else ""


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

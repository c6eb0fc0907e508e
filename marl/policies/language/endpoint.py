"""Asks a server that speaks OpenAI's protocol, whatever its dialect, and however it fails.

Servers differ in the fields they take: one that is named in a refusal is left out, or goes by its other name, from then
on. A request that goes unanswered, times out or brings back no JSON is repeated, after as long as the server asks for.
What no repetition mends (a conversation that is too long, one that the server or the model refuses) is given up: it
costs its episode, is counted, and never ends a run. Only what is wrong for every conversation does.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from marl.errors import UserError

_MAX_REPLY = 4 << 20
_FIRST_WAIT_SECONDS = 0.2
#: As long as a server may ask to be left alone.
_LONGEST_WAIT_SECONDS = 300.0
#: Fields that a server may do without, in the order in which they are given up, and what that means.
OPTIONAL = {
    "return_token_ids": "it returns no token ids, so that its turns cannot be learned from",
    "logprobs": "it returns no log-probabilities",
    "seed": "its samples are not those of a seed",
    "temperature": "it samples at a temperature of its own",
    "tools": "tools are written into the prompt, and their results come as turns of the user",
}
#: What a field goes by elsewhere.
_OTHER_NAMES = {"max_tokens": "max_completion_tokens"}
_TOO_LONG = re.compile(
    r"context[ _](?:length|size|window)|maximum context|prompt is too long|too many tokens|exceeds? the (?:available )?"
    r"context",
    re.IGNORECASE,
)
#: Nothing that is asked will be answered: a wrong key, address or model.
_FOR_ALL = (401, 403, 404, 405)

#: (fields that are left out) -> the body of a request.
Build = Callable[[frozenset[str]], dict[str, Any]]


class Fault(NamedTuple):
    """Why a request brought nothing. passing: it may be answered later. wait: seconds that the server asks for."""

    why: str
    detail: str = ""
    passing: bool = True
    wait: float = 0.0
    code: int = 0


class Endpoint:
    """One address.

    failures: reason -> how often an attempt failed. echo: is told once what a server does without, and of each reason.

    Args:
        url: is posted to.
        key_variable: environment variable that holds the key; it may be unset for servers that ask for none.
        timeout_seconds: of one request.
        retries: further attempts after a failed one, with growing pauses.
    """

    def __init__(self, url: str, key_variable: str, timeout_seconds: float, retries: int):
        self.url = url
        self.failures: dict[str, int] = {}
        self.echo: Callable[[str], None] = lambda _: None
        self._key = os.environ.get(key_variable, "")
        self._timeout, self._retries = timeout_seconds, retries
        self._lock = threading.Lock()
        self._without: frozenset[str] = frozenset()
        self._renamed: dict[str, str] = {}
        self._silent_until = 0.0

    def ask(self, build: Build, sound: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
        """The first choice of a reply with what belongs to it; None if there is none, which costs the episode.

        Args:
            build: the body.
            sound: whether a choice has what has to be in it; it may raise as well.

        Raises:
            UserError: no request will be answered: a wrong key, address or model.
        """
        attempt = 0
        while True:
            without = self._without
            body = build(without)
            body = {self._renamed.get(name, name): value for name, value in body.items()}
            time.sleep(max(self._silent_until - time.monotonic(), 0.0))
            found = self._post(body, sound)
            if not isinstance(found, Fault):
                return found
            if self._adapts(found, body, without):
                continue
            self._count(found)
            if found.code in _FOR_ALL:
                raise UserError(f"the server at {self.url} refuses the request ({found.code}): {found.detail[:300]}")
            if not found.passing or attempt == self._retries:
                return None
            wait = max(found.wait, _FIRST_WAIT_SECONDS * 2**attempt)
            attempt += 1
            with self._lock:  # what one request is told holds for all of them
                self._silent_until = max(self._silent_until, time.monotonic() + wait)

    def give_up(self, why: str, detail: str = "") -> None:
        """Count an answer that is none."""
        self._count(Fault(why, detail, passing=False))

    def _count(self, fault: Fault) -> None:
        with self._lock:
            first = fault.why not in self.failures
            self.failures[fault.why] = self.failures.get(fault.why, 0) + 1
        if first and not fault.passing:
            about = f": {fault.detail[:200]}" if fault.detail else ""
            self.echo(f"the server at {self.url} gives no answer to a conversation ({fault.why}{about}): it is dropped")

    def _adapts(self, fault: Fault, body: Mapping[str, Any], without: frozenset[str]) -> bool:
        """Whether the next attempt is another one: a field that the server names goes, or changes its name."""
        if fault.code not in (400, 422, 500, 501) or fault.why == "too long":
            return False
        for name, other in _OTHER_NAMES.items():
            if name in body and other in fault.detail:
                with self._lock:
                    self._renamed[name] = other
                return True
        named = next((name for name in OPTIONAL if name in body and re.search(rf"\b{name}\b", fault.detail)), None)
        if named is None:
            return False
        with self._lock:
            new, self._without = named not in self._without, self._without | {named}
        if new:
            self.echo(f"the server at {self.url} takes no '{named}': {OPTIONAL[named]}")
        return named not in without

    def _post(self, body: dict[str, Any], sound: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | Fault:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        call = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(call, timeout=self._timeout) as answer:
                data = json.loads(answer.read(_MAX_REPLY))
            choice: dict[str, Any] = data["choices"][0]
            if not sound(choice):
                raise TypeError
        except urllib.error.HTTPError as error:
            return _refused(error)
        except OSError as error:
            slow = isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError)
            return Fault("timeout" if slow else "no connection")
        except (ValueError, LookupError, TypeError, RecursionError, http.client.HTTPException):
            return Fault("broken reply")
        return choice | {"prompt_token_ids": data.get("prompt_token_ids")}


def _refused(error: urllib.error.HTTPError) -> Fault:
    try:
        detail = error.read(4000).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException):
        detail = ""
    if error.code in (400, 413, 422, 500) and _TOO_LONG.search(detail):
        return Fault("too long", detail, passing=False, code=error.code)
    passing = not 400 <= error.code < 500 or error.code in (408, 409, 425, 429)
    return Fault(f"status {error.code}", detail, passing, _asked_for(error.headers.get("Retry-After")), error.code)


def _asked_for(after: str | None) -> float:
    """Seconds of a ``Retry-After`` header: a number, or a date."""
    if after is None:
        return 0.0
    try:
        seconds = float(after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(after).timestamp() - time.time()
        except (ValueError, TypeError):
            return 0.0
    return min(max(seconds, 0.0), _LONGEST_WAIT_SECONDS) if seconds == seconds else 0.0

"""Before a run with real weights: turns are sampled and scored again; one that scores them otherwise is refused.

Sampling goes token by token with a cache, training over whole sequences with masks of its own. A model whose layers do
something that only one of the two ways knows would learn from another distribution than it was sampled from, with
gradients of any direction, and no figure of a run would say so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from marl.envs.chat import LanguageWorld, Turn
from marl.errors import UserError
from marl.learning.language.token_losses import tokens_of
from marl.learning.language.token_trees import TokenRow
from marl.policies.language.base import Request, TokenModel, Transcript
from marl.policies.language.hf import HfPolicy
from marl.policies.language.served import ServedPolicy
from marl.seeding import fold_int
from marl.systems.language.likelihood import LogRatio, log_probs

#: How far a token's log-probability may lie from that of sampling, at most, by the type of the weights. Logits between
#: 16 and 32 are 2**-3 apart in bfloat16 and 2**-6 in float16, and both ways round them for themselves.
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.06}
#: Tokens that are sampled in each turn.
_STEPS = 12
#: Longest conversation that is tried, to get beyond a window, by the kind of device.
_LONGEST = {"cpu": 1024}
_LONGEST_ELSEWHERE = 8192


def check_scoring(
    models: Sequence[TokenModel], world: LanguageWorld, roles: Sequence[str], echo: Callable[[str], None]
) -> None:
    """Check each model with real weights once, on how a conversation of the world begins.

    A model that scores trees of sequences otherwise than it samples goes on with one sequence a row, if that helps.

    Args:
        models: those that learn.
        world: begins the conversations.
        roles: of each model, one that learns.
        echo: told how far apart both ways are.

    Raises:
        UserError: a model scores a sampled token otherwise than it was sampled, or cannot score it.
    """
    checked: set[int] = set()
    for model, role in zip(models, roles, strict=True):
        local = model.local if isinstance(model, ServedPolicy) else model
        if isinstance(local, HfPolicy) and id(local) not in checked:
            checked.add(id(local))
            echo(check_policy(local, role, _opening(world)))


def check_policy(policy: HfPolicy, role: str, turn: Turn) -> str:
    """Sample two turns, score them again, and say what was seen; arguments and errors as of ``check_scoring``."""
    kind = policy.scorer.architecture
    prompts = _prompts(policy, turn)
    rows = _sampled(policy, role, prompts, kind)
    allowed = TOLERANCES[policy.dtype]
    found, fault = _compared(policy, role, rows)
    note = ""
    if policy.packs and not (fault is None and found.largest <= allowed):
        policy.scorer.packs = False
        note = ", one sequence a row: its layers cannot be given trees of sequences"
        found, fault = _compared(policy, role, rows)
    if fault is not None:
        raise UserError(f"{kind} cannot be trained: it samples, but scoring what it said fails ({fault})")
    if not found.largest <= allowed:
        raise UserError(
            f"{kind} cannot be trained: it scores what it said otherwise than it sampled it, by up to "
            f"{found.largest:.2g} in a token's log-probability ({allowed:g} is allowed in {_name(policy.dtype)}); use "
            f"a model of another architecture"
        )
    lengths = " and ".join(str(len(prompt)) for prompt in prompts)
    return (
        f"{kind}: turns after {lengths} tokens are scored as they were sampled, within {found.largest:.1g} in "
        f"log-probability ({allowed:g} is allowed in {_name(policy.dtype)}){note}"
    )


def _opening(world: LanguageWorld) -> Turn:
    env = world.make()
    try:
        env.reset(seed=-1)  # one of those that are shown, not one that is learned from
        turn = env.turn()
    finally:
        env.close()
    assert turn is not None
    return turn


def _prompts(policy: HfPolicy, turn: Turn) -> list[list[int]]:
    """How a conversation begins, and a longer one that begins alike and reaches beyond the model's windows."""
    transcript = Transcript()
    policy.hear(Request(turn, transcript, 0))
    short = transcript.ids
    scorer = policy.scorer
    length = max(len(short) + 5, scorer.window + 5 if scorer.window else 0)
    length = min(length, _LONGEST.get(policy.device.type, _LONGEST_ELSEWHERE), scorer.positions - _STEPS)
    length = max(length, len(short) + 1)
    return [short, (short * (length // len(short) + 1))[:length]]


def _sampled(policy: HfPolicy, role: str, prompts: list[list[int]], kind: str) -> list[TokenRow]:
    keys = [fold_int(0, number) for number in range(len(prompts))]
    try:
        said = policy.sample_as(role, prompts, keys, _STEPS)
    except _FAULTS as error:
        raise UserError(f"{kind} cannot be used: sampling from it fails ({_first_line(error)})") from None
    rows = []
    for prompt, (ids, scores) in zip(prompts, said, strict=True):
        learned = np.arange(len(prompt) + len(ids)) >= len(prompt)
        old = np.concatenate([np.full(len(prompt), np.nan), scores])
        rows.append(TokenRow([*prompt, *ids], learned, learned.astype(float), old))
    return rows


#: What the code of a model raises where it is given something that it does not know.
_FAULTS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, NotImplementedError, AssertionError)


def _compared(policy: HfPolicy, role: str, rows: list[TokenRow]) -> tuple[LogRatio, str | None]:
    """How far scores lie apart; or why there are none."""
    found = LogRatio()
    together = sum(len(row.ids) for row in rows)
    try:
        with torch.no_grad():
            old = tokens_of(rows).old
            for trees, log_prob in log_probs(policy, role, rows, policy.temperature, together, together):
                found.add(log_prob[trees.learned], old[trees.entry])
    except _FAULTS as error:
        return found, _first_line(error)
    return found, None


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

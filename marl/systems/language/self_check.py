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
#: Tokens that are sampled after each prompt, in two turns.
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
            for note in local.chat.form.notes:
                echo(f"the model's chat template: {note}")
            echo(check_policy(local, role, _opening(world)))


def check_policy(policy: HfPolicy, role: str, turn: Turn) -> str:
    """Sample two turns, score them again, and say what was seen; arguments and errors as of ``check_scoring``."""
    kind = policy.scorer.architecture
    prompts = _prompts(policy, turn)
    allowed = TOLERANCES[policy.dtype]
    found, fault = _compared(policy, role, prompts)
    note = ""
    if policy.packs and not (fault is None and found.largest <= allowed):
        policy.scorer.packs = False
        note = ", one sequence a row and read anew in every turn: its layers do more than attend to what they see"
        found, fault = _compared(policy, role, prompts)
    if fault is not None:
        raise UserError(f"{kind} cannot be trained: {fault}; use a model of another architecture")
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
    length = min(length, _LONGEST.get(policy.device.type, _LONGEST_ELSEWHERE), scorer.positions - 2 * _STEPS)
    length = max(length, len(short) + 1)
    return [short, (short * (length // len(short) + 1))[:length]]


#: What the code of a model raises where it is given something that it does not know.
_FAULTS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, NotImplementedError, AssertionError)


def _compared(policy: HfPolicy, role: str, prompts: list[list[int]]) -> tuple[LogRatio, str | None]:
    """How far scores lie apart from sampling; or why there are none."""
    found = LogRatio()
    try:
        rows = _sampled(policy, role, prompts)
    except _FAULTS as error:
        return found, f"sampling from it fails ({_first_line(error)})"
    together = sum(len(row.ids) for row in rows)
    try:
        with torch.no_grad():
            old = tokens_of(rows).old
            for trees, log_prob in log_probs(policy, role, rows, policy.temperature, together, together):
                found.add(log_prob[trees.learned], old[trees.entry])
    except _FAULTS as error:
        return found, f"it samples, but scoring what it said fails ({_first_line(error)})"
    return found, None


def _sampled(policy: HfPolicy, role: str, prompts: list[list[int]]) -> list[TokenRow]:
    """A turn after each prompt, and after some more tokens another one, which goes on with what was kept."""
    transcripts = [Transcript(list(prompt), [0.0] * len(prompt)) for prompt in prompts]
    for turn in range(2):
        for number, transcript in enumerate(transcripts):
            transcript.hear(prompts[0][: turn * (2 + number)])
        keys = [fold_int(turn, number) for number in range(len(transcripts))]
        policy.speak(role, transcripts, keys, _STEPS // 2)
    rows = []
    for transcript in transcripts:
        learned = np.zeros(len(transcript.ids), dtype=bool)
        for start, end in transcript.spans:
            learned[start:end] = True
        rows.append(
            TokenRow(transcript.ids, learned, learned.astype(float), np.where(learned, transcript.log_probs, np.nan))
        )
    return rows


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

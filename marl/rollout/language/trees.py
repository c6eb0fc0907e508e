"""Tree sampling: N candidates for every turn from the same state, and the best one goes on.

"Stronger Together" (AT-GRPO, arXiv 2510.11062): independent rollouts agree in the question only, so turns of one number
are compared although what happened before differs. In a tree the candidates of a turn share all that happened before.
Each candidate is followed to the end of its episode by the present policies, which tells what it is worth in a world
that pays at the end; the state after the best candidate is where the next N are tried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from marl.envs.chat import LanguageEnv, Outcome
from marl.policies.language.base import LanguagePolicy, Transcript
from marl.rollout.language.turns import Conversation, Episode, Running, TurnRecord, advance, answer
from marl.seeding import fold_int

#: (how a followed episode ended, the candidate's turn) -> what the candidate is worth.
Judge = Callable[[Outcome, TurnRecord], float]


class TreePlayer:
    """Plays trees of episodes; each candidate comes back as an episode with one conversation and one turn.

    policies: role -> who speaks for it. judge: chooses among candidates; of equal ones the first goes on.
    """

    def __init__(self, make: Callable[[], LanguageEnv], policies: Mapping[str, LanguagePolicy], judge: Judge):
        self._make, self._policies, self._judge = make, policies, judge
        self._envs: list[LanguageEnv] = []

    def play(self, seeds: Sequence[int], key: int, groups: Sequence[int]) -> list[Episode]:
        """One tree for each group of equal numbers in ``groups``; as many candidates as the group has members.

        Returns the candidates of all turns of all trees. Candidates of one turn have a group of their own. Their
        conversation holds the ids up to the candidate's last token, and the candidate's turn alone; ``spent`` counts
        the tokens of following it. Candidates that were not answered, or not to the end, have no outcome.
        """
        members: dict[int, list[int]] = {}
        for number, group in enumerate(groups):
            members.setdefault(group, []).append(number)
        while len(self._envs) < len(members):
            self._envs.append(self._make())
        trunks = [
            (Running(env, Episode(seeds[own[0]], group, fold_int(key, own[0]))), len(own))
            for env, (group, own) in zip(self._envs, members.items(), strict=False)
        ]
        alive = [(trunk, size) for trunk, size in trunks if trunk.next_turn() is not None]
        found: list[Episode] = []
        turn = 0
        while alive:
            tried = [
                [trunk.fork(fold_int(fold_int(trunk.episode.key, turn), i)) for i in range(size)]
                for trunk, size in alive
            ]
            answer([branch for branches in tried for branch in branches], self._policies)
            after = [[branch.fork(branch.episode.key) if branch.spoke else None for branch in own] for own in tried]
            advance([branch for own in tried for branch in own if branch.spoke], self._policies)
            going = []
            for (trunk, size), branches, states in zip(alive, tried, after, strict=True):
                group = fold_int(trunk.episode.group, turn)
                worth = []
                for branch, state in zip(branches, states, strict=True):
                    candidate = _candidate(branch, state, group)
                    found.append(candidate)
                    outcome = candidate.outcome
                    # A candidate with an outcome was answered, so that it has its turn.
                    turns = [made for conversation in candidate.conversations for made in conversation.turns]
                    worth.append(float("-inf") if outcome is None else self._judge(outcome, turns[0]))
                best = states[worth.index(max(worth))]
                if best is not None and max(worth) > float("-inf") and best.next_turn() is not None:
                    going.append((best, size))
            alive, turn = going, turn + 1
        return found

    def close(self) -> None:
        for env in self._envs:
            env.close()


def _candidate(branch: Running, state: Running | None, group: int) -> Episode:
    """The episode that stands for one candidate. state: right after it was said; branch: after all was followed."""
    seed, key = branch.episode.seed, branch.episode.key
    if state is None:
        return Episode(seed, group, key)
    said = state.spoken
    outcome = branch.episode.outcome
    spent = branch.tokens - state.tokens
    transcript = said.transcript
    turn = said.turns[-1]
    result = None
    if outcome is not None:
        # Of the conversation's own figures only whether this very turn was refused is the candidate's.
        result = replace(outcome.conversations[said.number], turns=1, invalid=int(turn.invalid))
    alone = Conversation(
        said.number,
        said.agent,
        said.caller,
        said.level,
        list(said.messages),
        Transcript(transcript.ids, transcript.log_probs, transcript.spans[-1:]),
        [turn],
        result,
        said.above,
    )
    return Episode(seed, group, key, [alone], outcome, spent)

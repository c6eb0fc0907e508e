"""What the world of words asks and answers, and how its demonstrator speaks."""

from __future__ import annotations

from marl.envs.chat import Turn
from marl.seeding import Stream, fold_int
from scenarios.miniatures.config import WordsConfig

LOOK, HIDDEN, INVALID = "look", "?", "invalid"
FILLERS = ("please", "tell", "now", "what", "is")
_SHIFT, _LOOK, _WORDS = (Stream.WORLD + i for i in range(3))


def below(n: int, *path: int) -> int:
    """A number from 0 to n - 1 that a path of numbers decides."""
    key = 0
    for part in path:
        key = fold_int(key, part)
    return (key & ((1 << 63) - 1)) % n


class Table:
    """Questions and their answers; the same in every run."""

    def __init__(self, config: WordsConfig):
        self.config = config
        self.letters = tuple(chr(ord("a") + i) for i in range(config.letters))
        least, most = config.lengths
        self._lengths = [least + i % (most - least + 1) for i in range(config.questions)]

    def answer(self, question: int) -> list[str]:
        config = self.config
        return [self.letters[below(config.letters, _WORDS, question, i)] for i in range(self._lengths[question])]

    def hidden(self, question: int) -> bool:
        """Whether its first letter is told by looking alone."""
        return below(1000, _LOOK, question) < 1000 * self.config.look

    def shift(self, question: int) -> float:
        return self.config.shift * (below(2001, _SHIFT, question) / 1000 - 1)

    def vocabulary(self) -> tuple[str, ...]:
        names = (f"q{i}" for i in range(self.config.questions))
        return (*names, *self.letters, LOOK, HIDDEN, INVALID, *FILLERS)

    def demonstrated(self, turn: Turn, key: int) -> str:
        """A faulty demonstrator: it looks where it has to, and says each word right with the chance ``skill``."""
        config = self.config
        asked, heard = turn.messages[0]["content"], turn.messages[-1]["role"] == "tool"
        if config.look and not heard and (asked.endswith(HIDDEN) or below(1000, key, _LOOK) < 1000 * config.over_looks):
            return LOOK
        words = turn.plan.split()
        for place, _ in enumerate(words):
            if below(1000, key, place, 0) >= 1000 * config.skill:
                words[place] = self.letters[below(len(self.letters), key, place, 1)]
        return " ".join(words)

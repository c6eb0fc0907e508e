"""Watches over the first updates of a run, which say once that nothing is being learned, and why that may be."""

from __future__ import annotations

from collections.abc import Mapping

#: Updates in a row without any gradient, and iterations with one and the same reward, after which it is said.
_UPDATES, _ITERATIONS = 5, 20


class IdleWatch:
    """Says once that updates have had no gradient, whatever the reason; looks at the first ones alone.

    A gradient in any update ends the watch: later ones may well have nothing left to learn.
    """

    def __init__(self) -> None:
        self._idle: int | None = 0

    def saw(self, figures: Mapping[str, float]) -> str:
        """The sentence to say after an update, mostly empty.

        Args:
            figures: of the update; ``grad_norm_UNIT`` is among them for each unit that took a step.
        """
        if self._idle is None:
            return ""
        if any(value > 0.0 for name, value in figures.items() if name.startswith(("grad_norm", "tokens_"))):
            self._idle = None
            return ""
        self._idle += 1
        if self._idle < _UPDATES:
            return ""
        self._idle = None
        return (
            f"none of the first {_UPDATES} updates had a gradient, because all rewards that were compared were "
            "equal: look at the column 'reward' of metrics.csv; if it stays 0 the policies never answer rightly (a "
            "longer algorithm.warm_start, easier questions), if it stays the same they all say the same "
            "(algorithm.temperature, algorithm.group)"
        )


class StillWatch:
    """Says once that the mean reward has been exactly the same in every iteration so far; looks at the first ones."""

    def __init__(self) -> None:
        self._seen: list[float] | None = []

    def saw(self, reward: float) -> str:
        """The sentence to say after an iteration, mostly empty.

        Args:
            reward: the mean of the iteration.
        """
        if self._seen is None:
            return ""
        self._seen.append(reward)
        if reward != self._seen[0]:
            self._seen = None
            return ""
        if len(self._seen) < _ITERATIONS:
            return ""
        self._seen = None
        return (
            f"the reward was exactly {reward:g} in each of the first {_ITERATIONS} iterations: where it never varies, "
            "nothing can be learned; look whether the world ever pays otherwise (longer episodes, an easier task)"
        )

"""The options of the tiny worlds: the ``world:`` part of a run's configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from marl.config import Frozen

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class CoverageConfig(Frozen):
    """Agents on an empty grid that see the cells around them; what counts is the union of all that was seen."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    size: int = Field(30, ge=3, le=200)
    """Cells of a side."""
    agents: int = Field(1, ge=1, le=64)
    """Agents; all start from the same cell."""
    horizon: int = Field(40, ge=1, le=10_000)
    """Steps of an episode."""
    reach: int = Field(1, ge=0, le=10)
    """Steps that an agent sees."""
    reward: Literal["marginal", "additive"] = "marginal"
    """What is paid: the cells that nobody had seen; or all cells in sight, seen before or not."""
    credit: Literal["team", "own"] = "own"
    """With marginal rewards: each agent is paid what nobody else sees in the same step, or all are paid alike."""


class WordsConfig(Frozen):
    """One question, one answer of some words: a table that has to be found out."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    questions: int = Field(32, ge=1, le=512)
    """Questions of the table; training and evaluation ask the same ones."""
    lengths: tuple[Annotated[int, Field(ge=1, le=16)], Annotated[int, Field(ge=1, le=16)]] = (1, 4)
    """Least and most words of an answer; longer ones are harder to find."""
    letters: int = Field(4, ge=2, le=26)
    """Different words of answers."""
    skill: Share = 0.5
    """The demonstrator's chance to say a word right, instead of any word."""
    shift: float = Field(0.0, ge=-100.0, le=100.0)
    """A fixed amount between minus and plus this is paid for a question, whatever the answer."""
    bait: float = Field(0.0, ge=0.0, le=100.0)
    """Paid for the wrong answer that says the first letter all over, as a faulty judge would."""
    look: Share = 0.0
    """Share of questions that begin with a letter that only ``look`` tells; above 0 all answers begin with a letter of
    the episode, which the other questions tell."""
    over_looks: Share = 0.5
    """The demonstrator's chance to look where the question tells."""
    reworded: bool = False
    """Training asks in other words, evaluation plainly."""

    @model_validator(mode="after")
    def _ordered(self) -> WordsConfig:
        if self.lengths[0] > self.lengths[1]:
            raise ValueError(f"lengths={list(self.lengths)}: the least is above the most")
        return self


class MiniatureConfig(Frozen):
    """Which of the tiny worlds, and their options."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    kind: Literal["coverage", "words"] = "coverage"
    """The world."""
    coverage: CoverageConfig = CoverageConfig()
    """Options of ``kind: coverage``."""
    words: WordsConfig = WordsConfig()
    """Options of ``kind: words``."""
    held_out: bool = False
    """Episodes that training does not meet; set by the platform."""

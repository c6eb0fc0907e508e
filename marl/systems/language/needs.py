"""What systems cannot do without, said before a run."""

from __future__ import annotations

from pydantic import model_validator

from marl.systems.language.options import LanguageConfig


class GroupConfig(LanguageConfig):
    """Options of systems that compare the rollouts of a task with each other."""

    @model_validator(mode="after")
    def _several(self) -> GroupConfig:
        if self.group < 2:
            raise ValueError(f"group={self.group}: this system compares rollouts of a task, so it needs 2 or more")
        return self

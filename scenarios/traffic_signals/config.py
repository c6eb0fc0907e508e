"""The world's options: the ``world:`` part of a run's configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from marl.envs.pools import APART

Reward = Literal["diff-waiting-time", "average-speed", "queue", "pressure"]


class SignalConfig(BaseModel):
    """Traffic lights of a road network, one agent each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    net: str = Field("4x4", description="one of sumo-rl's networks (4x4, 3x3, 2x2, single), or a .net.xml file")
    routes: str | None = Field(None, description="the demand, a .rou.xml file; needed with a network file of one's own")
    begin_s: int | None = Field(
        None,
        ge=0,
        description="when an episode begins; default: 0, or with the first car if that departs later than `seconds`",
    )
    seconds: int = Field(1000, ge=5, description="simulated seconds of an episode")
    delta_s: int = Field(5, ge=1, description="seconds between two decisions")
    yellow_s: int = Field(2, ge=1, description="seconds of yellow between two greens")
    min_green_s: int = Field(5, ge=1, description="seconds for which a green is kept at the least")
    reward: Reward = Field("diff-waiting-time", description="sumo-rl's reward of a light")

    workers: str = Field("processes", pattern=APART, description="where SUMO runs: processes, ray, ray://HOST:PORT")

    @model_validator(mode="after")
    def _whole_decisions(self) -> SignalConfig:
        if self.seconds % self.delta_s:
            raise ValueError(f"seconds ({self.seconds}) has to be a multiple of delta_s ({self.delta_s})")
        if self.yellow_s >= self.delta_s:
            raise ValueError(f"yellow_s ({self.yellow_s}) has to be less than delta_s ({self.delta_s})")
        return self

    @property
    def horizon(self) -> int:
        """Decisions of an episode."""
        return self.seconds // self.delta_s

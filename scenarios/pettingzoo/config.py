"""The world's options: the ``world:`` part of a run's configuration."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _none_is_empty(arguments: Any) -> Any:
    return {} if arguments is None else arguments


class PettingZooConfig(BaseModel):
    """An environment that a factory makes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    env: str = Field(
        "mpe2.simple_spread_v3:parallel_env",
        min_length=1,
        description="MODULE:FACTORY, or MODULE:ID of what the module registers with Gymnasium",
    )
    env_args: Annotated[dict[str, Any], BeforeValidator(_none_is_empty)] = Field(
        default_factory=dict, description="what the factory takes"
    )
    horizon: int | None = Field(
        None, ge=1, le=1_000_000, description="steps after which an episode is truncated; null: the environment's own"
    )
    truncate_at_horizon: bool = Field(
        False, description="an end at the horizon is a truncation, whatever the environment calls it"
    )
    common_reward: Literal["none", "sum", "mean"] = Field(
        "none",
        description="every agent gets the sum or mean of all rewards, and nobody leaves before the team has ended",
    )
    groups: Literal["spaces", "names"] = Field(
        "spaces", description="agents with equal spaces form a group; names: unlike names are apart all the same"
    )
    state: bool = Field(True, description="take the environment's state() for the critic, if it has one")
    image_size: int | None = Field(
        84, ge=8, le=2048, description="pixels of the longer side to which larger images are scaled; null: as they are"
    )
    deterministic: bool = Field(
        False, description="an episode is a function of its seed and actions, so that runs resume within episodes"
    )
    workers: Literal["processes", "none"] = Field(
        "processes",
        description="where environments are stepped: processes of this machine; none: the run's own process",
    )
    worker_count: int | None = Field(
        None, ge=1, le=1024, description="of the workers; null: one per core of this machine, at most one per copy"
    )
    timeout_s: float = Field(60.0, gt=0, le=86_400, description="longest time for a step before a worker is replaced")
    render: bool = Field(False, description="keep a picture of every step, which 'watch' does by itself")

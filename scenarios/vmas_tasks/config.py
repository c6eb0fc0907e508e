"""The world's options: the ``world:`` part of a run's configuration."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _none_is_empty(options: Any) -> Any:
    return {} if options is None else options


class VmasConfig(BaseModel):
    """A task of VMAS, the vectorised multi-agent simulator."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str = Field(
        "navigation", min_length=1, description="name of a VMAS scenario, such as navigation, balance or transport"
    )
    options: Annotated[dict[str, Any], BeforeValidator(_none_is_empty)] = Field(
        default_factory=dict, description="what that scenario takes, such as n_agents"
    )
    horizon: int = Field(100, ge=1, le=100_000, description="steps after which an episode is truncated")
    continuous: bool = Field(True, description="forces as numbers, clipped to their range; else a choice of directions")

"""The options of the world: the ``world:`` part of a run's configuration."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from scenarios.lifelong_mapf.guidance.base import GuidanceConfig
from scenarios.lifelong_mapf.maps.foreign import map_text
from scenarios.lifelong_mapf.maps.generators import Generator, RandomMap
from scenarios.lifelong_mapf.maps.tasks import tasks_text
from scenarios.lifelong_mapf.state import MAX_AGENTS


def _several(generators: Any) -> tuple[Any, ...]:
    """One generator may stand for a list of one."""
    return tuple(generators) if isinstance(generators, list | tuple) else (generators,)


class MapfConfig(BaseModel):
    """Options of ``LifelongMapf``.

    Of several sources of maps ``map`` goes before the map of ``tasks``, and that before ``generator``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    map: Annotated[str | None, BeforeValidator(map_text)] = Field(
        None,
        description="a map file (MovingAI .map, POGEMA .yaml, FILE.yaml:NAME), a shipped map, or the map itself: its "
        "rows as text, or from Python as a list of texts or an array, 0 free",
    )
    generator: Annotated[tuple[Generator, ...], BeforeValidator(_several)] = Field(
        (RandomMap(),), min_length=1, description="makes the maps; several take turns"
    )
    map_pool: int = Field(64, ge=1, le=100_000, description="generated maps; each episode of a copy draws one of them")
    map_seed: int = Field(
        0, ge=0, le=1_000_000, description="another seed gives another pool of maps, with none in common"
    )
    agents: int | None = Field(
        None, ge=1, le=MAX_AGENTS, description="number of agents; default: as many as the task file has, else 32"
    )
    tasks: Annotated[str | None, BeforeValidator(tasks_text)] = Field(
        None,
        description="a file of starts and goals (.json or MovingAI .scen), or a folder of such files; from Python also "
        "a list of (start, goal) or of {start, goals}, cells as (row, column)",
    )
    scheduler: str = Field(
        "nearest",
        description="problems with errands (2024), or with tasks for whoever comes first: who gives them to robots, "
        "nearest or oldest, or module:object of one's own (step/errands.py)",
    )
    horizon: int = Field(256, ge=1, le=100_000, description="steps after which an episode is truncated")
    motion: Literal["moves", "turning"] = Field(
        "moves",
        description="moves: to any of the four neighbours; turning: robots have a heading, east at first, and drive "
        "ahead, turn right, turn left or wait",
    )
    collision: Literal["priority", "soft", "block_both"] = Field(
        "soft", description="who may move where, as in POGEMA 1.4.0"
    )
    on_target: Literal["restart", "nothing", "finish"] = Field(
        "restart", description="at the goal: get a new one (lifelong), stay on the board, or leave it (one-shot)"
    )
    radius: int = Field(5, ge=1, le=7, description="radius of the observed window, in cells")
    pogema_observation_fault: bool = Field(
        False, description="soft: agents that are followed vanish from view, as in POGEMA up to 1.4.0"
    )
    central_state: bool = Field(True, description="compute the state for a central critic")
    bound_share: bool = Field(
        False, description="restart: compare each episode with its collision-free bound (a search per goal: slow)"
    )
    supervisor_swap: bool | None = Field(
        None,
        description="safety: agents that block each other in a corridor swap places; default: where they stay on their "
        "goals (on_target: nothing)",
    )
    guidance: GuidanceConfig = Field(default_factory=GuidanceConfig, description="how agents are guided, if they are")

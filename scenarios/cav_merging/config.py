"""The world's options: the ``world:`` part of a run's configuration."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from marl.envs.pools import APART

#: Decision steps per second and simulation steps per decision: SUMO steps 0.1 s, the policy decides each 0.2 s.
SIM_STEP_S = 0.1
SUBSTEPS = 2
DECISION_S = SIM_STEP_S * SUBSTEPS


def _pair(value: Any) -> Any:
    """A number stands for a span of which it is both ends. Lists become tuples, which strict validation wants."""
    if isinstance(value, int | float):
        return (value, value)
    return tuple(value) if isinstance(value, list) else value


#: A fixed number, or [lowest, highest] of which each episode draws one.
Span = Annotated[tuple[float, float], BeforeValidator(_pair)]
IntSpan = Annotated[tuple[int, int], BeforeValidator(_pair)]

Drivers = Literal["timid", "assertive", "mixed"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Geometry(_Model):
    """Lengths along the road in metres; the published ones are 220, 100, 100 and 100 (Chen et al. 2023)."""

    before: Span = Field((220.0, 220.0), description="straight part before the ramp swings in")
    converge: Span = Field((100.0, 100.0), description="the part over which the ramp swings in")
    merge: Span = Field((100.0, 100.0), description="the acceleration lane")
    after: Span = Field((100.0, 100.0), description="main road after the acceleration lane")
    speed_limit: Span = Field((30.0, 30.0), description="m/s")
    main_lanes: IntSpan = Field((1, 1), description="lanes of the main road")

    @field_validator("before", "converge", "merge", "after", "speed_limit")
    @classmethod
    def _in_order(cls, span: tuple[float, float]) -> tuple[float, float]:
        if not 5.0 <= span[0] <= span[1] <= 5000.0:
            raise ValueError("a span is [lowest, highest] with 5 <= lowest <= highest <= 5000")
        return span

    @field_validator("main_lanes")
    @classmethod
    def _few_lanes(cls, span: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= span[0] <= span[1] <= 3:
            raise ValueError("main_lanes is 1, 2 or 3, or a span of these")
        return span

    @property
    def fixed(self) -> bool:
        """Every episode has the same road."""
        return all(low == high for low, high in self.model_dump().values())


class Reward(_Model):
    """Weights of the published reward (``reward.py`` has the formula)."""

    crash: float = Field(200.0, ge=0, description="price of a collision")
    speed: float = Field(1.0, ge=0, description="worth of driving 30 m/s instead of 10")
    merging: float = Field(4.0, ge=0, description="price of being at the end of the acceleration lane")
    headway: float = Field(4.0, ge=0, description="price of a short headway, per e-fold below 1.2 s")
    humans: float = Field(
        0.0, ge=0, description="weight of a human driver's reward where rewards are shared; an automated one has 1"
    )
    sharing: Literal["own", "regional", "global"] = Field(
        "global", description="own reward, mean over the nearest cars before and behind (regional), or mean over all"
    )


class Sensing(_Model):
    """What automated cars sense by themselves; the central state and the supervisor see everything."""

    range_m: float | None = Field(None, gt=0, description="how far, m; None: everything")
    sight_m: float | None = Field(
        None,
        ge=0,
        description="ramp and main road hide each other until both cars are this near to the acceleration lane, m; "
        "None: they never do",
    )
    line_of_sight: bool = Field(False, description="on each lane the nearest car ahead and behind alone")
    know_cavs: bool = Field(True, description="which cars are automated; else only those that they hear from")


class Messages(_Model):
    """What automated cars tell each other; it fills their own inputs for neighbours and gaps."""

    content: Literal["none", "awareness", "perception"] = Field(
        "none", description="nothing, one's own position and speed, or those of all that one senses as well"
    )
    range_m: float = Field(300.0, gt=0, description="how far a message reaches, m")
    loss: float = Field(0.0, ge=0, le=1, description="share of messages lost, drawn for sender, listener and decision")
    track_s: float = Field(0.0, ge=0, description="seconds that a car no longer known is taken to drive on as it did")


#: Cars at the start of the easy mode, where a curriculum begins.
EASY_CAVS, EASY_HUMANS = (1, 3), (0, 1)


class CavConfig(_Model):
    """An on-ramp merge of automated (CAV) and human-driven cars (HDV)."""

    backend: Literal["twin", "sumo"] = Field("twin", description="tensors, or SUMO itself in worker processes")
    workers: str = Field(
        "processes", pattern=APART, description="where SUMO runs (sumo backend): processes, ray, ray://HOST:PORT"
    )
    net: str | None = Field(None, description="a shipped network's name or a .net.xml file; None: built from geometry")
    edges: dict[str, str] = Field(
        default_factory=dict, description="role -> edge of the user's network: ramp, main, merge, after"
    )
    routes: str | None = Field(
        None, description="a .rou.xml file: its cars in SUMO, in the twin its rates of cars by main road and ramp"
    )
    additional: tuple[str, ...] = Field((), description="SUMO's additional files: vTypes, lights, distributions")
    demand: Literal["file", "rates"] = Field(
        "file",
        description="who lets the cars of routes come in SUMO: SUMO as the file says, or this world at its rates",
    )
    cav_types: tuple[str, ...] = Field(
        (), description="vTypes of routes whose cars are automated; none: cav_share of all cars"
    )
    begin_s: float | None = Field(
        None, ge=0, description="when episodes begin in the time of routes, s; None: with its demand"
    )
    warm_up_s: float = Field(0.0, ge=0, description="seconds that SUMO drives the cars of routes before the episode")
    geometry: Geometry = Field(default_factory=Geometry, description="the road, unless net names one")
    cavs: IntSpan = Field((3, 6), description="automated cars at the start of an episode")
    humans: IntSpan = Field((1, 4), description="human-driven cars at the start, besides the contrasting pair")
    contrast: bool = Field(False, description="one more aggressive car on the ramp and one defensive on the main road")
    drivers: Drivers = Field("timid", description="how the human drivers change lanes")
    car_following: Literal["idm", "krauss"] = Field("idm", description="SUMO's model of human drivers' car-following")
    flow_veh_per_h: Span = Field((0.0, 0.0), description="cars that keep arriving, both roads together")
    ramp_share: float = Field(0.25, ge=0, le=1, description="share of the arriving cars that come by the ramp")
    cav_share: Span = Field((0.5, 0.5), description="share of the arriving cars that are automated")
    max_cavs: int = Field(6, ge=1, le=200, description="slots for automated cars: the number of agents")
    max_humans: int = Field(4, ge=0, le=200, description="slots for human-driven cars")
    horizon: int = Field(100, ge=1, description="decisions of 0.2 s until the episode is truncated")
    reward: Reward = Field(default_factory=Reward)
    sensing: Sensing = Field(default_factory=Sensing, description="what automated cars sense")
    messages: Messages = Field(default_factory=Messages, description="what they tell each other")
    curriculum_episodes: int = Field(
        0, ge=0, description="episodes in which each copy goes from the easy numbers of cars to those above"
    )
    sumo_output: str | None = Field(
        None,
        description="folder for what SUMO writes of episodes: tripinfo, fcd, ssm, emission, statistic, collision",
    )
    gui: bool = Field(False, description="show SUMO's window (sumo backend, one copy)")
    exact_reset: bool = Field(True, description="reload SUMO for each episode; else clear the road (faster)")

    @field_validator("additional", "cav_types", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        """``a,b`` as the command line gives it."""
        return tuple(value.split(",")) if isinstance(value, str) else _pair(value)

    @field_validator("edges", mode="before")
    @classmethod
    def _edge_list(cls, value: Any) -> Any:
        """``ramp=a,main=b,merge=c,after=d`` as the command line gives it."""
        if not isinstance(value, str):
            return value
        parts = [part.partition("=") for part in value.split(",")]
        if any(not (role and equals and name) for role, equals, name in parts):
            raise ValueError("edges are written ramp=A,main=B,merge=C,after=D")
        return {role.strip(): name.strip() for role, _, name in parts}

    @field_validator("cav_share")
    @classmethod
    def _share(cls, span: tuple[float, float]) -> tuple[float, float]:
        if not 0.0 <= span[0] <= span[1] <= 1.0:
            raise ValueError("cav_share is between 0 and 1")
        return span

    @model_validator(mode="after")
    def _fits(self) -> CavConfig:
        if not 0 <= self.cavs[0] <= self.cavs[1] <= self.max_cavs:
            raise ValueError(f"cavs {list(self.cavs)} has to be a span within 0..max_cavs ({self.max_cavs})")
        pair = 2 if self.contrast else 0
        if not 0 <= self.humans[0] <= self.humans[1] <= self.max_humans - pair:
            raise ValueError(
                f"humans {list(self.humans)} has to be a span within 0..{self.max_humans - pair} (max_humans"
                + (" less the contrasting pair)" if pair else ")")
            )
        if self.cavs[1] + self.humans[1] > 10:
            raise ValueError("cavs and humans together have at most 10 places at the start")
        if not 0 <= self.flow_veh_per_h[0] <= self.flow_veh_per_h[1]:
            raise ValueError("flow_veh_per_h is a span of non-negative numbers")
        if self.cavs[0] == 0 and self.flow_veh_per_h[0] == 0:
            raise ValueError("cavs may begin at 0 only with a flow of arriving cars")
        if self.gui and self.backend != "sumo":
            raise ValueError("gui needs backend sumo")
        if self.sumo_output and (self.backend != "sumo" or self.gui or not self.exact_reset):
            raise ValueError("sumo_output needs backend sumo, exact_reset and no gui")
        if self.edges and self.net is None:
            raise ValueError("edges needs net, the network whose edges it names")
        if self.routes and self.net is None:
            raise ValueError("routes needs net, the network whose edges it names")
        return self

    @property
    def partial(self) -> bool:
        """Automated cars do not see everything."""
        return self.sensing != Sensing() or self.messages.content != "none" or self.messages.track_s > 0.0

    @property
    def vehicles(self) -> int:
        """V: slots of a copy, automated cars first."""
        return self.max_cavs + self.max_humans

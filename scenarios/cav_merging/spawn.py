"""Who drives where: roads, first cars and arrivals, drawn by counter and shared by both backends.

First cars: published places (``MARL_CAVs``, ``merge_env_v1.py``): six on each road, 40 m apart, +-1.5 m, at 25 to 27
m/s; half of the automated cars come by each road. A driver wishes to keep the speed it is spawned with, on a ramp with
another limit in proportion.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from marl.seeding import Stream, below, fold, uniform
from scenarios.cav_merging.config import DECISION_S, EASY_CAVS, EASY_HUMANS, CavConfig
from scenarios.cav_merging.drivers import ASSERTIVE, CAR_LENGTH, STYLE_NAMES, STYLES, TIMID, P
from scenarios.cav_merging.traffic import R, Traffic

MAIN_PLACES = (10.0, 50.0, 90.0, 130.0, 170.0, 210.0)
RAMP_PLACES = (5.0, 45.0, 85.0, 125.0, 165.0, 205.0)
#: The contrasting pair takes these places: defensive on the main road (x = 130), aggressive on the ramp (x = 85).
MAIN_RESERVED, RAMP_RESERVED = 3, 2
#: The published places are for a ramp of this length before the acceleration lane; shorter ones are filled closer.
PLACES_LENGTH = 320.0
#: Half-width of the noise in m; spawn speeds as shares of the 30 m/s limit.
NOISE = 1.5
SPEEDS = (25.0 / 30.0, 27.0 / 30.0)
#: Seconds between two arriving cars of one lane at the least, and the gap of time below which speeds are matched.
LEAST_HEADWAY_S, MATCH_HEADWAY_S = 1.5, 3.0
AGGRESSIVE, DEFENSIVE = STYLE_NAMES.index("aggressive"), STYLE_NAMES.index("defensive")


class _Draw(IntEnum):
    """Streams of this world's random numbers."""

    ROAD = Stream.WORLD
    COUNTS = Stream.WORLD + 1
    MAIN_ORDER = Stream.WORLD + 2
    RAMP_ORDER = Stream.WORLD + 3
    PLACE = Stream.WORLD + 4
    SPEED = Stream.WORLD + 5
    STYLE = Stream.WORLD + 6
    KIND = Stream.WORLD + 7
    LANE = Stream.WORLD + 8
    FLOW = Stream.WORLD + 9
    GAP = Stream.WORLD + 10
    AUTOMATED = Stream.WORLD + 11


def _keys(key: Tensor, stream: _Draw, counter: Tensor | int) -> Tensor:
    """Keys of one stream: ``[B]`` for a counter that is an int or ``[B]``, ``[B, C]`` for one of ``[B or 1, C]``."""
    base = fold(key, int(stream))
    if isinstance(counter, Tensor) and counter.dim() == 2:
        base = base.unsqueeze(1)
    return fold(base, counter)


def _between(key: Tensor, low: float, high: float) -> Tensor:
    return low + uniform(key).double() * (high - low)


@lru_cache(maxsize=64)
def _constant(values: tuple[Any, ...], device: torch.device) -> Tensor:
    """Numbers as float64 on a device, brought there once. Read only."""
    return torch.tensor(values, dtype=torch.float64, device=device)


def draw_roads(config: CavConfig, key: Tensor) -> Tensor:
    """Rows of the road table, ``[B, 8]`` float64, for geometry spans. key: the episodes' keys, int64 ``[B]``."""
    geometry = config.geometry
    spans = (geometry.before, geometry.converge, geometry.merge, geometry.after, geometry.speed_limit)
    before, converge, merge, after, limit = (
        _between(_keys(key, _Draw.ROAD, i), low, high) for i, (low, high) in enumerate(spans)
    )
    low, high = geometry.main_lanes
    lanes = (low + below(_keys(key, _Draw.ROAD, len(spans)), high - low + 1)).double()
    start = before + converge
    return torch.stack(
        (start, start + merge, start + merge + after, limit, lanes, torch.zeros_like(start), converge, limit), 1
    )


def ramp_share(road: Tensor) -> Tensor:
    """What share of its wish a driver drives on the ramp, ``[B]``: a speed factor holds for every limit of a road."""
    return road[:, R.RAMP_LIMIT] / road[:, R.LIMIT]


def _drivers(config: CavConfig, key: Tensor, number: Tensor, style: Tensor, desired: Tensor) -> Tensor:
    """Rows of the driver table ``[..., 9]``; number tells the cars of an episode apart."""
    table = _constant(tuple(STYLES[name] for name in STYLE_NAMES), key.device)
    tau, accel, decel, min_gap = table[style].unbind(-1)
    if config.drivers == "mixed":
        bold = below(_keys(key, _Draw.KIND, number), 2) == 1
    else:
        bold = torch.full_like(style, config.drivers == "assertive", dtype=torch.bool)
    assertive = torch.where(bold, ASSERTIVE, TIMID).double()
    columns = {
        P.DESIRED: desired,
        P.TAU: tau,
        P.ACCEL: accel,
        P.DECEL: decel,
        P.MIN_GAP: min_gap,
        P.LENGTH: torch.full_like(desired, CAR_LENGTH),
        P.ASSERTIVE: assertive,
        P.TWO_SQRT: 2.0 * torch.sqrt(accel * decel),
        P.KRAUSS: torch.full_like(desired, float(config.car_following == "krauss")),
    }
    return torch.stack([columns[column] for column in P], -1)


def first_cars(config: CavConfig, key: Tensor, road: Tensor, episode: Tensor | None = None) -> Traffic:
    """The traffic at the beginning of B episodes.

    key: int64 ``[B]``. road: ``[B, 8]``. episode: numbers of the episodes, int64 ``[B]``, for a curriculum.
    """
    copies, slots, agents, device = len(key), config.vehicles, config.max_cavs, key.device
    traffic = Traffic.empty(copies, agents, slots, device)
    traffic.road.copy_(road)
    cavs, humans = (
        low + below(_keys(key, _Draw.COUNTS, i), high - low + 1)
        for i, (low, high) in enumerate(_counts(config, episode))
    )
    coin = below(_keys(key, _Draw.COUNTS, 2), 2)
    cavs_main = (cavs + coin) // 2
    humans_main = (cavs + humans + coin) // 2 - cavs_main
    number = torch.arange(slots, device=device).expand(copies, slots)
    human = number - agents
    automated = human < 0
    pair = 2 if config.contrast else 0
    is_pair = number >= slots - pair
    traffic.present = torch.where(automated, number < cavs[:, None], (human < humans[:, None]) | is_pair)
    main_first = torch.where(automated, number < cavs_main[:, None], human < humans_main[:, None])
    on_main = torch.where(is_pair, number == slots - 1, main_first)
    rank_main = torch.where(automated, number, cavs_main[:, None] + human)
    rank_ramp = torch.where(
        automated, number - cavs_main[:, None], (cavs - cavs_main)[:, None] + human - humans_main[:, None]
    )
    rank = torch.where(on_main, rank_main, rank_ramp).clamp(0, len(MAIN_PLACES) - 1)
    place = torch.where(
        on_main,
        _places(config, key, _Draw.MAIN_ORDER, MAIN_PLACES, MAIN_RESERVED).gather(1, rank),
        _places(config, key, _Draw.RAMP_ORDER, RAMP_PLACES, RAMP_RESERVED).gather(1, rank),
    )
    if config.contrast:
        place[:, -2], place[:, -1] = RAMP_PLACES[RAMP_RESERVED], MAIN_PLACES[MAIN_RESERVED]
    place = place + _between(_keys(key, _Draw.PLACE, number), -NOISE, NOISE)
    start, ramp_start = road[:, R.MERGE_START, None], road[:, R.RAMP_START, None]
    scale = ((start - ramp_start.clamp(min=0.0)) / PLACES_LENGTH).clamp(max=1.0)
    traffic.x = start - (PLACES_LENGTH - place) * scale
    speed = _between(_keys(key, _Draw.SPEED, number), *SPEEDS) * road[:, R.LIMIT, None]
    traffic.v = torch.where(on_main, speed, speed * ramp_share(road)[:, None])
    style = torch.where(automated, 0, below(_keys(key, _Draw.STYLE, number), len(STYLE_NAMES)))
    if config.contrast:
        style[:, -2], style[:, -1] = AGGRESSIVE, DEFENSIVE
    traffic.drivers = _drivers(config, key, number, style, speed)
    traffic.lane = torch.where(on_main, _main_lane(key, number, road[:, R.MAIN_LANES, None]), 0)
    if config.contrast:
        traffic.lane[:, -1] = 1
    traffic.number = number.clone()
    traffic.from_ramp = traffic.present & ~on_main
    traffic.controlled = automated.clone()
    traffic.target = traffic.v[:, :agents].clone()
    for entrance in (0, 1):
        traffic.flow[:, entrance] = _between(
            _keys(key, _Draw.FLOW, entrance), *(config.flow_veh_per_h, config.cav_share)[entrance]
        )
    for entrance in (0, 1):
        traffic.arrival_time[:, entrance] = _headway(config, key, traffic, entrance)
    return traffic


def _counts(config: CavConfig, episode: Tensor | None) -> list[tuple[Tensor | int, Tensor | int]]:
    """Least and greatest numbers of automated and human-driven cars, each a number or int64 ``[B]``."""
    if episode is None or config.curriculum_episodes == 0:
        return [config.cavs, config.humans]
    progress = (episode.double() / config.curriculum_episodes).clamp(max=1.0)

    def at(easy: int, full: int) -> Tensor:
        return torch.round(min(easy, full) + progress * (full - min(easy, full))).long()

    pairs = ((EASY_CAVS, config.cavs), (EASY_HUMANS, config.humans))
    return [(at(easy[0], full[0]), at(easy[1], full[1])) for easy, full in pairs]


def _places(config: CavConfig, key: Tensor, stream: _Draw, places: tuple[float, ...], reserved: int) -> Tensor:
    """The places of one road in the order in which cars take them, ``[B, 6]``; a reserved one comes last."""
    scores = uniform(_keys(key, stream, torch.arange(len(places), device=key.device).unsqueeze(0)))
    if config.contrast:
        scores[:, reserved] = 2.0
    return _constant(places, key.device)[scores.argsort(1)]


def _main_lane(key: Tensor, number: Tensor, lanes: Tensor) -> Tensor:
    return 1 + below(_keys(key, _Draw.LANE, number), lanes.long())


def _headway(config: CavConfig, key: Tensor, traffic: Traffic, entrance: int) -> Tensor:
    """Seconds until the next car after the last arrival at an entrance, ``[B]``; shifted exponential."""
    share = (1.0 - config.ramp_share) if entrance == 0 else config.ramp_share
    mean = 3600.0 / (traffic.flow[:, 0] * share).clamp(min=1e-9)
    lanes = traffic.road[:, R.MAIN_LANES] if entrance == 0 else torch.ones_like(mean)
    least = torch.minimum(LEAST_HEADWAY_S / lanes, 0.5 * mean)
    number = traffic.arrivals[:, entrance] * 2 + entrance
    wait = -torch.log1p(-uniform(_keys(key, _Draw.GAP, number)).double())
    return least + (mean - least) * wait


def arrive(config: CavConfig, key: Tensor, traffic: Traffic, free: Tensor) -> Tensor:
    """Let cars that are due enter where there is room; returns which slots were filled, bool ``[B, V]``.

    free: bool ``[B, V]``, slots that may be filled.
    """
    filled = torch.zeros_like(traffic.present)
    time = traffic.step.double() * DECISION_S
    for entrance in (0, 1):
        number = config.vehicles + traffic.arrivals[:, entrance] * 2 + entrance
        limit = traffic.road[:, R.LIMIT]
        desired = _between(_keys(key, _Draw.SPEED, number), *SPEEDS) * limit
        automated = uniform(_keys(key, _Draw.AUTOMATED, number)).double() < traffic.flow[:, 1]
        style = torch.where(automated, 0, below(_keys(key, _Draw.STYLE, number), len(STYLE_NAMES)))
        drivers = _drivers(config, key, number, style, desired)
        if entrance == 0:
            lane = _main_lane(key, number, traffic.road[:, R.MAIN_LANES])
            begin = torch.zeros_like(desired)
        else:
            lane, begin = torch.zeros_like(number), traffic.road[:, R.RAMP_START]
        front = begin + CAR_LENGTH
        wish = desired if entrance == 0 else desired * ramp_share(traffic.road)
        in_lane = traffic.present & (traffic.lane == lane[:, None])
        ahead = torch.where(in_lane, traffic.x, torch.inf)
        nearest, who = ahead.min(1)
        gap = nearest - traffic.drivers[:, :, P.LENGTH].gather(1, who[:, None])[:, 0] - front
        lead_v = traffic.v.gather(1, who[:, None])[:, 0]
        speed = torch.where(gap > MATCH_HEADWAY_S * wish, wish, torch.minimum(wish, lead_v))
        room = gap >= drivers[:, P.MIN_GAP] + drivers[:, P.TAU] * speed
        slots = torch.arange(config.vehicles, device=key.device)
        right_kind = free & ((slots < config.max_cavs) == automated[:, None])
        enters = (time >= traffic.arrival_time[:, entrance]) & room & right_kind.any(1)
        slot = right_kind.to(torch.int8).argmax(1)
        put = enters[:, None] & (slots == slot[:, None])
        began: list[tuple[Tensor, Tensor | float]] = [
            *((traffic.x, front), (traffic.v, speed), (traffic.gained, 0.0), (traffic.look, 0.0)),
            *((traffic.lane, lane), (traffic.number, number)),
            *((traffic.from_ramp, entrance == 1), (traffic.merged, False)),
        ]
        for tensor, value in began:
            tensor[:] = torch.where(put, value[:, None] if isinstance(value, Tensor) else value, tensor)
        traffic.drivers[:] = torch.where(put[..., None], drivers[:, None], traffic.drivers)
        traffic.target[:] = torch.where(put[:, : config.max_cavs], speed[:, None], traffic.target)
        traffic.present |= put
        free = free & ~put
        filled |= put
        traffic.arrivals[:, entrance] += enters
        later = traffic.arrival_time[:, entrance] + _headway(config, key, traffic, entrance)
        traffic.arrival_time[:, entrance] = torch.where(enters, later, traffic.arrival_time[:, entrance])
    return filled

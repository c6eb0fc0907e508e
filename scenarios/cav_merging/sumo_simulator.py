"""One SUMO simulation behind arrays: the worker's side of the ``sumo`` backend. It knows cars and slots, no agents.

Imports neither torch nor the scenario's tensors, so that workers start quickly and stay small.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from marl.envs.workers import Block, Layout
from scenarios.cav_merging.config import SIM_STEP_S, SUBSTEPS
from scenarios.cav_merging.drivers import ASSERTIVE, CAR_LENGTH, EMERGENCY_DECEL, STYLES, TIMID
from scenarios.cav_merging.networks import RoadNetwork
from scenarios.cav_merging.sumo_install import import_libsumo


class Op(IntEnum):
    """What is asked of a slot's car."""

    NONE = 0
    INSERT = 1
    CONTROL = 2


class Command(IntEnum):
    """Columns of the actions, float64 ``[V + 1, 11]``; the last row's OP is 1 to place cars without driving on."""

    OP = 0
    LANE = 1
    X = 2
    V = 3
    TYPE = 4
    DESIRED = 5
    CONTROLLED = 6
    ACCEL = 7
    TURN = 8
    MARK = 9  # for a window: the supervisor corrected the car,
    REACH = 10  # and the metres that its announced path reaches


class Column(IntEnum):
    """Columns of the output 'cars', float64 ``[V, 5]``."""

    X = 0
    V = 1
    LANE = 2
    GAINED = 3
    STATUS = 4


class Status(IntEnum):
    """What became of a slot's car."""

    ABSENT = 0
    PRESENT = 1
    CRASHED = 2
    LEFT = 3


# Plain integers for the loops: looking up an enumeration's member costs as much as asking SUMO for a speed.
_OP, _LANE, _X, _V, _CONTROLLED, _ACCEL, _TURN = (
    int(column)
    for column in (
        Command.OP, Command.LANE, Command.X, Command.V, Command.CONTROLLED, Command.ACCEL, Command.TURN,
    )
)  # fmt: skip
_INSERT, _ABSENT, _PRESENT = int(Op.INSERT), int(Status.ABSENT), int(Status.PRESENT)

#: Vehicle types in the order of ``Command.TYPE``: styles by assertiveness.
TYPES = tuple((style, bold) for style in STYLES for bold in (TIMID, ASSERTIVE))
#: SUMO's own checks of speed and lane changes, off for cars under control: a policy's faults have to show.
SPEED_MODE, LANE_CHANGE_MODE = 0, 0


def type_name(index: int) -> str:
    """SUMO's name of the vehicle type ``TYPES[index]``."""
    style, bold = TYPES[index]
    return f"{style}_{'assertive' if bold == ASSERTIVE else 'timid'}"


def vehicle_types(car_following: str = "idm") -> str:
    """SUMO's additional file with the vehicle types."""
    model = {"idm": 'carFollowModel="IDM"', "krauss": 'carFollowModel="Krauss" sigma="0"'}[car_following]
    lines = []
    for index, (style, bold) in enumerate(TYPES):
        tau, accel, decel, min_gap = STYLES[style]
        lines.append(
            f'<vType id="{type_name(index)}" {model} tau="{tau}" accel="{accel}" decel="{decel}" '
            f'minGap="{min_gap}" emergencyDecel="{EMERGENCY_DECEL}" length="{CAR_LENGTH}" speedFactor="1" speedDev="0" '
            f'maxSpeed="70" lcAssertive="{bold}"/>'
        )
    return "<additional>\n" + "\n".join(lines) + "\n</additional>\n"


class SumoSimulator:
    """One libsumo simulation; ``marl.envs.workers.Simulator``.

    slots: V. exact: reload SUMO for each episode, so that a seed replays exactly; else only clear the road, which is
    faster but keeps SUMO's random stream running. start: what precedes the options, such as ("sumo",).
    """

    def __init__(
        self,
        network: RoadNetwork,
        slots: int,
        exact: bool,
        car_following: str = "idm",
        start: tuple[str, ...] = ("sumo",),
    ):
        self._sumo = import_libsumo()
        if self._sumo.isLoaded():
            raise RuntimeError("this process runs a SUMO simulation already, which a second start would replace")
        self._network, self._slots, self._exact, self._start = network, slots, exact, start
        self._folder = tempfile.TemporaryDirectory(prefix="marl-sumo-")
        self._types = Path(self._folder.name) / "types.add.xml"
        self._types.write_text(vehicle_types(car_following))
        self._ids: dict[int, str] = {}
        self._serial = 0
        self._cars = [[0.0] * Column.STATUS for _ in range(slots)]
        self._status: list[int] = [_ABSENT] * slots
        self._hits = 0
        self._started = False
        geometry = network.geometry
        self._merge_start, self._merge_end = geometry.merge_start, geometry.merge_end
        self._main_lanes, self._limit = geometry.main_lanes, geometry.speed_limit

    @property
    def layout(self) -> Layout:
        return Layout(
            actions=Block((self._slots + 1, len(Command)), "float64"),
            outputs={"cars": Block((self._slots, len(Column)), "float64"), "hits": Block((1,), "int64")},
        )

    def reset(self, seed: int) -> None:
        """An empty road."""
        if self._started and not self._exact:
            for name in self._ids.values():
                self._sumo.vehicle.remove(name)
        else:
            self._load(seed)
        self._ids.clear()
        self._status = [_ABSENT] * self._slots
        self._hits = 0

    def _load(self, seed: int) -> None:
        options = [f"--net-file={self._network.path}", f"--additional-files={self._types}", f"--seed={seed}"]
        options += [f"--step-length={SIM_STEP_S}", "--no-step-log=true", "--no-warnings=true"]
        options += ["--collision.action=warn", "--collision.mingap-factor=0", "--collision.check-junctions=true"]
        options += ["--time-to-teleport=-1", "--insertion-checks=none", "--duration-log.disable=true"]
        if self._started:
            self._sumo.load(options)
        else:
            self._sumo.start([*self._start, *options])
            self._started = True
        for role in ("main", "ramp", "merge", "after"):
            self._sumo.route.add(role, self._network.route(role))

    def step(self, actions: NDArray[Any], next_seed: int) -> None:
        self._hits = 0
        self._status = [status if status == _PRESENT else _ABSENT for status in self._status]
        rows = actions.tolist()
        for slot in range(self._slots):
            if rows[slot][_OP] == _INSERT:
                self._insert(slot, rows[slot])
        if rows[-1][_OP] > 0.0:
            self._sumo.simulationStep()
            self._read()
            return
        for substep in range(SUBSTEPS):
            self._steer(rows, first=substep == 0)
            self._sumo.simulationStep()
            self._sort_out()
        self._read()

    def write(self, outputs: Mapping[str, NDArray[Any]]) -> None:
        outputs["cars"][:] = [(*car, status) for car, status in zip(self._cars, self._status, strict=True)]
        outputs["hits"][0] = self._hits

    def close(self) -> None:
        if self._started:
            self._sumo.close()
            self._started = False
        self._folder.cleanup()

    def _insert(self, slot: int, row: list[float]) -> None:
        vehicle = self._sumo.vehicle
        self._serial += 1
        name = f"{slot}.{self._serial}"
        lane, x, v = int(row[_LANE]), row[_X], row[_V]
        role, index, offset = self._network.place(lane, x)
        vehicle.add(
            name,
            role,
            typeID=type_name(int(row[Command.TYPE])),
            departLane=str(index),
            departPos=repr(x - offset),
            departSpeed=repr(v),
        )
        vehicle.setSpeedFactor(name, row[Command.DESIRED] / self._limit)
        if row[_CONTROLLED] > 0.0:
            vehicle.setSpeedMode(name, SPEED_MODE)
            vehicle.setLaneChangeMode(name, LANE_CHANGE_MODE)
            vehicle.setSpeed(name, v)
        self._ids[slot] = name
        self._cars[slot] = [x, v, lane, 0.0]
        self._status[slot] = _PRESENT

    def _steer(self, rows: list[list[float]], first: bool) -> None:
        """Commands to the cars under control; takes off those that are about to run off the acceleration lane.

        A car under control does what it is told, so that its state after the step is known without asking.
        """
        vehicle = self._sumo.vehicle
        for slot, name in list(self._ids.items()):
            row = rows[slot]
            if row[_CONTROLLED] <= 0.0 or (first and row[_OP] == _INSERT):
                continue
            car = self._cars[slot]
            x, v, lane, _ = car
            new = max(0.0, v + row[_ACCEL] * SIM_STEP_S)
            after = x + new * SIM_STEP_S
            if lane == 0 and after >= self._merge_end:
                # SUMO stops such a car at the lane end without a word.
                self._hits += 1
                self._take_off(slot)
                continue
            vehicle.setSpeed(name, new)
            car[0], car[1] = after, new
            turn = int(row[_TURN])
            if first and turn and 1 <= lane + turn <= self._main_lanes and (lane > 0 or x >= self._merge_start):
                vehicle.changeLane(name, vehicle.getLaneIndex(name) + turn, SIM_STEP_S)
                car[2] = lane + turn

    def _sort_out(self) -> None:
        """Take off the cars of this step's collisions, and forget those that arrived."""
        simulation = self._sumo.simulation
        arrived, collisions = simulation.getArrivedIDList(), simulation.getCollisions()
        if not arrived and not collisions:
            return
        slots = {name: slot for slot, name in self._ids.items()}
        for name in arrived:
            slot = slots.get(name)
            if slot is not None:
                del self._ids[slot]
                self._status[slot] = Status.LEFT
        for collision in collisions:
            pair = [slots[name] for name in (collision.collider, collision.victim) if name in slots]
            present = [slot for slot in pair if slot in self._ids]
            if present:
                self._hits += 1
            for slot in present:
                self._take_off(slot)

    def _take_off(self, slot: int) -> None:
        self._sumo.vehicle.remove(self._ids.pop(slot))
        self._status[slot] = Status.CRASHED

    def _read(self) -> None:
        vehicle, lanes = self._sumo.vehicle, self._network.lanes
        lane_of, position = vehicle.getLaneID, vehicle.getLanePosition
        speed, acceleration = vehicle.getSpeed, vehicle.getAcceleration
        for slot, name in self._ids.items():
            place = lanes.get(lane_of(name))
            if place is not None:
                self._cars[slot] = [place[1] + position(name), speed(name), place[0], acceleration(name)]

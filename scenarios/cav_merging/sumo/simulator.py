"""One SUMO simulation behind arrays: the worker's side of the ``sumo`` backend. It knows cars and slots, no agents.

Imports neither torch nor the scenario's tensors, so that workers start quickly and stay small.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from struct import Struct
from typing import Any

from numpy.typing import NDArray

from marl.envs.sumo.install import import_libsumo, keep_parser, plain
from marl.envs.workers import Block, Layout
from scenarios.cav_merging.config import SIM_STEP_S, SUBSTEPS
from scenarios.cav_merging.sumo.admission import Admission
from scenarios.cav_merging.sumo.inputs import Demand
from scenarios.cav_merging.sumo.lights import StopLines
from scenarios.cav_merging.sumo.outputs import EpisodeFiles
from scenarios.cav_merging.sumo.protocol import Arrival, Column, Command, Op, Status
from scenarios.cav_merging.sumo.road import RoadNetwork
from scenarios.cav_merging.sumo.vehicle_types import type_name, vehicle_types

# Plain integers for the loops: looking up an enumeration's member costs as much as asking SUMO for a speed.
_OP, _CONTROLLED, _ACCEL, _TURN = (
    int(column) for column in (Command.OP, Command.CONTROLLED, Command.ACCEL, Command.TURN)
)
_STEERING = _TURN + 1
_STATUS = int(Column.STATUS)
_INSERT, _ABSENT, _PRESENT = int(Op.INSERT), float(Status.ABSENT), float(Status.PRESENT)
#: Metres by which SUMO's sum of steps may differ from ours. A car on another edge is further off than that.
_ROUNDING_M = 1e-6

#: A car under control: its slot, its name in SUMO, its row of the outputs, and what it is told.
_Steered = tuple[int, str, list[float], list[float]]
#: What is asked of SUMO's vehicles in every step.
_VEHICLE = ("setSpeed", "getLaneID", "getLanePosition", "getSpeed", "getAcceleration")

#: SUMO's own checks of speed and lane changes, off for cars under control: a policy's faults have to show.
SPEED_MODE, LANE_CHANGE_MODE = 0, 0
#: SUMO's defaults, for cars that leave our road in SUMO's hands.
OWN_SPEED_MODE, OWN_LANE_CHANGE_MODE = 31, 1621


class SumoSimulator:
    """One libsumo simulation; ``marl.envs.workers.Simulator``.

    slots: V. exact: reload SUMO for each episode, so that a seed replays exactly; else only clear the road, which is
    faster but keeps SUMO's random stream running. start: what precedes the options, such as ("sumo",). demand: cars
    that SUMO lets come by itself; None: all are placed by actions. additional: a user's additional files. output:
    a folder for SUMO's own files.
    """

    def __init__(
        self,
        network: RoadNetwork,
        slots: int,
        exact: bool,
        car_following: str = "idm",
        start: tuple[str, ...] = ("sumo",),
        demand: Demand | None = None,
        additional: Sequence[Path] = (),
        output: Path | None = None,
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
        self._cars = [[0.0] * len(Column) for _ in range(slots)]
        self._gone: list[int] = []
        #: Where the lane begins that the car of a slot was last seen on; NaN: ask.
        self._offset = [math.nan] * slots
        #: SUMO's name of that lane.
        self._lane_name = [""] * slots
        #: Slots whose cars go first at a point merge: they count as being on the main road.
        self._committed: set[int] = set()
        self._demand, self._additional = demand, additional
        self._files = None if output is None else EpisodeFiles(output)
        self._admission = None if demand is None else Admission(self._sumo, network, demand, slots)
        self._arrivals: dict[int, list[float]] = {}
        self._stop_lines = StopLines(self._sumo, network.lights) if network.lights else None
        #: The acceleration of a slot's car under control in the last step, m/s^2.
        self._push = [0.0] * slots
        self._written = Struct(f"{slots * len(Column)}d")
        self._hits = 0
        vehicle = {name: plain(self._sumo, "vehicle", name) for name in _VEHICLE}
        self._set_speed = vehicle["setSpeed"]
        self._lane_of, self._place = vehicle["getLaneID"], vehicle["getLanePosition"]
        self._speed, self._acceleration = vehicle["getSpeed"], vehicle["getAcceleration"]
        self._drive_on = plain(self._sumo, "simulation", "step")
        self._arrived = plain(self._sumo, "simulation", "getArrivedIDList")
        self._collisions = plain(self._sumo, "simulation", "getCollisions")
        self._started = False
        geometry = network.geometry
        self._merge_start, self._merge_end = geometry.merge_start, geometry.merge_end
        self._runs_off = network.runs_off
        self._seed = 0
        self._main_lanes, self._limit = geometry.main_lanes, geometry.speed_limit

    @property
    def layout(self) -> Layout:
        return Layout(
            actions=Block((self._slots + 1, len(Command)), "float64"),
            outputs={
                "cars": Block((self._slots, len(Column)), "float64"),
                "hits": Block((2,), "int64"),  # collisions, and cars that found no slot
                "arrivals": Block((self._slots if self._demand else 0, len(Arrival)), "float64"),
            },
        )

    def reset(self, seed: int) -> None:
        """An empty road."""
        if self._started and not self._exact and self._demand is None:
            for name in self._ids.values():
                self._sumo.vehicle.remove(name)
        else:
            self._load(seed)
        self._ids.clear()
        for car in self._cars:
            car[_STATUS] = _ABSENT
        self._gone.clear()
        self._committed.clear()
        self._arrivals.clear()
        self._hits, self._seed = 0, seed

    def _load(self, seed: int) -> None:
        demand = self._demand
        additional = [self._types, *self._additional]
        options = [f"--net-file={self._network.path}", f"--seed={seed}"]
        options.append("--additional-files=" + ",".join(map(str, additional)))
        if demand is not None:
            options += [f"--begin={demand.begin}", *demand.inputs.arguments()]
        options += [f"--step-length={SIM_STEP_S}", "--no-step-log=true", "--no-warnings=true"]
        options += ["--collision.action=warn", "--collision.mingap-factor=0", "--collision.check-junctions=true"]
        options += ["--time-to-teleport=-1", "--duration-log.disable=true"]
        if demand is None:  # places are drawn with room between them, which SUMO finds too little at times
            options.append("--insertion-checks=none")
        if self._files is not None:
            options += self._files.begin(str(seed))
        if self._started:
            self._sumo.load(options)
        else:
            self._sumo.start([*self._start, *options])
            self._started = True
            keep_parser()
        if self._files is not None:
            self._files.closed()
        if demand is None:
            for edge in dict.fromkeys(edge for way in self._network.ways.values() for edge in way):
                self._sumo.route.add(edge, self._network.route(edge))

    def step(self, actions: NDArray[Any], next_seed: int) -> None:
        self._hits = 0
        for slot in self._gone:
            self._cars[slot][_STATUS] = _ABSENT
        self._gone.clear()
        for slot in self._arrivals:
            self._cars[slot][_STATUS] = _PRESENT
        self._arrivals.clear()
        rows = actions[:, :_STEERING].tolist()
        for slot in range(self._slots):
            if rows[slot][_OP] == _INSERT:
                self._insert(slot, actions[slot].tolist())
        if rows[-1][_OP] > 0.0:
            self._begin(*actions[-1].tolist())
            return
        if self._files is not None:
            self._files.driven = True
        steered: list[_Steered] = []
        others: list[tuple[int, str]] = []
        for slot, name in self._ids.items():
            if rows[slot][_CONTROLLED] > 0.0:
                steered.append((slot, name, self._cars[slot], rows[slot]))
            else:
                others.append((slot, name))
        for substep in range(SUBSTEPS):
            self._steer(steered, first=substep == 0)
            self._drive_on(0.0)
            self._sort_out()
        self._read(steered)
        for slot, name in others:
            if slot in self._ids:
                self._ask(slot, name)
        self._admit()

    def _begin(self, *row: float) -> None:
        """The moment at which an episode begins: all cars are there, nobody has driven on. row: the last of actions."""
        if self._admission is not None and self._demand is not None:
            self._admission.begin(self._seed, row[Command.X], row[_CONTROLLED] > 0.0, row[Command.TYPE] > 0.0)
            for _ in range(SUBSTEPS * self._demand.warm_up):
                self._drive_on(0.0)
        self._drive_on(0.0)
        for slot, name in self._ids.items():
            self._ask(slot, name)
        self._admit()

    def _admit(self) -> None:
        """Take in the cars of the user's demand that came onto the road. They count from the next decision on."""
        if self._admission is None:
            return
        vehicle = self._sumo.vehicle
        for slot, name, automated, about in self._admission.look([*self._ids, *self._gone]):
            self._ids[slot] = name
            self._arrivals[slot] = about
            self._ask(slot, name)
            self._cars[slot][_STATUS] = _ABSENT
            if automated:
                vehicle.setSpeedMode(name, SPEED_MODE)
                vehicle.setLaneChangeMode(name, LANE_CHANGE_MODE)
                vehicle.setSpeed(name, self._cars[slot][Column.V])

    def write(self, outputs: Mapping[str, NDArray[Any]]) -> None:
        cars: Any = outputs["cars"]  # an array is a buffer, which its type says from Python 3.12 on only
        self._written.pack_into(cars, 0, *chain.from_iterable(self._cars))
        outputs["hits"][0] = self._hits
        if self._admission is not None:
            outputs["hits"][1] = self._admission.unseen
            arrivals = outputs["arrivals"]
            arrivals[:] = 0.0
            for slot, about in self._arrivals.items():
                arrivals[slot] = about

    def answer(self, question: str, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> None:
        """Never called: the owner knows all about the cars."""
        raise NotImplementedError(question)

    def close(self) -> None:
        if self._started:
            self._sumo.close()
            self._started = False
            if self._files is not None:
                self._files.end()
        self._folder.cleanup()

    def _insert(self, slot: int, row: list[float]) -> None:
        vehicle = self._sumo.vehicle
        self._serial += 1
        name = f"{slot}.{self._serial}"
        lane, x, v = int(row[Command.LANE]), row[Command.X], row[Command.V]
        edge, index, offset = self._network.place(lane, x)
        vehicle.add(
            name,
            edge,
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
        self._cars[slot] = [x, v, lane, 0.0, _PRESENT]
        self._offset[slot] = math.nan
        self._committed.discard(slot)

    def _steer(self, steered: list[_Steered], first: bool) -> None:
        """Commands to the cars under control; takes off those that are about to run off the acceleration lane.

        A car under control does what it is told, so that its state after the step is known without asking.
        """
        set_speed, push, merge_end = self._set_speed, self._push, self._merge_end
        for slot, name, car, (op, _, accel, turn) in steered:
            x, v, lane, _, status = car
            if status != _PRESENT or (first and op == _INSERT):
                continue
            new = v + accel * SIM_STEP_S
            if new < 0.0:
                new = 0.0
            if self._stop_lines is not None:
                new = self._stop_lines.obey(self._lane_name[slot], x, v, new)
            after = x + new * SIM_STEP_S
            if lane == 0 and after >= merge_end and self._runs_off:
                # SUMO stops such a car at the lane end without a word.
                self._hits += 1
                self._take_off(slot)
                continue
            set_speed(name, new)
            car[0], car[1] = after, new
            push[slot] = (new - v) / SIM_STEP_S
            if first and turn and 1 <= lane + turn <= self._main_lanes and (lane > 0 or x >= self._merge_start):
                self._turn(slot, name, car, int(turn))

    def _turn(self, slot: int, name: str, car: list[float], turn: int) -> None:
        """Change lanes at once; at a point merge, where there is no lane beside the ramp, go first instead."""
        if car[2] == 0 and self._network.commits:
            self._committed.add(slot)
        else:
            index = self._network.beside(self._lane_name[slot], turn)
            if index is None:
                return
            self._sumo.vehicle.changeLane(name, index, SIM_STEP_S)
        car[2] += turn

    def _sort_out(self) -> None:
        """Take off the cars of this step's collisions, and forget those that arrived."""
        arrived, collisions = self._arrived(), self._collisions()
        if not arrived and not collisions:
            return
        slots = {name: slot for slot, name in self._ids.items()}
        for name in arrived:
            slot = slots.get(name)
            if slot is not None:
                del self._ids[slot]
                self._mark(slot, Status.LEFT)
        for collision in collisions:
            pair = [slots[name] for name in (collision.collider, collision.victim) if name in slots]
            present = [slot for slot in pair if slot in self._ids]
            if present:
                self._hits += 1
            for slot in present:
                self._take_off(slot)

    def _take_off(self, slot: int) -> None:
        self._sumo.vehicle.remove(self._ids.pop(slot))
        self._mark(slot, Status.CRASHED)

    def _mark(self, slot: int, status: Status) -> None:
        """Note for one step what became of a car that is no longer there."""
        self._cars[slot][_STATUS] = float(status)
        self._gone.append(slot)

    def _read(self, steered: list[_Steered]) -> None:
        """Ask SUMO where the cars under control are: of those that drove straight on, their places alone."""
        offset, place, push = self._offset, self._place, self._push
        for slot, name, car, (_, _, _, turn) in steered:
            if car[_STATUS] != _PRESENT:
                continue
            if turn:
                self._ask(slot, name)
                offset[slot] = math.nan
                continue
            x = offset[slot] + place(name)
            if abs(x - car[0]) < _ROUNDING_M:
                car[0], car[3] = x, push[slot]
            else:
                self._ask(slot, name)

    def _ask(self, slot: int, name: str) -> None:
        """Ask SUMO for everything about a car; between our lanes, where SUMO may have some of its own, it stays."""
        at = self._lane_of(name)
        found = self._network.lanes.get(at)
        if found is not None:
            lane, offset = found
            if slot in self._committed:
                lane = max(lane, 1)
            self._offset[slot], self._lane_name[slot] = offset, at
            self._cars[slot][:_STATUS] = offset + self._place(name), self._speed(name), lane, self._acceleration(name)
        elif self._demand is not None:
            self._release(slot, name)

    def _release(self, slot: int, name: str) -> None:
        """A car left our road and goes on in SUMO's hands."""
        self._sumo.vehicle.setSpeed(name, -1.0)
        self._sumo.vehicle.setSpeedMode(name, OWN_SPEED_MODE)
        self._sumo.vehicle.setLaneChangeMode(name, OWN_LANE_CHANGE_MODE)
        del self._ids[slot]
        self._mark(slot, Status.LEFT)

"""What passes between the batch and SUMO in a decision, as numba kernels: commands out, cars back.

The arrays that are shared with the workers are laid out as ``protocol`` says (``Command``, ``Column``).
"""

from __future__ import annotations

from marl.compiled import njit
from scenarios.cav_merging.sumo.protocol import Column, Command, Op, Status
from scenarios.cav_merging.twin.arrays import Flags, Floats, Ints

# Plain integers for the kernels.
_OP, _CONTROLLED, _ACCEL, _TURN = (int(c) for c in (Command.OP, Command.CONTROLLED, Command.ACCEL, Command.TURN))
_X, _V, _LANE, _GAINED, _STATUS = (int(column) for column in Column)
_ABSENT, _PRESENT, _CRASHED, _LEFT = (int(status) for status in Status)
_NONE, _CONTROL = int(Op.NONE), int(Op.CONTROL)


@njit
def command(present: Flags, controlled: Flags, accel: Floats, turn: Ints, told: Floats) -> None:
    """Steer the cars under control, but for those that ``told`` ``[B, V + 1, 11]`` inserts; the others ``[B, V]``."""
    for b in range(present.shape[0]):
        for i in range(present.shape[1]):
            row = told[b, i]
            if row[_OP] == _NONE and present[b, i] and controlled[b, i]:
                row[_OP] = _CONTROL
            row[_CONTROLLED] = controlled[b, i]
            row[_ACCEL] = accel[b, i]
            row[_TURN] = turn[b, i]


@njit
def take(
    cars: Floats,
    collisions: Ints,
    lost: Flags,
    x: Floats,
    v: Floats,
    gained: Floats,
    lane: Ints,
    present: Flags,
    crashed: Flags,
    left: Flags,
    hits: Ints,
) -> None:
    """Bring the batch up to date: ``cars`` ``[B, V, 5]``, ``collisions`` ``[B, 1]`` are the workers', the rest ours.

    Nothing is known of the cars of a ``lost`` copy; they stay as they were.
    """
    for b in range(cars.shape[0]):
        hits[b] = 0 if lost[b] else collisions[b, 0]
        for i in range(cars.shape[1]):
            car = cars[b, i]
            known = not lost[b] and car[_STATUS] != _ABSENT
            crashed[b, i] = known and car[_STATUS] == _CRASHED
            left[b, i] = known and car[_STATUS] == _LEFT
            if not lost[b]:
                present[b, i] = car[_STATUS] == _PRESENT
            if known:
                x[b, i], v[b, i], gained[b, i], lane[b, i] = car[_X], car[_V], car[_GAINED], int(car[_LANE])

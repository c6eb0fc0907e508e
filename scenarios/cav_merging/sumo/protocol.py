"""The arrays that pass between the batch and the workers of the ``sumo`` backend: columns and their meaning."""

from __future__ import annotations

from enum import IntEnum


class Op(IntEnum):
    """What is asked of a slot's car."""

    NONE = 0
    INSERT = 1
    CONTROL = 2


class Command(IntEnum):
    """Columns of the actions, float64 ``[V + 1, 11]``; the last row's OP is 1 to place cars without driving on.

    Then its CONTROLLED says whether automated cars are steered, its X the share of them in a
    user's demand, and its TYPE whether SUMO drives them as assertive drivers.
    """

    OP = 0
    CONTROLLED = 1
    ACCEL = 2
    TURN = 3
    LANE = 4  # This and the next four are read for cars that are to be placed only.
    X = 5
    V = 6
    TYPE = 7
    DESIRED = 8
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


class Arrival(IntEnum):
    """Columns of the output 'arrivals', float64 ``[V, 9]``: of cars that came in this decision."""

    NUMBER = 0  # which car of the episode it is, counted from 1; 0: nobody new
    FROM_RAMP = 1
    DESIRED = 2
    TAU = 3
    ACCEL = 4
    DECEL = 5
    MIN_GAP = 6
    LENGTH = 7
    ASSERTIVE = 8

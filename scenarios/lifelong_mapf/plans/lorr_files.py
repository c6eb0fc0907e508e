"""The output files of the League of Robot Runners' kit, read and written; PlanViz opens them.

Actions of robots that turn (``MAPF_T``): F forward, R a turn to the right, C to the left, W wait, T wait because the
planner was late. Of those that do not (``MAPF``, PlanViz alone): R right, L left, W wait, and, against what the letters
say, U to the row below and D to the row above.
Source: MAPF-Competition/Start-Kit, tags 2023-archive and v2.1.2; MAPF-Competition/PlanViz at c03a1d6.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marl import files
from marl.errors import UserError
from scenarios.lifelong_mapf.maps.lorr import Problem
from scenarios.lifelong_mapf.plans.counting import played_errands
from scenarios.lifelong_mapf.plans.plan import AHEAD, HEADINGS, Given, Plan

MAX_BYTES = 1_000_000_000

_TURNING, _STRAIGHT = "MAPF_T", "MAPF"
_ACTIONS = {_TURNING: "FRCWT", _STRAIGHT: "UDLRWT"}
#: Rows and columns of the letters ``UDLR``.
_DRIVES = {"U": (1, 0), "D": (-1, 0), "L": (0, -1), "R": (0, 1)}


def is_plan(values: Any) -> bool:
    """Whether a parsed JSON file looks like an output of the kit."""
    return isinstance(values, dict) and ("actualPaths" in values or "plannerPaths" in values)


def read_lorr(path: Path) -> Plan:
    """A plan file: the paths that robots drove, or where there are none, those that were planned. ``UserError``."""
    try:
        values = json.loads(files.read_text(path, MAX_BYTES))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON: {error}") from None
    if not is_plan(values):
        raise UserError(f"{path} holds no 'actualPaths': name an output of the league's kit or of --save-plan")
    model = values.get("actionModel", _TURNING)
    if model not in _ACTIONS:
        raise UserError(f"{path}: actionModel is {model!r}, use {' or '.join(_ACTIONS)}")
    starts, paths = values.get("start"), values.get("actualPaths") or values.get("plannerPaths")
    if not isinstance(starts, list) or not isinstance(paths, list) or len(starts) != len(paths) or not paths:
        counts = f"{_length(starts)} starts and {_length(paths)} paths"
        raise UserError(f"{path} has {counts}: write one of each for every robot")
    actions = _actions(path, paths, _ACTIONS[model])
    cells, headings = _drive(path, starts, actions, model)
    try:
        claimed = values.get("numTaskFinished")
        return Plan(
            str(path),
            cells,
            headings,
            None if claimed is None else int(claimed),
            _given(values, len(starts)),
            _schedule(values),
        )
    except (ValueError, TypeError, KeyError, IndexError):
        raise UserError(f"{path}: its events, tasks or schedule are not in the form of the kit's output") from None


def _length(values: Any) -> str:
    return str(len(values)) if isinstance(values, list) else "no"


def _actions(path: Path, paths: Sequence[Any], known: str) -> NDArray[np.uint8]:
    """Letters of all robots [N, T]."""
    rows = []
    for robot, text in enumerate(paths):
        if not isinstance(text, str):
            raise UserError(f"{path}, robot {robot}: its path must be a text of actions")
        if text.startswith("["):
            raise UserError(
                f"{path}, robot {robot}: its path is in ticks, as the kit of 2026 writes; only whole steps are replayed"
            )
        words = [word.strip() for word in text.split(",")] if text.strip() else []
        wrong = next((step for step, word in enumerate(words, start=1) if len(word) != 1 or word not in known), None)
        if wrong is not None:
            raise UserError(
                f"{path}, step {wrong}, robot {robot}: {words[wrong - 1][:20]!r} is none of {' '.join(known)}"
            )
        rows.append(np.frombuffer("".join(words).encode("ascii"), np.uint8))
        if rows[-1].size != rows[0].size:
            raise UserError(f"{path}: robot {robot} has {rows[-1].size} actions, robot 0 has {rows[0].size}")
    return np.stack(rows)


def _drive(
    path: Path, starts: Sequence[Any], actions: NDArray[np.uint8], model: str
) -> tuple[NDArray[np.int32], NDArray[np.int8] | None]:
    """The cells [T + 1, N, 2] that actions lead to, whatever stands there, and the headings [T + 1, N]."""
    first = np.zeros((len(starts), 2), np.int32)
    heading = np.zeros(len(starts), np.int64)
    for robot, start in enumerate(starts):
        try:
            first[robot] = int(start[0]), int(start[1])
            # The kit of 2023 writes two letters for south.
            heading[robot] = HEADINGS.index(start[2]) if model == _TURNING else 0
        except (ValueError, TypeError, IndexError, OverflowError):
            raise UserError(f"{path}, robot {robot}: its start {start!r} is not [row, column, heading]") from None
    letters = actions.T
    moved = np.zeros((*letters.shape, 2), np.int32)
    headings = None
    if model == _TURNING:
        turned = np.zeros((letters.shape[0] + 1, letters.shape[1]), np.int64)
        turned[1:] = np.cumsum((letters == ord("R")).astype(np.int64) - (letters == ord("C")), 0)
        turned = np.mod(turned + heading, 4)
        moved = AHEAD[turned[:-1]] * (letters == ord("F"))[..., None]
        headings = turned.astype(np.int8)
    else:
        for letter, step in _DRIVES.items():
            moved[letters == ord(letter)] = step
    return np.concatenate([first[None], first + np.cumsum(moved, 0)]).astype(np.int32), headings


def _given(values: Mapping[str, Any], n: int) -> tuple[tuple[Given, ...], ...] | None:
    events, tasks = values.get("events"), values.get("tasks")
    if not events or not tasks or len(events) != n or not all(isinstance(task[1], int) for task in tasks):
        return None
    if not all(len(task) == 3 and isinstance(task[2], int) for task in tasks):
        return None  # errands, whose events are of another form
    cells = {int(number): (int(row), int(column)) for number, row, column in tasks}
    return tuple(
        tuple(Given(int(task), cells[int(task)], int(step)) for task, step, what in robot if what == "assigned")
        for robot in events
    )


def _schedule(values: Mapping[str, Any]) -> tuple[tuple[tuple[int, int], ...], ...] | None:
    texts = values.get("actualSchedule")
    if not texts:
        return None
    pairs = ((pair.split(":") for pair in text.split(",") if pair) for text in texts)
    return tuple(tuple((int(step), int(task)) for step, task in robot) for robot in pairs)


def write_lorr(plan: Plan, finished: Sequence[Sequence[tuple[int, int]]], path: Path) -> None:
    """Write a plan as the kit of 2023 does.

    Args:
        plan: without conflicts, with ``given``; robots that do not turn move at most one cell a step.
        finished: for each robot (task, step) of the tasks that it finished.
        path: of the file.
    """
    assert plan.given is not None
    tasks = sorted({(given.task, *given.cell) for robot in plan.given for given in robot})
    more = {
        "sumOfCost": plan.steps * plan.n_agents,
        "errors": [],
        "events": [_events(given, done) for given, done in zip(plan.given, finished, strict=True)],
        "tasks": [list(task) for task in tasks],
    }
    _write(plan, "2023 LoRR", sum(map(len, finished)), {"AllValid": "Yes"} | more, path)


def write_errands(plan: Plan, schedule: Sequence[Sequence[tuple[int, int]]], problem: Problem, path: Path) -> None:
    """Write a plan with errands as the kit of 2024 does.

    Args:
        plan: without conflicts.
        schedule: of each robot (step, errand) pairs, as ``Plan.schedule``.
        problem: that was played.
        path: of the file.
    """
    office, width = played_errands(plan, schedule, problem), problem.grid.width
    texts = [",".join(f"{step}:{task}" for step, task in robot) for robot in schedule]
    tasks = []
    for number, step in enumerate(office.revealed):
        base = number % problem.n_tasks
        stops = problem.stops[problem.first[base] : problem.first[base + 1]].tolist()
        tasks.append([number, step, [part for stop in stops for part in divmod(stop, width)]])
    more = {
        "numPlannerErrors": 0,
        "numScheduleErrors": len(office.faults),
        "numEntryTimeouts": 0,
        "errors": [],
        "actualSchedule": texts,
        "plannerSchedule": texts,
        "scheduleErrors": [],
        "events": [list(event) for event in office.events],
        "tasks": tasks,
    }
    _write(plan, "2024 LoRR", office.finished, more, path)


def _write(plan: Plan, version: str, finished: int, more: Mapping[str, Any], path: Path) -> None:
    """Write what all versions have, and ``more``."""
    turning = plan.headings is not None
    moved = np.diff(plan.cells, axis=0)
    letters = np.full(moved.shape[:2], "W")
    if plan.headings is not None:
        turns = (plan.headings[1:] - plan.headings[:-1]) % 4
        letters[turns == 1], letters[turns == 3] = "R", "C"
        letters[(moved != 0).any(-1)] = "F"
    else:
        for letter, step in _DRIVES.items():
            letters[(moved == step).all(-1)] = letter
    paths = [",".join(robot) for robot in letters.T]
    facing = np.zeros(plan.n_agents, np.int64) if plan.headings is None else plan.headings[0]
    values = {
        "actionModel": _TURNING if turning else _STRAIGHT,
        "version": version,
        "teamSize": plan.n_agents,
        "start": [[*map(int, cell), HEADINGS[at]] for cell, at in zip(plan.cells[0], facing, strict=True)],
        "numTaskFinished": finished,
        "makespan": plan.steps,
        "actualPaths": paths,
        "plannerPaths": paths,
        "plannerTimes": [0.0] * plan.steps,
        **more,
    }
    path.write_text(json.dumps(values, separators=(",", ":")) + "\n", encoding="utf-8")


def _events(given: Sequence[Given], finished: Sequence[tuple[int, int]]) -> list[list[Any]]:
    """The kit's order: a task is finished, then the next one is given, after the same step."""
    events: list[tuple[int, int, int, str]] = [(task.step, 1, task.task, "assigned") for task in given]
    events += [(step, 0, task, "finished") for task, step in finished]
    return [[task, step, what] for step, _, task, what in sorted(events)]

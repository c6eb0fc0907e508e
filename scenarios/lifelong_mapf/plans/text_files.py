"""Plans as other tools write them: ``paths.txt`` of EECBS and its kin, and the result of pibt2.

EECBS: ``Agent 0: (row,column)->(row,column)->...``, a robot that has arrived stays. pibt2: ``solution=`` and then, for
each step, ``0:(column,row),(column,row),...``. Source: Jiaoyang-Li/EECBS and Kei18/pibt2.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from marl import files
from marl.errors import UserError
from scenarios.lifelong_mapf.plans.lorr_files import MAX_BYTES, read_lorr
from scenarios.lifelong_mapf.plans.plan import Plan

_CELL = re.compile(r"\(\s*(-?\d{1,9})\s*,\s*(-?\d{1,9})\s*\)")
_AGENT = re.compile(r"\s*Agent\s+(\d{1,9})\s*:\s*(.*)")
_STEP = re.compile(r"\s*(\d{1,9})\s*:\s*(\(.*)")


def read_plan(path: Path) -> Plan:
    """A plan file of any known form, by what it holds. Raises ``UserError``."""
    if path.suffix.lower() == ".json":
        return read_lorr(path)
    lines = files.read_text(path, MAX_BYTES).splitlines()
    if any(_AGENT.fullmatch(line) for line in lines[:8]):
        return _read_paths(path, lines)
    starts = [number for number, line in enumerate(lines) if line.strip() == "solution="]
    if starts:
        return _read_steps(path, lines, starts[0] + 1)
    raise UserError(
        f"{path} is no plan: use an output of the league's kit (.json), paths of EECBS ('Agent 0: (0,0)->(0,1)') or a "
        "result of pibt2 ('solution=')"
    )


def _cells(path: Path, number: int, text: str, between: str) -> list[tuple[int, int]]:
    cells = [(int(one), int(other)) for one, other in _CELL.findall(text)]
    rest = _CELL.sub("", text).replace(between, "").strip()
    if rest or not cells:
        raise UserError(
            f"{path}, line {number}: expected cells such as (0,1){between}(0,2), found {rest[:20]!r} as well"
        )
    return cells


def _read_paths(path: Path, lines: list[str]) -> Plan:
    paths: dict[int, list[tuple[int, int]]] = {}
    for number, line in enumerate(lines, start=1):
        match = _AGENT.fullmatch(line)
        if match is None:
            if line.strip():
                raise UserError(f"{path}, line {number}: expected 'Agent N: (row,column)->...'")
            continue
        if int(match[1]) != len(paths):
            raise UserError(f"{path}, line {number}: agent {match[1]} comes where agent {len(paths)} was expected")
        paths[len(paths)] = _cells(path, number, match[2], "->")
    longest = max(map(len, paths.values()))
    rows = [cells + [cells[-1]] * (longest - len(cells)) for cells in paths.values()]
    return Plan(str(path), np.array(rows, np.int32).transpose(1, 0, 2))


def _read_steps(path: Path, lines: list[str], first: int) -> Plan:
    rows: list[list[tuple[int, int]]] = []
    for number, line in enumerate(lines[first:], start=first + 1):
        if not line.strip():
            continue
        match = _STEP.fullmatch(line)
        if match is None or int(match[1]) != len(rows):
            raise UserError(f"{path}, line {number}: expected step {len(rows)} as '{len(rows)}:(column,row),...'")
        rows.append([(row, column) for column, row in _cells(path, number, match[2], ",")])
        if len(rows[-1]) != len(rows[0]):
            raise UserError(f"{path}, line {number}: {len(rows[-1])} robots, the steps before have {len(rows[0])}")
    if not rows:
        raise UserError(f"{path} has no step after 'solution='")
    return Plan(str(path), np.array(rows, np.int32))

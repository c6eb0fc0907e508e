"""Guidance vectors: the numbers of the shared guidance, chosen together for one kind of map and kept in small files.

A vector is what ``marl tune lifelong_mapf guidance`` writes: a YAML file with the mapping ``values``. Those in
``vectors/`` are shipped and go by their names.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from marl.errors import UserError, nearest
from marl.yaml_io import read_yaml

_FOLDER = Path(__file__).parent / "vectors"


class Weights(NamedTuple):
    """The numbers of the shared guidance. Their meaning and limits: ``guidance.GuidanceConfig``."""

    static_weight: float = 0.0
    occupancy_weight: float = 0.0
    waiting_weight: float = 0.0
    decay: float = 0.95
    opposing_weight: float = 0.0
    flow_decay: float = 0.99
    lanes_weight: float = 0.0
    corridor_rows_weight: float = 0.0
    corridor_columns_weight: float = 0.0
    stay_weight: float = 0.0
    contest_weight: float = 0.0
    head_on_weight: float = 0.0
    closer_first: float = 0.0
    crowd: float = 0.0

    @property
    def priced(self) -> bool:
        """Whether cells cost more than one step."""
        return self.static_weight > 0 or self.occupancy_weight > 0 or self.waiting_weight > 0 or self.directed

    @property
    def directed(self) -> bool:
        """Whether the price of a move depends on its direction."""
        lanes = self.lanes_weight + self.corridor_rows_weight + self.corridor_columns_weight
        return self.opposing_weight > 0 or lanes > 0


def shipped_vectors() -> list[str]:
    """The names of the shipped vectors, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def read_vector(name: str) -> dict[str, float]:
    """The values of a shipped vector, or of a file. Raises ``UserError``.

    Whether they lie within their limits is for ``GuidanceConfig`` to say.
    """
    path = _FOLDER / f"{name}.yaml" if name in shipped_vectors() else Path(name)
    try:
        changed = path.stat().st_mtime_ns
    except (OSError, ValueError):
        raise UserError(
            f"guidance '{name}' is neither a file nor a shipped vector{nearest(name, shipped_vectors())}"
        ) from None
    return dict(_values(path, changed))


@lru_cache(maxsize=64)
def _values(path: Path, changed: int) -> dict[str, float]:
    """Cached: every world and policy of an evaluation asks for them. changed: time stamp of the file."""
    values: Any = read_yaml(path).get("values")
    if not isinstance(values, dict):
        raise UserError(f"{path} is no guidance vector: it has no mapping 'values', see 'marl tune lifelong_mapf'")
    known = Weights._fields
    for key, value in values.items():
        if key not in known:
            raise UserError(f"unknown key 'values.{key}' in {path}{nearest(key, known)}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"'values.{key}' in {path} is {value!r}, use a number")
    return values

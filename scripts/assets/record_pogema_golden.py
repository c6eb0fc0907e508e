"""Record golden transitions of POGEMA 1.4.0 into tests/golden/pogema.

Runs in a virtual environment of its own, because POGEMA 1.4.0 needs old pins:

    python3.11 -m venv .venv-pogema
    .venv-pogema/bin/pip install pogema==1.4.0 numpy==1.26.4 PyYAML
    .venv-pogema/bin/python scripts/assets/record_pogema_golden.py

One .npz per episode, for every map of tests/golden/pogema/maps.yaml, collision system and agent density (share of the
free cells). Arrays and their shapes: tests/golden/pogema/README.md. At each step an agent draws, with equal chance, a
uniform action or the first move of a shortest path to its goal, so that crowds, head-on meetings and reached goals all
occur. In mode ``nothing`` an agent on its goal waits there, so that some episodes end.
"""

from __future__ import annotations

import argparse
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from pogema import GridConfig, pogema_v0

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden" / "pogema"
STEPS = 200
WINDOW_STEPS = (0, 1, 2, 20, 200)
COLLISIONS = ("priority", "soft", "block_both")
#: Goal mode -> agents per free cell -> observation radius recorded with it.
DENSITIES = {"restart": {0.1: 5, 0.4: 3, 0.85: 1}, "nothing": {0.02: 5}, "finish": {0.4: 2}}
#: Goals given to each agent when POGEMA cannot place the agents by itself.
SEQUENCE_LENGTH = 64


@dataclass(frozen=True)
class Episode:
    map_name: str
    text: str
    collision: str
    on_target: str
    density: float
    radius: int

    @property
    def file_name(self) -> str:
        return f"{self.on_target}-{self.collision}-{self.map_name}-{round(100 * self.density)}.npz"

    @property
    def seed(self) -> int:
        """Depends on map, mode and density only: the three collision systems start from the same state."""
        return zlib.crc32(f"{self.map_name}/{self.on_target}/{self.density}".encode()) & 0x7FFFFFFF


def distances(blocked: np.ndarray, goal: tuple[int, int]) -> np.ndarray:
    """Steps to the goal [H + 2, W + 2], with a border of infinity; infinity where blocked or out of reach."""
    field = np.full(np.add(blocked.shape, 2), np.inf)
    field[goal[0] + 1, goal[1] + 1] = 0
    queue = [goal]
    for row, col in queue:
        for next_row, next_col in ((row - 1, col), (row + 1, col), (row, col - 1), (row, col + 1)):
            inside = 0 <= next_row < blocked.shape[0] and 0 <= next_col < blocked.shape[1]
            if inside and not blocked[next_row, next_col] and field[next_row + 1, next_col + 1] == np.inf:
                field[next_row + 1, next_col + 1] = field[row + 1, col + 1] + 1
                queue.append((next_row, next_col))
    return field


def largest_component(blocked: np.ndarray) -> list[tuple[int, int]]:
    """Cells of the largest 4-connected component, in reading order."""
    left: set[tuple[int, int]] = {(row, column) for row, column in np.argwhere(~blocked).tolist()}
    best: list[tuple[int, int]] = []
    while left:
        reached = np.argwhere(np.isfinite(distances(blocked, min(left)))) - 1
        cells: list[tuple[int, int]] = [(row, column) for row, column in reached.tolist()]
        left.difference_update(cells)
        best = max(best, cells, key=len)
    return best


def grid_config(episode: Episode, blocked: np.ndarray, n_agents: int, rng: np.random.Generator) -> GridConfig:
    """POGEMA draws starts and goals itself where the map has room for that, else they are drawn here."""
    options = {
        "num_agents": n_agents,
        "seed": episode.seed,
        "obs_radius": episode.radius,
        "collision_system": episode.collision,
        "on_target": episode.on_target,
        "observation_type": "POMAPF",
        "max_episode_steps": STEPS + 1,
    }
    config = GridConfig(map=episode.text, **options)
    room = len(config.possible_agents_xy) if config.possible_agents_xy else int((~blocked).sum()) // 2 - 8
    if n_agents <= room:
        return config
    cells = largest_component(blocked)
    starts = [cells[i] for i in rng.permutation(len(cells))[:n_agents]]
    goals = [[cells[i] for i in rng.integers(len(cells), size=SEQUENCE_LENGTH)] for _ in starts]
    targets = goals if episode.on_target == "restart" else [sequence[0] for sequence in goals]
    plain = "\n".join("".join("#" if cell else "." for cell in row) for row in blocked)
    return GridConfig(map=plain, agents_xy=starts, targets_xy=targets, **options)


class Walkers:
    """Draws actions: uniform ones, or the first move of a shortest path to the goal, with equal chance."""

    def __init__(self, blocked: np.ndarray, rng: np.random.Generator, wait: bool):
        self.blocked, self.rng, self.wait = blocked, rng, wait
        self.fields: dict[tuple[int, int], np.ndarray] = {}

    def draw(self, positions: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """Actions [N] from cells [N, 2]; with ``wait``, agents on their goal stay."""
        uniform = self.rng.integers(0, 5, len(positions))
        towards = np.array([self.first_move(*pair) for pair in zip(positions.tolist(), goals.tolist(), strict=True)])
        actions = np.where(self.rng.random(len(positions)) < 0.5, towards, uniform)
        if self.wait:
            actions[(positions == goals).all(axis=1)] = 0
        return actions

    def first_move(self, cell: list[int], goal: list[int]) -> int:
        key = (goal[0], goal[1])
        if key not in self.fields:
            self.fields[key] = distances(self.blocked, key)
        row, col = cell[0] + 1, cell[1] + 1
        field = self.fields[key]
        return int(
            np.argmin(
                [field[row, col], field[row - 1, col], field[row + 1, col], field[row, col - 1], field[row, col + 1]]
            )
        )


def record(episode: Episode) -> dict[str, np.ndarray]:
    blocked = np.array([[char == "#" for char in line] for line in episode.text.split()])
    width = blocked.shape[1]
    n_agents = round(episode.density * len(largest_component(blocked)))
    rng = np.random.default_rng(episode.seed)
    env = pogema_v0(grid_config(episode, blocked, n_agents, rng))
    observation, _ = env.reset()
    radius = episode.radius
    walkers = Walkers(blocked, rng, wait=episode.on_target == "nothing")
    all_actions: list[np.ndarray] = []
    positions, goals, active, missing, rewards, windows = [], [], [], [], [], []

    def look() -> None:
        positions.append(np.array(env.get_agents_xy(ignore_borders=True)))
        goals.append(np.array(env.get_targets_xy(ignore_borders=True)))
        active.append([env.grid.is_active[i] for i in range(n_agents)])
        plane = env.grid.positions[radius:-radius, radius:-radius]
        missing.append([env.grid.is_active[i] and plane[tuple(positions[-1][i])] == 0 for i in range(n_agents)])
        if len(all_actions) in WINDOW_STEPS:
            channels = np.array([[view["obstacles"], view["agents"]] for view in observation]).astype(bool)
            windows.append(np.packbits(channels.reshape(n_agents, -1), axis=1))

    look()
    for _ in range(STEPS):
        actions = walkers.draw(positions[-1], goals[-1])
        all_actions.append(actions)
        observation, reward, terminated, _, _ = env.step(actions.tolist())
        rewards.append(reward)
        look()
        if all(terminated):
            break

    def flat(cells: list[np.ndarray]) -> np.ndarray:
        return (np.array(cells) @ (width, 1)).astype(np.int16)

    return {
        "map": np.array(episode.map_name),
        "collision": np.array(episode.collision),
        "on_target": np.array(episode.on_target),
        "radius": np.array(radius),
        "blocked": blocked,
        "positions": flat(positions),
        "goals": flat(goals),
        "actions": np.array(all_actions, np.uint8),
        "reward": np.array(rewards).astype(np.uint8),
        "active": np.array(active, bool),
        "missing": np.array(missing, bool),
        "window_steps": np.array(WINDOW_STEPS[: len(windows)], np.int16),
        "windows": np.array(windows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=GOLDEN, help="folder of the recordings")
    args = parser.parse_args()
    maps = yaml.safe_load((GOLDEN / "maps.yaml").read_text(encoding="utf-8"))
    total = 0
    for name, text in maps.items():
        for collision in COLLISIONS:
            for on_target, densities in DENSITIES.items():
                for density, radius in densities.items():
                    episode = Episode(name, text, collision, on_target, density, radius)
                    arrays = record(episode)
                    path = args.out / episode.file_name
                    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]  # taken for allow_pickle, which old numpy lacks
                    total += path.stat().st_size
                    steps, n_agents = arrays["actions"].shape
                    print(f"{path.name}: {n_agents} agents, {steps} steps, reward {arrays['reward'].sum()}")
    print(f"{total / 1024:.0f} KiB")


if __name__ == "__main__":
    main()

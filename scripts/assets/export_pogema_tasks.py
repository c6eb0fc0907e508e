"""Write the starts and goals that POGEMA 1.4.0 draws as task files, for comparisons on the very same instances.

Runs in the virtual environment of ``scripts/assets/record_pogema_golden.py``:

    python scripts/assets/export_pogema_tasks.py --map maps.yaml:wfi_warehouse --agents 192 --seeds 0:16 --out tasks

writes tasks/wfi_warehouse-192-SEED.json, to be used with ``--tasks``; without ``:NAME`` for every map of the file. In
POGEMA an agent's lifelong goals come from a generator of its own and depend only on the goals before, so the first K of
them (``--goals``) can be drawn beforehand.
On maps with '$' POGEMA may draw the present cell again, which counts at once; such repetitions are left out, and their
number is printed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import yaml
from pogema import GridConfig, pogema_v0

Cell = list[int]


def draw(text: str, agents: int, seed: int, goals: int) -> tuple[list[Cell], list[list[Cell]], int]:
    """Starts, goals of each agent, and how many repetitions were left out."""
    config = GridConfig(map=text, num_agents=agents, seed=seed, on_target="restart", max_episode_steps=10**9)
    env = pogema_v0(config).unwrapped
    env.reset()
    radius = config.obs_radius
    starts = [list(cell) for cell in env.get_agents_xy(ignore_borders=True)]
    sequences: list[list[Cell]] = []
    repetitions = 0
    for agent, start in enumerate(starts):
        goal = tuple(env.grid.finishes_xy[agent])
        sequence: list[Cell] = []
        before = start
        while len(sequence) < goals:
            cell = [int(goal[0]) - radius, int(goal[1]) - radius]
            if cell == before:
                repetitions += 1
            else:
                sequence.append(cell)
            before = cell
            env.grid.positions_xy[agent] = goal
            goal = tuple(env._generate_new_target(agent))
        sequences.append(sequence)
    return starts, sequences, repetitions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--map", required=True, help="FILE.yaml or FILE.yaml:NAME, a POGEMA set or one map of it")
    parser.add_argument("--agents", type=int, required=True, help="number of agents")
    parser.add_argument("--seeds", default="0:1", help="FIRST:END, the seeds of the instances")
    parser.add_argument("--goals", type=int, default=64, help="goals for each agent")
    parser.add_argument("--out", type=Path, required=True, help="folder of the task files")
    args = parser.parse_args()
    file, _, only = args.map.rpartition(".yaml")
    file, only = file + ".yaml", only.removeprefix(":")
    maps = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    args.out.mkdir(parents=True, exist_ok=True)
    for name in [only] if only else maps:
        for seed in range(*map(int, args.seeds.split(":"))):
            starts, sequences, repetitions = draw(maps[name], args.agents, seed, args.goals)
            agents = [{"start": start, "goals": goals} for start, goals in zip(starts, sequences, strict=True)]
            path = args.out / f"{name}-{args.agents}-{seed}.json"
            tasks = {"schema_version": 1, "map": f"{file}:{name}", "agents": agents}
            path.write_text(json.dumps(tasks) + "\n", encoding="utf-8")
            print(f"{path}: {args.agents} agents, {args.goals} goals each, {repetitions} repetitions left out")


if __name__ == "__main__":
    main()

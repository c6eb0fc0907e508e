"""Learn from whom an iteration of guided_search starts, on generated maps; writes search/choice.yaml of lifelong_mapf.

    .venv/bin/python scripts/assets/train_choice.py [--rounds 2] [--steps 50] [--out FILE]

Takes a minute or two on one core. Prints what an iteration gains, in steps of delay per 1,000 states expanded, on rows
of the last round: started from anybody, from the most delayed of 4 and of 8, by a rule made by hand (delay less half of
the failures), and by the score learned.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import cast

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from marl.yaml_io import dump_yaml
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.guidance.base import GuidanceConfig
from scenarios.lifelong_mapf.maps.generators import MazeMap, RandomMap, WarehouseMap
from scenarios.lifelong_mapf.search.choice_training import Recording, gain_per_work, score_weights
from scenarios.lifelong_mapf.search.guided_search import CHOICE_FILE
from scenarios.lifelong_mapf.search.neighbourhoods import FEATURES
from scenarios.lifelong_mapf.search.windowed import DRAWS, WindowedConfig, WindowedWorld
from scenarios.lifelong_mapf.world import LifelongMapf

#: Kind -> generators, agents, options of the search.
CASES = {
    "warehouse": (
        (WarehouseMap(), WarehouseMap(missing=0.15), WarehouseMap(shelf_rows=9, shelf_length=9)),
        192,
        WindowedConfig(window=8, iterations=40),
    ),
    "random": (
        tuple(RandomMap(size=size, density=d) for size, d in ((17, 0.1), (18, 0.25), (19, 0.2), (21, 0.15))),
        64,
        WindowedConfig(window=16, iterations=60),
    ),
    "maze": (
        tuple(MazeMap(size=size, openings=o) for size, o in ((17, 0.6), (19, 0.5), (21, 0.35), (21, 0.75))),
        64,
        WindowedConfig(window=16, iterations=60),
    ),
}
COPIES = 4
BY_HAND = np.array([1.0, -0.5, 0.0, 0.0, 0.0, 0.0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=50, help="steps of each world in a round")
    parser.add_argument("--out", type=Path, default=CHOICE_FILE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, list[np.ndarray]] = {kind: [] for kind in CASES}
    choice: tuple[int, tuple[float, ...]] = (DRAWS, ())
    for number in range(arguments.rounds):
        for kind, (generator, agents, options) in CASES.items():
            config = MapfConfig(
                generator=generator,
                map_pool=8,
                map_seed=900 + number,
                agents=agents,
                horizon=10_000,
                central_state=False,
            )
            world = LifelongMapf(config, COPIES)
            # Its config is of the very class that the protocol describes, but fields may not be widened in a protocol.
            searched = cast(WindowedWorld, world)
            policy = Recording(searched, options, GuidanceConfig(vector=f"search-{kind}"), choice)
            timestep = world.reset(50 * number)
            for _ in range(arguments.steps):
                timestep = world.step(policy.act(timestep))
            rows[kind].append(np.array(policy.rows))
        weights = score_weights([np.concatenate(parts) for parts in rows.values()])
        choice = (2 * DRAWS, tuple(weights))
    for kind, parts in rows.items():
        last = parts[-1]
        delay, learned, by_hand = last[:, 0], last[:, :-2] @ weights, last[:, :-2] @ BY_HAND
        gains = [gain_per_work(last, s, n) for s, n in ((delay, 1), (delay, 4), (delay, 8), (by_hand, 8), (learned, 8))]
        print(f"{kind}: {len(last)} rows; anybody, delay of 4, of 8, by hand, learned:", *(f"{g:.2f}" for g in gains))
    values = {name: round(float(weight), 3) for name, weight in zip(FEATURES, weights, strict=True)}
    text = "# From whom an iteration of guided_search starts; written by scripts/assets/train_choice.py.\n"
    arguments.out.write_text(text + dump_yaml({"schema_version": 1, "weights": values}), encoding="utf-8")
    print(f"wrote {arguments.out}: {values}")


if __name__ == "__main__":
    main()

"""Makes the shipped policy ``agent_hierarchy/quick`` from a finished run: its weights alone, in half precision.

    .venv/bin/marl train agent_hierarchy --system m_grpo --preset quick --out runs/quick
    .venv/bin/python scripts/assets/ship_hierarchy.py runs/quick

Evaluates the run and the copy on held-out questions and prints both: half precision must not show.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from marl import api
from marl.scenario import load_scenario
from marl.training.shipping import ship


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--name", default="quick")
    parser.add_argument("--episodes", type=int, default=200, help="held-out questions")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shipped = load_scenario("agent_hierarchy").checkpoints
    assert shipped is not None
    target = ship(arguments.run, shipped / arguments.name, half=True)
    policies = [str(arguments.run), f"agent_hierarchy/{arguments.name}"]
    results = api.evaluate("agent_hierarchy", policies, seeds=range(arguments.episodes))
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    rows = [(row.policy, row.metric, row.mean) for row in results.rows if row.metric in ("success", "calls", "cost")]
    print(json.dumps({"bytes": size, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()

"""Worlds of other libraries through ``marl train pettingzoo``, without a line of code: each trains, is judged, resumes.

    .venv/bin/python scripts/reproduce foreign_worlds [make|page] [--only TEXT] [--venv DIR]

The packages are installed into a virtual environment of their own the first time. What exists is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from scripts.benchmarks import page
from scripts.benchmarks.runner import PAGES, REPO, read_figures, write_figures

REQUIREMENTS = [
    "pettingzoo[butterfly,sisl]==1.27.0",
    "rlcard",
    "chess",
    "open_spiel",
    "shimmy==2.0.1",
    "mpe2==1.1.1",
    "magent2==0.3.4",
    "lbforaging==2.0.0",
    "rware==2.0.0",
    "laser-learning-environment==2.9.6",
    "overcooked==0.2.1",
    "frondori-football==0.1.0",
    "frondori-kitchen==0.1.0",
    "matplotlib>=3.9",
]
#: Without what they need: DSSE and POGEMA ask for older versions of what the platform itself needs.
ALONE = ["DSSE==1.1.9", "pogema==1.4.0"]
_TIMEOUT_S = 900.0
_FIGURES = PAGES / "foreign_worlds.json"


class Foreign(NamedTuple):
    """package: whose version is stated. options: of ``marl train pettingzoo``, by their Python names."""

    package: str
    env: str
    arguments: Mapping[str, Any] = {}
    options: Mapping[str, Any] = {}


def _mpe(name: str, form: str = "parallel_env", **arguments: Any) -> Foreign:
    return Foreign("mpe2", f"mpe2.{name}:{form}", arguments)


def _turns(name: str, horizon: int, **arguments: Any) -> Foreign:
    return Foreign("pettingzoo", f"pettingzoo.classic.{name}:env", arguments, {"horizon": horizon})


WORLDS = [
    _mpe("simple_spread_v3"),
    _mpe("simple_spread_v3", continuous_actions=True),
    _mpe("simple_adversary_v3"),
    _mpe("simple_crypto_v3"),
    _mpe("simple_speaker_listener_v4", "env"),
    _mpe("simple_tag_v3", "env"),
    _mpe("simple_world_comm_v3"),
    Foreign(
        "magent2",
        "magent2.environments.battle_v4:parallel_env",
        {"map_size": 16, "max_cycles": 100},
        {"groups": "names"},
    ),
    Foreign(
        "magent2",
        "magent2.environments.adversarial_pursuit_v4:parallel_env",
        {"map_size": 16, "max_cycles": 100},
    ),
    Foreign("pettingzoo", "pettingzoo.sisl.multiwalker_v9:parallel_env"),
    Foreign("pettingzoo", "pettingzoo.sisl.pursuit_v5:parallel_env", {"max_cycles": 100}),
    Foreign("pettingzoo", "pettingzoo.butterfly.cooperative_pong_v6:parallel_env", {"max_cycles": 100}),
    Foreign(
        "pettingzoo", "pettingzoo.butterfly.pistonball_v6:parallel_env", {"n_pistons": 5}, {"common_reward": "mean"}
    ),
    Foreign("pettingzoo", "pettingzoo.butterfly.knights_archers_zombies_v11:parallel_env", {"max_cycles": 300}),
    Foreign(
        "pettingzoo",
        "pettingzoo.butterfly.knights_archers_zombies_v11:parallel_env",
        {"max_cycles": 60, "obs_method": "image"},
    ),
    _turns("tictactoe_v3", 9),
    _turns("connect_four_v3", 42),
    _turns("leduc_holdem_v4", 100),
    _turns("texas_holdem_v4", 100),
    _turns("chess_v6", 60),
    _turns("go_v5", 60, board_size=5),
    Foreign("pettingzoo", "pettingzoo.classic.rps_v2:env"),
    Foreign("lbforaging", "lbforaging:Foraging-8x8-2p-2f-coop-v3"),
    Foreign("rware", "rware:rware-tiny-2ag-v2", {}, {"truncate_at_horizon": True}),
    Foreign("laser-learning-environment", "lle:level", {"level": 6}, {"horizon": 78}),
    Foreign("overcooked", "overcooked:Overcooked.from_layout", {"layout": "cramped_room"}),
    Foreign("DSSE", "DSSE:DroneSwarmSearch", {"drone_amount": 2}),
    Foreign("frondori-football", "frondori_football:FootballEnv", {}, {"horizon": 100}),
    Foreign("frondori-kitchen", "frondori_kitchen:KitchenEnv"),
    Foreign("gymnasium", "gymnasium:make", {"id": "CartPole-v1"}),
    Foreign("gymnasium", "gymnasium:make", {"id": "Pendulum-v1"}),
    Foreign("gymnasium", "gymnasium:make", {"id": "Taxi-v4"}),
    Foreign("gymnasium", "gymnasium:make", {"id": "Blackjack-v1"}, {"horizon": 30}),
    _turns("hanabi_v5", 100),
    Foreign("pogema", "pogema:pogema_v0"),
]

#: Two iterations, an evaluation, a third iteration after a resume; prints what the page states.
_PROGRAM = """
import json, logging, sys, warnings
from importlib.metadata import version
from pathlib import Path
warnings.filterwarnings("ignore")
import torch
torch.set_num_threads(1)
from marl import api
from marl.errors import UserError
from marl.training import run
from marl.training.tracking import read_metrics

asked = json.loads(sys.argv[1])
options = {"env": asked["env"], "env_arg": asked["arguments"], **asked["options"]}
out = {"version": version(asked["package"])}
try:
    world = api.make("pettingzoo", copies=1, workers="none", **options)
    spec = world.spec
    world.close()
    out |= {
        "groups": {g: len(slots) for g, slots in spec.groups.items()},
        "observation": sorted({type(s).__name__ + str(s.shape or "") for s in spec.observation_space.values()}),
        "action": sorted({type(s).__name__ + str(s.shape or "") for s in spec.action_space.values()}),
        "horizon": spec.horizon,
    }
    steps = 4 * 32 * len(spec.agents)
    small = ["copies=4", "algorithm.rollout=32", "algorithm.epochs=1", f"total_steps={steps + 1}"]
    folder = api.train("pettingzoo", out=Path(sys.argv[2]) / "run", overrides=small, **options)
    out["iterations"] = len(read_metrics(folder / "metrics.csv"))
    results = api.evaluate("pettingzoo", [str(folder), "random"], seeds=range(8), **options)
    for name, row in zip(("trained", "random"), [r for r in results.rows if r.metric == "return"], strict=True):
        out[name] = [row.mean, row.ci_low, row.ci_high]
    config = folder / "config.yaml"
    text = config.read_text("utf-8")
    config.write_text(text.replace(f"total_steps: {steps + 1}", f"total_steps: {3 * steps}"), "utf-8")
    run.resume(folder)
    out["resumed"] = len(read_metrics(folder / "metrics.csv"))
except UserError as error:
    out["refused"] = str(error)
print(json.dumps(out))
"""


def make_venv(folder: Path) -> Path:
    """The interpreter of the environment with all packages; made if it does not exist."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=600)
        install = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, "-e", str(REPO), *REQUIREMENTS], check=True, timeout=3600)
        subprocess.run([*install, "--no-deps", *ALONE], check=True, timeout=3600)
    return python


def try_world(python: Path, world: Foreign) -> dict[str, Any]:
    """What became of a world: figures, or the sentence that refuses it, or how its process ended."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(REPO), *filter(None, [os.getenv("PYTHONPATH")])]),
        "OMP_NUM_THREADS": "1",
        "SDL_VIDEODRIVER": "dummy",
    }
    asked = {"package": world.package, "env": world.env, "arguments": world.arguments, "options": world.options}
    with tempfile.TemporaryDirectory(prefix="marl-foreign-") as folder:
        command = [str(python), "-c", _PROGRAM, json.dumps(asked), folder]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, cwd=folder
            )
        except subprocess.TimeoutExpired:
            return {"broken": f"it took longer than {_TIMEOUT_S:g} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {"broken": (done.stderr.strip().splitlines() or ["it ended without a word"])[-1][:300]}
    return dict(json.loads(lines[-1]))


def works(row: Mapping[str, Any]) -> bool:
    """True if a world trained at least two iterations, was judged, and went on after a resume."""
    return "random" in row and row["iterations"] >= 2 and row["resumed"] > row["iterations"]


def name_of(world: Foreign) -> str:
    """The words of the command line that name a world."""
    words = [world.env, *(f"--env-arg {key}={value}" for key, value in world.arguments.items())]
    for key, value in world.options.items():
        words.append(f"--{key.replace('_', '-')}" + ("" if value is True else f" {value}"))
    return " ".join(words)


def write_page(figures: Mapping[str, Any]) -> None:
    """Write ``docs/benchmarks/foreign_worlds.md``."""
    rows = figures["rows"]
    count = sum(map(works, rows))
    lines = [
        "# Worlds of other libraries",
        "",
        f"{count} of {len(rows)} worlds tried train with no code: `marl train pettingzoo --env` with the words of the",
        "first column. Each makes at least two iterations of MAPPO, is evaluated on eight instances beside random",
        "actions, is resumed and makes another one. Two iterations learn next to nothing: the returns (mean over",
        "agents, 95 % intervals) show that the world is played, not how well it can be. Made by",
        "`scripts/reproduce foreign_worlds`.",
        "",
    ]
    head = ("`--env`", "version", "agents", "observation", "action", "steps", "random", "after two iterations")
    table = [_cells(row) for row in rows if works(row)]
    lines += page.table(head, table)
    lines += ["", "Those that do not train, and the sentence that says why:", ""]
    lines += page.table(("`--env`", "version", "why"), [_refusal(row) for row in rows if not works(row)])
    page.write(PAGES / "foreign_worlds.md", lines)


def _cells(row: Mapping[str, Any]) -> list[object]:
    groups = ", ".join(f"{count} {group}" for group, count in row["groups"].items())
    returns = [f"{row[who][0]:.2f} {page.span(row[who][1], row[who][2], digits=2)}" for who in ("random", "trained")]
    spaces = [", ".join(row[what]) for what in ("observation", "action")]
    return [f"`{row['name']}`", row["version"], groups, *spaces, row["horizon"], *returns]


def _refusal(row: Mapping[str, Any]) -> list[object]:
    return [f"`{row['name']}`", row.get("version", "-"), row.get("refused") or row.get("broken") or "it did not go on"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", nargs="?", choices=("make", "page"), default="make")
    parser.add_argument("--only", default="", help="worlds whose name holds this")
    parser.add_argument("--venv", type=Path, default=Path(tempfile.gettempdir()) / "marl-foreign-worlds")
    words = parser.parse_args()
    figures = read_figures(_FIGURES)
    known = {row["name"]: row for row in figures["rows"]}
    if words.stage == "make":
        python = make_venv(words.venv)
        for world in WORLDS:
            name = name_of(world)
            if words.only in name and name not in known:
                known[name] = {"name": name, **try_world(python, world)}
                print(name, known[name], flush=True)
                rows = [known[name_of(each)] for each in WORLDS if name_of(each) in known]
                write_figures(_FIGURES, "foreign_worlds", {"rows": rows})
        figures = read_figures(_FIGURES)
    write_page(figures)


if __name__ == "__main__":
    main()

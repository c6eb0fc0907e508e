"""Environments of others, in a virtual environment of their own, through ``marl check``: used by ``check_trust``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from scripts.benchmarks.runner import REPO

REQUIREMENTS = [
    "pettingzoo[classic,butterfly,sisl]==1.27.0",
    "mpe2==1.1.1",
    "sumo-rl==1.4.5",
    "eclipse-sumo",
    "libsumo",
]
_STEPS = 500
_TIMEOUT_S = 900.0

#: Specification -> steps of each play, fewer where an environment is slow.
ENVIRONMENTS: dict[str, int] = {
    **{
        f"mpe2.{name}_v{number}:parallel_env": _STEPS
        for name, number in {
            "simple": 3,
            "simple_adversary": 3,
            "simple_crypto": 3,
            "simple_push": 3,
            "simple_reference": 3,
            "simple_speaker_listener": 4,
            "simple_spread": 3,
            "simple_tag": 3,
            "simple_world_comm": 3,
        }.items()
    },
    "pettingzoo.sisl.pursuit_v5:parallel_env": 300,
    "pettingzoo.sisl.multiwalker_v9:parallel_env": 300,
    "pettingzoo.butterfly.cooperative_pong_v6:parallel_env": 300,
    "pettingzoo.butterfly.pistonball_v6:parallel_env": 300,
    "pettingzoo.butterfly.knights_archers_zombies_v11:parallel_env": 100,
    "pettingzoo.classic.rps_v2:parallel_env": _STEPS,
    **{
        f"pettingzoo.classic.{name}:env": _STEPS
        for name in (
            "chess_v6",
            "connect_four_v3",
            "go_v5",
            "hanabi_v5",
            "leduc_holdem_v4",
            "rps_v2",
            "texas_holdem_v4",
            "texas_holdem_no_limit_v6",
            "tictactoe_v3",
        )
    },
    "foreign_sumo:cologne": 90,
}

#: sumo-rl's world needs files, and PettingZoo 1.27 has another name for the class that it calls ``agent_selector``.
_SUMO = """
import os
from pathlib import Path

import sumo

os.environ.setdefault("SUMO_HOME", sumo.SUMO_HOME)
import sumo_rl
import sumo_rl.environment.env as env
from pettingzoo.utils import AgentSelector

env.agent_selector = AgentSelector
NETS = Path(sumo_rl.__file__).parent / "nets" / "RESCO" / "cologne3"


def cologne():
    net, routes = str(NETS / "cologne3.net.xml"), str(NETS / "cologne3.rou.xml")
    return sumo_rl.parallel_env(
        net_file=net, route_file=routes, begin_time=25200, num_seconds=200, out_csv_name=None, sumo_warnings=False
    )
"""

_PROGRAM = """
import json, sys, warnings
warnings.filterwarnings("ignore")
from marl.testing import cli_check
report = cli_check(sys.argv[1], int(sys.argv[2]))
found = [{"fault": f.fault, "severity": f.severity, "where": f.where, "sentence": f.sentence} for f in report.findings]
print(json.dumps({"ok": report.ok, "steps": report.steps, "findings": found, "skipped": report.skipped}))
"""


def check_all(venv: Path | None, only: str) -> dict[str, Any]:
    """Check every environment whose name holds ``only``; what could not be made is recorded as such."""
    folder = venv or Path(tempfile.gettempdir()) / "marl-foreign-venv"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=600)
        install = [str(python), "-m", "pip", "install", "--quiet", "-c", str(REPO / "constraints.txt")]
        subprocess.run([*install, "-e", str(REPO), *REQUIREMENTS], check=True, timeout=3600)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="marl-foreign-") as helper:
        (Path(helper) / "foreign_sumo.py").write_text(_SUMO, encoding="utf-8")
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(REPO), helper]),
            "OMP_NUM_THREADS": "1",
            "SDL_VIDEODRIVER": "dummy",
            "PYGAME_HIDE_SUPPORT_PROMPT": "1",
        }
        for spec, steps in ENVIRONMENTS.items():
            if only in spec:
                results[spec] = _check([str(python), "-c", _PROGRAM, spec, str(steps)], environment)
                print(spec, results[spec], flush=True)
    listed = subprocess.run(
        [str(python), "-m", "pip", "freeze"], capture_output=True, text=True, timeout=120, check=True
    )
    wanted = ("pettingzoo==", "mpe2==", "sumo-rl==", "eclipse-sumo==")
    return {
        "versions": [line for line in listed.stdout.lower().splitlines() if line.startswith(wanted)],
        "checked": sum("findings" in each for each in results.values()),
        "with_errors": sum(not each.get("ok", True) for each in results.values()),
        "environments": results,
    }


def _check(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return {"not_made": f"it took longer than {_TIMEOUT_S:g} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {"not_made": (done.stderr.strip().splitlines() or ["it ended without a word"])[-1][:300]}
    found: dict[str, Any] = json.loads(lines[-1])
    return found

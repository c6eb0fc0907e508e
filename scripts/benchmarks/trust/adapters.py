"""Runs the tests marked ``anchors`` of the adapters, each against the real package in a virtual environment of its own.

    .venv/bin/python scripts/reproduce adapters [trl openenv verifiers mcp] [--envs DIR]

Environments are made below ``--envs`` the first time (minutes; TRL and verifiers bring data-set libraries along) and
used again. What a package's own version needs comes before ``constraints.txt``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from scripts.benchmarks.runner import REPO


class Adapter(NamedTuple):
    """packages: what is installed beside the platform. test: the file that uses them."""

    packages: tuple[str, ...]
    test: str


ADAPTERS = {
    "trl": Adapter(("trl==1.16.0",), "tests/marl/rollout/test_trl_tools.py"),
    "openenv": Adapter(("openenv-core==0.3.0",), "tests/marl/rollout/test_openenv.py"),
    "verifiers": Adapter(("verifiers[openenv]==0.4.0", "uv"), "tests/marl/rollout/test_verifiers.py"),
    "mcp": Adapter(("mcp==2.3.0",), "tests/marl/rollout/test_mcp.py"),
}


def check(name: str, envs: Path) -> bool:
    """Whether the adapter's tests pass; its environment is made if it does not exist."""
    adapter, folder = ADAPTERS[name], envs / name
    python = folder / "bin" / "python"
    if not (folder / ".complete").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=600)
        install = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, "pytest", "pytest-timeout", *adapter.packages], check=True, timeout=3600)
        subprocess.run([*install, "-e", f"{REPO}[llm]"], check=True, timeout=3600)
        (folder / ".complete").touch()
    paths = [str(REPO), str(REPO / "tests"), str((REPO / adapter.test).parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])  # verifiers starts programs of it
    command = [str(python), "-m", "pytest", "-q", "-m", "anchors", adapter.test]
    return subprocess.run(command, cwd=REPO, env=environment, timeout=1800, check=False).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[*ADAPTERS], metavar="NAME", help=f"of {', '.join(ADAPTERS)}")
    parser.add_argument("--envs", type=Path, default=Path(tempfile.gettempdir()) / "marl-adapters")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(ADAPTERS)
    if unknown:
        parser.error(f"no adapter {min(unknown)!r}; there are: {', '.join(ADAPTERS)}")
    results = {name: check(name, arguments.envs) for name in arguments.names}
    for name, passed in results.items():
        print(f"{name}: {'passed' if passed else 'FAILED'} ({', '.join(ADAPTERS[name].packages)})")
    sys.exit(not all(results.values()))


if __name__ == "__main__":
    main()

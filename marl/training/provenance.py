"""Where a run's figures come from: code, versions, machine and command."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from marl.config import AnyRunConfig, config_hash

_PACKAGES = ("marl-platform", "torch", "numpy", "numba", "gymnasium", "pettingzoo", "pydantic", "safetensors")


def provenance(config: AnyRunConfig, arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """JSON data about the process that is about to run ``config``.

    Args:
        arguments: the command line, by default this process's own; the home folder in it is written ``~``.
    """
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [_without_home(word) for word in (_command() if arguments is None else arguments)],
        "config_sha256": config_hash(config),
        "git": _git(),
        "versions": {"python": platform.python_version(), **_versions()},
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": config.device,
        "gpu": torch.cuda.get_device_name(config.device) if config.device != "cpu" else None,
    }


def _command() -> list[str]:
    return [Path(sys.argv[0]).name, *sys.argv[1:]] if sys.argv else []


def _without_home(word: str) -> str:
    home = str(Path.home())
    return word.replace(home, "~") if len(home) > 1 else word


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _git() -> dict[str, Any] | None:
    """Commit of the platform's own source, and whether files differ from it; None outside a repository."""
    source = Path(__file__).resolve().parents[2]
    # An installed package may lie inside a repository of something else, whose commit would say nothing.
    if not (source / ".git").exists():
        return None
    commit = _run_git(source, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "modified": bool(_run_git(source, "status", "--porcelain", "--untracked-files=no"))}


def _run_git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()

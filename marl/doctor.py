"""What is installed, what is missing for which scenario, and how to get it: the findings of ``marl doctor``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from typing import Literal

from packaging.requirements import Requirement
from packaging.version import Version

from marl.errors import UserError
from marl.scenario import load_scenario, scenario_names

DISTRIBUTION = "marl-platform"
#: Extras that belong to no scenario, and what they are for.
EXTRAS = {
    "tracking": "tracking.tensorboard: events for TensorBoard",
    "video": "marl watch --mp4: films",
    "onnx": "marl export: policies as ONNX graphs",
    "ray": "--workers ray: simulators on other machines",
}

State = Literal["ok", "missing", "old", "broken"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    what: its name. state: ``missing`` is a package that is not there, ``old`` one below the version that is needed,
    ``broken`` what is there and does not start. detail: version, or what is wrong. mend: what to type; empty if
    nothing is to be done. needed: nothing of the platform works without it.
    """

    what: str
    state: State
    detail: str
    mend: str = ""
    needed: bool = False


def examine() -> list[Finding]:
    """All findings: the core, then each extra with what it is for, then each scenario."""
    requirements = [Requirement(text) for text in distribution(DISTRIBUTION).requires or ()]
    return [*_core(requirements), *_extras(requirements), *_scenarios()]


def packages(requirements: Iterable[Requirement], extra: str | None) -> list[Requirement]:
    """Those of an extra (None: of the core) that apply to this machine."""
    found = []
    for requirement in requirements:
        marker = requirement.marker
        in_core = marker is None or marker.evaluate({"extra": ""})
        if in_core if extra is None else not in_core and marker is not None and marker.evaluate({"extra": extra}):
            found.append(requirement)
    return found


def state_of(requirement: Requirement) -> tuple[State, str]:
    """Whether a package is installed and new enough, and its version or what is wrong with it."""
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return "missing", f"{requirement.name} is not installed"
    if Version(found) not in requirement.specifier:
        return "old", f"{requirement.name} {found}, needed {requirement.specifier}"
    return "ok", f"{requirement.name} {found}"


def _core(requirements: Iterable[Requirement]) -> Iterator[Finding]:
    release = ".".join(map(str, sys.version_info[:3]))
    yield Finding(DISTRIBUTION, "ok", f"{version(DISTRIBUTION)}, Python {release}")
    for requirement in packages(requirements, None):
        state, detail = state_of(requirement)
        mend = "" if state == "ok" else f"pip install '{requirement.name}{requirement.specifier}'"
        yield Finding(requirement.name, state, detail, mend, needed=True)
    yield _devices()
    yield _kernels()


def _devices() -> Finding:
    import torch

    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding("devices", "ok", ", ".join([f"{cores} cores", *(names or ["no GPU that torch can use"])]))


def _kernels() -> Finding:
    from marl.compiled import kept_in

    folder = kept_in()
    if folder is None:
        mend = "set NUMBA_CACHE_DIR to a folder of your own"
        return Finding("compiled kernels", "broken", "cannot be kept, so every process compiles them anew", mend)
    return Finding("compiled kernels", "ok", f"kept in {folder}")


def _extras(requirements: Iterable[Requirement]) -> Iterator[Finding]:
    requirements = list(requirements)
    uses: dict[str, list[str]] = {}
    for name in scenario_names():
        for extra, purpose in _extras_of(name).items():
            uses.setdefault(extra, []).append(f"{name}: {purpose}")
    for extra, purpose in EXTRAS.items():
        uses.setdefault(extra, []).append(purpose)
    for extra, purposes in uses.items():
        states = [state_of(requirement) for requirement in packages(requirements, extra)]
        worst: State = max((state for state, _ in states), key=("ok", "old", "missing").index, default="ok")
        wrong = [detail for state, detail in states if state != "ok"]
        detail = f"{', '.join(wrong or [text for _, text in states])} ({'; '.join(purposes)})"
        mend = f"pip install '{DISTRIBUTION}[{extra}]'" if wrong else ""
        yield Finding(f"[{extra}]", worst, detail, mend)


def _extras_of(name: str) -> Mapping[str, str]:
    try:
        return load_scenario(name).extras
    except (UserError, ImportError):
        return {}  # named by ``_scenarios``


def _scenarios() -> Iterator[Finding]:
    for name in scenario_names():
        try:
            found = load_scenario(name)
        except (UserError, ImportError) as error:
            yield Finding(name, "broken", str(error), "mend or remove the package that declares it")
            continue
        yield Finding(name, "ok", f"presets {', '.join(found.preset_names())}")

"""The counts of docs/trust.md, made anew: each check adds its section to docs/benchmarks/trust.json.

    .venv/bin/python scripts/reproduce trust kills --count 50      # kill -9 at random moments of real training runs
    .venv/bin/python scripts/reproduce trust configs --count 10000 # random configurations of the real scenarios
    .venv/bin/python scripts/reproduce trust readers --count 1000  # random and mutated files, for each reader
    .venv/bin/python scripts/reproduce trust faults                # planted: found by us, by PettingZoo's own tests
    .venv/bin/python scripts/reproduce trust foreign [--venv DIR]  # environments of others, in a virtual environment

Exit code 1 if a promise is broken.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from scripts.benchmarks.runner import PAGES, REPO

# The planted faults and the readers' texts are those of the tests.
sys.path[:0] = [str(REPO / "tests"), str(REPO / "tests" / "marl" / "testing")]

RECORD = PAGES / "trust.json"
#: Share of the kills that each kind of world gets.
_SHARES = {"tensors": 0.6, "sumo": 0.2, "language": 0.2}


def kills(options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Killed, resumed, compared with an uninterrupted run, in each kind of world."""
    from small_runs import SMALL_RUNS

    from marl.testing.kills import survive_kills

    worlds: dict[str, Any] = {}
    for world, share in _SHARES.items():
        with tempfile.TemporaryDirectory(prefix="marl-kills-") as folder:
            count = max(1, round(share * options.count))
            worlds[world] = asdict(survive_kills(SMALL_RUNS[world], Path(folder), count, options.seed))
            print(world, worlds[world], flush=True)
    totals = {
        name: sum(each[name] for each in worlds.values())
        for name in ("kills", "while_saving", "while_starting", "runs", "broken")
    }
    intervals_lost = max(each["most_lost"] / each["interval"] for each in worlds.values())
    sound = not any(each["faults"] for each in worlds.values())
    return {**totals, "most_intervals_lost": intervals_lost, "worlds": worlds}, sound


def _many(count: int, start: int, tries: st.SearchStrategy[Any], attempt: Callable[[Any], bool]) -> dict[str, Any]:
    """``count`` random tries; faults by their kind, with the first try that had one."""
    result: dict[str, Any] = {"tries": 0, "accepted": 0, "faults": {}}

    @seed(start)
    @settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        phases=[Phase.generate],
    )
    @given(tries)
    def run(tried: Any) -> None:
        result["tries"] += 1
        try:
            result["accepted"] += attempt(tried)
        except Exception as error:
            result["faults"].setdefault(f"{type(error).__name__}: {str(error)[:200]}", repr(tried)[:500])

    run()
    result["refused"] = result["tries"] - result["accepted"] - len(result["faults"])
    return result


def configs(options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Random configurations of every scenario: a plan, or one sentence."""
    from config_fuzzing import CONFIGURATIONS, attempt_plan

    with tempfile.TemporaryDirectory(prefix="marl-configs-") as folder:
        file = Path(folder) / "config.yaml"
        result = _many(options.count, options.seed, CONFIGURATIONS, lambda tried: attempt_plan(file, *tried))
    return result, not result["faults"]


def readers(options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Random and mutated files for every reader of foreign files."""
    from fuzzing import TARGETS, attempt

    found: dict[str, Any] = {}
    for target in TARGETS:
        with tempfile.TemporaryDirectory(prefix="marl-readers-") as folder:
            # Hypothesis stops early where a strategy is small; counts are what was tried.
            tries = partial(attempt, target, Path(folder))
            found[target.name] = _many(options.count, options.seed, target.tries, tries)
        print(target.name, found[target.name], flush=True)
    total = sum(each["tries"] for each in found.values())
    return {"tries": total, "readers": found}, not any(each["faults"] for each in found.values())


def faults(options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Each planted fault in front of our kit and in front of PettingZoo's own tests."""
    from pettingzoo.test import parallel_api_test, parallel_seed_test
    from planted_faults import PLANTED, Honest

    from marl.testing import check_parallel

    def passes(test: Callable[[], Any]) -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                test()
            except Exception:
                return False
        return True

    def theirs(kind: type[Honest]) -> bool:
        return not (
            passes(lambda: parallel_api_test(kind(), num_cycles=100))
            and passes(lambda: parallel_seed_test(kind, num_cycles=500))
        )

    rows = {
        kind.__name__: {
            "fault": fault,
            "ours": fault in check_parallel(partial(kind), steps=40).faults,
            "pettingzoo": theirs(kind),
        }
        for kind, fault in PLANTED.items()
    }
    sound = all(row["ours"] for row in rows.values()) and not theirs(Honest)
    return {
        "planted": len(rows),
        "found_by_marl": sum(row["ours"] for row in rows.values()),
        "found_by_pettingzoo": sum(row["pettingzoo"] for row in rows.values()),
        "pettingzoo_version": version("pettingzoo"),
        "faults": rows,
    }, sound


def foreign(options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """What ``marl check`` finds in environments of others; finding something is no failure of ours."""
    from scripts.benchmarks.trust.foreign_environments import check_all

    return check_all(options.venv, options.only), True


CHECKS = {"kills": kills, "configs": configs, "readers": readers, "faults": faults, "foreign": foreign}
_COUNTS = {"kills": 50, "configs": 10_000, "readers": 1000}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("check", choices=CHECKS)
    parser.add_argument("--count", type=int, help="kills, configurations, or tries of each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--venv", type=Path, help="of the foreign packages; made if it does not exist")
    parser.add_argument("--only", default="", help="foreign environments whose name holds this")
    options = parser.parse_args()
    options.count = options.count or _COUNTS.get(options.check, 0)
    torch.set_num_threads(1)
    began = time.process_time()
    section, sound = CHECKS[options.check](options)
    section["cpu_seconds_of_this_process"] = round(time.process_time() - began, 1)
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {"schema_version": 1}
    record[options.check] = section
    RECORD.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(section, indent=2))
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())

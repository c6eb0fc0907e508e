"""Tries a sample of mutants and writes docs/benchmarks/mutants.md and .json.

    scripts/test --mutants [--count 300] [--seed 0] [--jobs 2] [--only marl/learning]

Verdicts are kept in build/mutants, so that a run that was stopped goes on and one after new tests repeats only what
survived. Reasons why a survivor may live are written by hand into mutants.json and are kept from run to run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from threading import Lock
from typing import Any

from scripts.benchmarks.page import table, write
from scripts.benchmarks.runner import PAGES, REPO
from scripts.mutants.covering import TESTS, Covering, measure, measured
from scripts.mutants.judging import judge, prepare
from scripts.mutants.mutations import SCOPE, Mutant, mutated, sample

KEPT = REPO / "build" / "mutants"
#: CPU-seconds of all tests that are run on one mutant.
BUDGET_S = 25.0


def verdicts(mutants: Sequence[Mutant], covering: Covering, jobs: int) -> list[dict[str, Any]]:
    """What became of each mutant: its fields, ``verdict``, and ``tests`` (how many reach it)."""
    file = KEPT / "verdicts.json"
    known = json.loads(file.read_text("utf-8")) if file.exists() else {}
    writing = Lock()

    def one(mutant: Mutant) -> dict[str, Any]:
        source = (REPO / mutant.path).read_text("utf-8")
        tests = covering.tests(mutant.path, source, mutant.line, BUDGET_S)
        # Whoever was killed once stays so while its file is the same; a survivor is tried on new tests.
        mark = hashlib.sha256(json.dumps([source, sorted(tests)]).encode()).hexdigest()
        file_mark = hashlib.sha256(source.encode()).hexdigest()
        before = known.get(mutant.name, {})
        if before.get("mark") != mark and (before.get("verdict"), before.get("file")) != ("killed", file_mark):
            changed = mutated(source, f"core/{mutant.operator}", mutant.occurrence)
            seconds = sum(covering.seconds[test] for test in tests)
            verdict = judge(REPO, mutant, changed, tests, seconds)
            with writing:
                known[mutant.name] = {"verdict": verdict, "mark": mark, "file": file_mark}
                file.write_text(json.dumps(known), encoding="utf-8")
            print(f"{verdict:9} {mutant.path}:{mutant.line}: {mutant.before} -> {mutant.after}", flush=True)
        return asdict(mutant) | {"verdict": known[mutant.name]["verdict"], "tests": len(tests)}

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(one, mutants))


def write_page(found: list[dict[str, Any]], seed: int) -> None:
    """The record and its page; reasons of before stay with their mutants."""
    record = PAGES / "mutants.json"
    old = json.loads(record.read_text("utf-8"))["survivors"] if record.exists() else []
    reasons = {f"{row['path']}: {row['before']} -> {row['after']}": row.get("reason", "") for row in old}
    survivors = []
    for row in found:
        if row["verdict"] != "killed":
            name = f"{row['path']}: {row['before']} -> {row['after']}"
            survivors.append({**row, "reason": reasons.get(name, "")})
    floors = {name: [row for row in found if row["path"].startswith(name)] for name in SCOPE}
    counts = {name: {"tried": len(rows), "killed": _killed(rows)} for name, rows in floors.items()}
    data: dict[str, Any] = {
        "schema_version": 1,
        "seed": seed,
        "commit": _commit(),
        "tried": len(found),
        "killed": _killed(found),
        "floors": counts,
    }
    data |= {"survivors": survivors}
    record.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    write(PAGES / "mutants.md", page(data))


def _commit() -> str:
    words = ["git", "-C", str(REPO), "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def page(data: dict[str, Any]) -> list[str]:
    """The lines of the page. data: what ``mutants.json`` holds."""
    tried, killed = data["tried"], data["killed"]
    floors = [[f"`{name}`", floor["tried"], floor["killed"]] for name, floor in data["floors"].items()]
    survivors = [
        [
            f"`{row['path']}`",
            f"`{_cell(row['before'])}` -> `{_cell(row['after'])}`",
            row["tests"],
            row["reason"] or "not looked at yet",
        ]
        for row in data["survivors"]
    ]
    return [
        "# Mutants",
        "",
        f"Made by `scripts/test --mutants --count {tried} --seed {data['seed']}`. cosmic-ray makes one change to one",
        "place of the code; a mutant is killed if a test fails. Places are drawn evenly, then one of the changes",
        "there. Only tests that run the changed line are tried, quick ones first. The code is that of commit",
        f"{data['commit']}; tests may be newer, and a later commit has other places to draw from.",
        "",
        f"**{killed} of {tried} killed ({killed / max(tried, 1):.1%}).**",
        "",
        *table(["floor", "tried", "killed"], floors),
        "",
        "## Survivors",
        "",
        *table(["place", "change", "tests that reach it", "why it may live"], survivors),
    ]


def _killed(rows: Sequence[dict[str, Any]]) -> int:
    return sum(row["verdict"] == "killed" for row in rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="mutants that are tried at the same time")
    parser.add_argument("--only", help="a folder or file of the scope; no page is written")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    KEPT.mkdir(parents=True, exist_ok=True)
    scope = SCOPE if arguments.only is None else (arguments.only,)
    mutants = sample(REPO, arguments.count, arguments.seed, scope)
    covering = _measured()
    prepare()
    found = verdicts(mutants, covering, arguments.jobs)
    print(f"{_killed(found)} of {len(found)} killed")
    if arguments.only is None:
        write_page(found, arguments.seed)


def _measured() -> Covering:
    """In a process of its own: this one must not have imported what mutants are made of."""
    kept = KEPT / "covering.json"
    child = os.fork()
    if child == 0:
        try:
            measure(REPO, TESTS, kept)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit("the tests could not be measured: what they said stands above")
    return measured(kept)


if __name__ == "__main__":
    main()

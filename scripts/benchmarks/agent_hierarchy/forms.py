"""Forms of language recipes compared: as published, as a released trainer has it, or as this platform had it before.

    .venv/bin/python scripts/reproduce hierarchy_forms --out runs/hierarchy [--seeds 0:3]

The runs are rows of ``scripts/reproduce hierarchy`` and are shared with it through ``--out``; what there is goes to
docs/benchmarks/hierarchy_forms.json and .md. Figures are of 200 held-out questions at the end of runs with 150,000
generated tokens, with 95 % intervals over seeds (Student's t); differences are paired by seed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from marl.cli_words import parse_seeds
from scripts.benchmarks import page
from scripts.benchmarks.agent_hierarchy.tables import ROWS, configured, folder_of, interval, measured, run, warm_folder
from scripts.benchmarks.runner import PAGES, write_figures

#: Two forms of a recipe, or a recipe and what it is judged against; the second is subtracted from the first.
PAIRS = (
    ("HGPO", "HGPO, begin padded"),
    ("HGPO", "GRPO, one normalisation, by standard deviation"),
    ("HGPO, begin padded", "GRPO, one normalisation, by standard deviation"),
    ("HGPO", "GiGPO"),
    ("GiGPO, the team's clock", "GiGPO"),
    ("GiGPO", "GRPO, one normalisation, by standard deviation"),
    ("AT-GRPO's groups", "AT-GRPO's groups, by mean alone"),
    ("Flow-GRPO, as its trainer", "Flow-GRPO"),
    ("MAPPO, critic of turns", "IPPO, critic of turns"),
)
COLUMNS = ("greedy", "sampled", "calls")
NOTES = """\
Made by `scripts/reproduce hierarchy_forms`; figures of single seeds are in `hierarchy_forms.json`. Preset `quick`,
150,000 generated tokens from one warm start per seed, 200 held-out questions at the end, mean and 95 % interval over
seeds. An interval over three seeds is wide: a difference inside it says nothing either way.
"""

Runs = dict[str, dict[str, float]]


def measure(out: Path, seeds: range | list[int], make: bool) -> dict[str, Runs]:
    """Row -> seed -> figures of all finished runs in ``out``; make: those that are missing are trained."""
    table: dict[str, Runs] = {}
    for seed in seeds:
        for name in dict.fromkeys(name for pair in PAIRS for name in pair):
            config, warm = configured(ROWS[name], seed, ()), warm_folder(ROWS[name], seed, out)
            folder = folder_of(out, name, seed)
            figures = measured(folder, config, warm)
            if figures is None and make:
                run(ROWS[name], config, (), folder, warm)
                figures = measured(folder, config, warm)
            if figures is not None:
                table.setdefault(name, {})[str(seed)] = figures
    return table


def write(table: dict[str, Runs]) -> None:
    """Both files."""
    rows = [
        {"row": name, "system": ROWS[name].system, "overrides": list(ROWS[name].overrides), "runs": runs}
        for name, runs in table.items()
    ]
    write_figures(PAGES / "hierarchy_forms.json", "hierarchy_forms", {"threads": 1, "rows": rows}, indent=2)
    figures = [
        [name, len(runs), *(interval([r[c] for r in runs.values()]) for c in COLUMNS)] for name, runs in table.items()
    ]
    differences = []
    for first, second in PAIRS:
        one, other = table.get(first, {}), table.get(second, {})
        seeds = sorted(one.keys() & other.keys())
        if seeds:
            cells = [interval([one[s][c] - other[s][c] for s in seeds]) for c in COLUMNS]
            differences.append([first, second, len(seeds), *cells])
    lines = ["# Forms of language recipes compared", "", NOTES, *page.table(["row", "seeds", *COLUMNS], figures), ""]
    lines += ["## Differences, paired by seed", ""]
    lines += page.table(["first", "less", "seeds", *COLUMNS], differences)
    page.write(PAGES / "hierarchy_forms.md", lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs; what is there is used")
    parser.add_argument("--seeds", default="0:3")
    parser.add_argument("--write", action="store_true", help="train nothing: write what there is")
    arguments = parser.parse_args()
    write(measure(arguments.out, parse_seeds(arguments.seeds), not arguments.write))


if __name__ == "__main__":
    main()

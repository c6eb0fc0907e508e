"""Store the ratios of the throughput gate for this machine's processor model, as medians of several runs of the test.

    PYTHONPATH=tests .venv/bin/python scripts/assets/record_throughput.py [--runs 3]

Only where the speed has changed on purpose. Writes tests/golden/throughput.json.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO), str(REPO / "tests" / "marl" / "bench")]

from test_gate import STORED, measured_ratios

from marl.bench.clock import processor
from marl.bench.gate import store_ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    runs = [measured_ratios() for _ in range(parser.parse_args().runs)]
    together = {name: [ratio for run in runs for ratio in run[name]] for name in runs[0]}
    store_ratios(STORED, processor(), together)
    for name, ratios in together.items():
        print(f"{name}: {sorted(ratios)[len(ratios) // 2]:.3g} ({min(ratios):.3g} to {max(ratios):.3g})")


if __name__ == "__main__":
    main()

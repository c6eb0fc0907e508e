"""Rebuild maps/cav/*.net.xml with netconvert, and the plain XML they are made from."""

import argparse
from pathlib import Path

from scenarios.cav_merging.sumo.networks import NETWORKS, build_network

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "maps" / "cav")
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
for name, geometry in NETWORKS.items():
    build_network(geometry, args.out / f"{name}.net.xml", keep_sources=True)
    print(args.out / f"{name}.net.xml")

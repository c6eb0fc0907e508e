#!/usr/bin/env bash
# RWARE 2.0.0, a Gymnasium environment of multi-robot warehouses.
#
# Expected: a time limit (max_steps) is a truncation, as Gymnasium's step API defines it.
# Seen: step returns terminated=True and truncated=False when max_steps is reached. The task itself never ends, so every
# end that a learner sees is called an end of the task, and nothing is bootstrapped from it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check rware==2.0.0
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import gymnasium as gym
import rware  # registers the environments

env = gym.make("rware-tiny-2ag-v2", max_steps=5, disable_env_checker=True)
env.reset(seed=0)
rows = []
for _ in range(5):
    _, _, terminated, truncated, _ = env.step([0, 0])
    rows.append((bool(terminated), bool(truncated)))
print("rware", version("rware"), "gymnasium", version("gymnasium"))
print("(terminated, truncated) of five steps with max_steps=5:", rows)
assert rows[:-1] == [(False, False)] * 4
assert rows[-1] == (True, False), "the time limit is no longer reported as a termination"
PYTHON

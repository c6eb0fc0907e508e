#!/usr/bin/env bash
# SuperSuit 3.11.0, black_death_v3 (a PettingZoo wrapper that keeps dead agents in the list, with zero views).
#
# Expected: in the step in which the environment truncates its last agents, the wrapped environment truncates them.
# Seen: in that step nothing is reported. The environment is stepped once more, although nobody is left in it, and that
# step reports termination and truncation at once. A learner that bootstraps from truncated ends sees neither the last
# view nor the limit in the right step.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check supersuit==3.11.0 pettingzoo==1.27.0 'numpy<3'
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import supersuit
from gymnasium import spaces
from pettingzoo import ParallelEnv


class Clock(ParallelEnv):
    """Two agents see the time; both are truncated after three steps."""

    metadata = {"name": "clock"}
    possible_agents = ["a", "b"]

    def observation_space(self, agent):
        return spaces.Box(0.0, 9.0, (1,), np.float32)

    def action_space(self, agent):
        return spaces.Discrete(2)

    def _views(self):
        return {agent: np.full(1, self.time + 1.0, np.float32) for agent in self.possible_agents}

    def reset(self, seed=None, options=None):
        self.time, self.agents = 0, list(self.possible_agents)
        return self._views(), {agent: {} for agent in self.agents}

    def step(self, actions):
        self.time += 1
        ended = self.time == 3
        names, self.agents = self.agents, [] if ended else self.agents
        return (
            self._views(),
            dict.fromkeys(names, 1.0),
            dict.fromkeys(names, False),
            dict.fromkeys(names, ended),
            {agent: {} for agent in names},
        )


def ends(env):
    env.reset(seed=0)
    rows = []
    for _ in range(6):
        if not env.agents:
            break
        views, _, terminated, truncated, _ = env.step(dict.fromkeys(env.agents, 0))
        rows.append((len(rows) + 1, any(terminated.values()), any(truncated.values()), float(views["a"][0])))
    return rows


plain, wrapped = ends(Clock()), ends(supersuit.black_death_v3(Clock()))
print("step, terminated, truncated, view of a")
print("plain:  ", plain)
print("wrapped:", wrapped)
assert plain == [(1, False, False, 2.0), (2, False, False, 3.0), (3, False, True, 4.0)]
assert [row[1:3] for row in wrapped] == [(False, False)] * 3 + [(True, True)], "the wrapper reports ends otherwise now"
print("supersuit", supersuit.__version__, "reports the time limit late")
PYTHON

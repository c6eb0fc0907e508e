"""The recorded transitions of POGEMA 1.4.0 (``tests/golden/pogema``), replayed by both forms of the step."""

from pathlib import Path

import numpy as np
import pytest
import torch

from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.maps.grid import GridMap
from scenarios.lifelong_mapf.state import State
from scenarios.lifelong_mapf.step.engines import CompiledEngine, TorchEngine
from scenarios.lifelong_mapf.step.pool import MapPool

RECORDS = sorted((Path(__file__).parents[2] / "golden" / "pogema").glob("*.npz"))


def test_there_are_three_maps_and_three_densities_for_every_collision_system() -> None:
    lifelong = {tuple(path.stem.split("-")[1:]) for path in RECORDS if path.stem.startswith("restart")}
    for collision in ("priority", "soft", "block_both"):
        assert len({episode[1] for episode in lifelong if episode[0] == collision}) >= 3
        assert len({episode[2] for episode in lifelong if episode[0] == collision}) >= 3


def goal_sequences(record: dict[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Each agent's goals in the order in which they were given: int32 [1, N, K] and how many [1, N]."""
    goals, reward = record["goals"].astype(np.int32), record["reward"]
    sequences = []
    for i in range(goals.shape[1]):
        given = [goals[0, i]]
        if record["on_target"] == "restart":
            given += [goals[t + 1, i] for t in range(len(reward)) if reward[t, i]]
        sequences.append(given)
    table = np.zeros((len(sequences), max(map(len, sequences))), np.int32)
    for row, given in zip(table, sequences, strict=True):
        row[: len(given)] = given
    counts = torch.tensor([[len(given) for given in sequences]], dtype=torch.int32)
    return torch.from_numpy(table).unsqueeze(0), counts


def windows_of(record: dict[str, np.ndarray], k: int) -> np.ndarray:
    side = 2 * int(record["radius"]) + 1
    return np.unpackbits(record["windows"][k], axis=1, count=2 * side * side).reshape(-1, 2, side, side)


#: The torch form is slow: it replays the one-shot episodes and the densest ones.
REPLAYS = [(CompiledEngine, path) for path in RECORDS]
REPLAYS += [(TorchEngine, path) for path in RECORDS if path.stem.endswith("-85") or not path.stem.startswith("restart")]


@pytest.mark.parametrize(("engine_class", "path"), REPLAYS, ids=lambda value: getattr(value, "stem", None))
def test_positions_goals_rewards_and_windows_are_those_of_pogema(path: Path, engine_class: type) -> None:
    record = dict(np.load(path))
    config = MapfConfig(
        collision=str(record["collision"]),
        on_target=str(record["on_target"]),
        radius=int(record["radius"]),
        pogema_observation_fault=True,
        horizon=1000,
    )
    pool = MapPool([GridMap.open_everywhere("golden", record["blocked"])])
    n = record["positions"].shape[1]
    int32, int64, flags = (torch.zeros(1, n, dtype=kind) for kind in (torch.int32, torch.int64, torch.bool))
    state = State(
        seed=int64[:, 0].clone(),
        episode=int64[:, 0].clone(),
        key=int64[:, 0].clone(),
        steps=int32[:, 0].clone(),
        map_index=int32[:, 0].clone(),
        position=torch.from_numpy(record["positions"][:1].astype(np.int32)),
        goal=torch.from_numpy(record["goals"][:1].astype(np.int32)),
        goals_done=int32.clone(),
        age=int32.clone(),
        alive=~flags,
        refused=flags.clone(),
        hidden=flags.clone(),
        last_off=int32.clone(),
        refusals=int32[:, 0].clone(),
        collisions=int32[:, 0].clone(),
        latency=torch.zeros(1, config.horizon + 1, dtype=torch.int32),
    )
    engine = engine_class(config, pool, pool.goals(*goal_sequences(record)), state)
    seen = {int(t): k for k, t in enumerate(record["window_steps"])}

    for t in range(len(record["actions"]) + 1):
        np.testing.assert_array_equal(state.position[0], record["positions"][t], err_msg=f"positions, step {t}")
        np.testing.assert_array_equal(state.alive[0], record["active"][t], err_msg=f"active, step {t}")
        np.testing.assert_array_equal(state.goal[0], record["goals"][t], err_msg=f"goals, step {t}")
        missing = (state.hidden & state.alive)[0]
        np.testing.assert_array_equal(missing, record["missing"][t], err_msg=f"missing, step {t}")
        if t in seen:
            window = engine.view()[0]["window"]
            side = 2 * config.radius + 1
            planes = (window[0].numpy()[..., None] >> np.arange(side)) & 1
            np.testing.assert_array_equal(planes, windows_of(record, seen[t]), err_msg=f"windows, step {t}")
        if t < len(record["actions"]):
            reward = engine.step(torch.from_numpy(record["actions"][t : t + 1].astype(np.int64)))
            if config.on_target != "nothing":  # POGEMA pays all agents when all are there, this world each goal once
                np.testing.assert_array_equal(reward[0], record["reward"][t], err_msg=f"reward, step {t}")
    assert state.collisions.item() == 0

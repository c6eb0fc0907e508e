"""The tiny worlds: their rules by hand, their conformance, and what nobody can do in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from marl import api
from marl.errors import UserError
from marl.seeding import below
from marl.testing.command import cli_check
from marl.training import checkpoint
from marl.training.run import resume, train
from scenarios.miniatures.config import CoverageConfig, MiniatureConfig, WordsConfig
from scenarios.miniatures.coverage import START, Coverage
from scenarios.miniatures.scenario import SCENARIO
from scenarios.miniatures.table import LOOK, Table
from scenarios.miniatures.words import ROLE, WordsEnv

NAME = "scenarios.miniatures.scenario:SCENARIO"
CPU = torch.device("cpu")


@pytest.mark.parametrize("preset", SCENARIO.preset_names())
def test_they_conform(preset: str) -> None:
    report = cli_check(NAME, 30, preset)
    assert report.ok, str(report)


# Coverage


def seen_by_loops(path: list[list[int]], config: CoverageConfig) -> set[tuple[int, int]]:
    """The cells that some agent saw, from positions (row * size + column) of all agents by step."""
    found = set()
    for places in path:
        for place in places:
            row, column = divmod(place, config.size)
            for r in range(config.size):
                for c in range(config.size):
                    if abs(r - row) + abs(c - column) <= config.reach:
                        found.add((r, c))
    return found


@pytest.mark.parametrize("credit", ["own", "team"])
@pytest.mark.parametrize("reach", [0, 1, 2])
def test_gains_add_up_to_what_the_union_saw(credit: str, reach: int) -> None:
    config = CoverageConfig(size=6, agents=3, horizon=12, reach=reach, credit=credit)  # type: ignore[arg-type]
    env = Coverage(config, 4, CPU)
    env.reset(0)
    start = START[0] * 6 + START[1]
    paths: list[list[list[int]]] = [[[start] * 3] for _ in range(4)]
    earned = torch.zeros(4, 3)
    for step in range(12):
        actions = below(torch.arange(12).reshape(4, 3) * 977 + step * 31337, 5)
        before = [seen_by_loops(path, config) for path in paths]
        after = env.step(actions)
        if step == 11:
            assert after.terminated.all() and not after.truncated.any()
            break
        for copy, path in enumerate(paths):
            path.append(env.position[copy].tolist())
            own = [seen_by_loops([[place]], config) - before[copy] for place in path[-1]]
            alone = [float(len(a - set().union(*(b for j, b in enumerate(own) if j != i)))) for i, a in enumerate(own)]
            together = float(len(set().union(*own)))
            assert after.reward[copy].tolist() == (alone if credit == "own" else [together] * 3)
        earned += after.reward
    for copy, path in enumerate(paths):
        seen, begun = seen_by_loops(path, config), seen_by_loops([[start]], config)
        assert int(env.sight[start].sum()) == len(begun)
        if credit == "team":
            assert earned[copy, 0] == len(seen) - len(begun)


def test_walls_stop_and_additive_rewards_pay_for_standing_still() -> None:
    env = Coverage(CoverageConfig(size=3, horizon=5, reward="additive"), 1, CPU)
    env.reset(0)
    assert env.position.item() == 1 * 3 + 2
    up, right = torch.tensor([[1]]), torch.tensor([[4]])
    env.step(up)
    step = env.step(right)
    assert env.position.item() == 2 and step.reward.item() == 3.0
    assert env.step(up).reward.item() == 3.0


# Words


def words_env(held_out: bool = False, **options: Any) -> WordsEnv:
    return WordsEnv(Table(WordsConfig(**options)), held_out)


def test_the_exact_answer_is_success_and_the_table_is_the_same_for_all() -> None:
    env = words_env(questions=8, lengths=(1, 3))
    lengths = set()
    for seed in range(30):
        env.reset(seed=seed)
        asked = env.turn()
        assert asked is not None and asked.messages[0]["content"] == f"q{env.question}"
        assert env.truth == Table(WordsConfig(questions=8, lengths=(1, 3))).answer(env.question)
        lengths.add((env.question % 3, len(env.truth)))
        env.step(" ".join(env.truth))
        assert env.turn() is None and env.outcome().success and env.rewards[ROLE] == 1.0
    assert lengths == {(0, 1), (1, 2), (2, 3)}


def test_wrong_answers_end_it_and_other_texts_are_refused() -> None:
    env = words_env()
    env.reset(seed=0)
    env.step("banana")
    assert env.turn() is not None and env.turn_result().invalid and env.messages[-1]["content"] == "invalid"
    assert env.rewards[ROLE] == pytest.approx(-0.01)
    env.step(" ".join([*env.truth, "a"]))
    assert env.turn() is None and not env.outcome().success and env.terminations[ROLE]
    env.reset(seed=0)
    for _ in range(3):
        env.step(LOOK)  # there is nothing to look at
    assert env.truncations[ROLE] and env.outcome().metrics["invalid_actions"] == 3.0


def test_looking_tells_the_letter_that_some_questions_hide() -> None:
    env = words_env(look=0.5, questions=40)
    needs = 0
    for seed in range(60):
        env.reset(seed=seed)
        told = env.messages[0]["content"].split()[1]
        hidden = told == "?"
        needs += hidden
        assert hidden or told == env.letter == env.truth[0]
        assert env.outcome().metrics["optimal_calls"] == float(hidden)
        env.step(LOOK)
        assert env.messages[-1] == {"role": "tool", "content": env.letter}
        env.step(" ".join(env.truth))
        assert env.outcome().success and env.outcome().calls == 1 and env.outcome().cost == 1.0
    assert 15 < needs < 45


def test_shift_is_the_questions_own_and_bait_is_for_one_wrong_answer() -> None:
    env = words_env(shift=2.0, bait=5.0, questions=4, lengths=(2, 2))
    paid: dict[int, set[float]] = {}
    for seed in range(40):
        env.reset(seed=seed)
        wrong = ["b" if env.truth[0] != "b" else "c", "b"]
        env.step(" ".join(env.truth if seed % 2 else wrong))
        paid.setdefault(env.question, set()).add(env.turn_result().reward)
        assert env.turn_result().reward == env.table.shift(env.question)
        env.reset(seed=seed)
        env.step("a a")
        bait = 0.0 if env.truth == ["a", "a"] else 5.0
        assert env.turn_result().reward == pytest.approx(env.table.shift(env.question) + bait)
    assert all(len(amounts) == 1 for amounts in paid.values()) and len(set.union(*paid.values())) == 4


def test_training_is_reworded_evaluation_is_not_and_their_episodes_differ() -> None:
    train_env, judge = words_env(reworded=True), words_env(held_out=True, reworded=True)
    for env, words in ((train_env, 3), (judge, 1)):
        env.reset(seed=5)
        assert len(env.messages[0]["content"].split()) == words
    asked = []
    for env in (words_env(), words_env(held_out=True)):
        asked.append([(env.reset(seed=seed), env.question)[1] for seed in range(20)])
    assert asked[0] != asked[1]


def test_the_demonstrator_is_as_skilled_as_said() -> None:
    table = Table(WordsConfig(skill=0.7, lengths=(4, 4)))
    env = WordsEnv(table)
    right = total = 0
    for seed in range(200):
        env.reset(seed=seed)
        turn = env.turn()
        assert turn is not None
        said = table.demonstrated(turn, seed).split()
        right += sum(a == b for a, b in zip(said, env.truth, strict=True))
        total += len(said)
    assert right / total == pytest.approx(0.7 + 0.3 / 4, abs=0.05)


# Through the platform


def test_nobody_talks_in_coverage_and_numbers_spell_words() -> None:
    with pytest.raises(UserError, match=r"nobody talks in world\.kind=coverage"):
        SCENARIO.language(MiniatureConfig())  # type: ignore[misc]  # it has one
    env = api.make(NAME, preset="spelt", copies=2)
    env.reset(0)
    step = env.step(torch.tensor([[[1, 0, 2]], [[5, 0, 0]]]))
    assert step.done.tolist() == [True, False]  # "a" answers; "look" is refused where there is nothing to look at


@pytest.mark.parametrize(("preset", "system"), [("coverage", "subpo"), ("spelt", "mappo"), ("words", "grpo")])
def test_runs_resume_bit_for_bit(preset: str, system: str, tmp_path: Path) -> None:
    """Killed in mid-run, and of words by numbers in mid-episode."""
    small = {"coverage": ["total_steps=1600", "copies=10"], "words": ["total_steps=700", "copies=16"]}.get(
        preset, ["total_steps=500", "copies=16"]
    )
    if system == "grpo":
        small += ["algorithm.warm_start.steps=4", "algorithm.warm_start.batch=4"]
    if system == "mappo":
        small += ["algorithm.rollout=7", "algorithm.minibatches=1"]
    small += ["checkpoint.every_iterations=1", "checkpoint.keep=100", "evaluation.every_iterations=0"]
    config = api.configure(NAME, preset=preset, system=system, overrides=small)
    whole = train(config, tmp_path / "whole", live=False)
    part = train(config, tmp_path / "part", live=False)
    store = checkpoint.CheckpointStore(part)
    assert len(store.steps()) > 2
    for step in store.steps()[2:]:
        for file in store.path(step).iterdir():
            file.unlink()
        store.path(step).rmdir()
    resume(part, live=False)
    ends = [checkpoint.load(s.path(s.steps()[-1]))[0]["algorithm"] for s in (checkpoint.CheckpointStore(whole), store)]
    assert same(*ends)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return bool(a == b)

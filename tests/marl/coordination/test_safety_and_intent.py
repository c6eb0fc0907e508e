"""The generic supervisor and the generic announcements, on worlds of a few lines."""

from types import SimpleNamespace

import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from marl.config import CoordinationConfig, IntentConfig, SafetyConfig
from marl.coordination.intent import Intent, Prediction
from marl.coordination.pipeline import Pipeline
from marl.coordination.safety import UNDECIDED, Safety
from marl.envs.batched import Final, TimeStep
from marl.errors import UserError
from marl.policies.joint import Drawn

SPEC = SimpleNamespace(groups={"agents": (0, 1)}, n_agents=2)


class Doors:
    """Two agents, two doors (actions 0 and 1) and waiting (2); a door lets one agent through. Agent 1 comes first."""

    copies, device, spec = 2, torch.device("cpu"), SPEC

    def __init__(self):
        self.seen = []

    def priority(self):
        return torch.tensor([[0.0, 1.0], [0.0, 1.0]])

    def candidates(self, agent):
        return torch.tensor([[0, 1, 2]]).repeat(2, 1)

    def margin(self, candidates, agent, committed):
        self.seen.append((agent.tolist(), committed.tolist()))
        taken = (committed.unsqueeze(1) == candidates.unsqueeze(2)).any(2) & (candidates < 2)
        return torch.where(taken, -1.0, torch.tensor([1.0, 1.0, 0.5]))


def moment(observation=None, alive=((True, True), (True, True)), done=(False, False), final=None):
    flags = torch.zeros(2, 2, dtype=torch.bool)
    return TimeStep(
        observation=torch.zeros(2, 2, 1) if observation is None else observation,
        state=None,
        reward=torch.zeros(2, 2),
        terminated=flags,
        truncated=flags,
        done=torch.tensor(done),
        alive=torch.tensor(alive),
        agent_id=torch.arange(2).repeat(2, 1),
        action_mask=None,
        key=torch.zeros(2, dtype=torch.int64),
        final=final,
        metrics={},
    )


def test_the_lower_priority_gives_way_and_sees_what_was_decided():
    world = Doors()
    correction = Safety(world).correct(moment(), torch.tensor([[0, 0], [0, 1]]))
    assert correction.executed.tolist() == [[1, 0], [0, 1]]
    assert correction.corrected.tolist() == [[True, False], [False, False]]
    assert world.seen[0] == ([1, 1], [[UNDECIDED, UNDECIDED]] * 2)
    assert world.seen[1] == ([0, 0], [[UNDECIDED, 0], [UNDECIDED, 1]])


def test_scores_choose_among_equally_safe_replacements():
    world = Doors()
    world.margin = lambda candidates, agent, committed: torch.tensor([[-1.0, 1.0, 1.0]] * 2)
    scores = torch.zeros(2, 2, 3)
    scores[..., 2] = 1.0
    correction = Safety(world).correct(moment(), torch.zeros(2, 2, dtype=torch.int64), scores)
    assert correction.executed.tolist() == [[2, 2], [2, 2]]


def test_a_proposal_that_is_as_good_as_any_stays():
    world = Doors()
    world.margin = lambda candidates, agent, committed: torch.full((2, 3), -5.0)
    proposed = torch.tensor([[2, 1], [1, 2]])
    assert Safety(world).correct(moment(), proposed).executed.tolist() == proposed.tolist()


def test_the_dead_are_neither_corrected_nor_counted():
    safety = Safety(Doors())
    alive = ((True, False), (True, True))
    correction = safety.correct(moment(alive=alive), torch.zeros(2, 2, dtype=torch.int64))
    assert correction.corrected.tolist() == [[False, False], [True, False]]
    figures = safety.account(moment(done=(True, True))).metrics["interventions_per_step"]
    assert figures.tolist() == [0.0, 0.5]
    assert safety.account(moment()).metrics["interventions_per_step"].tolist() == [0.0, 0.0]


def test_worlds_without_the_ability_are_refused():
    with pytest.raises(UserError, match=r"coordination\.safety\.enabled=false"):
        Safety(object())
    with pytest.raises(UserError, match=r"coordination\.intent\.enabled=false"):
        Intent(object(), {}, IntentConfig())


def test_without_early_exits_the_same_is_decided():
    """As on a GPU, where looking whether anything is left to do would wait for the device."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        proposed = torch.randint(0, 3, (2, 2), generator=generator)
        alive = (torch.rand(2, 2, generator=generator) < 0.7).tolist()
        scores = torch.rand(2, 2, 3, generator=generator)
        quick, steady = Safety(Doors()), Safety(Doors())
        assert quick.early_exits
        steady.early_exits = False
        for one, two in zip(
            quick.correct(moment(alive=alive), proposed, scores),
            steady.correct(moment(alive=alive), proposed, scores),
            strict=True,
        ):
            assert torch.equal(one, two)


def test_a_strict_margin_corrects_what_a_loose_one_lets_pass():
    proposed = torch.tensor([[2, 2], [0, 0]])  # waiting leaves a room of .5; one door for two, of -1
    executed = {
        margin: Safety(Doors(), SafetyConfig(margin=margin)).correct(moment(), proposed).executed.tolist()
        for margin in (0.0, 0.8, -2.0)
    }
    assert executed == {0.0: [[2, 2], [1, 0]], 0.8: [[1, 0], [1, 0]], -2.0: [[2, 2], [0, 0]]}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), margin=st.sampled_from((-1.0, 0.0, 0.5)), crowd=st.integers(1, 5))
def test_a_correction_never_lowers_the_margin(seed, margin, crowd):
    """Whatever a world's margins, priorities and candidates are: replayed in order, executed is as safe as proposed."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(2, crowd, 4, 5, generator=generator)  # by agent, own action, sum of what was decided before
    legal = torch.rand(2, crowd, 4, generator=generator) < 0.7
    legal[..., 0] = True
    urgency = torch.randn(2, crowd, generator=generator)
    rows = torch.arange(2)

    class World:
        copies, device = 2, torch.device("cpu")
        spec = SimpleNamespace(groups={"agents": tuple(range(crowd))}, n_agents=crowd)

        def priority(self):
            return urgency

        def candidates(self, agent):
            return torch.where(legal[rows, agent], torch.arange(4), -1)

        def margin(self, candidates, agent, committed):
            before = committed.clamp(min=0).sum(1) % 5
            return table[rows, agent, :, before].gather(1, candidates.clamp(min=0))

    world = World()
    alive = torch.rand(2, crowd, generator=generator) < 0.8
    proposed = torch.multinomial(legal.float().flatten(0, 1), 1, generator=generator).view(2, crowd)
    now = moment()._replace(alive=alive)
    executed = Safety(world, SafetyConfig(margin=margin)).correct(now, proposed).executed
    committed = torch.full((2, crowd), UNDECIDED)
    for agent in torch.where(alive, urgency, -torch.inf).argsort(dim=1, descending=True, stable=True).unbind(1):
        wish, done = proposed[rows, agent], executed[rows, agent]
        acts = alive[rows, agent]
        room = world.margin(torch.stack((wish, done), 1), agent, committed)
        assert bool((~acts | (room[:, 1] >= room[:, 0])).all())
        assert bool((~acts | (wish == done) | (room[:, 0] < margin)).all())
        assert bool((acts | (wish == done)).all())
        committed[rows, agent] = torch.where(acts, done, UNDECIDED)


def test_margin_and_penalty_go_from_early_to_late():
    options = SafetyConfig(margin=-4.0, early_margin=2.0, penalty=1.0, early_penalty=0.0, annealed=0.5)
    safety = Safety(Doors(), options)
    assert (safety.margin, safety.penalty) == (-4.0, 1.0)  # outside training: the final ones
    found = []
    for fraction in (0.0, 0.25, 0.5, 1.0):
        safety.schedule(fraction)
        found.append((safety.margin, safety.penalty))
    assert found == [(2.0, 0.0), (-1.0, 0.5), (-4.0, 1.0), (-4.0, 1.0)]


class Roundabout(Doors):
    """A world that resolves everything at once: everybody waits."""

    def resolve(self, proposed, scores):
        return torch.full_like(proposed, 2)


def test_a_world_that_resolves_conflicts_itself_is_asked_for_the_joint_action():
    world = Roundabout()
    safety = Safety(world, SafetyConfig(penalty=1.0))
    correction = safety.correct(moment(), torch.tensor([[2, 0], [1, 2]]))
    assert correction.executed.tolist() == [[2, 2], [2, 2]]
    assert correction.corrected.tolist() == [[False, True], [True, False]]
    assert world.seen == []
    accounted = safety.account(moment(done=(True, True)))
    assert accounted.reward.tolist() == [[0.0, -1.0], [-1.0, 0.0]]
    assert accounted.metrics["interventions_per_step"].tolist() == [0.5, 0.5]
    with pytest.raises(UserError, match="margin"):
        Safety(Roundabout(), SafetyConfig(early_margin=3.0))


class Line:
    """Two agents on a line at 0 and 4; an action moves 0 or 1 a step; agent 1 listens to nobody."""

    copies, device, spec = 2, torch.device("cpu"), SPEC
    position = torch.tensor([[0.0, 4.0], [0.0, 4.0]], dtype=torch.float64)

    def enable_prediction(self, horizon, companions):
        self.horizon = horizon
        return (10.0,)

    def predict(self, actions):
        speed = torch.zeros(2, 2) if actions is None else actions.double()
        steps = torch.arange(1, self.horizon + 1)
        path = self.position.unsqueeze(-1) + speed.unsqueeze(-1) * steps
        companions = torch.tensor([[[1], [-1]]] * 2)
        return Prediction(path.unsqueeze(-1), companions, self.position.unsqueeze(-1))

    def predict_final(self):
        return self.predict(torch.full((2, 2), 3))


def announcing(**options):
    return Intent(Line(), {"all": spaces.Box(-1, 1, (1,))}, IntentConfig(**options))


def test_announcements_are_relative_scaled_and_absent_without_a_companion():
    intent = announcing(horizon=2, companions=1, rounds=0)
    assert intent.extend(spaces.Box(-1, 1, (1,))).spaces["intent"].shape == (2 + 3,)
    heard = intent.augment(moment()).observation["intent"]
    torch.testing.assert_close(heard[0, :, 2:], torch.tensor([[1.0, 0.4, 0.4], [0.0, 0.0, 0.0]]))
    told = intent.hear(moment(), torch.tensor([[0, 1], [0, 9]])).observation["intent"]
    torch.testing.assert_close(told[:, 0, 2:], torch.tensor([[1.0, 0.5, 0.6], [1.0, 1.0, 1.0]]))


def test_agents_know_what_they_announced_themselves():
    intent = announcing(horizon=2, companions=1, rounds=0)
    assert not intent.augment(moment()).observation["intent"][..., :2].any()
    told = intent.hear(moment(), torch.tensor([[0, 1], [2, 9]])).observation["intent"]
    expected = [[[0.0, 0.0], [0.1, 0.2]], [[0.2, 0.4], [0.9, 1.0]]]
    torch.testing.assert_close(told[..., :2], torch.tensor(expected))


def test_the_end_of_an_episode_has_its_own_announcements():
    intent = announcing(horizon=2, companions=1, rounds=0)
    timestep = moment(final=Final(torch.zeros(2, 2, 1), None))
    final = intent.augment(timestep).final.observation["intent"]
    torch.testing.assert_close(final[0, 0], torch.tensor([0.3, 0.6, 1.0, 0.7, 1.0]))


def test_each_round_drafts_from_what_the_round_before_announced():
    intent = announcing(horizon=1, companions=1, rounds=2)
    drafts = []

    def draft(timestep):
        drafts.append(timestep.observation["intent"][0, 0].tolist())
        return torch.full((2, 2), len(drafts))

    result = intent.negotiate(intent.augment(moment()), draft)
    assert [round(values[2], 3) for values in drafts] == [0.4, 0.5]
    assert result.observation["intent"][0, 0].tolist() == pytest.approx([0.2, 1.0, 0.6])


def test_a_correction_costs_the_corrected_once():
    safety = Safety(Doors(), SafetyConfig(penalty=3.0))
    safety.correct(moment(), torch.tensor([[0, 0], [0, 1]]))
    assert safety.account(moment()).reward.tolist() == [[-3.0, 0.0], [0.0, 0.0]]
    assert safety.account(moment()).reward.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_the_log_probability_is_that_of_the_proposal():
    seen = {"agents": spaces.Box(-1, 1, (1,))}

    class World(Doors):
        spec = SimpleNamespace(**vars(SPEC), observation_space=seen, state_space=None, metrics={})

    proposed, log_prob = torch.tensor([[0, 0], [0, 1]]), torch.tensor([[-0.1, -0.2], [-0.3, -0.4]])
    policy = SimpleNamespace(initial_hidden=lambda copies: {}, draw=lambda *_: Drawn(proposed, log_prob, {}, None))
    config = {"guidance": {"enabled": False}, "safety": {"enabled": True}}
    pipeline = Pipeline(World(), CoordinationConfig.model_validate(config))
    now = pipeline.view(moment())
    decision = pipeline.act(policy, now, pipeline.begin(policy, now))
    assert decision.executed.tolist() == [[1, 0], [0, 1]]
    assert decision.proposed is proposed and decision.log_prob is log_prob


def test_on_a_cpu_nobody_is_asked_about_the_dead():
    """Elsewhere to look who lives would wait for the device."""
    for early_exits, rounds in ((True, 1), (False, 2)):
        world = Doors()
        safety = Safety(world)
        safety.early_exits = early_exits
        safety.correct(moment(alive=((True, False), (False, True))), torch.zeros(2, 2, dtype=torch.int64))
        assert len(world.seen) == rounds


@pytest.mark.parametrize("margin", [3.0, -3.0])
def test_a_world_that_leaves_no_conflict_has_no_margin(margin):
    with pytest.raises(UserError, match=r"leave coordination\.safety\.margin"):
        Safety(Roundabout(), SafetyConfig(margin=margin))


def test_each_episode_has_an_account_of_its_own():
    """Copy 0 begins anew after one correction in two decisions; copy 1 goes on."""
    safety = Safety(Doors())
    both, nobody = torch.tensor([[0, 0], [0, 0]]), torch.tensor([[0, 1], [0, 1]])
    safety.correct(moment(), both)
    assert safety.account(moment(done=(True, False))).metrics["interventions_per_step"].tolist() == [0.5, 0.5]
    safety.correct(moment(), both)
    safety.correct(moment(), nobody)
    assert safety.account(moment()).metrics["interventions_per_step"].tolist() == pytest.approx([1 / 4, 2 / 6])


def test_only_a_learned_predictor_has_something_to_learn():
    class Choosing(Line):
        spec = SimpleNamespace(**vars(SPEC), action_space={"agents": spaces.Discrete(2)})

    seen = {"agents": spaces.Box(-1, 1, (1,))}
    plain, learned = (Intent(Choosing(), seen, IntentConfig(predictor=name)) for name in ("rollout", "learned"))
    assert (plain.parameters(), plain.learned()) == ([], {})
    assert len(learned.parameters()) > 0
    other = Intent(Choosing(), seen, IntentConfig(predictor="learned"), seed=1)
    assert not torch.equal(other.parameters()[0], learned.parameters()[0])
    other.load_learned(learned.learned())
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), learned.parameters(), strict=True))


def test_announcements_are_within_their_space():
    intent = announcing(horizon=2, companions=1, rounds=0)
    heard = intent.hear(moment(), torch.tensor([[9, -9], [0, 9]])).observation["intent"].flatten(0, 1)
    assert heard.min() == -1.0 and heard.max() == 1.0
    assert all(intent.space.contains(row) for row in heard.numpy())


def test_each_round_loses_messages_of_its_own():
    """The announcement before the first round is number 0, and the rounds follow it."""
    alike = dict.fromkeys(range(4), 0)
    for episode in range(40):
        now = moment()._replace(key=torch.full((2,), episode))
        intent = announcing(horizon=1, companions=1, rounds=3, loss=0.5)
        result = intent.negotiate(now, lambda _: torch.ones(2, 2, dtype=torch.int64)).observation["intent"]
        for number in alike:
            heard = intent.hear(now, torch.ones(2, 2, dtype=torch.int64), number).observation["intent"]
            alike[number] += torch.equal(result, heard)
    assert alike[3] == 40 and max(alike[number] for number in range(3)) < 30

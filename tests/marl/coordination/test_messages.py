"""Messages that are late, lost or noisy: two or three agents on a line, each listening to the others."""

import math
from types import SimpleNamespace

import torch
from gymnasium import spaces

from marl.config import IntentConfig
from marl.coordination.intent import Intent
from marl.envs.abilities import Prediction
from marl.envs.batched import Final, TimeStep
from marl.seeding import fold


class Line:
    """Three agents at 0, 4 and 8; an action moves that far a step; everybody listens to both others."""

    device = torch.device("cpu")

    def __init__(self, copies=2):
        self.copies = copies
        self.spec = SimpleNamespace(groups={"agents": (0, 1, 2)}, n_agents=3)
        self.place = torch.tensor([[0.0, 4.0, 8.0]], dtype=torch.float64).repeat(copies, 1)
        self.companions = torch.tensor([[[1, 2], [0, 2], [0, 1]]]).repeat(copies, 1, 1)

    def enable_prediction(self, horizon, companions):
        self.horizon = horizon
        return (100.0,)

    def predict(self, actions):
        speed = torch.zeros_like(self.place) if actions is None else actions.double()
        path = self.place.unsqueeze(-1) + speed.unsqueeze(-1) * torch.arange(1, self.horizon + 1)
        return Prediction(path.unsqueeze(-1), self.companions, self.place.unsqueeze(-1))

    def predict_final(self):
        return self.predict(None)


def moment(world, step=0, done=False, agent_id=(0, 1, 2), alive=(True, True, True), final=False):
    flags = torch.zeros(world.copies, 3, dtype=torch.bool)
    seen = torch.zeros(world.copies, 3, 1)
    return TimeStep(
        observation=seen,
        state=None,
        reward=flags.float(),
        terminated=flags,
        truncated=flags,
        done=torch.full((world.copies,), done),
        alive=torch.tensor(alive).repeat(world.copies, 1),
        agent_id=torch.tensor(agent_id).repeat(world.copies, 1),
        action_mask=None,
        key=fold(torch.arange(world.copies), step),
        final=Final(seen, None) if final else None,
        metrics={},
    )


def intent(world, **options):
    options = {"horizon": 1, "companions": 2, "rounds": 1, **options}
    return Intent(world, {"all": spaces.Box(-1, 1, (1,))}, IntentConfig(**options))


def companions(timestep):
    """[B, N, 2, 2], without what agents say themselves."""
    return timestep.observation["intent"][..., 1:].unflatten(-1, (2, 2))


def heard(timestep, agent=0, copy=0):
    """Of each companion: did a message come, and what does it say, in hundredths."""
    values = companions(timestep)[copy, agent]
    return [(bool(there), round(float(said) * 100, 3)) for there, said in values]


def test_messages_arrive_as_many_steps_later_as_said():
    world = Line()
    late = intent(world, delay=2)
    late.begin()
    hears = []
    for step in range(4):
        now = late.augment(moment(world, step))
        hears.append(heard(now))
        assert late.negotiate(now, lambda _: 1 / 0) is now  # there is no time for drafts
        late.record(now, torch.tensor([[0, step + 1, 0]] * 2))
    nothing = (False, 0.0)
    # What agent 1 announced at steps 0 and 1: 4 and the speed it was going to have.
    assert hears == [[nothing] * 2, [nothing] * 2, [(True, 5.0), (True, 8.0)], [(True, 6.0), (True, 8.0)]]


def test_without_rounds_late_messages_say_that_agents_carry_on():
    world = Line()
    late = intent(world, delay=1, rounds=0)
    late.record(late.augment(moment(world)), torch.tensor([[9, 9, 9]] * 2))
    assert heard(late.augment(moment(world, 1))) == [(True, 4.0), (True, 8.0)]


def test_an_old_message_is_seen_from_where_the_listener_is_now():
    world = Line()
    late = intent(world, delay=1)
    late.record(late.augment(moment(world)), torch.tensor([[0, 1, 0]] * 2))
    world.place[:, 0] = 3.0
    assert heard(late.augment(moment(world, 1))) == [(True, 2.0), (True, 5.0)]


def test_nothing_is_heard_of_a_past_episode_or_of_who_left_its_slot():
    world = Line()
    late = intent(world, delay=1)
    late.record(late.augment(moment(world)), torch.tensor([[0, 1, 1]] * 2))
    assert heard(late.augment(moment(world, 1, agent_id=(0, 7, 2)))) == [(False, 0.0), (True, 9.0)]
    ended = late.augment(moment(world, 1, done=True, final=True, agent_id=(5, 6, 7)))
    assert heard(ended) == [(False, 0.0), (False, 0.0)]
    # The last view of the episode still hears what was on its way.
    assert heard(ended.final) == [(True, 5.0), (True, 9.0)]
    assert heard(late.augment(moment(world, 1))) == [(False, 0.0), (False, 0.0)]


def test_a_rollout_begins_in_silence():
    world = Line()
    late = intent(world, delay=1)
    late.record(late.augment(moment(world)), torch.tensor([[0, 1, 1]] * 2))
    late.begin()
    assert heard(late.augment(moment(world, 1))) == [(False, 0.0), (False, 0.0)]


def test_the_dead_send_nothing():
    world = Line()
    late = intent(world, delay=1)
    late.record(late.augment(moment(world, alive=(True, False, True))), torch.tensor([[0, 1, 1]] * 2))
    assert heard(late.augment(moment(world, 1))) == [(False, 0.0), (True, 9.0)]


def test_messages_under_way_are_saved_and_put_back():
    world = Line()
    first, second = intent(world, delay=2, loss=0.3, noise=0.1), intent(world, delay=2, loss=0.3, noise=0.1)
    for step in range(3):
        first.record(first.augment(moment(world, step)), torch.tensor([[0, step, 0]] * 2))
    second.load_state(first.state())
    for step in range(3, 6):
        one, two = first.augment(moment(world, step)), second.augment(moment(world, step))
        assert torch.equal(one.observation["intent"], two.observation["intent"])
        for each, seen in ((first, one), (second, two)):
            each.record(seen, torch.tensor([[0, step, 0]] * 2))
    assert intent(world).state() == {}


def test_as_many_messages_are_lost_as_said():
    world = Line(copies=2000)
    lossy = intent(world, loss=0.25)
    came = companions(lossy.augment(moment(world)))[..., 0]
    assert abs(float(came.mean()) - 0.75) < 4 * math.sqrt(0.25 * 0.75 / came.numel())
    again = companions(lossy.augment(moment(world)))[..., 0]
    assert torch.equal(came, again)
    assert not torch.equal(came[..., 0], came[..., 1])
    later = companions(lossy.augment(moment(world, 1)))[..., 0]
    assert not torch.equal(came, later)
    draft = companions(lossy.hear(moment(world), None, 1))[..., 0]
    assert not torch.equal(came, draft)
    silent = companions(intent(world, loss=1.0).augment(moment(world)))
    assert not silent.any()


def test_errors_have_the_deviation_asked_for():
    world = Line(copies=2000)
    error = companions(intent(world, noise=0.02).augment(moment(world)))[..., 1]
    error = error - companions(intent(world).augment(moment(world)))[..., 1]
    assert abs(float(error.mean())) < 4 * 0.02 / math.sqrt(error.numel())
    assert abs(float(error.std()) / 0.02 - 1) < 0.05


def test_chance_does_not_depend_on_the_batch():
    many, one = Line(copies=5), Line(copies=1)
    options = {"loss": 0.5, "noise": 0.2, "horizon": 3}
    whole = intent(many, **options).augment(moment(many, 4)).observation["intent"]
    alone = intent(one, **options).augment(moment(one, 4)).observation["intent"]
    assert torch.equal(whole[:1], alone)


def test_a_perfect_channel_is_what_it_was():
    world = Line()
    now = intent(world).augment(moment(world))
    assert heard(now) == [(True, 4.0), (True, 8.0)]
    assert heard(now, agent=1) == [(True, -4.0), (True, 4.0)]

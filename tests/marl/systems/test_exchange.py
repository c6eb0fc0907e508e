"""The store between two learners: what goes in comes out, weights come back, and who waits for whom how long."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from marl.errors import UserError
from marl.learning.language.token_trees import TokenRow
from marl.rollout.language.store import SharedStore
from marl.systems.language import exchange as module
from marl.systems.language.decoupled import Decoupled
from marl.systems.language.exchange import MAIN, SUB, Exchange, Stored
from marl.systems.language.options import StoreConfig
from marl.systems.language.rows import UnitRows
from marl.systems.language.speakers import Unit

ROLES = ("north", "south")


class Weights:
    """A model of one tensor, the same for all its roles but for what each adds."""

    def __init__(self, value: float):
        self.value = {role: torch.full((2,), value + place) for place, role in enumerate(ROLES)}

    def state_of(self, role: str) -> dict[str, torch.Tensor]:
        return {"w": self.value[role].clone()}

    def load_state_of(self, role: str, state: dict[str, torch.Tensor]) -> None:
        self.value[role].copy_(state["w"])


def unit(value: float = 0.0) -> Unit:
    return Unit("workers", ROLES, ROLES, Weights(value))  # type: ignore[arg-type]


def side(path: Path | None, name: str, value: float = 0.0, **options: Any) -> tuple[Exchange, Unit]:
    config = StoreConfig.model_validate({"file": path, "side": name, **options})
    own = unit(value)
    return Exchange(config, [Unit("planner", ("planner",), ("planner",), Weights(9.0)), own], "planner"), own  # type: ignore[arg-type]


def rows() -> list[TokenRow]:
    """With and without a share, learned in one piece and in two."""
    first = np.array([False, True, True, False])
    second = np.array([False, True, False, True, True])
    return [
        TokenRow([5, 6, 7, 8], first, np.where(first, [0, 0.5, -0.25, 0], 0), np.where(first, -1.5, 0.0), 0.5 * first),
        TokenRow([1, 2, 3, 4, 5], second, second * 2.0, np.where(second, [0, -1.0, 0, -2.0, -3.0], 0)),
    ]


BATCH = SimpleNamespace(
    rows=[SimpleNamespace(agent=agent) for agent in ("planner", "north", "south")],
    episode=torch.tensor([0, 0, 1]),
    group=torch.tensor([7, 7, 8]),
    level=torch.tensor([0, 1, 1]),
)


def put(exchange: Exchange, own: Unit, normaliser: float = 3.0) -> None:
    stored = Stored(exchange.versions[own.name], normaliser, 0.125, rows())
    exchange.put(own, BATCH, [1, 2], torch.tensor([0.0, 0.5, 1.0]), stored)  # type: ignore[arg-type]


@pytest.mark.parametrize("shared", [False, True])
def test_what_goes_in_comes_out_once_enough_of_it_waits(tmp_path: Path, shared: bool) -> None:
    exchange, own = side(tmp_path / "store" if shared else None, MAIN, batches=2)
    exchange.versions[own.name] = 4
    put(exchange, own)
    assert exchange.take(own) == [] and exchange.figures(own)["store_waiting_workers"] == 1.0
    put(exchange, own, normaliser=5.0)
    first, second = exchange.take(own)
    assert (first.version, first.normaliser, first.rate, second.normaliser) == (4, 3.0, 0.125, 5.0)
    assert first.tokens == 2 + 3
    for found, given in zip(first.rows, rows(), strict=True):
        assert found.ids == given.ids
        share = np.zeros(len(given.ids)) if given.share is None else given.share
        for name, wanted in (
            ("learned", given.learned),
            ("weight", given.weight),
            ("old", given.old),
            ("share", share),
        ):
            assert np.array_equal(getattr(found, name), wanted), name
    assert exchange.take(own) == []
    assert exchange.figures(own) == {"store_waiting_workers": 0.0, "store_dropped_workers": 0.0}


def test_a_row_says_whose_it_is_and_what_it_earned() -> None:
    exchange, own = side(None, MAIN)
    put(exchange, own)
    body = exchange._store.fetch("workers")
    assert body is not None
    told = [{name: row[name] for name in ("agent", "reward", "episode", "group", "level")} for row in body["rows"]]
    assert told == [
        {"agent": "north", "reward": 0.5, "episode": 0, "group": 7, "level": 1},
        {"agent": "south", "reward": 1.0, "episode": 1, "group": 8, "level": 1},
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"ids": [5, 6, 7]},  # fewer than the mask
        {"loss_mask": [1, 1, 0, 0]},  # the first token has nothing before it
        {"loss_mask": [0, 1, 1, 1]},  # more than there are advantages
        {"advantage": [0.5, float("nan")]},
        {"log_probs": [float("-inf"), 0.0]},
        {"share": [0.0, float("inf")]},
        {"ids": ["a", 6, 7, 8]},
        {"ids": None},
        {"advantage": [10**400, 0.0]},
    ],
)
def test_rows_that_cannot_be_learned_from_are_refused(change: dict[str, Any]) -> None:
    exchange, own = side(None, MAIN)
    put(exchange, own)
    body = exchange._store.fetch("workers")
    assert body is not None
    body["rows"][0] |= change
    exchange._store.put("workers", body)
    with pytest.raises(UserError, match="a batch that cannot be learned from"):
        exchange.take(own)


@pytest.mark.parametrize("missing", ["rows", "version", "normaliser", "rate"])
def test_batches_of_another_form_are_refused(missing: str) -> None:
    exchange, own = side(None, MAIN)
    put(exchange, own)
    body = exchange._store.fetch("workers")
    assert body is not None
    del body[missing]
    exchange._store.put("workers", body)
    with pytest.raises(UserError, match="KeyError"):
        exchange.take(own)


def test_weights_come_back_when_they_are_newer(tmp_path: Path) -> None:
    """They are those of a unit's first role, which all its roles share."""
    main, played = side(tmp_path / "store", MAIN, value=1.0)
    sub, learned = side(tmp_path / "store", SUB, value=5.0)
    main.open()
    assert sub.receive(learned, -1) and sub.versions["workers"] == 0
    assert learned.model.value["north"].tolist() == [1.0, 1.0]  # type: ignore[attr-defined]
    assert learned.model.value["south"].tolist() == [6.0, 6.0]  # type: ignore[attr-defined]
    assert not main.receive(played)  # its own are no newer

    learned.model.value["north"].fill_(3.0)  # type: ignore[attr-defined]
    sub.versions["workers"] = 2
    sub.publish(learned)
    main.open()  # there is something to start from: it stays
    assert main.receive(played) and main.versions["workers"] == 2
    assert played.model.value["north"].tolist() == [3.0, 3.0]  # type: ignore[attr-defined]
    assert not main.receive(played)


@pytest.mark.parametrize("weights", [b"junk", b""])
def test_weights_that_do_not_fit_are_named(tmp_path: Path, weights: bytes) -> None:
    main, played = side(tmp_path / "store", MAIN)
    SharedStore(tmp_path / "store").publish("workers", 1, weights)
    with pytest.raises(UserError, match="holds weights of 'workers' that do not fit"):
        main.receive(played)


@pytest.mark.parametrize("error", [KeyError, RuntimeError, ValueError])
def test_so_are_those_that_the_model_refuses(
    tmp_path: Path, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    main, played = side(tmp_path / "store", MAIN)
    main.publish(played)
    main.versions["workers"] = -1

    def refusing(self: Weights, role: str, state: Any) -> None:
        raise error("of another shape")

    monkeypatch.setattr(Weights, "load_state_of", refusing)
    with pytest.raises(UserError, match="that do not fit"):
        main.receive(played)
    assert main.versions["workers"] == -1


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.slept = 1000.0, 0

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    monkeypatch.setattr("marl.rollout.language.store.time", made)
    return made


def test_main_waits_for_a_living_sub_that_lags(tmp_path: Path, clock: Clock) -> None:
    """While more than ``lag`` batches wait and the other side gives signs, and never longer than its patience."""
    main, own = side(tmp_path / "store", MAIN, lag=1, patience_seconds=2.0)
    sub, other = side(tmp_path / "store", SUB, lag=1, patience_seconds=2.0)
    main.hold_back(own)
    put(main, own)
    main.hold_back(own)
    put(main, own)
    main.hold_back(own)  # nobody has ever been there
    assert clock.slept == 0
    sub.sign()
    main.hold_back(own)
    assert clock.slept > 10 and clock.now == pytest.approx(1002.0, abs=0.1)
    clock.slept = 0
    clock.now += 0.5
    main.hold_back(own)  # the last sign is older than patience
    assert clock.slept == 0
    sub.sign(done=True)
    main.hold_back(own)
    assert clock.slept == 0
    sub.sign()
    sub.take(other)
    main.hold_back(own)  # no more than lag
    assert clock.slept == 0


def test_sub_is_over_when_main_is_done_or_silent_and_nothing_waits(tmp_path: Path, clock: Clock) -> None:
    main, own = side(tmp_path / "store", MAIN, patience_seconds=5.0)
    sub, other = side(tmp_path / "store", SUB, patience_seconds=5.0)
    assert not sub.over()
    clock.now += 5.5
    assert sub.over()  # nobody came in time
    main.sign()
    assert not sub.over()
    main.sign(done=True)
    assert sub.over()
    put(main, own)
    assert not sub.over()
    sub.take(other)
    assert sub.over()
    late, _ = side(tmp_path / "store", SUB, patience_seconds=5.0)
    main.sign()
    clock.now += 100.0
    late._began = clock.now  # an old sign of life counts from this side's own beginning
    assert not late.over()
    clock.now += 5.5
    assert late.over()


def test_a_follower_waits_for_something_to_start_from(tmp_path: Path) -> None:
    """Weights of version 0 that nobody has published are nothing; a resumed side has its own."""
    main, _ = side(tmp_path / "store", MAIN, value=1.0)
    sub, learned = side(tmp_path / "store", SUB, value=5.0)
    follower = Decoupled(sub, SimpleNamespace())  # type: ignore[arg-type]
    assert follower.follow() == {} and not follower._joined
    main.open()
    assert follower.follow() == {} and follower._joined
    assert learned.model.value["north"].tolist() == [1.0, 1.0]  # type: ignore[attr-defined]
    resumed, own = side(tmp_path / "other", SUB, value=5.0)
    resumed.versions["workers"] = 3
    again = Decoupled(resumed, SimpleNamespace())  # type: ignore[arg-type]
    assert again.follow() == {} and again._joined
    assert own.model.value["north"].tolist() == [5.0, 5.0]  # type: ignore[attr-defined]


def test_an_empty_batch_goes_no_further_than_this_process(tmp_path: Path) -> None:
    """Here it is counted with the others that one update takes; in a file it would only be in the way."""
    for path, waiting in ((None, 1.0), (tmp_path / "store", 0.0)):
        exchange, own = side(path, MAIN)
        decoupled = Decoupled(exchange, SimpleNamespace())  # type: ignore[arg-type]
        decoupled.put(own, BATCH, UnitRows([], [], 1.0), torch.zeros(3), 0.1)  # type: ignore[arg-type]
        assert exchange.figures(own)["store_waiting_workers"] == waiting
        made = rows()
        decoupled.put(own, BATCH, UnitRows([1, 2], made, 4.0), torch.zeros(3), 0.1)  # type: ignore[arg-type]
        *_, last = [exchange.take(own)[0] for _ in range(int(waiting) + 1)]
        assert (last.normaliser, last.rate, len(last.rows)) == (4.0, 0.1, 2)


def test_roles_of_the_entry_do_not_go_through_it() -> None:
    exchange, own = side(None, MAIN)
    assert [one.name for one in exchange.units] == ["workers"] and exchange.carries(own)
    assert exchange.exact and exchange.side is None
    with pytest.raises(UserError, match=r"set algorithm\.sharing to level or role"):
        Exchange(StoreConfig(), [Unit("all", ("planner", "north"), (), Weights(0.0))], "planner")  # type: ignore[arg-type]


def test_state_is_versions_and_what_waits() -> None:
    exchange, own = side(None, MAIN)
    put(exchange, own)
    exchange.versions["workers"] = 6
    other, _ = side(None, MAIN)
    other.load_state(exchange.state())
    assert other.versions == {"workers": 6}
    assert other.take(own)[0].normaliser == 3.0


def test_the_lag_is_that_of_the_oldest_batch() -> None:
    """Batches of versions 6 and 3 in update 9: the oldest is 6 updates behind."""
    exchange, own = side(None, MAIN, batches=2)
    for version in (6, 3):
        exchange.versions["workers"] = version
        put(exchange, own)
    exchange.versions["workers"] = 9
    given = []
    teacher = SimpleNamespace(learn=lambda *arguments: given.append(arguments) or {})
    figures = Decoupled(exchange, teacher).learn(own)  # type: ignore[arg-type]
    assert figures == {"lag_workers": 6.0, "tokens_workers": 10.0}
    (_, taken, normaliser, rate, fresh, _), *_ = given
    assert (len(taken), normaliser, rate, fresh) == (4, 6.0, 0.125, False)
    assert exchange.versions["workers"] == 9  # nothing was learned

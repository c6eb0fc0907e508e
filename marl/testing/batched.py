"""Conformance of a ``BatchedEnv``: that it is B times the same world, and keeps the contract at every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from marl.envs.batched import BatchedEnv, Snapshots, TimeStep, Tree
from marl.envs.native import flat_mask, to_native
from marl.envs.pettingzoo import ParallelFace
from marl.envs.random_play import mask_of_group, random_actions
from marl.envs.spaces import BitWindow
from marl.testing.batched_fields import Inspection
from marl.testing.independence import BESIDE, two_worlds
from marl.testing.parallel import check_parallel
from marl.testing.probes import told
from marl.testing.report import Report
from marl.testing.tensors import (
    fields,
    first_difference,
    leaves,
    overwrite,
    same,
)
from marl.testing.trace import Record, compare_elsewhere, factory_spec, name_of, parallel_trace

Make = Callable[[int], BatchedEnv]

#: Fields that ``current()`` shows as the last step did.
_PRESENT = ("observation", "state", "alive", "agent_id", "action_mask", "key")


def check_batched(
    make: Make,
    steps: int = 200,
    seed: int = 0,
    batches: Sequence[int] = (1, 7, 64),
    make_on: Callable[[int, torch.device], BatchedEnv] | None = None,
    spec: str | None = None,
) -> Report:
    """Everything that can be found out about a batched world by playing it with random legal actions.

    Args:
        make: number of copies -> world.
        batches: sizes in which copy i has to be the same, in rising order.
        make_on: (copies, device) -> world; given and with a GPU there, CPU and GPU are compared.
        spec: MODULE:FACTORY, where a new process finds ``make`` if its own name does not tell.

    Checked: fields and spaces at every step, flags, masks, metrics, keys; independence of batch size and neighbours;
    reset of some copies; that other worlds in the process change nothing; that returned tensors are the caller's;
    snapshots where the world has them; and that its PettingZoo face is the same world and passes ``check_parallel``.
    Names of faults: ``marl.testing.report.FAULTS``.
    """
    report = Report(spec or name_of(make))
    try:
        with closing(make(batches[-2] if len(batches) > 1 else 2)) as env:
            inspection = Inspection(report, env)
            _attempt(report, "playing", lambda: inspection.run(seed, steps))
    except (Exception, SystemExit) as error:
        report.add("raises", "making or closing the world", told(error))
        return report
    middle = max(2, batches[len(batches) // 2])
    for title, check in (
        ("batch sizes", lambda: _batch_sizes(report, make, batches, seed, steps)),
        ("neighbours", lambda: _neighbours(report, make, middle, seed, steps)),
        ("partial reset", lambda: _partial_reset(report, make, middle, seed, steps)),
        ("overwriting", lambda: _aliasing(report, make, middle, seed, steps)),
        ("two worlds", lambda: two_worlds(report, make, middle, seed, min(steps, BESIDE))),
        ("snapshots", lambda: _snapshots(report, make, middle, seed, min(steps, 40))),
        ("PettingZoo face", lambda: _face(report, make, seed, steps, inspection.newcomers)),
        ("another process", lambda: _other_process(report, make, spec or factory_spec(make), seed, steps)),
        ("devices", lambda: _devices(report, make_on, middle, seed, steps)),
    ):
        _attempt(report, title, check)
    return report


def _attempt(report: Report, title: str, check: Callable[[], None]) -> None:
    try:
        check()
    except Exception as error:
        report.add("raises", title, told(error))


def _batch_sizes(report: Report, make: Make, batches: Sequence[int], seed: int, steps: int) -> None:
    with ExitStack() as stack:
        worlds = [stack.enter_context(closing(make(size))) for size in batches]
        views = [world.reset(seed) for world in worlds]
        for t in range(steps + 1):
            for size, view in zip(batches[:-1], views[:-1], strict=True):
                shared = torch.arange(size, device=worlds[0].device)
                field = first_difference(view, views[-1], worlds[0].spec, shared, shared)
                if field:
                    where = f"step {t}, B = {size} and B = {batches[-1]}"
                    report.add("copy-depends-on-batch", where, f"{field} differs")
                    return
            views = [world.step(random_actions(world, view)) for world, view in zip(worlds, views, strict=True)]


def _neighbours(report: Report, make: Make, copies: int, seed: int, steps: int) -> None:
    """In the second world the odd copies act otherwise."""
    with closing(make(copies)) as one, closing(make(copies)) as other:
        even = torch.arange(0, copies, 2, device=one.device)
        odd = torch.arange(copies, device=one.device) % 2 == 1
        a, b = one.reset(seed), other.reset(seed)
        for t in range(steps):
            actions = random_actions(other, b)
            elsewise = random_actions(other, b, salt=1)
            a = one.step(random_actions(one, a))
            b = other.step(_mix(odd, elsewise, actions))
            field = first_difference(a, b, one.spec, even, even)
            if field:
                report.add(
                    "copy-depends-on-neighbour", f"step {t + 1}", f"{field} differs after others acted otherwise"
                )
                return


def _partial_reset(report: Report, make: Make, copies: int, seed: int, steps: int) -> None:
    """The odd copies are reset now and then: the even ones go on as in a twin, the odd ones are as in a new world."""
    with ExitStack() as stack:
        world, twin, fresh = (stack.enter_context(closing(make(copies))) for _ in range(3))
        index = torch.arange(copies, device=world.device)
        mask = index % 2 == 1
        even, odd = index[~mask], index[mask]
        view, other = world.reset(seed), twin.reset(seed)
        start = fresh.reset(seed)
        period = max(3, world.spec.horizon // 3)
        for t in range(steps):
            if t % period == period - 1:
                again = seed + 1000 * (t + 1)
                view, start = world.reset(again, mask), fresh.reset(again)
                field = first_difference(view, start, world.spec, odd, odd)
                if field:
                    report.add("partial-reset", f"step {t}", f"{field} of a masked copy is not that of a new world")
                    return
                ours, theirs = fields(view), fields(other)
                for name in ours:
                    if name.split(".")[0] in _PRESENT and not same(ours[name][even], theirs[name][even]):
                        report.add("partial-reset", f"step {t}", f"{name} of a copy that was not masked has changed")
                        return
            view = world.step(random_actions(world, view))
            other = twin.step(random_actions(twin, other))
            start = fresh.step(random_actions(fresh, start))
            field = first_difference(view, other, world.spec, even, even)
            if field:
                report.add("partial-reset", f"step {t + 1}", f"{field} of a copy that was never masked differs")
                return
            field = first_difference(view, start, world.spec, odd, odd) if t >= period - 1 else None
            if field:
                report.add("partial-reset", f"step {t + 1}", f"{field} of a masked copy goes on otherwise")
                return


def _aliasing(report: Report, make: Make, copies: int, seed: int, steps: int) -> None:
    """In the second world all that was returned, and the actions given, are overwritten."""
    with closing(make(copies)) as one, closing(make(copies)) as other:
        index = torch.arange(copies, device=one.device)
        a, b = one.reset(seed), other.reset(seed)
        for t in range(steps):
            given, actions = random_actions(one, a), random_actions(other, b)
            before = [leaf.clone() for _, leaf in leaves(actions, "actions")]
            overwrite(b)
            a, b = one.step(given), other.step(actions)
            if not all(same(leaf, old) for (_, leaf), old in zip(leaves(actions, "actions"), before, strict=True)):
                report.add("actions-changed", f"step {t + 1}", "they are not what was passed to step")
                return
            for _, leaf in leaves(actions, "actions"):
                leaf.zero_()
            field = first_difference(a, b, one.spec, index, index)
            if field:
                where = f"step {t + 1}"
                report.add("returned-data-aliased", where, f"{field} differs after returned tensors were overwritten")
                return


def _snapshots(report: Report, make: Make, copies: int, seed: int, steps: int) -> None:
    with closing(make(copies)) as world, closing(make(copies)) as other:
        if not isinstance(world, Snapshots) or not isinstance(other, Snapshots):
            report.skipped.append("snapshots: the world has none")
            return
        index = torch.arange(copies, device=world.device)
        view = world.reset(seed)
        for _ in range(steps // 2 + 1):
            view = world.step(random_actions(world, view))
        if _present(report, "current-differs", "current()", view, world.current(), index, index):
            return
        snapshot = world.snapshot()
        kept = {name: value.clone() for name, value in snapshot.items()}
        start, path = view, []
        for _ in range(steps):
            view = world.step(random_actions(world, view))
            path.append(view)
        for name, value in snapshot.items():
            if not same(value, kept[name]):
                report.add("snapshot-changes", "after later steps", f"{name} is another")
                return
        other.reset(seed + 99)
        rotated = index.roll(1)
        for title, target, source in (
            ("the same world", world, index),
            ("another world", other, index),
            ("another world, copies rotated", other, rotated),
        ):
            assert isinstance(target, Snapshots)
            if source is index:
                target.restore(snapshot)
            else:
                target.restore(snapshot, source, index)
            again = target.current()
            if _present(report, "restore-differs", f"restored in {title}", start, again, source, index):
                return
            for t, expected in enumerate(path):
                again = target.step(random_actions(target, again))
                field = first_difference(expected, again, world.spec, source, index)
                if field:
                    report.add("restore-differs", f"restored in {title}, step {t + 1}", f"{field} differs")
                    return


def _present(
    report: Report, fault: str, where: str, expected: TimeStep, got: TimeStep, ours: Tensor, theirs: Tensor
) -> bool:
    left, right = fields(expected), fields(got)
    for name in left:
        if name.split(".")[0] in _PRESENT and not (name in right and same(left[name][ours], right[name][theirs])):
            report.add(fault, where, f"{name} differs")
            return True
    return False


def _face(report: Report, make: Make, seed: int, steps: int, newcomers: bool) -> None:
    with closing(make(1)) as world, closing(ParallelFace(make(1), newcomers=newcomers)) as face:
        spec = world.spec
        view = world.reset(seed)
        seen, infos = face.reset(seed=seed)
        for t in range(steps):
            if not face.agents:
                seen, infos = face.reset()
            problem = _compare_face(world, view, face, seen, infos)
            if problem:
                report.add("face-differs", f"step {t}", problem)
                return
            actions = random_actions(world, view)
            chosen = {}
            for agent in face.agents:
                slot = spec.agents.index(agent.split("#")[0])
                group, row = _place(spec.groups, slot)
                own = actions[group] if isinstance(actions, dict) else actions
                assert isinstance(own, Tensor)
                space = spec.action_space[group]
                chosen[agent] = to_native(own[0, row].cpu().numpy(), space)
            acting = {agent: spec.agents.index(agent.split("#")[0]) for agent in face.agents}
            view = world.step(actions)
            seen, rewards, terminated, truncated, infos = face.step(chosen)
            for agent, slot in acting.items():
                got = (rewards[agent], terminated[agent], truncated[agent])
                expected = (float(view.reward[0, slot]), bool(view.terminated[0, slot]), bool(view.truncated[0, slot]))
                if got != expected:
                    report.add("face-differs", f"step {t + 1}", f"reward and flags of {agent}: {got} and {expected}")
                    return
            if bool(view.done[0]) and face.agents:
                report.add("face-differs", f"step {t + 1}", "the episode ended, but the face still lists agents")
                return
    inner = check_parallel(lambda: ParallelFace(make(1), newcomers=newcomers), steps=steps, seeds=(seed,))
    for finding in inner.findings:
        # Pickling is the face's own affair: it needs rebuild=, which a test of the world cannot give.
        if finding.fault not in ("not-picklable", "seed-ignored"):
            report.add(finding.fault, f"PettingZoo face, {finding.where}", finding.sentence)


def _compare_face(
    world: BatchedEnv, view: TimeStep, face: ParallelFace, seen: dict[str, object], infos: dict[str, dict[str, object]]
) -> str | None:
    """Why the face's present view is not that of the world, or None."""
    spec = world.spec
    alive = [spec.agents[slot] for slot in range(spec.n_agents) if bool(view.alive[0, slot])]
    if [agent.split("#")[0] for agent in face.agents] != alive:
        return f"agents {face.agents} and {alive}"
    for agent in face.agents:
        group, row = _place(spec.groups, spec.agents.index(agent.split("#")[0]))
        tree: Tree = view.observation
        if len(spec.groups) > 1:
            assert isinstance(tree, dict)
            tree = tree[group]
        if not _shown_as(tree, spec.observation_space[group], row, seen[agent]):
            return f"observation of {agent}"
        mask = mask_of_group(view, group)
        if mask is not None:
            shown = flat_mask(infos[agent]["action_mask"], spec.action_space[group])
            if not np.array_equal(shown, mask[0, row].cpu().numpy()):
                return f"action_mask of {agent}"
    return None


def _shown_as(tree: Tree, space: spaces.Space[object], row: int, shown: object) -> bool:
    if isinstance(space, spaces.Dict):
        assert isinstance(tree, dict) and isinstance(shown, dict)
        return all(_shown_as(tree[key], inner, row, shown[key]) for key, inner in space.spaces.items())
    assert isinstance(tree, Tensor)
    array = torch.as_tensor(shown)
    if isinstance(space, BitWindow):
        array = space.pack(array)
    return same(array, tree[0, row].cpu())


def _place(groups: Mapping[str, tuple[int, ...]], slot: int) -> tuple[str, int]:
    """The group of a slot, and its row in there."""
    for group, slots in groups.items():
        if slot in slots:
            return group, list(slots).index(slot)
    raise KeyError(slot)


def _other_process(report: Report, make: Make, spec: str | None, seed: int, steps: int) -> None:
    def trace() -> list[Record]:
        with closing(ParallelFace(make(1), newcomers=True)) as face:
            return parallel_trace(face, seed, steps)

    compare_elsewhere(report, spec, seed, steps, trace)


def _devices(
    report: Report,
    make_on: Callable[[int, torch.device], BatchedEnv] | None,
    copies: int,
    seed: int,
    steps: int,
) -> None:
    """Integers equal, floats to 1e-5: the GPU may sum in another order."""
    if make_on is None or not torch.cuda.is_available():
        report.skipped.append("CPU against GPU: " + ("no GPU here" if make_on else "make_on= was not given"))
        return
    with closing(make_on(copies, torch.device("cpu"))) as one, closing(make_on(copies, torch.device("cuda"))) as other:
        a, b = one.reset(seed), other.reset(seed)
        for t in range(steps):
            left, right = fields(a), fields(b)
            for name, value in left.items():
                theirs = right[name]
                if theirs.device.type != "cuda":
                    report.add("device-differs", f"step {t}", f"{name} is not on the GPU")
                    return
                theirs = theirs.cpu()
                close = torch.allclose(value, theirs, 1e-5, 1e-6) if value.is_floating_point() else same(value, theirs)
                if not close:
                    report.add("device-differs", f"step {t}", f"{name} differs")
                    return
            # The same actions for both: a rounding in a mask or key must not be hidden by what follows from it.
            actions = random_actions(one, a)
            a, b = one.step(actions), other.step(_to(actions, other.device))


def _to(tree: Tree, device: torch.device) -> Tree:
    return {name: _to(leaf, device) for name, leaf in tree.items()} if isinstance(tree, dict) else tree.to(device)


def _mix(chosen: Tensor, a: Tree, b: Tree) -> Tree:
    """``a`` in the copies of ``chosen`` ``[B]``, else ``b``."""
    if isinstance(a, dict):
        assert isinstance(b, dict)
        return {name: _mix(chosen, leaf, b[name]) for name, leaf in a.items()}
    assert isinstance(b, Tensor)
    return torch.where(chosen.reshape(-1, *[1] * (a.dim() - 1)), a, b)

"""Push chains in plain Python: plans are lists of (cell, ...) and conflicts are found by looking at all of them."""

import heapq
import itertools
from typing import Any


def conflict(one: list[int], other: list[int]) -> bool:
    """Whether two plans, cells by time, share a cell at a time or exchange cells."""
    shared = any(a == b for a, b in zip(one, other, strict=True))
    steps = zip(itertools.pairwise(one), itertools.pairwise(other), strict=True)
    return shared or any(a == (d, c) and a[0] != a[1] for a, (c, d) in steps)


def costs_to_go(graph: Any, cost: Any, goal: int) -> dict[int, int]:
    """Dijkstra on the states."""
    best: dict[int, int] = {}
    queue = [(0, s) for s in range(graph.cell.size) if graph.cell[s] == goal]
    while queue:
        value, state = heapq.heappop(queue)
        if state in best:
            continue
        best[state] = value
        for before, action in zip(*(graph.next == state).nonzero(), strict=True):
            if before not in best:
                heapq.heappush(queue, (value + int(cost[before, action]), int(before)))
    return best


def sequences(graph: Any, begin: int, steps: int) -> dict[tuple[int, ...], tuple[int, ...]]:
    """The state sequences of all operations from a state, by their cells and last state; the actions of one of each."""
    order = [*(a for a in range(graph.next.shape[1]) if a != graph.wait), graph.wait]
    found: dict[tuple[int, ...], tuple[int, ...]] = {}
    for actions in itertools.product(order, repeat=steps):
        states = [begin]
        for action in actions:
            states.append(int(graph.next[states[-1], action]))
            if states[-1] < 0:
                break
        else:
            found.setdefault((*(int(graph.cell[s]) for s in states), states[-1]), actions)
    return found


def sequence_cost(graph: Any, cost: Any, value: Any, goal: int, stay: bool, begin: int, actions: Any) -> int:
    """What actions cost beyond the best way, up to the goal or with what remains after them."""
    total, state = 0, begin
    for action in actions:
        if not (stay and action == graph.wait and graph.cell[state] == goal):
            total += int(cost[state, action])
        state = int(graph.next[state, action])
        if not stay and graph.cell[state] == goal:
            return total - int(value[begin])
    return total + int(value[state]) - int(value[begin])


class Crew:
    """Robots with plans (cells by time), options (cost, cells) sorted by cost, and weights."""

    def __init__(self, plans: list[list[int]], spent: list[int], options: list[list[tuple[int, list[int]]]]):
        self.plans, self.spent, self.options = plans, spent, options
        self.weight = [1] * len(plans)

    def gain(self, robot: int) -> int:
        return self.weight[robot] * (self.options[robot][0][0] - self.spent[robot])

    def chain(self, first: int, better: bool, locked: set[int], depth: int, push: int, tries: int) -> list[int]:
        """The robots that got other plans; none if the chain failed. Members wait in line until it is their turn."""
        failures: dict[int, int] = {}
        members, chosen = [first], {}

        def others(robot: int, cells: list[int]) -> list[int]:
            plans = {n: chosen.get(n) if n in members else plan for n, plan in enumerate(self.plans)}
            return [n for n, plan in plans.items() if n != robot and plan is not None and conflict(cells, plan)]

        def place(level: int, bound: int) -> bool:
            if level == len(members):
                return True
            robot, length = members[level], len(members)
            for cost, cells in self.options[robot]:
                met = others(robot, cells)
                barred = any(n in members or n in locked or failures.get(n, 0) >= tries for n in met)
                if len(met) > push or length + len(met) > depth or barred:
                    continue
                total = bound - self.gain(robot) + self.weight[robot] * (cost - self.spent[robot])
                total += sum(map(self.gain, met))
                if better and total >= 0:
                    continue
                members.extend(sorted(met, key=lambda n: order(cells, self.plans[n])))
                chosen[robot] = cells
                if place(level + 1, total):
                    self_cost[robot] = cost
                    return True
                del chosen[robot], members[length:]
            failures[robot] = failures.get(robot, 0) + 1
            return False

        def order(cells: list[int], plan: list[int]) -> int:
            return min(t for t in range(1, len(cells)) if conflict(cells[t - 1 : t + 1], plan[t - 1 : t + 1]))

        self_cost: dict[int, int] = {}
        if not place(0, self.gain(first)):
            return []
        for robot in members:
            self.plans[robot], self.spent[robot] = chosen[robot], self_cost[robot]
        return members

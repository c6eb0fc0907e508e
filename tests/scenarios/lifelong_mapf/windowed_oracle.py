"""``windowed`` in plain Python, for tests: dictionaries and a library's heap in the place of tables and stamps."""

from __future__ import annotations

import heapq
from itertools import pairwise

from marl.seeding import fold_int
from scenarios.lifelong_mapf.maps.fields import MOVES
from scenarios.lifelong_mapf.search.windowed import DRAWS


def below_int(key, n):
    return ((key & (2**64 - 1)) >> 32) * n >> 32


class Oracle:
    """One copy. exits, width, cost ``[cells][5]``, field ``[N][cells]``, goal ``[N]``; plans are lists of cells."""

    def __init__(self, exits, width, cost, field, goal, restart=True):
        self.exits, self.width, self.cost, self.field, self.goal = exits, width, cost, field, goal
        self.restart = restart

    def moves(self, cell):
        """(move, target) of all that can be done on ``cell``."""
        for move, (down, right) in enumerate(MOVES):
            if move == 0 or int(self.exits[cell]) >> (move - 1) & 1:
                yield move, cell + down * self.width + right

    def step_delay(self, agent, cell, move, target):
        field = self.field[agent]
        if not self.restart and cell == target == self.goal[agent]:
            return 0
        return max(0, int(self.cost[cell][move]) + int(field[target]) - int(field[cell]))

    def delay(self, agent, plan):
        total = 0
        for cell, target in pairwise(plan):
            if self.restart and cell == self.goal[agent]:
                break
            move = next(move for move, option in self.moves(cell) if option == target)
            total += self.step_delay(agent, cell, move, target)
        return total

    def free(self, others, time, cell, target):
        """Whether nobody among ``others`` has ``target`` at ``time`` + 1 or comes the other way."""
        return all(
            plan[time + 1] != target and not (cell != target and plan[time] == target and plan[time + 1] == cell)
            for plan in others
        )

    def best_plan(self, agent, start, window, others, limit):
        """(delay, plan), or None: the state with the least (delay, steps left, number) is expanded first."""
        side = 2 * window + 1
        half = (window + 1) * side * side
        row, column = divmod(start, self.width)

        def number(arrived, time, cell):
            down, right = cell // self.width - row, cell % self.width - column
            return arrived * half + time * side * side + (down + window) * side + right + window

        goal = self.goal[agent]
        first = (int(self.restart and start == goal), 0, start)
        best, came = {first: 0}, {}
        heap = [(0, window, number(*first), first)]
        while heap:
            delay, left, _, state = heapq.heappop(heap)
            arrived, time, cell = state
            if delay > best[state]:
                continue
            if left == 0:
                plan = [cell]
                while state in came:
                    state = came[state]
                    plan.append(state[2])
                return delay, plan[::-1]
            for move, target in self.moves(cell):
                if not self.free(others, time, cell, target):
                    continue
                total = delay if arrived else delay + self.step_delay(agent, cell, move, target)
                after = (int(bool(arrived) or (self.restart and target == goal)), time + 1, target)
                if total <= limit and total < best.get(after, total + 1):
                    best[after], came[after] = total, state
                    heapq.heappush(heap, (total, left - 1, number(*after), after))
        return None

    def downhill(self, agent, cell):
        field = self.field[agent]
        lower = [
            (int(field[target]) + int(self.cost[cell][move]), move, target)
            for move, target in self.moves(cell)
            if field[target] < field[cell]
        ]
        return min(lower)[2] if lower else cell

    def gather(self, seed, plans, most):
        members = [seed]
        for agent in members:
            if len(members) >= most:
                break
            cell = plans[agent][0]
            for time in range(1, len(plans[agent])):
                target = self.downhill(agent, cell)
                there = [n for n, plan in enumerate(plans) if plan[time] == target]
                against = [n for n, plan in enumerate(plans) if plan[time - 1] == target and plan[time] == cell]
                for other in [*there, *against]:
                    if other not in members and len(members) < most:
                        members.append(other)
                if target == cell:
                    break
                cell = target
        return members

    def improve(self, key, plans, fresh, iterations, neighbours):
        """The plans after so many iterations; ``plans`` stays as it is."""
        plans = [list(plan) for plan in plans]
        fresh = list(fresh)
        agents, window = len(plans), len(plans[0]) - 1
        for iteration in range(iterations):
            drawn = fold_int(key, iteration)
            delays = [self.delay(n, plan) for n, plan in enumerate(plans)]
            if fresh:
                seed = fresh.pop(0)
            else:
                seed = None
                for draw in range(DRAWS):
                    other = below_int(fold_int(drawn, draw), agents)
                    if seed is None or delays[other] > delays[seed]:
                        seed = other
            if delays[seed] == 0:
                continue
            members = self.gather(seed, plans, min(neighbours, agents))
            for i in range(len(members) - 1, 1, -1):
                j = 1 + below_int(fold_int(drawn, 64 + i), i)
                members[i], members[j] = members[j], members[i]
            others = [plan for n, plan in enumerate(plans) if n not in members]
            budget = sum(delays[n] for n in members) - 1
            found = []
            for agent in members:
                best = self.best_plan(agent, plans[agent][0], window, others + found, budget)
                if best is None:
                    break
                budget -= best[0]
                found.append(best[1])
            else:
                for agent, plan in zip(members, found, strict=True):
                    plans[agent] = plan
        return plans

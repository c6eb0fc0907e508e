"""What a scorer is told of every move, worked out slowly from the definitions in ``choices.FEATURES``."""

from __future__ import annotations

import numpy as np

from scenarios.lifelong_mapf.maps.fields import MOVES
from scenarios.lifelong_mapf.views.choices import DECAY, PATH

STEPS = MOVES[1:]


class Oracle:
    """Of one copy of a ``StubWorld``: call ``advance`` after each of its steps, then ``rows``."""

    def __init__(self, world):
        self.world = world
        self.free = {divmod(c, world.width) for c in range(world.height * world.width) if not world.blocked[0, c]}
        self.here = self._cells(world.position)
        self.last = [None] * len(self.here)
        self.still = [0] * len(self.here)
        self.occupancy, self.waiting, self.flow = {}, {}, {}

    def _cells(self, flat):
        return [divmod(int(c), self.world.width) for c in flat[0]]

    def advance(self):
        """Take in the step just made."""
        self.last, self.here = self.here, self._cells(self.world.position)
        share = float(1 - DECAY)
        for average in (self.occupancy, self.waiting, self.flow):
            for key in average:
                average[key] *= float(DECAY)
        for n, (before, cell) in enumerate(zip(self.last, self.here, strict=True)):
            self.still[n] = self.still[n] + 1 if before == cell else 0
            self.occupancy[cell] = self.occupancy.get(cell, 0) + share
            if before == cell:
                self.waiting[cell] = self.waiting.get(cell, 0) + share
            else:
                self.flow[before, cell] = self.flow.get((before, cell), 0) + share

    def around(self, cell):
        return [(cell[0] + r, cell[1] + c) for r, c in STEPS if (cell[0] + r, cell[1] + c) in self.free]

    def rows(self, field, units, value, urgency):
        """``[N, 5, N_FEATURES]``. field: ``[N, cells]``; value: PIBT scores ``[N, 5]``; urgency: ``[N]``."""
        agents = range(len(self.here))
        field = [{divmod(c, self.world.width): int(v) for c, v in enumerate(f)} for f in field]
        order = sorted(agents, key=lambda n: (-int(urgency[n]), n))
        self.rank = {n: place for place, n in enumerate(order)}
        self.at = {cell: n for n, cell in enumerate(self.here)}
        self.cost = [{} for _ in agents]
        for n, (row, column) in enumerate(self.here):
            for (r, c), price in zip(MOVES, value[n], strict=True):
                if (row + r, column + c) in self.free:
                    self.cost[n][row + r, column + c] = int(price)
        self.want = []
        for n in agents:
            ways = self.around(self.here[n]) if field[n][self.here[n]] > 0 else []
            self.want.append(min(ways, key=lambda t: self.cost[n][t]) if ways else self.here[n])
        return np.array([[self._row(n, field[n], units, r, c) for r, c in MOVES] for n in agents], np.float32)

    def _wishers(self, cell):
        return [n for n, want in enumerate(self.want) if want == cell and self.here[n] != cell]

    def _row(self, n, field, units, r, c):
        own, rank = self.here[n], self.rank
        target = (own[0] + r, own[1] + c)
        wishers = self._wishers(own)
        age, still, d = int(self.world.age[0, n]), self.still[n], field[own] / units
        always = [
            len(wishers) / 3, any(rank[j] < rank[n] for j in wishers), still / (still + 4), age / (age + 32),
            rank[n] / len(rank), d / (d + 16),
        ]  # fmt: skip
        if target not in self.free:
            return [0] * 26 + always
        cost, wanted = self.cost[n], self.want[n]
        j = self.at.get(target)
        j = None if j == n else j
        first = j is not None and rank[j] < rank[n]
        head_on = j is not None and self.want[j] == own
        leaves = j is not None and self.want[j] != target and self.want[j] not in self.at
        rivals = self._wishers(target)
        count = len(rivals) - (target == wanted and target != own)
        others = {cell for cell, i in self.at.items() if i != n}
        ways = self.around(target)
        crowd = sum(abs(x - target[0]) <= 2 and abs(y - target[1]) <= 2 for x, y in others)
        met, against, seen = self._path(n, field, target, others)
        stays = target == own
        return [
            1, stays, np.clip((cost[target] - cost[wanted]) / units / 4, -2, 2), cost[target] <= cost[wanted],
            np.clip((field[own] - cost[target]) / units / 2, -2, 2), field[target] == 0,
            not stays and target == self.last[n], j is not None, first, head_on, leaves,
            j is not None and self.last[j] == target, count / 3,
            bool(rivals) and min(rank[i] for i in rivals) < rank[n], sum(w in others for w in ways) / 3, len(ways) / 4,
            sum(w not in others for w in ways) / 4, crowd / 8, met / 4, against / 2, seen,
            self.occupancy.get(target, 0), 4 * self.waiting.get(target, 0),
            0 if stays else 4 * self.flow.get((own, target), 0), 0 if stays else 4 * self.flow.get((target, own), 0),
            head_on and first, *always,
        ]  # fmt: skip

    def _path(self, n, field, cell, others):
        met = against = 0
        occupancy = []
        for _ in range(PATH):
            after = min(self.around(cell), key=lambda t: field[t], default=cell)
            if after == cell or field[after] >= field[cell]:
                break
            occupancy.append(self.occupancy.get(after, 0))
            if after in others:
                met += 1
                against += self.want[self.at[after]] == cell
            cell = after
        return met, against, float(np.mean(occupancy)) if occupancy else 0.0

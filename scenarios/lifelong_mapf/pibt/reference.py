"""PIBT and its swap rule in plain Python, line by line in the papers' letters: what the kernels are checked by.

Algorithm 1 of K. Okumura, M. Machida, X. Défago, Y. Tamura, "Priority Inheritance with Backtracking for Iterative
Multi-agent Path Finding", Artificial Intelligence 310, 2022; the swap rule of K. Okumura, "Improving LaCAM for Scalable
Eventually Optimal Multi-Agent Pathfinding", IJCAI 2023. Letters: agents i, j, k; vertices u, v; Q_from and Q_to, where
agents are and where they will be; C, the candidates of an agent, best first; D(i, v), the distance from v to the goal
g[i] of agent i; neigh(v). A pusher wants the vertex of a puller.

Recursive and slow: ``rule`` does the same with a stack, on arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from scenarios.lifelong_mapf.pibt.swap import NO_SWAP, Swap


class PlainPibt:
    """Joint moves of agents 0 to n - 1 on a graph.

    Args:
        neigh: vertex -> the vertices beside it.
        D: (agent, vertex) -> its distance to the agent's goal.
        g: the goal of each agent.
        swap: whether and how the swap rule is played.
    """

    def __init__(
        self,
        neigh: Mapping[int, Sequence[int]],
        D: Callable[[int, int], int],  # noqa: N803
        g: Sequence[int],
        swap: Swap = NO_SWAP,
    ):
        self.neigh, self.D, self.g, self.swap = neigh, D, g, swap
        self.Q_from: Sequence[int] = ()
        self.Q_to: list[int | None] = []
        self.occupied_now: dict[int, int] = {}
        self.occupied_next: dict[int, int] = {}

    def step(self, Q_from: Sequence[int], order: Sequence[int], C: Callable[[int], list[int]]) -> list[int]:  # noqa: N803
        """Q_to: where the agents go.

        Args:
            Q_from: where they are, no two on one vertex.
            order: the agents by priority, highest first.
            C: agent -> its own vertex and those beside it, best first.
        """
        self.Q_from, self.C = Q_from, C
        self.Q_to = [None] * len(Q_from)
        self.occupied_now = {v: i for i, v in enumerate(Q_from)}
        self.occupied_next = {}
        for i in order:
            if self.Q_to[i] is None:
                self.func_pibt(i)
        return [v for v in self.Q_to if v is not None]

    def func_pibt(self, i: int) -> bool:
        """Find a vertex for agent i; whether one was found that it need not have stayed on."""
        C = self.C(i)  # noqa: N806
        j_swap = self.swap_required_and_possible(i, C[0]) if self.swap.active else None
        if j_swap is not None:
            C = C[::-1]  # noqa: N806
        for k, u in enumerate(C):
            j = self.occupied_now.get(u)
            # No two on one vertex.
            if u in self.occupied_next:
                continue
            # No two exchange theirs.
            if j is not None and j != i and self.Q_to[j] == self.Q_from[i]:
                continue
            self.occupied_next[u], self.Q_to[i] = i, u
            # Priority inheritance: who stands there has to move first. If it cannot, it stays, and i tries the next u.
            if j is not None and j != i and self.Q_to[j] is None and not self.func_pibt(j):
                continue
            # Pull the other one into the vertex that is left.
            v = self.Q_from[i]
            if k == 0 and j_swap is not None and self.Q_to[j_swap] is None and v not in self.occupied_next:
                self.occupied_next[v], self.Q_to[j_swap] = j_swap, v
            return True
        # Backtracking: i stays, and the caller knows that this vertex is taken.
        self.occupied_next[self.Q_from[i]], self.Q_to[i] = i, self.Q_from[i]
        return False

    def swap_required_and_possible(self, i: int, u: int) -> int | None:
        """The agent with which agent i, wanting vertex u, has to change places and can."""
        v = self.Q_from[i]
        if u == v:
            return None
        j = self.occupied_now.get(u)
        if j is not None and self.Q_to[j] is None and self.is_swap_required(i, j, v, u) and self.is_swap_possible(u, v):
            return j
        # Clear: one step from now agent k, beside i, would push i back.
        for w in self.neigh[v]:
            k = self.occupied_now.get(w)
            if k is not None and w != u and self.is_swap_required(k, i, v, u) and self.is_swap_possible(u, v):
                return k
        return None

    def ways_on(self, v: int, back: int) -> list[int]:
        """The vertices beside v to go on to, but for ``back`` and dead ends whose agent is at home."""

        def at_home_in_dead_end(u: int) -> bool:
            i = self.occupied_now.get(u)
            return len(self.neigh[u]) == 1 and i is not None and self.g[i] == u

        return [u for u in self.neigh[v] if u != back and not at_home_in_dead_end(u)]

    def is_swap_required(self, pusher: int, puller: int, v_pusher: int, v_puller: int) -> bool:
        """Push on as long as there is one way: would they still want to pass each other at its end?"""
        D = self.D  # noqa: N806
        while D(pusher, v_puller) < D(pusher, v_pusher):
            if not self.swap.stay and v_puller == self.g[puller]:
                return False
            ways = self.ways_on(v_puller, v_pusher)
            if len(ways) >= 2:
                return False
            if not ways:
                break
            v_pusher, v_puller = v_puller, ways[0]
        pusher_at_home = self.swap.stay and v_pusher == self.g[pusher]
        return D(puller, v_pusher) < D(puller, v_puller) and (
            pusher_at_home or D(pusher, v_puller) < D(pusher, v_pusher)
        )

    def is_swap_possible(self, v_pusher: int, v_puller: int) -> bool:
        """Pull back as long as there is one way: does it come to a vertex with two?"""
        origin = v_pusher
        while v_puller != origin:
            ways = self.ways_on(v_puller, v_pusher)
            if len(ways) >= 2:
                return True
            if not ways:
                return False
            v_pusher, v_puller = v_puller, ways[0]
        return False

"""A scripted demonstrator for any role graph, with weaknesses that imitation alone cannot mend.

It works through the steps of its task one by one, by a tool of its own where it has one and by a sub-agent otherwise.
Its weaknesses are systematic (a favourite sub-agent and tool whatever the relation, stopping one step early, a useless
check), so a policy that imitates it is wrong even when it acts greedily; each leaves enough right decisions to learn
from.
"""

from __future__ import annotations

from marl.envs.chat import Turn
from marl.seeding import fold_int
from scenarios.agent_hierarchy.calls import Call, render, tool_step
from scenarios.agent_hierarchy.conversations import answered
from scenarios.agent_hierarchy.hierarchy import LOOKUPS, Hierarchy, Role
from scenarios.agent_hierarchy.tasks import NOTHING, Step, quoted, spoken_task


class Expert:
    """Says what the demonstrator would say in a turn.

    The plans of a file are followed as they are written, unless the configuration names weaknesses itself.

    Args:
        hierarchy: roles, tools and questions.
        flawless: without any weakness: it knows who knows what and which relations the cache has wrong.
    """

    def __init__(self, hierarchy: Hierarchy, flawless: bool = False):
        written = hierarchy.tasks is not None and "expert" not in hierarchy.config.model_fields_set
        self._hierarchy, self._flawless = hierarchy, flawless or written
        self._options = hierarchy.config.expert
        self._check = any("check" in role.tools for role in hierarchy.roles.values())

    def __call__(self, turn: Turn, key: int) -> str:
        """The text of one call. key: decides what it does where it is not sure."""
        return render(self._decide(turn, _Chance(key)), self._hierarchy.config.grammar)

    def _decide(self, turn: Turn, chance: _Chance) -> Call:
        role = self._hierarchy.roles[turn.agent]
        value, steps = spoken_task(turn.plan or turn.messages[1]["content"])
        if role.options.final and turn.level > 0:  # it was handed what it is to say
            return Call("answer", {"text": value})
        if not self._flawless and self._options.mistake and chance(7) < self._options.mistake:
            return Call("answer", {"text": NOTHING})
        done, checked = 0, False
        for call, result in answered(turn.messages):
            if call.name == "check":
                checked = True
            elif result == NOTHING or not steps:
                return Call("answer", {"text": NOTHING})
            else:
                value, done = result, done + 1
        useless = not self._flawless and "check" in role.tools and not checked and done == len(steps)
        if useless and chance(1) < self._options.useless_check:
            return Call("check", {"claim": value})
        # Whether it stops early is decided once, at the last step but one.
        early = done == len(steps) - 1 and len(steps) >= 3 and turn.level == 0
        if done == len(steps) or (early and not self._flawless and chance(2) < self._options.stops_early):
            return self._answer(role, value)
        return self._make(role, steps[done], value, chance)

    def _answer(self, role: Role, value: str) -> Call:
        finals = [name for name in role.options.calls if self._hierarchy.roles[name].options.final]
        if finals and not role.options.final:
            return Call("ask", {"task": quoted(value), "agent": finals[0]})
        return Call("answer", {"text": value})

    def _make(self, role: Role, step: Step, value: str, chance: _Chance) -> Call:
        """The call that makes one step: an own tool, or the sub-agent that is asked for it."""
        fitting = role.makers(step)
        others = [name for name in role.options.calls if self._can(name, step)]
        if self._flawless:
            fitting = self._right(role, step)
            others = [name for name in others if self._serves(name, step)] or others
        if not fitting and not others:
            return Call("answer", {"text": NOTHING})
        asks = bool(others) and not self._flawless and chance(5) < self._options.over_delegates
        if fitting and not asks:
            tool = self._favourite(fitting, self._options.prefers_cache, chance(3))
            if tool == "compute":
                return Call(tool, {"operation": step.name, "operand": _int(step.operand), "value": _int(value)})
            if tool in LOOKUPS:
                return Call(tool, {"relation": step.name, "entity": value})
            made = tool_step(role.tools[tool], step, value)
            return made if isinstance(made, Call) else Call("answer", {"text": NOTHING})
        agent = self._favourite(others, self._options.prefers_first, chance(4))
        return Call("ask", {"task": f"{quoted(value)} {step.words}", "agent": agent})

    def _favourite(self, names: list[str], share: float, chance: float) -> str:
        if self._flawless or len(names) == 1 or chance < share:
            return names[0]
        return names[1 + int((chance - share) / (1.0 - share) * (len(names) - 1))]

    def _below(self, name: str) -> list[str]:
        """The roles that a role may call further down."""
        hierarchy = self._hierarchy
        return [n for n in hierarchy.roles[name].options.calls if hierarchy.levels[n] > hierarchy.levels[name]]

    def _can(self, name: str, step: Step) -> bool:
        """Whether a role, or one below it, has a tool for such a step."""
        fits = bool(self._hierarchy.roles[name].makers(step))
        return fits or any(self._can(other, step) for other in self._below(name))

    def _right(self, role: Role, step: Step) -> list[str]:
        """The role's own tools that make exactly this step rightly."""
        stale = step.name in self._hierarchy.stale
        return [
            tool
            for tool in role.makers(step)
            if tool not in LOOKUPS or (role.covers(step.name) and not (stale and tool == "cache"))
        ]

    def _serves(self, name: str, step: Step) -> bool:
        """Whether a role, or one below it, can make exactly this step rightly."""
        own = bool(self._right(self._hierarchy.roles[name], step))
        return own or any(self._serves(other, step) for other in self._below(name))


class _Chance:
    """Uniform numbers of one key, by purpose."""

    def __init__(self, key: int):
        self._key = key

    def __call__(self, purpose: int) -> float:
        return (fold_int(self._key, purpose) & ((1 << 53) - 1)) / (1 << 53)


def _int(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0

"""What would end in a table of nothing: questions that no hierarchy could answer, and plans that cannot be followed."""

from __future__ import annotations

from marl.errors import UserError
from scenarios.agent_hierarchy.calls import Fault, tool_step
from scenarios.agent_hierarchy.config import HierarchyConfig
from scenarios.agent_hierarchy.hierarchy import Hierarchy
from scenarios.agent_hierarchy.tasks import NOTHING, Step, Task, TaskFile, generate

#: Generated questions of which at least one has to have an answer.
_TRIED = 64


def hierarchy_of(config: HierarchyConfig) -> Hierarchy:
    """A configuration, resolved. Raises ``UserError`` if it cannot work, or none of its questions could be answered."""
    hierarchy = Hierarchy(config)
    check_answerable(hierarchy)
    return hierarchy


def check_answerable(hierarchy: Hierarchy) -> None:
    """Raise ``UserError`` if no question could be answered, or if a file's question or plan cannot work.

    Args:
        hierarchy: its graph, tools and questions.
    """
    if hierarchy.tasks is None:
        _check_generated(hierarchy)
    else:
        _check_file(hierarchy, hierarchy.tasks)


def unplanned(hierarchy: Hierarchy) -> str:
    """Why a demonstrator can show nothing: the questions for training have no plan. Empty if it can."""
    if hierarchy.tasks is None or any(task.steps for task in hierarchy.tasks.training):
        return ""
    return f"the training tasks of {hierarchy.tasks.path} have no 'plan' that a demonstrator could follow"


def check_planned(hierarchy: Hierarchy, who: str) -> None:
    """Raise ``UserError`` if one of the questions at hand has no plan, so that a rule would only seem to fail at it.

    Args:
        hierarchy: its questions.
        who: the policy that needs the plans.
    """
    without = [] if hierarchy.tasks is None else [task for task in hierarchy.asked if not task.steps]
    if without:
        assert hierarchy.tasks is not None
        raise UserError(
            f"policy '{who}' follows plans, and {len(without)} of the {len(hierarchy.asked)} tasks of "
            f"{hierarchy.tasks.path} that it would meet have none (first: {without[0].question[:60]!r}): leave {who} "
            "out, or add a 'plan' to each"
        )


def cautions(hierarchy: Hierarchy) -> list[str]:
    """What somebody who trains with these roles and questions should know."""
    own = [tool.name for role in hierarchy.roles.values() for tool in role.tools.values() if tool.own]
    if not own or hierarchy.config.grammar != "compact":
        return []
    return [
        f"what {own[0]} answers may hold words outside the compact grammar, which a policy of kind tiny cannot tell "
        "apart: choose world.grammar=json"
    ]


def _check_generated(hierarchy: Hierarchy) -> None:
    if any(tool.own for role in hierarchy.roles.values() for tool in role.tools.values()):
        return  # what the user's own tools can answer, nobody knows
    tasks = [generate(hierarchy.config.tasks, key) for key in range(_TRIED)]
    least = [found[1] for found in map(hierarchy.optimum, tasks) if found is not None]
    if not least:
        step = next(step for step in tasks[0].steps if not hierarchy.can_make(step))
        raise UserError(f"no question can be answered: {_missing(step)}; add one to a role of world.graph")
    if min(least) > hierarchy.config.max_calls:
        raise UserError(
            f"no question can be answered: the shortest takes {min(least)} calls, world.max_calls="
            f"{hierarchy.config.max_calls}"
        )


def _missing(step: Step) -> str:
    if step.given:
        return f"no role has a tool {step.name!r}"
    if step.operand:
        return f"no role has the tool compute for {step.words!r}"
    return f"no role has a tool (cache, fresh, or one of your own) that covers {step.name!r}"


def _check_file(hierarchy: Hierarchy, file: TaskFile) -> None:
    relations = {relation for relation, _ in file.knowledge.facts or {}}
    if relations and not any(hierarchy.can_make(Step(relation)) for relation in relations):
        raise UserError(f"the knowledge of {file.path} cannot be looked up: {_missing(Step(min(relations)))}")
    if hierarchy.config.plan and not any(task.steps for task in file.tasks):
        raise UserError(f"world.plan=true shows the plans of {file.path}, and no task of it has one")
    for number, task in enumerate(file.tasks, 1):
        place = f"task {number} of {file.path}"
        size = _size(hierarchy, task.question)
        if size >= hierarchy.config.context:
            raise UserError(
                f"{place} alone takes {size} of the {hierarchy.config.context} that a conversation may: raise "
                "world.context"
            )
        _check_plan(hierarchy, task, place)


def _size(hierarchy: Hierarchy, text: str) -> int:
    return len(text.split()) if hierarchy.config.grammar == "compact" else len(text) // 3


def _check_plan(hierarchy: Hierarchy, task: Task, place: str) -> None:
    value = task.start
    for step in task.steps:
        if not hierarchy.can_make(step):
            raise UserError(f"the plan of {place} cannot be followed: {_missing(step)}")
        own = [role.tools[name] for role in hierarchy.roles.values() for name in role.makers(step)]
        own = [tool for tool in own if tool.own]
        for tool in own:
            # What tools have answered so far is not known here, but something will be.
            call = tool_step(tool, step, None if value == NOTHING else value)
            if isinstance(call, Fault):
                raise UserError(f"the plan of {place} cannot be followed: {tool.name} has a {call.reason}")
        known = task.knowledge.take(step, value)
        if known == NOTHING and not own and value != NOTHING:
            raise UserError(f"the plan of {place} cannot be followed: the knowledge has no {step.words!r} of {value!r}")
        value = known
    words = (task.start, *(step.name for step in task.steps), *_met(task))
    several = next((word for word in words if len(word.split()) > 1), None)
    if hierarchy.config.grammar == "compact" and several is not None:
        raise UserError(f"the plan of {place} needs {several!r}, which is several words: choose world.grammar=json")


def _met(task: Task) -> list[str]:
    """The values on the way of a plan that a lookup is asked about, as far as the knowledge tells them."""
    values, value = [], task.start
    for step in task.steps[:-1]:
        value = task.knowledge.take(step, value)
        values.append(value)
    return values

"""The world: a PettingZoo ``AECEnv`` whose selected agent is the top of a call stack."""

from __future__ import annotations

import copy
from typing import Any

from marl.envs.chat import (
    ChatSpace,
    ConversationSpace,
    LanguageEnv,
    Message,
    Messages,
    Outcome,
    Turn,
    TurnResult,
)
from marl.seeding import Stream, fold_int
from scenarios.agent_hierarchy.calls import Call, Fault, plain_answer, read, render
from scenarios.agent_hierarchy.conversations import Conversation, OpenCall, chance, instruction, intended, text_number
from scenarios.agent_hierarchy.guard import guarded
from scenarios.agent_hierarchy.hierarchy import Hierarchy, Role
from scenarios.agent_hierarchy.tasks import MAX_TEXT, NOTHING, Task, generate, spelt, spoken_task
from scenarios.agent_hierarchy.tools import Tool, run

#: Shares of the seeds: the two never meet.
_TRAIN, _HELD_OUT = Stream.TRAIN, Stream.EVALUATE
_FAILURE = Stream.WORLD + 4
_INVALID, _OVER = "invalid", "over"


class HierarchyEnv(LanguageEnv):
    """One user's question, answered by a hierarchy of roles.

    Every role is an agent. The selected agent says a call: a tool's result comes back in its conversation, ``ask``
    opens a conversation of another role, ``answer`` closes its own and hands the text to the caller; the first role's
    answer (or that of a role marked ``final``) ends the episode. A text that is no legal call costs a penalty, is
    answered with ``invalid`` and changes nothing else. All agents earn the team's reward at the end.

    Seeds of ``reset`` choose the task: the same seed always gives the same question, knowledge and failures.
    ``said`` holds all conversations of the episode, in the order in which they were opened.

    Args:
        hierarchy: roles, tools and questions.
        render_mode: ``ansi``, or None.
        planned: of a file's questions ask only those with a plan, which a demonstrator can follow.
    """

    def __init__(self, hierarchy: Hierarchy, render_mode: str | None = None, planned: bool = False):
        super().__init__()
        self.hierarchy, self.render_mode = hierarchy, render_mode
        self.metadata = {"name": "agent_hierarchy_v0", "render_modes": ["ansi"], "is_parallelizable": False}
        config = hierarchy.config
        self.possible_agents = list(hierarchy.roles)
        self.agent_selection: str
        self.observation_spaces = {name: ConversationSpace(4 * MAX_TEXT) for name in self.possible_agents}
        self.action_spaces = {name: ChatSpace(MAX_TEXT, hierarchy.examples()) for name in self.possible_agents}
        self._compact = config.grammar == "compact"
        self._domain = fold_int(0, _HELD_OUT if config.held_out else _TRAIN)
        self._tasks = None if hierarchy.tasks is None else hierarchy.asked
        if planned and self._tasks is not None:
            self._tasks = tuple(task for task in self._tasks if task.steps)
        self._episodes = 0
        self._seed = 0
        self._stack: list[OpenCall] = []
        self.task: Task

    def observation_space(self, agent: str) -> ConversationSpace:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> ChatSpace:
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Begin the episode of a seed; without one, the next of those that follow the last seed."""
        if seed is not None:
            self._seed, self._episodes = int(seed), 0
        key = fold_int(fold_int(self._domain, self._seed), self._episodes)
        self._episodes += 1
        self._key = key
        if self._tasks is None:
            self.task = generate(self.hierarchy.config.tasks, key)
        else:
            self.task = self._tasks[(key & ((1 << 63) - 1)) % len(self._tasks)]
        # The question of a file is in words of its own; a generated one is spelt as a plan is.
        self._plan = spelt(self.task.start, self.task.steps) if self._tasks is not None and self.task.steps else ""
        self.agents = self.possible_agents[:]
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos: dict[str, dict[str, Any]] = {agent: {} for agent in self.agents}
        self._conversations: list[OpenCall] = []
        self.said: list[Conversation] = []
        self._numbers: list[int] = []
        self._turns = self._calls = self._lookups = self._invalid = self._corrections = 0
        self._made = dict.fromkeys(self.possible_agents, 0)
        self._cost = 0.0
        self._answer: str | None = None
        self._over, self._earned, self._illegal = False, 0.0, False
        self._last_text = ""
        self._stack = []
        self._open(self.hierarchy.roles[self.hierarchy.entry], None, self.task.question)

    def turn(self) -> Turn | None:
        if self._over:
            return None
        top = self._stack[-1]
        return Turn(
            top.role.name,
            self._numbers[-1],
            top.result.caller,
            top.result.level,
            top.messages,
            top.role.schemas,
            fold_int(top.anchor, text_number(top.messages[-1]["content"])),
            self._plan if top.result.level == 0 else "",
        )

    def observe(self, agent: str) -> Messages:
        """The messages of the agent's open conversation (the innermost, if there are several); empty without one."""
        for conversation in reversed(self._stack):
            if conversation.role.name == agent:
                return Messages(conversation.messages)
        return Messages()

    def step(self, action: str | None) -> None:
        if self.terminations[self.agent_selection] or self.truncations[self.agent_selection]:
            self._was_dead_step(action)
            return
        speaker = self.agent_selection
        self._cumulative_rewards[speaker] = 0.0
        for agent in self.rewards:
            self.rewards[agent] = 0.0
        top = self._stack[-1]
        self._earned, self._illegal = 0.0, False
        self._turns += 1
        top.result.turns += 1
        calls = read(action, top.role.tools)
        text = action if isinstance(action, str) else ""
        if isinstance(calls, Fault):
            self._add(top, top.said(text[:MAX_TEXT], ()))
            plain = plain_answer(text, top.role.tools) if self.hierarchy.config.plain_answers else None
            call = Call("answer", {"text": plain}) if plain else self._corrected(top, action, calls)
            if isinstance(call, Call):
                self._execute(top, call)
        else:
            self._add(top, top.said(text, calls))
            self._go_on(top)
        self._enforce_budgets()
        if not self._over:
            self.agent_selection = self._stack[-1].role.name
        self._accumulate_rewards()

    def turn_result(self) -> TurnResult:
        return TurnResult(self._earned, self._illegal)

    def outcome(self) -> Outcome:
        assert self._over, "the episode is still going on"
        optimum = self.hierarchy.optimum(self.task)
        metrics = {
            "invalid_actions": float(self._invalid),
            "lookups": float(self._lookups),
            "turns": float(self._turns),
            "corrections": float(self._corrections),
            "hops": float(self.task.hops),
            "optimal_cost": optimum[0] if optimum else float("nan"),
            "optimal_calls": float(optimum[1]) if optimum else float("nan"),
        }
        results = [conversation.result for conversation in self._conversations]
        return Outcome(self._succeeded(), self._cost, self._calls, results, metrics)

    def render(self) -> str | None:
        """The open conversations as text."""
        if self.render_mode != "ansi":
            return None
        lines = []
        for depth, conversation in enumerate(self._stack):
            lines += [f"{'  ' * depth}{m['role']}: {m['content']}" for m in conversation.messages]
        return "\n".join(lines)

    def close(self) -> None:
        """Holds nothing that needs closing."""

    def __deepcopy__(self, memo: dict[int, Any]) -> HierarchyEnv:
        """The same moment once more; what never changes is shared."""
        fixed = (self.hierarchy, self._tasks, self.task, self.observation_spaces, self.action_spaces, self.metadata)
        memo |= {id(thing): thing for thing in fixed}
        for conversation in self._conversations:
            memo[id(conversation.role)] = conversation.role
            memo |= {id(message): message for message in conversation.messages}
        other = memo[id(self)] = type(self).__new__(type(self))
        other.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return other

    def _corrected(self, top: OpenCall, action: str | None, fault: Fault) -> Call | Fault:
        """What the guard, if there is one, executes in the place of a text that is no legal call; else its refusal."""
        config = self.hierarchy.config
        call = guarded(action, top.role.tools, Call("answer", {"text": NOTHING})) if config.guard else fault
        if isinstance(call, Fault):
            self._refuse(top, _INVALID if self._compact else f"error: {call.reason}")
            return call
        self._corrections += 1
        self._earned -= config.guard_price
        self.rewards[top.role.name] -= config.guard_price
        self._hear(top, "executed " + render(call, config.grammar))
        return call

    def _go_on(self, top: OpenCall) -> None:
        """Make the calls of the last turn that are still to be made, until one of them opens a conversation."""
        while top.queue and not self._over and self._stack[-1] is top:
            call, name = top.queue.popleft()
            top.answering = name, call.name
            if call.name == "answer" and top.several:
                self._refuse(top, _INVALID if self._compact else "error: answer alone, once you have read the results")
            else:
                self._execute(top, call)

    def _execute(self, top: OpenCall, call: Call) -> None:
        if call.name == "answer":
            self._close(call.arguments["text"], by_itself=True)
        elif self._calls >= self.hierarchy.config.max_calls or self._spent(top.role):
            self._refuse(top, _OVER)
        elif call.name == "ask":
            self._delegate(top, call)
        else:
            self._use(top, top.role.tools[call.name], call)

    def _delegate(self, top: OpenCall, call: Call) -> None:
        callee = self.hierarchy.roles[call.arguments["agent"]]
        rounds = sum(conversation.role is callee for conversation in self._stack)
        if rounds >= self.hierarchy.graph.max_rounds:
            self._refuse(top, _OVER)
            return
        task = call.arguments["task"]
        top.asked, top.pending = render(call, self.hierarchy.config.grammar), len(spoken_task(task)[1])
        top.told.append(["above", top.asked, *intended(top)])
        self._count(top)
        self._pay(top, self.hierarchy.config.costs.delegation)
        self._open(callee, top, task)

    def _use(self, top: OpenCall, tool: Tool, call: Call) -> None:
        self._count(top)
        self._lookups += 1
        top.pending = int(tool.name != "check")
        self._pay(top, self.hierarchy.cost_of(tool.name))
        relation = call.arguments.get("relation")
        if isinstance(relation, str) and (not top.role.covers(relation) or self._fails(top.role, call)):
            result, failed = NOTHING, False
        else:
            seconds, most = self.hierarchy.config.tool_seconds, self.hierarchy.config.tool_characters
            result, failed = run(tool, call.arguments, self.task.knowledge, seconds, most)
        if failed:
            self.infos[top.role.name]["tool_error"] = result
        self._hear(top, result)

    def _spent(self, role: Role) -> bool:
        """Whether a role has used up the calls that it may make in an episode."""
        return role.options.budget is not None and self._made[role.name] >= role.options.budget

    def _count(self, top: OpenCall) -> None:
        self._calls += 1
        self._made[top.role.name] += 1

    def _fails(self, role: Role, call: Call) -> bool:
        """Whether an unhelpful role finds nothing this time; the same for every policy that asks the same."""
        if role.options.failure == 0.0:
            return False
        key = fold_int(self._key, _FAILURE)
        for word in (role.name, *map(str, call.arguments.values())):
            key = fold_int(key, text_number(word))
        return chance(key) < role.options.failure

    def _open(self, role: Role, caller: OpenCall | None, task: str) -> None:
        level = 0 if caller is None else caller.result.level + 1
        anchor = fold_int(text_number(role.name), text_number(task))
        new = OpenCall(role, caller.role.name if caller else None, level, task, anchor)
        self._numbers.append(len(self._conversations))
        self._conversations.append(new)
        self.said.append(Conversation(role.name, level, new.messages))
        self._stack.append(new)
        self.agent_selection = role.name
        self._add(new, {"role": "system", "content": instruction(role, self.hierarchy.config)})
        self._add(new, {"role": "user", "content": self._request(new, caller, task)})

    def _request(self, new: OpenCall, caller: OpenCall | None, task: str) -> str:
        """What a role sees of its task, of the question, and of what its caller has seen."""
        parts = [task]
        reads = new.role.options.reads
        if caller is not None and reads == "caller":
            parts += ["seen", *(m["content"] for m in caller.messages if m["role"] in ("user", "tool"))]
        elif caller is not None and reads == "question":
            parts += ["asked", self.task.question]
        config = self.hierarchy.config
        if config.announce:
            for above in self._stack[:-1]:
                parts += self._heard_of(above)
        if config.plan:
            # The planner is told the steps, a sub-agent which of them its task is.
            known = spoken_task(task)[1]
            steps = [step for step in self.task.steps if caller is None or step in known]
            parts += ["plan", *(f"{step.words}" for step in steps)]
        return " ".join(parts)

    def _heard_of(self, above: OpenCall) -> list[str]:
        """What a new conversation hears of the announcements of an agent above it: late, lost or garbled ones."""
        config = self.hierarchy.config
        if len(above.told) <= config.announce_delay:
            return []
        told = above.told[-1 - config.announce_delay]
        key = fold_int(fold_int(fold_int(self._key, Stream.MESSAGES), len(self._conversations)), above.result.level)
        if config.announce_loss and chance(fold_int(key, 0)) < config.announce_loss:
            return []
        if not config.announce_noise:
            return told
        words = " ".join(told).split(" ")
        known = self.hierarchy.vocabulary()
        for place in range(1, len(words)):
            own = fold_int(key, place)
            if chance(own) < config.announce_noise:
                words[place] = known[fold_int(own, 0) % len(known)]
        return words

    def _close(self, text: str, by_itself: bool) -> None:
        """The innermost conversation ends with an answer."""
        closed = self._stack.pop()
        self._numbers.pop()
        closed.result.closed = by_itself
        closed.result.correct = self._is_right(closed, text)
        if not self._stack or closed.role.options.final:
            self._end(text, truncated=False)
            return
        caller = self._stack[-1]
        caller.result.cost += closed.result.cost
        self._hear(caller, text)
        self._go_on(caller)

    def _is_right(self, closed: OpenCall, text: str) -> bool | None:
        if closed.result.level == 0 or closed.role.options.final:
            return text.strip() == self.task.answer
        value, steps = spoken_task(closed.task)
        for step in steps:
            value = self.task.knowledge.take(step, value)
        return None if value == NOTHING or not steps else text.strip() == value

    # Bookkeeping

    def _add(self, conversation: OpenCall, message: Message) -> None:
        conversation.messages.append(message)
        content: str = message["content"]
        # A byte-level tokenizer makes about one token of three characters.
        conversation.size += content.count(" ") + 2 if self._compact else len(content) // 3 + 2

    def _hear(self, top: OpenCall, text: str) -> None:
        if top.answering is not None:
            top.made += 0 if text == NOTHING else top.pending
            top.pending = 0
        self._add(top, top.heard(text))

    def _refuse(self, top: OpenCall, reason: str) -> None:
        self._invalid += 1
        self._illegal = True
        top.result.invalid += 1
        self.rewards[top.role.name] -= self.hierarchy.config.costs.invalid
        self._hear(top, reason)

    def _pay(self, top: OpenCall, cost: float) -> None:
        self._cost += cost
        top.result.cost += cost

    def _enforce_budgets(self) -> None:
        """Close what has used up its turns or its context; end an episode that has used up all turns."""
        config = self.hierarchy.config
        while not self._over:
            top = self._stack[-1]
            if self._turns >= config.max_turns:
                self._end(None, truncated=True)
            elif top.result.turns >= top.role.options.turns or top.size >= config.context:
                self._close(NOTHING, by_itself=False)
            else:
                return

    def _succeeded(self) -> bool:
        return self._answer is not None and self._answer.strip() == self.task.answer

    def _end(self, answer: str | None, truncated: bool) -> None:
        self._over, self._answer = True, answer
        costs = self.hierarchy.config.costs
        reward = max(0.0, 1.0 - costs.weight * self._cost) if self._succeeded() else 0.0
        flags = self.truncations if truncated else self.terminations
        for agent in self.agents:
            flags[agent] = True
            self.rewards[agent] += reward
        self._stack, self._numbers = [], []

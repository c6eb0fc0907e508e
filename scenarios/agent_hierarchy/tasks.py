"""Tasks and the knowledge that answers them, generated from a key or read from a file.

A question is a start and a list of steps: ``e5 r3 r1`` asks for the r1 of the r3 of e5; ``e5 size add 3`` for its size
plus 3. Generated knowledge is a random function of the task's own key: nothing of it can be learned by heart, every
question has exactly one answer, and looking it up needs no storage.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from marl.errors import UserError
from marl.files import read_text
from marl.seeding import Stream, fold_int
from scenarios.agent_hierarchy.config import TaskConfig

#: Of a file of questions.
MAX_BYTES = 50_000_000
#: Characters of anything that is said.
MAX_TEXT = 4096
#: What a lookup says that finds nothing.
NOTHING = "none"
#: Words after which a message holds something else than the task.
MARKS = ("asked", "seen", "above", "plan")
#: The relation from an entity to a number, known to every lookup.
SIZE = "size"

_TASK, _FACT, _STALE = Stream.WORLD + 1, Stream.WORLD + 2, Stream.WORLD + 3
_OPERATIONS = ("add", "sub", "mul")
#: A word of a task: one without spaces, or several in quotation marks.
_WORD = re.compile(r'"([^"]+)"|(\S+)')
#: ``name=value`` after the name of a tool.
_GIVEN = re.compile(r"([A-Za-z_]\w*)=(.+)", re.DOTALL)


class Step(NamedTuple):
    """One step of a question: a relation (no operand), an operation with its operand, or a tool by its name, with
    ``parameter=value`` words for what is not the value so far."""

    name: str
    operand: str = ""

    @property
    def words(self) -> str:
        return f"{quoted(self.name)} {self.operand}".rstrip()

    @property
    def given(self) -> dict[str, str]:
        """The parameters that a tool's step spells out."""
        pairs = [_GIVEN.fullmatch(word) for word in words_of(self.operand)]
        return {pair[1]: pair[2] for pair in pairs if pair is not None}


def quoted(word: str) -> str:
    """A word as tasks spell it: in quotation marks if it holds spaces."""
    return f'"{word}"' if len(word.split()) != 1 else word


def words_of(text: str) -> list[str]:
    """The words of a task; what stands in quotation marks is one of them."""
    return [inner or plain for inner, plain in _WORD.findall(text)] if '"' in text else text.split()


@dataclass(frozen=True)
class Knowledge:
    """Facts of one episode.

    Generated from ``key``, or given as ``facts``: (relation, entity) -> value; ``stale``: the same for the cache.
    """

    key: int
    entities: int
    modulus: int
    stale_relations: frozenset[str]
    facts: Mapping[tuple[str, str], str] | None = None
    stale: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def lookup(self, relation: str, entity: str) -> str:
        """The truth, or ``NOTHING``."""
        if self.facts is not None:
            return self.facts.get((relation, entity), NOTHING)
        number, of = _number(relation, "r"), _number(entity, "e")
        if not 0 <= of < self.entities or (number < 0 and relation != SIZE):
            return NOTHING
        drawn = _unsigned(fold_int(fold_int(fold_int(self.key, _FACT), number), of))
        return str(drawn % self.modulus) if relation == SIZE else f"e{drawn % self.entities}"

    def cached(self, relation: str, entity: str) -> str:
        """What the cache says: the truth, except for stale relations."""
        truth = self.lookup(relation, entity)
        if truth == NOTHING or relation not in self.stale_relations:
            return self.stale.get((relation, entity), truth)
        other = 1 + _unsigned(fold_int(fold_int(self.key, _STALE), _number(entity, "e"))) % (self.entities - 1)
        return f"e{(_number(truth, 'e') + other) % self.entities}"

    def arithmetic(self, operation: str, operand: int, value: int) -> str:
        """The result, modulo ``modulus``, or ``NOTHING`` for an unknown operation."""
        results = {"add": value + operand, "sub": value - operand, "mul": value * operand}
        return str(results[operation] % self.modulus) if operation in results else NOTHING

    def take(self, step: Step, value: str) -> str:
        """What a step makes of a value; ``NOTHING`` stays nothing."""
        if not step.operand:
            return self.lookup(step.name, value)
        operand, number = _plain_int(step.operand), _plain_int(value)
        return NOTHING if operand is None or number is None else self.arithmetic(step.name, operand, number)


@dataclass(frozen=True)
class Task:
    """A question with its one answer. hops: lookups on the way to it."""

    start: str
    steps: tuple[Step, ...]
    answer: str
    knowledge: Knowledge
    question: str

    @property
    def hops(self) -> int:
        return sum(not step.operand for step in self.steps)


def generate(config: TaskConfig, key: int) -> Task:
    """The task of a key."""
    key = fold_int(key, _TASK)
    draws = _Draws(key)
    hops = config.hops[draws.below(len(config.hops))]
    calculates = hops == 0 or draws.unit() < config.arithmetic
    knowledge = Knowledge(key, config.entities, config.modulus, frozenset(f"r{n}" for n in config.stale))
    steps = [Step(f"r{draws.below(config.relations)}") for _ in range(hops)]
    if calculates:
        if hops:
            steps[-1] = Step(SIZE)
        operations = config.operations[draws.below(len(config.operations))]
        steps += [
            Step(_OPERATIONS[draws.below(len(_OPERATIONS))], str(1 + draws.below(config.modulus - 1)))
            for _ in range(operations)
        ]
    start = f"e{draws.below(config.entities)}" if hops else str(draws.below(config.modulus))
    return _solved(start, tuple(steps), knowledge)


def _solved(start: str, steps: tuple[Step, ...], knowledge: Knowledge, question: str = "") -> Task:
    value = start
    for step in steps:
        value = knowledge.take(step, value)
    return Task(start, steps, value, knowledge, question or spelt(start, steps))


def spelt(start: str, steps: Iterable[Step]) -> str:
    """Start and steps as tasks spell them; ``spoken_task`` reads them back."""
    return " ".join([quoted(start), *(step.words for step in steps)])


def steps_of(words: list[str]) -> tuple[Step, ...]:
    """The steps that words spell: an operation takes the word after it as its operand, a tool all ``name=value``."""
    steps: list[Step] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in _OPERATIONS and rest:
            steps.append(Step(word, rest.pop(0)))
        elif steps and steps[-1].name not in _OPERATIONS and _GIVEN.fullmatch(word):
            step = steps[-1]
            steps[-1] = Step(step.name, f"{step.operand} {quoted(word)}".lstrip())
        else:
            steps.append(Step(word))
    return tuple(steps)


def spoken_task(text: str) -> tuple[str, tuple[Step, ...]]:
    """Start and steps of a question or a delegated task, which are spelt alike; a mark ends them."""
    words = words_of(text)
    end = next((place for place, word in enumerate(words) if word in MARKS), len(words))
    return (words[0] if words else NOTHING), steps_of(words[1:end])


@dataclass(frozen=True)
class TaskFile:
    """The tasks of a file, in its order and by use. A file that marks none as held out has the same ones for both."""

    path: Path
    tasks: tuple[Task, ...]
    training: tuple[Task, ...]
    held_out: tuple[Task, ...]

    @property
    def knowledge(self) -> Knowledge:
        """What all its tasks ask about."""
        return self.tasks[0].knowledge

    @property
    def stale(self) -> frozenset[str]:
        """Relations of which the cache has something wrong."""
        return frozenset(relation for relation, _ in self.knowledge.stale)

    def words(self) -> list[str]:
        """Every word that its questions, plans, answers and knowledge are written in."""
        texts: dict[str, None] = {}
        for task in self.tasks:
            texts |= dict.fromkeys((task.question, task.answer, task.start, *(step.words for step in task.steps)))
        for facts in (self.knowledge.facts or {}, self.knowledge.stale):
            texts |= {part: None for (relation, entity), value in facts.items() for part in (relation, entity, value)}
        return list(dict.fromkeys(word for text in texts for word in text.split()))


def read_tasks(path: Path) -> TaskFile:
    """Tasks of a JSON file: ``{"knowledge": [[entity, relation, value], ...], "stale": [the same], "tasks":
    [{"question", "answer", "plan", "held_out"}, ...]}``; the plan, a list of words from the start on, may be left out.

    Raises ``UserError`` that names the fault.
    """
    text = read_text(path, MAX_BYTES)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not JSON") from None
    try:
        facts = {(str(relation), str(entity)): str(value) for entity, relation, value in data.get("knowledge", [])}
        stale = {(str(relation), str(entity)): str(value) for entity, relation, value in data.get("stale", [])}
        knowledge = Knowledge(0, 2, 1000, frozenset(), facts, stale)
        tasks = [_task_from(item, knowledge) for item in data["tasks"]]
        marks = [bool(item.get("held_out", False)) for item in data["tasks"]]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(f"{path} must hold tasks with a question and an answer, and knowledge as triples") from None
    if not tasks:
        raise UserError(f"{path} holds no task")
    if all(marks):
        raise UserError(f"{path} marks all of its tasks as held_out: leave the mark out where they are for training")
    for number, task in enumerate(tasks, 1):
        _check(task, f"task {number} of {path}")
    training = tuple(task for task, mark in zip(tasks, marks, strict=True) if not mark)
    held_out = tuple(task for task, mark in zip(tasks, marks, strict=True) if mark)
    return TaskFile(path, tuple(tasks), training, held_out or training)


def _task_from(item: Mapping[str, Any], knowledge: Knowledge) -> Task:
    question, answer, plan = item["question"], item["answer"], item.get("plan", [])
    if not isinstance(question, str) or isinstance(answer, bool) or not isinstance(answer, str | int):
        raise TypeError
    if not isinstance(plan, list) or not all(type(word) in (str, int) for word in plan):
        raise TypeError
    words = [str(word) for word in plan]
    return Task(words[0] if words else "", steps_of(words[1:]), str(answer).strip(), knowledge, question)


def _check(task: Task, place: str) -> None:
    """Raise ``UserError`` for what no answer could ever be right for, and for a plan that leads elsewhere."""
    for what, text in (("question", task.question), ("answer", task.answer)):
        if not text.strip():
            raise UserError(f"{place} has an empty {what}")
    if len(task.answer) > MAX_TEXT:
        raise UserError(f"the answer of {place} has {len(task.answer):,} characters: {MAX_TEXT:,} can be said")
    if task.start and not task.steps:
        raise UserError(f'the plan of {place} has a start and no step: it goes ["{task.start}", STEP, ...]')
    if task.steps and spoken_task(spelt(task.start, task.steps)) != (task.start, task.steps):
        raise UserError(f"the plan of {place} holds a word that a task cannot spell: quotes, or {', '.join(MARKS)}")
    value = task.start
    for step in task.steps:
        value = task.knowledge.take(step, value)
    if task.steps and value not in (NOTHING, task.answer):
        raise UserError(f"the plan of {place} leads to {value!r}, but its answer is {task.answer!r}")


class _Draws:
    """Random numbers of one key, one after the other."""

    def __init__(self, key: int):
        self._key, self._count = key, 0

    def unit(self) -> float:
        self._count += 1
        return _unsigned(fold_int(self._key, self._count)) / 2**64

    def below(self, n: int) -> int:
        return int(self.unit() * n)


def _unsigned(x: int) -> int:
    return x & ((1 << 64) - 1)


def _number(word: str, letter: str) -> int:
    """5 of ``e5``; -1 of anything else."""
    digits = word[1:]
    return int(digits) if word[:1] == letter and digits.isdecimal() and digits.isascii() and len(digits) < 6 else -1


def _plain_int(word: str) -> int | None:
    return int(word) if word.isascii() and word.isdecimal() and len(word) < 10 else None

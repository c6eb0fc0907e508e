"""What a conformance check reports: named faults, each with its place and one sentence."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

#: Every fault that the kit knows. An error breaks the contract; a warning is legal but rarely meant.
FAULTS: dict[str, tuple[Literal["error", "warning"], str]] = {
    "raises": ("error", "the environment raises where it has to answer"),
    "return-form": ("error", "reset or step does not return the tuple of dicts that the interface asks for"),
    "metadata": ("warning", "no metadata dict with a name"),
    "agents": ("error", "agents is empty after reset, repeats a name, or is not within possible_agents"),
    "agent-vanished": ("error", "an agent leaves without being terminated or truncated"),
    "agent-stays": ("error", "an agent is still listed after it was terminated or truncated"),
    "agent-revived": ("error", "an agent comes back in the episode in which it ended"),
    "keys": ("error", "a returned dict does not have exactly the agents of the step as keys"),
    "space-changes": ("error", "observation_space(agent) or action_space(agent) is not the same object each time"),
    "observation-type": ("error", "an observation is not of its space's kind"),
    "observation-dtype": ("error", "an observation has another dtype than its space"),
    "observation-shape": ("error", "an observation has another shape than its space"),
    "observation-not-finite": ("error", "an observation holds NaN or infinity"),
    "observation-outside-space": ("error", "an observation is outside the bounds of its space"),
    "reward-type": ("error", "a reward is not a number"),
    "reward-not-finite": ("error", "a reward is NaN or infinite"),
    "flag-type": ("error", "a termination or truncation is not a bool"),
    "both-flags": ("error", "an agent is terminated and truncated at once"),
    "time-limit-terminated": ("error", "the time limit is reported as termination, so values do not bootstrap there"),
    "time-limit-suspected": ("warning", "all episodes have one length and end by termination: a hidden time limit?"),
    "end-late": ("error", "a wrapper tells the end of an episode a step after the environment inside ended"),
    "horizon-exceeded": ("error", "an episode is longer than the horizon"),
    "mask-form": ("error", "an action mask has the wrong shape or other values than 0 and 1"),
    "mask-empty": ("error", "an action mask allows nothing, and it is no game in turns"),
    "info-form": ("error", "an agent's info is not a dict with text keys"),
    "state-outside-space": ("error", "state() is not in state_space"),
    "nondeterministic": ("error", "the same seed and actions give another episode in the same process"),
    "nondeterministic-across-processes": ("error", "the same seed and actions give another episode in a new process"),
    "reset-not-clean": ("error", "an episode depends on what was played in the environment before reset(seed)"),
    "unseeded-reset": ("warning", "after reset(seed), a later reset() without a seed is not reproducible"),
    "global-randomness": ("warning", "the global generators of random, numpy or torch are used or seeded"),
    "instances-share-state": ("error", "two environments, or two worlds, in one process influence each other"),
    "seed-ignored": ("warning", "different seeds give the same episode"),
    "returned-data-reused": ("error", "a value that was returned changes in a later step"),
    "returned-data-aliased": ("error", "writing to a returned value changes the environment"),
    "actions-changed": ("error", "step changes the actions that it was given"),
    "not-picklable": ("error", "the environment cannot be pickled, or is another one afterwards"),
    "close-twice": ("error", "a second close() raises"),
    "agent-selection": ("error", "agent_selection names an agent that is not in agents"),
    "spec": ("error", "the EnvSpec contradicts itself"),
    "tensor-form": ("error", "a field of the time step has another shape, dtype or device than the contract says"),
    "copy-depends-on-batch": ("error", "a copy is another one in a batch of another size"),
    "copy-depends-on-neighbour": ("error", "a copy changes with the actions or resets of another copy"),
    "partial-reset": ("error", "reset with a mask touches other copies, or starts the masked ones wrongly"),
    "face-differs": ("error", "the PettingZoo face is not the batched world step by step"),
    "restore-differs": ("error", "a restored snapshot does not continue as the original did"),
    "snapshot-changes": ("error", "a snapshot is changed by later steps"),
    "current-differs": ("error", "current() is not what reset or step returned"),
    "flags-inconsistent": ("error", "alive, terminated, truncated, done and agent_id contradict each other"),
    "final-missing": ("error", "an agent ended, but there is no final observation"),
    "metrics": ("error", "metrics are not those of the spec, or not finite where an episode ended"),
    "key-repeats": ("error", "a copy's random key is that of an earlier step"),
    "device-differs": ("error", "CPU and GPU give different worlds"),
}


class ConformanceError(AssertionError):
    """Raised by ``Report.raise_if_failed``."""


@dataclass
class Finding:
    """The first place at which a fault was met, and how often it was met in all."""

    fault: str
    where: str
    sentence: str
    count: int = 1

    @property
    def severity(self) -> Literal["error", "warning"]:
        return FAULTS[self.fault][0]

    def __str__(self) -> str:
        again = f" ({self.count} times)" if self.count > 1 else ""
        return f"{self.severity}: {self.fault} at {self.where}: {self.sentence}{again}"


@dataclass
class Report:
    """What was found in ``subject``. ``skipped`` names the checks that could not be made, and why."""

    subject: str
    findings: list[Finding] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    steps: int = 0

    @property
    def ok(self) -> bool:
        """Nothing but warnings."""
        return not self.errors

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def faults(self) -> set[str]:
        """The names of all findings."""
        return {finding.fault for finding in self.findings}

    def add(self, fault: str, where: str, sentence: str) -> None:
        """Note a fault; of one kind the first place is kept and the others are counted."""
        if fault not in FAULTS:
            raise KeyError(f"'{fault}' is not in FAULTS")
        for finding in self.findings:
            if finding.fault == fault:
                finding.count += 1
                return
        self.findings.append(Finding(fault, where, sentence))

    def raise_if_failed(self) -> None:
        """Raise ``ConformanceError`` with all findings if there is an error among them."""
        if not self.ok:
            raise ConformanceError(str(self))

    def __str__(self) -> str:
        verdict = "conforms" if self.ok else "does not conform"
        lines = [f"{self.subject} {verdict}: {len(self.errors)} errors in {self.steps} steps"]
        lines += [f"  {finding}" for finding in self.findings]
        lines += [f"  skipped: {reason}" for reason in self.skipped]
        return "\n".join(lines)

"""Completions per second, generation and update, on the work of the TRL comparison: a random model of width 128 and 2
layers, vocabulary 512, prompts of 48 tokens, completions of exactly 32, groups of 8, 64 completions per step.

What makes it fast: the prompt of a group is read once, members are decoded together from one cache, the update packs a
group as a tree (the prompt is computed once, attention goes by tiles of it), leaves the last block's outputs out where
nobody asks for them, and takes one gradient step, so that no log-probability pass is needed. No sequences are merged
here: all 64 completions differ.

    .venv/bin/python scripts/reproduce language_speed [--anchor "PYTHON trl_grpo_tiny.py --repeats 3"] [--out FILE]

--anchor: the command that measures TRL in an environment of its own and prints one JSON line. With it both sides run in
turns, one thread each on one core, and docs/benchmarks/language_speed.json (or ``--out``) is written.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from marl.envs.chat import Turn
from marl.learning.language.token_losses import tokens_of
from marl.learning.language.token_trees import TokenRow, pack
from marl.learning.learner import ClippedAdam
from marl.policies.language.base import Request, Transcript
from marl.policies.language.tiny import TinyPolicy
from marl.policies.language.tokenizer import ChatTokenizer, word_tokenizer
from marl.policies.language.transformer import TransformerConfig
from marl.training.process import prepare_process
from scripts.benchmarks.runner import PAGES

WORK = {"width": 128, "layers": 2, "vocabulary": 512, "prompt_tokens": 48, "tokens": 32, "group": 8, "batch": 64}
STEPS = 4  # optimiser steps per repeat
TARGETS = {"asked": 2.3, "aim": 3.0}
DIFFERENCES = [
    "the prompt of a group is read once, by TRL once per completion",
    "a group is packed as a tree in the update, so its prompt is computed once",
    "no pass for log-probabilities: there is one gradient step per batch, whose ratio is 1",
    "the last block computes outputs only at tokens whose prediction is learned",
    "identical sequences would be merged; here none are identical",
    "ours is the platform's policy and update without its trainer; TRL's figure includes its trainer's bookkeeping",
]
TARGET = PAGES / "language_speed.json"


class Bench:
    """One policy and its optimiser, stepped on random prompts."""

    def __init__(self) -> None:
        self._words = [f"w{i}" for i in range(WORK["vocabulary"] - 7)]
        tokenizer = ChatTokenizer(word_tokenizer(self._words))
        draw = torch.Generator().manual_seed(0)
        self._policy = TinyPolicy(tokenizer, TransformerConfig(), draw, WORK["tokens"], context=256)
        tokenizer.end = -1  # no token ends a completion: each has exactly as many
        self._adam = ClippedAdam(self._policy.module.parameters(), 1e-4, 1.0)
        self._draw = np.random.default_rng(0)
        self._number = 0

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self._policy.module.parameters())

    def step(self) -> None:
        """One batch: sampled, scored, and trained on once."""
        requests = []
        for _ in range(WORK["batch"] // WORK["group"]):
            # The marks of speaker and reply are two of the prompt's tokens.
            places = self._draw.integers(len(self._words), size=WORK["prompt_tokens"] - 2)
            text = " ".join(self._words[i] for i in places)
            for _ in range(WORK["group"]):
                self._number += 1
                turn = Turn("a", 0, None, 0, [{"role": "user", "content": text}], (), 0)
                requests.append(Request(turn, Transcript(), self._number * 7919))
        texts = self._policy.complete(requests)
        even = [sum(word[-1] in "02468" for word in (text or "").split()) / WORK["tokens"] for text in texts]
        reward = torch.tensor(even).view(-1, WORK["group"])
        advantage = (reward - reward.mean(1, keepdim=True)) / (reward.std(1, keepdim=True) + 1e-4)
        self._learn(
            [_row(request, value) for request, value in zip(requests, advantage.flatten().tolist(), strict=True)]
        )

    def _learn(self, rows: list[TokenRow]) -> None:
        self._adam.zero()
        weight = tokens_of(rows).weight
        for trees in pack(rows, 352, 4096):
            logits = self._policy.logits_at("a", trees.token, trees.position, trees.mask, trees.at)
            log_prob = torch.log_softmax(logits, -1).gather(1, trees.target[:, None])[:, 0]
            loss = -(log_prob * trees.summed(weight)).sum() / (WORK["batch"] * WORK["tokens"])
            torch.autograd.backward(loss)
        self._adam.step()


def _row(request: Request, advantage: float) -> TokenRow:
    ids = request.transcript.ids
    assert len(ids) == WORK["prompt_tokens"] + WORK["tokens"]
    learned = np.arange(len(ids)) >= WORK["prompt_tokens"]
    return TokenRow(ids, learned, advantage * learned, np.asarray(request.transcript.log_probs))


def measure(repeats: int) -> dict[str, Any]:
    """Our side: the median over repeats, after one that warms up."""
    prepare_process()
    bench = Bench()
    wall_rates, cpu_rates = [], []
    for _ in range(repeats + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(STEPS):
            bench.step()
        wall_rates.append(STEPS * WORK["batch"] / (time.perf_counter() - wall))
        cpu_rates.append(STEPS * WORK["batch"] / (time.process_time() - cpu))
    return {
        "completions_per_cpu_second": statistics.median(cpu_rates[1:]),
        "completions_per_wall_second": statistics.median(wall_rates[1:]),
        "parameters": bench.parameters,
    }


def run(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def compare(anchor: list[str], rounds: int, repeats: int) -> dict[str, Any]:
    """Both sides in turns, each in a process of its own on the same core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    ours, theirs, ratios = [], [], []
    last: dict[str, Any] = {}
    for number in range(rounds):
        last = run(anchor)
        theirs.append(float(last["secondary"]["completions_per_cpu_second"]))
        ours.append(float(run([sys.executable, __file__, "--repeats", str(repeats)])["completions_per_cpu_second"]))
        ratios.append(ours[-1] / theirs[-1])
        print(f"round {number}: {ours[-1]:.0f} and {theirs[-1]:.0f}, {ratios[-1]:.2f} times", file=sys.stderr)
    return {
        "schema_version": 1,
        "command": "scripts/reproduce language_speed --anchor COMMAND",
        "unit": "completions per CPU-second, generation and update",
        "device": platform.processor() or platform.machine(),
        "threads": 1,
        "work": WORK,
        "differences": DIFFERENCES,
        "marl": {"median": statistics.median(ours), "all": ours},
        "anchor": {"name": f"{last['anchor']} {last['version']}", "work": last["work"]},
        "anchor_value": {"median": statistics.median(theirs), "all": theirs},
        "ratio": round(statistics.median(ours) / statistics.median(theirs), 2),
        "ratio_of_rounds": [round(ratio, 2) for ratio in ratios],
        "target": TARGETS,
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anchor", help="command that prints TRL's JSON line")
    parser.add_argument("--rounds", type=int, default=5, help="of both sides, with --anchor")
    parser.add_argument("--repeats", type=int, default=5, help="measurements per process")
    parser.add_argument("--out", type=Path, default=TARGET, help="with --anchor: where the figures go")
    arguments = parser.parse_args()
    if arguments.anchor is None:
        print(json.dumps(measure(arguments.repeats)))
        return
    result = compare(shlex.split(arguments.anchor), arguments.rounds, arguments.repeats)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""``marl export``."""

# Functions that do the work are imported where they are called: they bring torch along.

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from marl.cli_words import TrustOption, check_writable
from marl.commands.output import line, say
from marl.plugins import trust


def export(
    policy: Annotated[str, typer.Argument(metavar="RUN", help="A run folder or a shipped policy, SCENARIO/NAME.")],
    onnx: Annotated[Path, typer.Option("--onnx", metavar="FILE", help="The graph's file.")],
    greedy: Annotated[
        bool | None,
        typer.Option("--greedy/--sample", help="The likeliest actions, or sampled ones; by default as evaluated."),
    ] = None,
    trusted: TrustOption = None,
) -> None:
    """Write a policy as an ONNX graph: observations and masks to actions, for programs without Python.

    RUN-safety is the policy without its supervisor, as in 'marl evaluate'.
    """
    from marl import api

    trust(*(trusted or []))
    check_writable(onnx)
    for graph in api.export(policy, onnx, greedy, echo=say):
        line(f"{graph.path}: opset {api.OPSET}, decides for {len(graph.agents)} agents and more of their kind")
        for direction, ports in (("in", graph.inputs), ("out", graph.outputs)):
            for port in ports:
                line(f"  {direction:3} {port.name}: {port.dtype} [{', '.join(map(str, port.shape))}]")

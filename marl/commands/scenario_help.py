"""Help that lists the options of the scenario on the line: ``marl train lifelong_mapf --help``."""

from __future__ import annotations

import copy
from typing import Any

import typer.core


class ScenarioCommand(typer.core.TyperCommand):
    """A command that takes a scenario's own options. Without a scenario its help says how to see them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep the words of the line for ``format_help``, which click calls while it still reads them."""
        ctx.meta["marl.words"] = list(args)
        return list(super().parse_args(ctx, args))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The command's own help, and below it a panel with the scenario's options."""
        words = [word for word in ctx.meta.get("marl.words", []) if word not in ("--help", "-h")]
        said = self.make_parser(ctx).parse_args(words)[0]
        name = self._scenario(said)
        shown = copy.copy(self)
        if name is None:
            hint = "Name a SCENARIO before --help to see its own options."
            shown.help = f"{self.help}\n\n{hint}"
        else:
            shown.params = [*self.params, *self._options(name, said.get("preset"))]
        super(ScenarioCommand, shown).format_help(ctx, formatter)

    def _scenario(self, said: dict[str, Any]) -> str | None:
        """The scenario that a line names, by itself or by a policy of it. Raises ``UserError`` for an unknown one."""
        if said.get("scenario"):
            return str(said["scenario"])
        checked = str(said.get("what") or ":")
        if ":" not in checked:
            return checked
        policy = said.get("policy")
        if policy:
            from marl.api import scenario_of

            return scenario_of(str(policy))
        return None

    def _options(self, name: str, preset: str | None) -> list[Any]:
        """The scenario's options as click knows them, each with its key and the value that it has by default."""
        from marl.explain import Explained
        from marl.scenario import load_scenario

        scenario = load_scenario(name)
        values = {key.name: key.value for key in Explained(name, preset=preset).tree()}
        pattern: Any = next(param for param in self.params if "--set" in param.opts)
        options = []
        for option in scenario.options:
            one: Any = copy.copy(pattern)
            one.opts, one.name, one.multiple, one.nargs = [option.flag], option.flag.strip("-"), False, 1
            one.metavar = "[VALUE]" if option.switch else "VALUE"
            value = values.get(option.key, "")
            one.help = f"{option.help} ({option.key}{f': {value}' if value else ''})"
            one.rich_help_panel = f"Options of {scenario.name}"
            options.append(one)
        return options

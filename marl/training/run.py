"""A training run from outside: ``train`` begins one, ``resume`` continues one."""

from __future__ import annotations

from pathlib import Path

import torch

from marl.config import AnyRunConfig
from marl.errors import UserError
from marl.evaluation.counterparts import warn_if_apart
from marl.scenario import Scenario, load_scenario
from marl.systems.registry import load_system
from marl.systems.system import System
from marl.training.language_trainer import LanguageTrainer
from marl.training.loop import Echo, Loop
from marl.training.process import prepare_process
from marl.training.progress import Progress
from marl.training.run_folder import RunFolder
from marl.training.tensor_trainer import Trainer
from marl.training.tracking import Tracker


def train(
    config: AnyRunConfig,
    out: Path | None = None,
    echo: Echo = lambda _: None,
    live: bool = True,
    init: Path | None = None,
) -> Path:
    """Run a training from the beginning; returns the run's folder.

    Args:
        out: the folder, new or empty; by default one below ``runs/``.
        live: show progress.
        init: the folder of a run whose weights this one starts from.

    A run that Ctrl-C or SIGTERM stopped is saved, and raises ``KeyboardInterrupt``.
    """
    prepare_process()
    _check_device(config)
    scenario, system = load_scenario(config.scenario), load_system(config.system)
    with RunFolder.create(config, out) as folder:
        try:
            trainer = _trainer(config, scenario, system, folder, echo)
            if init is not None:
                trainer.take_weights(init)
            for warning in warn_if_apart(scenario, config.world):
                echo(warning)
            trainer.start()
        except UserError:
            folder.discard()
            raise
        _finish(trainer, folder, echo, live)
        return folder.path


def resume(path: Path, echo: Echo = lambda _: None, live: bool = True) -> Path:
    """Continue a run from its newest whole checkpoint, to the same end as if it had never stopped."""
    prepare_process()
    with RunFolder.open(path) as folder:
        config = folder.config
        _check_device(config)
        scenario, system = load_scenario(config.scenario), load_system(config.system)
        trainer = _trainer(config, scenario, system, folder, echo)
        trainer.load()
        _finish(trainer, folder, echo, live)
        return folder.path


def _trainer(config: AnyRunConfig, scenario: Scenario, system: System, folder: RunFolder, echo: Echo) -> Loop:
    kind = LanguageTrainer if system.kind == "language" else Trainer
    return kind(config, scenario, system, folder, echo)


def _check_device(config: AnyRunConfig) -> None:
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device={config.device}, but torch sees no GPU here: set device=cpu")


def _finish(trainer: Loop, folder: RunFolder, echo: Echo, live: bool) -> None:
    """Run to the end, or until a signal asks to stop; close everything in either case."""
    config = folder.config
    tracker = Tracker(folder.path, config.tracking.tensorboard)
    try:
        with Progress(trainer.total_agent_steps, trainer.primary_metric, trainer.agent_steps, live) as progress:
            complete = trainer.run(progress, tracker)
    finally:
        tracker.close()
        trainer.close()
    if not complete:
        echo(f"stopped and saved: continue with 'marl train --resume {folder.path}'")
        raise KeyboardInterrupt

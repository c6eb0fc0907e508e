"""What ``marl check MODULE:FACTORY`` does."""

from __future__ import annotations

from pettingzoo import AECEnv, ParallelEnv

from marl.envs.batched import BatchedEnv
from marl.envs.factories import import_factory
from marl.errors import UserError
from marl.testing.aec import check_aec
from marl.testing.batched import check_batched
from marl.testing.parallel import check_parallel
from marl.testing.report import Report
from marl.testing.trace import needs_arguments, takes_copies


def cli_check(spec: str, steps: int = 500) -> Report:
    """Check what ``MODULE:FACTORY`` makes: a ``ParallelEnv``, an ``AECEnv``, or, where the factory takes ``copies``, a
    ``BatchedEnv``.

    Raises ``UserError`` if it cannot be imported or makes something else.
    """
    factory = import_factory(spec)
    if takes_copies(factory):
        return check_batched(factory, steps=min(steps, 200), spec=spec)
    if needs_arguments(factory):
        raise UserError(f"'{spec}' needs arguments: name a function that makes an environment without any")
    env = factory()
    kind = type(env)
    if isinstance(env, BatchedEnv):
        raise UserError(f"'{spec}' makes a BatchedEnv: name a function with the parameter 'copies'")
    if isinstance(env, ParallelEnv | AECEnv):
        env.close()
        check = check_parallel if isinstance(env, ParallelEnv) else check_aec
        return check(factory, steps, spec=spec)
    raise UserError(f"'{spec}' makes a {kind.__name__}, which is neither a PettingZoo environment nor a BatchedEnv")

"""Baselines with options: ``NAME:key=value:key=value``."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from pydantic import Field
from tiny_scenario import TINY

from marl.api import policy_builder
from marl.config import Frozen
from marl.errors import UserError
from marl.policies.base import TunableBaseline


class Options(Frozen):
    depth: int = Field(3, ge=1)
    style: str = "calm"


def _build(env, options):
    return SimpleNamespace(env=env, options=options)


SCENARIO = replace(TINY, baselines={"search": TunableBaseline(Options, _build), "still": lambda env: None})


def built(name):
    policy = policy_builder(SCENARIO, name)("the world")
    assert policy.env == "the world"
    return policy.options.depth, policy.options.style


def test_options_stand_after_the_name_and_the_rest_keep_their_defaults():
    assert built("search") == (3, "calm")
    assert built("search:depth=5") == (5, "calm")
    assert built("search:style=bold:depth=1") == (1, "bold")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("search:depth=0", "'depth' is 0 in policy 'search:depth=0': it should be greater than or equal to 1"),
        ("search:depth=deep", "'depth' is 'deep'"),
        ("search:deph=4", "unknown key 'deph' in policy 'search:deph=4'; did you mean 'depth'?"),
        ("search:depth", "must have the form key=value"),
        ("still:depth=4", "still has no options; options are for search"),
        ("serch:depth=4", "is no baseline"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(name, part):
    with pytest.raises(UserError) as caught:
        policy_builder(SCENARIO, name)
    assert part in str(caught.value)

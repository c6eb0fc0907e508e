"""The transformer of the embedded policy: tiles, chosen places and single steps give the numbers of the plain pass."""

from __future__ import annotations

import pytest
import torch

from marl.policies.language import transformer
from marl.policies.language.decoding import Decoder
from marl.policies.language.transformer import Cache, Transformer, TransformerConfig

CONFIG = TransformerConfig(width=32, layers=2, heads=4, kv_heads=2, hidden=48)


def model() -> Transformer:
    return Transformer(CONFIG, 30, torch.Generator().manual_seed(0))


def trees(trunk: int, branches: int, length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, positions and mask of two trees, each a trunk with branches that do not see each other."""
    size = trunk + branches * length
    token = torch.randint(30, (2, size), generator=torch.Generator().manual_seed(1))
    branch = (torch.arange(size) - trunk).div(length, rounding_mode="floor").clamp(min=-1)
    position = torch.where(branch < 0, torch.arange(size), trunk + (torch.arange(size) - trunk) % length)
    before = torch.ones(size, size, dtype=torch.bool).tril()
    mask = before & ((branch[None] == branch[:, None]) | (branch[None] < 0))
    return token, position.expand(2, -1), mask.expand(2, -1, -1)


@pytest.mark.parametrize("tile", [8, 16])
def test_tiles_and_chosen_places_equal_the_plain_pass(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    token, position, mask = trees(trunk=7, branches=6, length=5)
    at = torch.tensor([0, 3, 3, 36, 40, 73])
    found = []
    for large in (10**9, 8):
        monkeypatch.setattr(transformer, "_LARGE", large)
        monkeypatch.setattr(transformer, "_TILE", tile)
        net = model()
        whole = net(token, position, mask)
        net(token, position, mask, at).square().sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
        assert torch.allclose(net(token, position, mask, at), whole.flatten(0, 1)[at], atol=1e-5)
        found.append((whole, gradient))
    assert transformer._Tiles(mask).size <= 2 * 5 + 7 + tile
    assert torch.allclose(found[0][0], found[1][0], atol=1e-5)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-4)


@pytest.mark.parametrize("lengths", [[4, 4, 4], [2, 4, 3]])
@torch.inference_mode()
def test_single_steps_equal_extending_the_cache(lengths: list[int]) -> None:
    net, count = model(), torch.tensor(lengths)
    token = torch.randint(30, (3, 4), generator=torch.Generator().manual_seed(2))
    kept = torch.tensor([0, 2])
    seen = []
    for stepwise in (False, True):
        _, cache = net.extend(token, count, net.empty_cache(3, 8))
        new, hidden = token[:, :1], []
        decoder = Decoder(net, cache, 3)
        for step in range(3):
            if step == 2:  # a sequence has ended
                new, cache = new[kept], Cache(cache.keys_values[:, :, kept], cache.length[kept])
                decoder.keep(kept)
            if stepwise:
                hidden.append(decoder.step(new[:, 0]))
            else:
                state, cache = net.extend(new, torch.ones(len(new), dtype=torch.int64), cache)
                hidden.append(state)
        seen.append(torch.cat(hidden))
    assert torch.allclose(*seen, atol=1e-5)

"""Only the parts, please: advantages and the clipped surrogate in a training loop of one's own."""

import torch

from marl.learning.advantages import gae, normalize
from marl.learning.surrogates import ppo_clip

steps, agents = 6, 2
torch.manual_seed(0)
reward, value, next_value = torch.randn(3, steps, agents)
ended = torch.zeros(steps, agents, dtype=torch.bool)
ended[3] = True  # an episode ends after the fourth step
advantage = gae(reward, value, next_value, ended, ended, gamma=0.99, lam=0.95)
advantage = normalize(advantage, torch.ones(steps, agents, dtype=torch.bool))
log_ratio = (0.1 * torch.randn(steps, agents)).requires_grad_()
loss = ppo_clip(log_ratio, advantage, clip=0.2).mean()
loss.backward()
print(f"loss {loss.item():.3f}, gradient norm {log_ratio.grad.norm().item():.3f}")

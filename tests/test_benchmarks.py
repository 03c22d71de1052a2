"""What the benchmark compares with computes the same: a second implementation of the whole update."""

import pytest
import torch
from torch import Tensor

from algd.agent import Batch
from algd.build import build
from benchmarks.plain_update import PlainAgent
from tests.command import TINY, compose


class GlobalNoise:
    """Draws from torch's global generator, as the plain implementation does."""

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape)

    def integers(self, high: int, size: int) -> Tensor:
        return torch.randint(high, (size,))


@pytest.mark.parametrize("agent_name", ["vesde", "ddpm"])
def test_the_plain_update_is_the_same_update(agent_name: str) -> None:
    config = compose(*TINY, "env=toy", f"agent={agent_name}", "agent.policy.hidden_sizes=[16,16,16]")
    guidance = build(config["guidance"], threshold=0.3, limit=1.0)
    torch.manual_seed(0)
    agent = build(config["agent"], observation_size=5, action_low=[-1.0, 0.0], action_high=[1.0, 3.0],
                  guidance=guidance)
    plain = PlainAgent(agent, 16)
    for update in range(20):
        draw = torch.Generator().manual_seed(update)
        parts = [torch.randn(16, *size, generator=draw) for size in ((5,), (2,), (), (), (5,))]
        done = (torch.rand(16, generator=draw) < 0.2).float()
        torch.manual_seed(100 + update)
        plain.update_from(*parts, done)
        torch.manual_seed(100 + update)
        agent.update(Batch(*parts, done, torch.zeros(16)), GlobalNoise())
    # Adam turns the rounding of a gradient near zero into part of a step, 3e-4: a tenth of one over twenty updates.
    near = {"rtol": 0, "atol": 3e-5}
    for layer in range(3):
        torch.testing.assert_close(agent.cost_critics.weights[layer], plain.cost.weights[layer].mT, **near)
        torch.testing.assert_close(agent.target_critics.weights[layer][1],
                                   plain.target_critic.second[2 * layer].weight, **near)
    torch.testing.assert_close(agent.policy.network.embedding, plain.embedding.weight, **near)
    for head, linear in agent.policy.network.heads.items():
        torch.testing.assert_close(linear.weight, plain.heads[head].weight, **near)
    torch.testing.assert_close(agent.guidance.multiplier, plain.log_lam.exp(), rtol=1e-6, atol=0)

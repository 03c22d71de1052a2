"""Numbers recorded from the authors' agent are reproduced to float32 rounding.

`golden/*.npz` contain weights, batches, all random draws in order, and the results of the authors' code in float32 on
one thread: 7 observations, 3 actions, batch 8, K = 5, N = 4.
"""

import ast
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from algd.algorithm import guidance
from algd.algorithm.agent import Agent, Batch
from algd.algorithm.dual import LogAscent
from algd.algorithm.noise_processes import DDPM, VESDE
from algd.algorithm.policies.diffusion import DiffusionPolicy
from algd.budget import Budget
from algd.execution.step import prepare_agent

PROCESSES = {"vesde": lambda: VESDE(5, 0.01, 1.0), "ddpm": lambda: DDPM(5, "linear", 1e-4, 0.02, 0.05)}


class Recorded:
    """The recorded draws, returned in order, separately for normals and integers; a wrong shape is an error.

    A request for K arrays at once returns the next K of the recording.
    """

    def __init__(self, draws: list[np.ndarray]):
        tensors = [torch.as_tensor(d) for d in draws]
        self.normals = [d for d in tensors if d.dtype == torch.float32]
        self.whole = [d for d in tensors if d.dtype == torch.int64]

    @property
    def draws(self) -> list[Tensor]:
        """The draws that are left."""
        return self.normals + self.whole

    def normal(self, *shape: int) -> Tensor:
        if self.normals[0].shape == shape[1:]:
            return torch.stack([self.normal(*shape[1:]) for _ in range(shape[0])])
        draw = self.normals.pop(0)
        assert draw.shape == shape
        return draw

    def integers(self, high: int, size: int) -> Tensor:
        draw = self.whole.pop(0)
        assert draw.shape == (size,) and draw.max() < high
        return draw


class Golden:
    """One archive: its arrays, and an agent with the recorded hyper-parameters and weights."""

    def __init__(self, name: str):
        self.name = name
        self.arrays = dict(np.load(Path(__file__).parents[1] / "golden" / f"{name}.npz"))
        self.hyper = h = ast.literal_eval(str(self.arrays["meta/hyper"]))
        self.threshold = Budget(h["cost_lim"], "episode", h["epoch_length"]).threshold(h["safety_gamma"])
        policy = partial(DiffusionPolicy, process=PROCESSES[name](), hidden_sizes=[h["score_model_hidden_dim"]] * 3,
                         embedding_size=16, beta=h["beta"], mc_samples=h["score_mc_samples"], score_weight=0.1,
                         score_space="action", score_level="after", score_detach=False, mc_rescale=False,
                         mc_clip=False)
        self.agent = Agent(
            "golden", 7, self.arrays["meta/box_low"], self.arrays["meta/box_high"], policy,
            guidance.augmented("augmented", h["rho"], "pointwise",
                               partial(LogAscent, float(np.exp(self.arrays["before/log_lam"])), 3e-4),
                               threshold=self.threshold, limit=h["cost_lim"]),
            h["gamma"], h["safety_gamma"], [h["critic_hidden_size"]] * 2, [h["critic_hidden_size"]] * 2,
            h["qc_ens_size"], "normal", 1.0, h["lr"], h["lr"], h["qc_lr"], h["tau"],
            h["critic_target_update_frequency"])
        self.agent.load_state_dict(self.weights("before"), strict=True)

    def weights(self, when: str) -> dict[str, Tensor]:
        """Return the recorded parameters under this project's names."""
        def array(key: str) -> Tensor:
            return torch.as_tensor(self.arrays[f"{when}/{key}"])

        state = {"guidance.dual.log_multiplier": array("log_lam"),
                 "guidance.batch_risk": self.agent.guidance.batch_risk,
                 "normaliser.discounted_return": self.agent.normaliser.discounted_return}
        for ours, theirs in (("critics", "critic"), ("target_critics", "critic_target")):
            for layer in range(3):
                for kind, ours_kind in (("weight", "weights"), ("bias", "biases")):
                    twins = [array(f"{theirs}/linear{layer + 1 + 3 * twin}.{kind}") for twin in range(2)]
                    state[f"{ours}.{ours_kind}.{layer}"] = torch.stack(twins)
        for ours, theirs in (("cost_critics", "cost"), ("target_cost_critics", "cost_target")):
            for layer in range(3):
                state[f"{ours}.weights.{layer}"] = array(f"{theirs}/nn{layer + 1}.weight").mT
                state[f"{ours}.biases.{layer}"] = array(f"{theirs}/nn{layer + 1}.bias")
        state["policy.network.embedding"] = array("policy/time_embedding.weight")
        for kind in ("weight", "bias"):
            for layer in range(3):
                state[f"policy.network.trunk.{layer}.{kind}"] = array(f"policy/mlp.{2 * layer}.{kind}")
            for head, theirs in (("score", "score_head"), ("noise", "eps_head")):
                if head in self.agent.policy.process.heads:
                    state[f"policy.network.heads.{head}.{kind}"] = array(f"policy/{theirs}.{kind}")
        return state

    def draws(self, prefix: str) -> Recorded:
        return Recorded([self.arrays[k] for k in sorted(self.arrays) if k.startswith(f"{prefix}/draw")])

    def batch(self, update: int) -> Batch:
        def field(name: str) -> Tensor:
            return torch.as_tensor(self.arrays[f"update{update}/{name}"], dtype=torch.float32)

        # Navigation: a reward return ends at done, a cost return never does.
        return Batch(field("state"), field("action"), field("reward"), field("cost"), field("next_state"),
                     field("done"), torch.zeros(8))

    def expected(self, key: str) -> Tensor:
        return torch.as_tensor(self.arrays[key])


@pytest.fixture(params=[(process, how) for process in PROCESSES for how in ("eager", "native")], ids=" ".join)
def golden(request: pytest.FixtureRequest) -> Golden:
    """Each archive, once with the update by definition and once as training runs it."""
    process, how = request.param
    found = Golden(process)
    prepare_agent(found.agent, how)
    return found


close = partial(torch.testing.assert_close, rtol=2e-5, atol=2e-6)


def test_threshold(golden: Golden) -> None:
    assert golden.threshold == pytest.approx(float(golden.arrays["budget_h"]), rel=1e-12)


def test_schedule(golden: Golden) -> None:
    process = golden.agent.policy.process
    if golden.name == "vesde":
        close(process.spreads, golden.expected("before/policy/ve_sigmas"))
        close(torch.tensor(process._increments), golden.expected("before/policy/ve_delta_sigma2"))
    else:
        close(process.scales, golden.expected("before/policy/sqrt_alphas_cumprod"))
        close(process.spreads, golden.expected("before/policy/sqrt_one_minus_alphas_cumprod"))


def test_energy_and_gradient(golden: Golden) -> None:
    batch, energy = golden.batch(0), golden.agent.energy
    close(energy.reward(batch.observation, batch.action), golden.expected("energy/q_min"))
    close(energy.risk(batch.observation, batch.action), golden.expected("energy/qc_risk"))
    values, gradients = energy.value_and_gradient(batch.observation, batch.action)
    close(values, golden.expected("energy/L_A"))
    close(gradients, golden.expected("energy/grad_action"))


def test_score_head(golden: Golden) -> None:
    batch = golden.batch(0)
    predict = golden.agent.policy.network.at(batch.observation)
    score = predict("score", batch.action, golden.expected("score/tau") + 1)
    close(score, golden.expected("score/net_at_action"))


def test_monte_carlo_score(golden: Golden) -> None:
    batch, policy = golden.batch(0), golden.agent.policy
    target = policy.score_target(golden.agent.energy.at(batch.observation), batch.action,
                                 golden.expected("score/tau") + 1, golden.draws("mc").normals[0])
    close(target, golden.expected("mc/phi_star"))


def test_samples(golden: Golden) -> None:
    observation = golden.batch(0).observation
    noise = golden.draws("sample")
    close(golden.agent.act(observation, noise), golden.expected("sample/action"))
    assert not noise.draws
    if golden.name == "vesde":
        close(golden.agent.act(observation, None), golden.expected("deterministic/action"))


def test_three_updates(golden: Golden) -> None:
    for update in range(3):
        noise = golden.draws(f"update{update}")
        golden.agent.update(golden.batch(update), noise)
        assert not noise.draws
        state = golden.agent.state_dict()
        for name, expected in golden.weights(f"after{update}").items():
            if name == "guidance.batch_risk":
                continue
            # A step of Adam moves a parameter by up to 3e-4 (4e-4) whatever the gradient's size, so rounding of a
            # gradient near zero has the full effect of a step: the tolerance is a hundredth of a step.
            torch.testing.assert_close(state[name], expected, rtol=1e-5, atol=3e-6, msg=lambda m, n=name: f"{n}: {m}")

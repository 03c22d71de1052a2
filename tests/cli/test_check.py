"""python -m algd check: each check fails for the error that it is meant to find, and only for that."""

import sys
from pathlib import Path

import pytest

from algd.cli import main as cli
from tests.support.command import TINY, start

MODULE = '''
import torch
from algd.algorithm.guidance import Dual, Guidance


class Own(Guidance):
    """E = −Q + w λ (Qc − h)², where w grows with the updates."""

    def __init__(self, dual, threshold):
        super().__init__("plain", dual, threshold)
        self.register_buffer("updates", torch.zeros(()))

    def strength(self, qc):
        return self.multiplier.to(qc.dtype) * (1 + self.updates)

    def lagrangian(self, q, qc, lam=None):
        return self.strength(qc) * (qc - self.threshold)**2 - q

    def constraint_weight(self, qc, lam=None):
        return 2 * self.strength(qc) * (qc - self.threshold)

    def update(self, signals):
        self.updates += 1
        return super().update(signals)


def own(name: str, dual: Dual, *, threshold: float) -> Guidance:
    return Own(dual(threshold=threshold, limit=5.0, observation_size=1), threshold)
'''
YAML = "defaults: [{dual: ascent}, _self_]\n_target_: MODULE.own\nname: mine\n"
ENERGY = "self.strength(qc) * (qc - self.threshold)**2 - q"
FAULTS = {
    "": ("", ""),
    "dtype": (ENERGY, "self.multiplier * (1 + self.updates) * (qc > -1e9) * (qc - self.threshold)**2 - q"),
    "shape": (ENERGY, f"({ENERGY}).squeeze(-1)"),
    "slope": ("return 2 * self.strength", "return self.strength"),
    "extremes": (ENERGY, f"{ENERGY} + 0 * qc.clamp_max(100).exp()"),
    "resume": ('self.register_buffer("updates", torch.zeros(()))', "self.updates = torch.zeros(())"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_fails_its_line(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    sound, wrong = FAULTS[fault]
    assert sound in MODULE
    name = f"own_{fault or 'sound'}"
    (tmp_path / f"{name}.py").write_text(MODULE.replace(sound, wrong) if fault else MODULE)
    (tmp_path / "conf" / "guidance").mkdir(parents=True)
    (tmp_path / "conf" / "guidance" / "mine.yaml").write_text(YAML.replace("MODULE", name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["algd", "check", "--config-dir", "conf", f"trusted=[{name}]", "guidance=mine",
                                      "env=toy", "agent=gaussian", *TINY])
    code = cli.main()
    output, errors = capsys.readouterr()
    assert errors == ""
    lines = [line.split() for line in output.splitlines()[1:]]
    assert [line[0] for line in lines] == ["environment", "dtype", "shape", "slope", "extremes", "policy", "learning",
                                           "resume", "speed"]
    failed = [line[0] for line in lines if line[1] != "ok"]
    assert (failed, code) == (([fault], 1) if fault else ([], 0)), output


@pytest.mark.parametrize("unbuffered", ["1", ""])
def test_a_reader_that_leaves(unbuffered: str) -> None:
    """As `| head -1` does: nothing is said, and no test counts as failed."""
    process = start("check", "env=toy", "agent=gaussian", *TINY, PYTHONUNBUFFERED=unbuffered)
    assert process.stdout is not None and process.stderr is not None
    if unbuffered:
        process.stdout.readline()
    process.stdout.close()
    assert (process.wait(), process.stderr.read()) == (141, "")
    process.stderr.close()


def test_critics_that_are_not_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    """An agent that replaces its critics after the optimisers and the energy were made of the first ones."""
    (tmp_path / "deaf.py").write_text("import copy\nfrom algd.algorithm.agent import Agent\n\n\nclass Deaf(Agent):\n"
                                      "    def __init__(self, *arguments, **keys):\n"
                                      "        super().__init__(*arguments, **keys)\n"
                                      "        self.critics = copy.deepcopy(self.critics)\n")
    (tmp_path / "conf" / "agent").mkdir(parents=True)
    (tmp_path / "conf" / "agent" / "deaf.yaml").write_text("defaults: [gaussian, _self_]\n_target_: deaf.Deaf\n"
                                                           "name: deaf\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["algd", "check", "--config-dir", "conf", "trusted=[deaf]", "env=toy",
                                      "agent=deaf", "guidance=plain", *TINY])
    assert cli.main() == 1
    assert "learning     FAILED  5 updates did not change critics" in capsys.readouterr().out


def test_a_negative_cost_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rewarding.py").write_text(
        "import gymnasium\n\n\nclass Rewarding(gymnasium.Wrapper):\n    def step(self, action):\n"
        "        *four, info = self.env.step(action)\n        return *four, info | {'cost': -0.5}\n\n\n"
        "gymnasium.register('Rewarding-v0', lambda: Rewarding(gymnasium.make('Pendulum-v1')), max_episode_steps=20)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["algd", "check", "env=gymnasium", "env.id=rewarding:Rewarding-v0", "env.limit=1",
                                      "agent=gaussian", "guidance=plain", *TINY])
    assert cli.main() == 0
    assert capsys.readouterr().out.count("environment  warning the cost was -0.5 at the lowest; a negative cost") == 1

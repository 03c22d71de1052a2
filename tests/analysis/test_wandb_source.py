"""Reading runs from W&B that the mirror sent there, with the real client and API."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from algd.errors import UsageError
from analysis.__main__ import main
from analysis.results.curves import curvature_columns, series_of
from analysis.runs.read import read_run
from analysis.runs.wandb import read_project
from tests.analysis.run_folders import FIXTURE
from tests.support.command import ROOT
from tests.support.wandb_server import WandbServer

PAGE = 2  # runs per response, fewer than there are


class ReadableServer(WandbServer):
    """The loopback server, which also answers the client's queries that list runs and scan their history."""

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """Return the data that answer a GraphQL operation."""
        if operation == "GetDefaultEntity":
            return {"viewer": {"id": "v", "entity": "tester"}}
        if operation == "Runs":
            if given["project"] != "algd":
                return {"project": None}
            names = list(self.runs)
            start = int(given["cursor"] or 0)
            here = names[start:start + PAGE]
            end = start + len(here)
            return {"project": {"internalId": "1", "runCount": len(names), "readOnly": False, "runs": {
                "edges": [{"node": self._node(name), "cursor": str(end)} for name in here],
                "pageInfo": {"endCursor": str(end), "hasNextPage": end < len(names)}}}}
        name = given.get("name") or given.get("run") or given.get("runName")
        if operation == "RunHistoryKeys":
            return {"project": {"run": {"historyKeys": self._keys(str(name))}}}
        if operation == "RunParquetHistory":
            return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": []}}}}
        if operation == "HistoryPage":
            lines = sorted(self.runs[str(name)].history.items())
            return {"project": {"run": {"history": [
                json.dumps(line | {"_step": place}) for place, line in lines
                if given["minStep"] <= place < given["maxStep"]]}}}
        return super().answer(operation, given)

    def _keys(self, name: str) -> dict[str, Any]:
        return {"lastStep": len(self.runs[name].history) - 1, "keys": {}}

    def _node(self, name: str) -> dict[str, Any]:
        run = self.runs[name]
        return {"projectId": "1", "id": f"bucket-{name}", "tags": [], "name": name, "sweepName": None, "group": None,
                "displayName": run.attributes.get("displayName") or name, "config": run.attributes.get("config", "{}"),
                "state": {None: "running", 0: "finished"}.get(run.exit_code, "failed"), "jobType": None, "commit": None,
                "readOnly": False, "createdAt": "2026-01-01T00:00:00", "heartbeatAt": "2026-01-01T00:00:00",
                "description": "", "notes": "", "systemMetrics": "{}", "summaryMetrics": json.dumps(run.summary),
                "historyLineCount": len(run.history), "user": {"name": "t", "username": "t"},
                "historyKeys": self._keys(name)}


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ReadableServer, list[Path]]]:
    """Send three runs of the fixture with the mirror, add another project's run, and set the server's address."""
    top = tmp_path_factory.mktemp("wandb")
    names = ["point_button1/vesde-augmented/seed=0-aaaa0000", "point_button1/vesde-augmented/seed=3-aaaa0003",
             "point_button1/vesde-pid/seed=1-cccc0001"]
    with ReadableServer() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0" * 40, "WANDB_DIR": str(top),
                            "WANDB_CACHE_DIR": str(top / "cache"), "WANDB_CONFIG_DIR": str(top / "config"),
                            "WANDB_DATA_DIR": str(top / "data"), "OMP_NUM_THREADS": "1"}.items():
            patch.setenv(name, value)
        for name in names:
            shutil.copytree(FIXTURE / name, top / name)
            subprocess.run([sys.executable, "-m", "algd.logging.wandb", str(top / name), "--project", "algd",
                            "--entity", "tester"], cwd=ROOT, check=True, env=dict(os.environ), timeout=120)
        server.answer("UpsertBucket", {"name": "other", "config": json.dumps({"lr": {"value": 1}}),
                                       "displayName": "somebody else's"})
        yield server, [top / name for name in names]


def test_what_comes_back_is_what_the_folders_hold(mirrored: tuple[ReadableServer, list[Path]]) -> None:
    _, folders = mirrored
    for sampler in ("deterministic", "stochastic"):
        found, others, _ = read_project("tester/algd", sampler)
        assert len(others) == 1 and "other" in others[0]
        for folder in folders:
            one = read_run(folder, sampler)
            (back,) = [run for run in found if run.seed == one.seed and run.config["guidance.name"]
                       == one.config["guidance.name"]]
            assert back.last is not None and one.last is not None
            for name in ("step", "mean_return", "mean_cost", "violation", "over"):
                assert getattr(back.last, name) == getattr(one.last, name)
            assert back.last.cvar is None
            assert np.array_equal(back.steps, one.steps) and np.array_equal(back.costs, one.costs)
            assert back.evaluations[-1].training == one.evaluations[-1].training
            for name in ("stay", "training", "state", "reason", "updates_per_second", "hours"):
                assert getattr(back, name) == getattr(one, name)
            assert {key: value for key, value in back.config.items() if not key.startswith("meta")} == one.config
            assert back.incomplete == one.incomplete
            for column in ("lam", "constraint", *curvature_columns([one])):
                assert np.array_equal(series_of(back, column).values, series_of(one, column).values)
            assert sorted(curvature_columns([back])) == sorted(curvature_columns([one]))


def test_lines_held_twice_count_once(mirrored: tuple[ReadableServer, list[Path]]) -> None:
    server, _ = mirrored
    (stored,) = [run for name, run in server.runs.items() if "seed-0" in name]
    before = next(run for run in read_project("tester/algd")[0] if run.seed == 0)
    first = len(stored.history)
    stored.history |= {first + place: line for place, line in enumerate(list(stored.history.values()))}
    after = next(run for run in read_project("tester/algd")[0] if run.seed == 0)
    assert (before.training, before.last, before.stay) == (after.training, after.last, after.stay)
    assert np.array_equal(series_of(before, "lam").values, series_of(after, "lam").values)


def test_unfinished_evaluations_do_not_count(mirrored: tuple[ReadableServer, list[Path]]) -> None:
    """A later evaluation with one of four episodes, as of an interrupted run, does not replace the one before."""
    server, _ = mirrored
    (stored,) = [run for name, run in server.runs.items() if "seed-3" in name]
    before = next(run for run in read_project("tester/algd")[0] if run.seed == 3)
    stored.history[len(stored.history)] = {"env_step": 400} | {
        f"eval/deterministic/{name}": 1.0 for name in ("return", "cost", "discounted_cost", "length", "episodes")}
    after = next(run for run in read_project("tester/algd")[0] if run.seed == 3)
    assert (before.incomplete, after.incomplete) == ({}, {400: 1})
    assert before.last == after.last and after.steps.tolist() == before.steps.tolist() == [0, 100, 200, 300]


def test_tables_and_curves_from_wandb(mirrored: tuple[ReadableServer, list[Path]], tmp_path: Path,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    """Tables are made from W&B alone or together with folders; a run that occurs in both is refused."""
    _, folders = mirrored
    assert main(["table", "--wandb", "tester/algd", "--format", "json"]) == 0
    captured = capsys.readouterr()
    cells = json.loads(captured.out)[0]["cells"]
    assert [(cell["guidance"], cell["return"], cell["evaluated"]) for cell in cells] == [
        ("augmented", 30, 2), ("pid", None, 0)]
    assert "Not this project's, and left out" in captured.out
    other = tmp_path / "seed=9"
    shutil.copytree(folders[0], other)
    config = yaml.safe_load((other / "config.yaml").read_text())
    (other / "config.yaml").write_text(yaml.safe_dump(config | {"seed": 9}))
    (other / "meta.json").unlink()  # says that it is the run of another seed
    assert main(["table", str(other), "--wandb", "tester/algd"]) == 0
    assert "Imported from W&B (tester/algd)" in capsys.readouterr().out
    assert main(["table", str(folders[0]), "--wandb", "tester/algd"]) == 2
    assert "are the same run" in capsys.readouterr().err
    assert main(["curves", "--wandb", "tester/algd", "--quantities", "return,lam", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "lam_paper.pdf").exists()


@pytest.mark.parametrize("fault", ["no cost", "episodes", "limit"])
def test_a_run_that_cannot_be_read_is_left_out_alone(mirrored: tuple[ReadableServer, list[Path]], fault: str,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    """Beside the good one, a run without costs, with a number of episodes that is none, or with an infinite limit."""
    server, _ = mirrored
    (stored,) = [run for name, run in server.runs.items() if "seed-0" in name]
    damaged = server.runs["damaged"] = deepcopy(stored)
    config = json.loads(damaged.attributes["config"])
    if fault == "no cost":
        damaged.history = {place: {key: value for key, value in line.items() if not key.endswith("cost")}
                           for place, line in damaged.history.items() if "episode/cost" not in line}
    elif fault == "episodes":
        config["eval"]["value"]["episodes"] = "many"
    else:
        config["env"]["value"]["limit"] = float("inf")
    damaged.attributes["config"] = json.dumps(config)
    try:
        assert main(["table", "--wandb", "tester/algd"]) == 0
        captured = capsys.readouterr()
        assert "left out: wandb:tester/algd/damaged cannot be read as a run" in captured.err
        assert "Left out, since it cannot be read: wandb:tester/algd/damaged" in captured.out
        assert main(["table", "--wandb", "tester/algd", "--strict"]) == 2
        assert "damaged cannot be read" in capsys.readouterr().err
    finally:
        del server.runs["damaged"]


def test_what_cannot_be_read_is_one_sentence(mirrored: tuple[ReadableServer, list[Path]],
                                             capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="ENTITY/PROJECT"):
        read_project("algd")
    with pytest.raises(UsageError, match="tester/nothing: it cannot be read"):
        read_project("tester/nothing")
    assert main(["table"]) == 2
    assert "--wandb ENTITY/PROJECT" in capsys.readouterr().err

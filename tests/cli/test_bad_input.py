"""Invalid input: a one-sentence error with place, value and what is allowed, exit code 2, and no file written.

Most cases run in this process; test_command_line.py and the end of this file start the command itself.
"""

import copy
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import annotated_types
import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import analysis.__main__
import launchers.__main__
from algd.cli import main as cli
from algd.config.schema import Settings, check
from algd.config.targets import locate
from algd.config.values import PLACES
from algd.errors import UsageError
from tests.support.bad_inputs import ANALYSIS, LAUNCHERS, RUN, Bad
from tests.support.command import ROOT, TINY, compose, only_run, train_here

NAN = float("nan")


def assert_refused(code: object, output: str, errors: str, says: tuple[str, ...]) -> None:
    assert code == 2, f"exit code {code}\n{output}\n{errors}"
    assert errors.startswith("error: ") and errors.count("\n") == 1 and not output, errors + output
    assert "Traceback" not in errors
    missing = [part for part in says if part not in errors]
    assert not missing, f"{missing} not in: {errors}"


def with_defaults(typed: tuple[str, ...]) -> list[str]:
    """Return the arguments, completed to a run that would end quickly if they were not refused."""
    if "mode=eval" in typed:
        return list(typed)
    quick = ["env=toy", *TINY, "total_steps=20", "initial_steps=0", "eval.episodes=1"]
    keys = {argument.lstrip("+~").partition("=")[0].partition("@")[0] for argument in typed}
    return [*(argument for argument in quick if argument.partition("=")[0] not in keys), *typed]


@pytest.mark.parametrize("entry", RUN, ids=str)
def test_command_lines(entry: Bad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                       capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py", *with_defaults(entry.typed)])
    code = cli.main()
    assert_refused(code, *capsys.readouterr(), entry.says)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a runs_dir with one short run."""
    runs = tmp_path_factory.mktemp("bad") / "runs"
    train_here(*TINY, "env=toy", "initial_steps=20", "total_steps=40", "eval.episodes=2", "snapshots=1",
               f"runs_dir={runs}")
    return runs


@pytest.mark.parametrize(("command", "entry"), [
    *(pytest.param(analysis.__main__.main, entry, id=f"analysis {entry}") for entry in ANALYSIS),
    *(pytest.param(launchers.__main__.main, entry, id=f"launchers {entry}") for entry in LAUNCHERS)])
def test_analysis_and_launchers(command: Any, entry: Bad, trained: Path, tmp_path: Path,
                                monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    code = command([argument.replace("RUN", str(only_run(trained))) for argument in entry.typed])
    assert_refused(code, *capsys.readouterr(), entry.says)
    assert list(tmp_path.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


@pytest.mark.parametrize("command", ["analysis table nothing", "analysis table --format word", "launchers status x",
                                     "launchers nothing"])
def test_modules_as_commands(command: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", *command.split()], cwd=tmp_path, capture_output=True, text=True,
                          env={"PYTHONPATH": str(ROOT), "PATH": ""})
    assert_refused(done.returncode, done.stdout, done.stderr, (command.split()[-1],))
    assert list(tmp_path.iterdir()) == []


def test_there_are_enough() -> None:
    assert len({entry.typed for entry in RUN}) == len(RUN) >= 150


# --- every key, by its annotation ----------------------------------------------------------------------------------

BASES = {
    "augmented VE-SDE on a paper task": ["agent=vesde", "guidance=augmented", "env=point_button1", "logger=wandb"],
    "PID DDPM on the toy": ["agent=ddpm", "guidance=pid", "env=toy", "logger=tensorboard"],
    "plain Gaussian on a velocity task": ["agent=gaussian", "guidance=plain", "env=hopper_velocity", "logger=none"],
    "any environment": ["guidance=none", "env=gymnasium", "env.id=Pendulum-v1", "logger=none"],
}


def annotations(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield every key of a configuration, dotted, with its type annotation."""
    def of_model(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, Any]]:
        for name, field in model.model_fields.items():
            if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel):
                yield from of_model(field.annotation, f"{prefix}{name}.")
            elif f"{prefix}{name}" not in PLACES:
                yield f"{prefix}{name}", _annotated(field)

    def of_target(node: dict[str, Any], place: str) -> Iterator[tuple[str, Any]]:
        target = locate(node["_target_"], place)
        hints = get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
        for name, value in node.items():
            if f"{place}.{name}" in PLACES:
                yield from of_target(value, f"{place}.{name}")
            elif name in hints:
                yield f"{place}.{name}", hints[name]

    yield from of_model(Settings, "")
    for group in ("agent", "guidance", "env", "logger"):
        yield from of_target(config[group], group)


def _annotated(field: FieldInfo) -> Any:
    return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation


def wrong_values(annotation: Any) -> list[Any]:
    """Return values that an annotation does not allow: of other types, and just out of range."""
    bounds = [*get_args(annotation)[1:]] if get_origin(annotation) is Annotated else []
    bounds = [part for bound in bounds for part in (bound.metadata if isinstance(bound, FieldInfo) else [bound])]
    kind = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    if get_origin(kind) in (Union, UnionType):
        parts = [wrong_values(part) for part in get_args(kind) if part is not NoneType]
        none = [] if NoneType in get_args(kind) else [None]
        # A union refuses what each of its parts refuses.
        return [value for value in parts[0] if value is not None
                and all(any(value is one or repr(value) == repr(one) for one in part) for part in parts)] + none
    if get_origin(kind) is Annotated:
        return wrong_values(Annotated[get_args(kind)[0], *get_args(kind)[1:], *bounds])
    if get_origin(kind) is Literal:
        return ["no such word", 3.5, None, [1], {"a": 1}]
    if kind is bool:
        return ["perhaps", 3, None, [True], {"a": 1}]
    if kind is str:
        return [3, 2.5, True, None, ["x"], {"a": 1}, "two\nlines", "a\x00b", "${oc.env:HOME}", "\ud800"]
    if kind in (int, float):
        values: list[Any] = ["many", "", NAN, None, [1], {"a": 1}, True, float("inf"), -float("inf")]
        values += [1.5, 10**30, "0x1"] if kind is int else ["1,5"]
        for bound in bounds:
            if isinstance(bound, annotated_types.Gt):
                values += [bound.gt, bound.gt - 1]
            elif isinstance(bound, annotated_types.Ge):
                values += [bound.ge - 1]
            elif isinstance(bound, annotated_types.Lt):
                values += [bound.lt, bound.lt + 1]
            elif isinstance(bound, annotated_types.Le):
                values += [bound.le + 1]
        return values
    if get_origin(kind) is dict or kind is dict:
        return ["x", 3, None, [1]]
    if get_origin(kind) in (list, tuple) or getattr(get_origin(kind), "__name__", "") == "Sequence":
        return ["x", 3, None, {"a": 1}]
    return [3, None, "x"]


@pytest.mark.parametrize("base", BASES)
def test_every_key_of_every_kind(base: str) -> None:
    """For every key, other types and values just out of range are refused; the error names the key and short values."""
    config = compose(*BASES[base])
    tried = 0
    for key, annotation in annotations(config):
        for value in wrong_values(annotation):
            changed = copy.deepcopy(config)
            *path, last = key.split(".")
            node = changed
            for part in path:
                node = node[part]
            node[last] = value
            with pytest.raises(UsageError) as caught:
                check(changed)
                pytest.fail(f"{key}={value!r} is not refused")
            said = str(caught.value)
            assert key in said and "\n" not in said and said.isprintable(), f"{key}={value!r}: {said}"
            inner = next(iter(value.items() if isinstance(value, dict) else enumerate(value)), (None, value))[1] \
                if isinstance(value, list | dict) else value
            assert repr(value) in said or repr(inner) in said, f"{key}={value!r}: {said}"
            tried += 1
    assert tried > 150


def test_nothing_can_be_left_out() -> None:
    """A configuration without one of its required top-level keys is refused, and the error names the key."""
    config = compose("env=toy", "logger=none")
    for key in (key for key in config if Settings.model_fields[key].is_required()):
        with pytest.raises(UsageError, match=f"^{key} is missing"):
            check({name: value for name, value in config.items() if name != key})

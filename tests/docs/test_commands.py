"""Every command on every page is composed, parsed or found to exist."""

import importlib.util
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from algd.config.identity import NOT_IDENTITY
from analysis.arguments import parser as analysis_parser
from benchmarks.__main__ import MEASUREMENTS
from launchers.__main__ import parser as launchers_parser
from tests.support.command import ROOT, compose

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
# Other projects' programs and shell commands, which are not checked.
OTHERS = {"pip", "git", "cd", ".", "wandb", "tensorboard", "export", "pytest"}
OURS = {"python", "algd", "make"}
OWN = ("my_lab", "my_study", "my_rules", "slow_pendulum")


def commands(page: Path) -> list[str]:
    """Return the commands in a page's code blocks and text, without prompts, comments and loops.

    Commands shown with an error and commands that use the reader's own code are left out; other tests run them.
    """
    text = re.sub(r" \\\n +", " ", page.read_text(encoding="utf-8"))
    text = re.sub(r"^    \$ .*\n    error:.*\n", "", text, flags=re.MULTILINE)
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line.strip().removeprefix("$ ") for block in fenced for line in block.splitlines() if line.strip()]
    lines += [line.removeprefix("$ ") for line in re.findall(r"^    (\S.*)$", text, re.MULTILINE)]
    lines += re.findall(r"`((?:python|algd|make) [^`]+)`", text)
    found = []
    for line in lines:
        if loop := re.fullmatch(r"for (\w+) in (\S+) .*?; do (.*); done", line):
            line = loop[3].replace(f"${loop[1]}", loop[2])
        for part in line.split(" && "):
            words = part.split()
            if words[0] in OURS | OTHERS and len(words) > 1 and not any(name in part for name in OWN):
                found.append(part)
    return found


def first_of_each(arguments: list[str]) -> list[str]:
    """Return the overrides of a sweep's first run."""
    overrides = []
    for override in OverridesParser.create().parse_overrides([a for a in arguments if not a.startswith("-")]):
        if override.is_interval_sweep():
            overrides.append(f"{override.key_or_group}={override.value().start}")
        elif override.is_sweep_override():
            overrides.append(f"{override.key_or_group}={next(iter(override.sweep_string_iterator()))}")
        else:
            overrides.append(override.input_line)
    return overrides


def check_run(arguments: list[str]) -> None:
    """Compose the configuration of a training command, or of a sweep's first run."""
    arguments = [argument for argument in arguments if argument not in ("check", "--help", "FOLDER", "...")]
    quoted = [re.sub(r"^run=(.*)$", r"run='\1'", argument) for argument in arguments]
    compose(*(override for override in first_of_each(quoted) if not override.startswith("hydra")))


def check_module(module: str, arguments: list[str]) -> None:
    """Parse a module's arguments with its own parser, or look up its options in the source."""
    if module == "algd":
        check_run(arguments)
    elif module in ("analysis", "launchers"):
        parser = {"analysis": analysis_parser, "launchers": launchers_parser}[module]()
        if len(arguments) == 1:  # the bare command
            arguments = [*arguments, "--help"]
        try:
            parser.parse_args(arguments or ["--help"])
        except SystemExit as end:
            assert end.code == 0 and arguments[-1:] in ([], ["--help"])
    elif module == "benchmarks":
        assert set(arguments) <= {*MEASUREMENTS, "NAME", "...", "--quick"}
    else:
        found = importlib.util.find_spec(f"{module}.__main__" if (ROOT / module.replace(".", "/")).is_dir() else module)
        assert found is not None and found.origin is not None
        source = Path(found.origin).read_text(encoding="utf-8")
        assert [option for option in arguments if option.startswith("--") and f'"{option}"' not in source] == []


COMMANDS = [(page, command) for page in PAGES for command in commands(page)]


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=lambda value: getattr(value, "name", value))
def test_a_command_is_what_there_is(page: Path, command: str) -> None:
    program, *arguments = shlex.split(command, comments=True)
    if program == "make":
        targets = [argument for argument in arguments if "=" not in argument]
        assert [target for target in targets if not re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)] == []
    elif program == "algd" or arguments[:1] == ["run.py"]:
        check_run(arguments[program == "python":])
    elif program == "python":
        if arguments[0].endswith(".py"):
            arguments = ["-m", arguments[0].removesuffix(".py").replace("/", "."), *arguments[1:]]
        assert arguments[0] == "-m"
        check_module(arguments[1], arguments[2:])
    elif program == "pip":
        files = [value for option, value in pairwise(arguments) if option == "-c"]
        assert [file for file in files if not (ROOT / file).exists()] == []
    else:
        assert program in OTHERS


@pytest.mark.parametrize("command", [command for _, command in COMMANDS if "hydra/sweeper=optuna" in command])
def test_a_search_would_start(command: str, tmp_path: Path) -> None:
    """The checks above leave out Hydra's keys, of which a search has most of its settings."""
    done = subprocess.run([sys.executable, *shlex.split(command)[1:], "hydra.launcher.dry_run=true",
                           f"runs_dir={tmp_path}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_keys_that_continue_a_run() -> None:
    """docs/running.md lists all keys that are not part of a run's identity; the others of them are no run's."""
    text = (ROOT / "docs" / "running.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"A command continues an existing run if it differs only in (.*?)\. A", text, re.DOTALL)
    assert {*re.findall(r"`(.*?)`", listed)} == (
        NOT_IDENTITY - {"mode", "run", "study", "fresh"} | {"eval.video"})


def test_a_planted_mistake_is_found() -> None:
    for wrong in ("algd totl_steps=3", "make demonstrate", "python -m analysis table --at-stp 3",
                  "python -m launchers state", "python -m benchmarks.update", "python -m tests.soak --minute 3",
                  "python run.py -m guidance=plane,none", "pip install -c constraint.txt"):
        with pytest.raises((Exception, SystemExit)):
            test_a_command_is_what_there_is(ROOT / "README.md", wrong)


def test_commands_of_every_kind_are_found() -> None:
    """The patterns find commands of each kind; otherwise the tests above would check nothing."""
    found = [command for _, command in COMMANDS]
    for start, least in (("python run.py", 25), ("python -m analysis", 10), ("python -m launchers", 3), ("make ", 8),
                         ("python -m benchmarks", 5)):
        assert sum(command.startswith(start) for command in found) >= least, start

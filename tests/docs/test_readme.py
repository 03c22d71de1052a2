"""What the README and the documentation tell people to type is what there is."""

import re
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from tests.support.command import CONF, ROOT, compose

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text()


def commands(page: Path) -> list[str]:
    """The page's command lines that run something, without the program's name."""
    text = re.sub(r" \\\n +", " ", page.read_text())
    lines = re.findall(r"^    (?:\$ )?python run\.py (.*)$", text, re.MULTILINE)
    # What a page shows as wrong is followed by its error.
    shown_wrong = set(re.findall(r"^    \$ python run\.py (.*)\n    error:", text, re.MULTILINE))
    # A command of code of one's own, my_lab, is held by the test of its page.
    return [line.split("  #")[0].strip() for line in lines if line not in shown_wrong and "my_lab" not in line]


def first_of_each(arguments: list[str]) -> list[str]:
    """The overrides of the first run of a sweep."""
    overrides = []
    for override in OverridesParser.create().parse_overrides([a for a in arguments if not a.startswith("-")]):
        if override.is_interval_sweep():
            overrides.append(f"{override.key_or_group}={override.value().start}")
        elif override.is_sweep_override():
            value = next(iter(override.sweep_string_iterator()))
            overrides.append(f"{override.key_or_group}={value}")
        else:
            overrides.append(override.input_line)
    return overrides


@pytest.mark.parametrize("line", [line for page in PAGES for line in commands(page)])
def test_commands_compose(line: str) -> None:
    arguments = [re.sub(r"^run=(.*)$", r"run='\1'", a) for a in shlex.split(line)]
    arguments = [a for a in first_of_each(arguments) if not a.startswith("hydra")]
    compose(*(a for a in arguments if a not in ("FOLDER", "...")))


def test_commands_are_found() -> None:
    assert len(commands(PAGES[0])) >= 5


@pytest.mark.parametrize("group", ["agent", "guidance", "seeds", "logger", "experiment"])
def test_every_choice_is_named(group: str) -> None:
    (row,) = [line for line in README.splitlines() if line.startswith(f"| `{group}` |")]
    assert {path.stem for path in (CONF / group).glob("*.yaml")} <= set(re.findall(r"`(\w+)`", row))


def test_every_task_is_counted() -> None:
    families = [re.search(r"^family: (\w+)", path.read_text(), re.MULTILINE) for path in (CONF / "env").glob("*.yaml")]
    names = [match[1] for match in families if match]
    assert f"{names.count('paper')} paper tasks, {names.count('stock')} stock tasks" in README


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_example_errors_are_what_is_said() -> None:
    """The two examples of wrong input; the messages themselves are held by test_config and test_command_line."""
    from algd.errors import UsageError

    with pytest.raises(UsageError) as caught:
        compose("guidance.rho=0")
    assert f"error: {caught.value}" in README

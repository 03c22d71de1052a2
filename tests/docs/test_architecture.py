"""Imports have one direction: what each folder may import, also inside functions, and no cycles of modules."""

import ast
from collections.abc import Iterator

import pytest

from tests.support.command import ROOT

CORE = ["algd", "algd.algorithm"]
PARTS = ["algd.execution", "algd.envs", "algd.config"]
ALGD = [*CORE, *PARTS, "algd.storage", "algd.logging", "algd.run", "algd.cli"]

# Each folder with the folders that it may import besides itself. Packages only import from those above them.
MAY_IMPORT = {
    "algd": [],  # errors, seeding, secrets, streams, budget
    "algd.algorithm": ["algd"],
    **dict.fromkeys(PARTS, CORE),
    "algd.storage": [*CORE, "algd.config"],
    "algd.logging": [*CORE, "algd.config", "algd.storage"],
    "algd.run": [*CORE, *PARTS, "algd.storage", "algd.logging"],
    "algd.cli": [*CORE, *PARTS, "algd.storage", "algd.logging", "algd.run"],
    "launchers": ALGD,
    "launchers.hydra_plugins": ["algd", "launchers"],
    "analysis": [],  # markdown
    "analysis.statistics": ["analysis"],
    "analysis.runs": [*CORE, "algd.config", "algd.storage", "analysis", "analysis.statistics"],
    "analysis.results": [*ALGD[:-1], "analysis", "analysis.statistics", "analysis.runs"],
    "analysis.studies": [*ALGD[:-1], "analysis", "analysis.statistics", "analysis.runs"],
    "analysis.report": [*ALGD[:-1], "analysis", "analysis.statistics", "analysis.runs", "analysis.results",
                        "launchers"],
    "analysis.serve": [*ALGD[:-1], "analysis.runs", "analysis.report", "launchers"],
}
# Entry points, which may import across folders: public functions and commands.
DOORS = {"algd", "algd.__main__", "analysis.__main__", "analysis.arguments"}

FILES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
         for root in ("algd", "analysis", "launchers") for path in (ROOT / root).rglob("*.py")}


def imported(module: str) -> Iterator[str]:
    """Yield the project's modules that a module imports, at any place in it, without its own packages."""
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in FILES else str(node.module) for name in full]
        yield from (name for name in names if name in FILES and not f"{module}.".startswith(f"{name}."))


def folder_of(module: str) -> str:
    """Return the innermost folder of MAY_IMPORT that contains a module."""
    return max((folder for folder in MAY_IMPORT if f"{module}.".startswith(f"{folder}.")), key=len)


IMPORTS = {module: set(imported(module)) for module in FILES}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_imports_only_what_the_map_allows(folder: str) -> None:
    modules = [module for module in FILES if folder_of(module) == folder and module not in DOORS]
    assert [f"{module} imports {other}" for module in modules for other in sorted(IMPORTS[module])
            if folder_of(other) not in (folder, *MAY_IMPORT[folder])] == []


def test_every_folder_is_on_the_map() -> None:
    packages = {path.parent.relative_to(ROOT).parts[:2] for path in FILES.values()}
    below_algd = {".".join(parts) for parts in packages if parts[0] != "launchers"}
    assert below_algd <= MAY_IMPORT.keys()


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Return the cycles of modules, sorted, by Kosaraju's algorithm."""
    order: list[str] = []
    seen: set[str] = set()

    def visit(module: str, edges: dict[str, set[str]], into: list[str]) -> None:
        stack = [(module, iter(sorted(edges[module])))]
        seen.add(module)
        while stack:
            at, rest = stack[-1]
            after = next((other for other in rest if other not in seen), None)
            if after is None:
                into.append(at)
                stack.pop()
            else:
                seen.add(after)
                stack.append((after, iter(sorted(edges[after]))))

    for module in imports:
        if module not in seen:
            visit(module, imports, order)
    backwards: dict[str, set[str]] = {module: set() for module in imports}
    for module, others in imports.items():
        for other in others:
            backwards[other].add(module)
    seen.clear()
    found = []
    for module in reversed(order):
        if module not in seen:
            group: list[str] = []
            visit(module, backwards, group)
            found.append(sorted(group))
    return sorted(group for group in found if len(group) > 1)


def test_a_planted_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"a"}}) == [["b", "c"]]


def test_no_circle_among_modules() -> None:
    assert circles({module: others - DOORS for module, others in IMPORTS.items()}) == []

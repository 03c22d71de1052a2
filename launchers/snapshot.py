"""Copy the current code, so that runs use what was submitted even if the code is edited while they wait.

    runs/sweeps/code/<hash>/
      algd/ analysis/ launchers/     the packages, including uncommitted and untracked files
      my_lab/                        packages that the user trusts (`trusted`), except installed ones
      code.json                      the git commit and the uncommitted diff, for meta.json (`algd.storage.provenance`)

A snapshot is named by a hash of its content, so that sweeps of the same code share it. It contains no configurations:
each run's configuration is frozen in the run's folder.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from algd.storage.files import write_atomically
from algd.storage.provenance import code_version, package_places

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("algd", "analysis", "launchers")


def code_files(package: Path, runs_dir: Path | None = None) -> list[Path]:
    """Return a package's files, sorted, without compiled Python files, git's own and those of the runs.

    Args:
        package: its folder, or the file of a single-file module.
        runs_dir: the runs' folder, which may be in the package.
    """
    if package.is_file():
        return [package]
    found = []
    for folder, folders, files in os.walk(package):
        at = Path(folder)
        folders[:] = [name for name in folders
                      if name not in ("__pycache__", ".git") and (at / name).resolve() != runs_dir]
        found += [at / name for name in files if (at / name).is_file()]
    return sorted(found)


def own_packages(trusted: Iterable[str]) -> list[Path]:
    """Return the packages and single-file modules of trusted code, except those that pip installed."""
    found = {place for module in trusted for place in package_places(module)}
    return sorted(path for path in found if not {"site-packages", "dist-packages"} & set(path.parts))


def take_snapshot(sweeps: Path, own: Sequence[Path] = (), root: Path = ROOT) -> Path:
    """Copy the code into `sweeps`/code, unless it is already there.

    Args:
        sweeps: the folder of the sweep files.
        own: the user's packages (`own_packages`).
        root: the folder of this project's packages.

    Returns:
        The snapshot's folder.
    """
    contents = {path.relative_to(package.parent): path.read_bytes() for package in (*map(root.joinpath, PACKAGES), *own)
                for path in code_files(package, sweeps.parent.resolve())}
    version = json.dumps(code_version(), indent=1).encode()
    digest = hashlib.sha256(version)
    for path, content in contents.items():
        digest.update(f"\0{path}\0{len(content)}\0".encode() + content)
    final = sweeps / "code" / digest.hexdigest()[:12]
    if final.exists():
        return final
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    for path, content in contents.items():
        (temporary / path).parent.mkdir(parents=True, exist_ok=True)
        (temporary / path).write_bytes(content)
    write_atomically(temporary / "code.json", version)
    try:
        os.rename(temporary, final)
    except OSError:  # Another sweep may have made it meanwhile.
        shutil.rmtree(temporary)
        if not final.exists():
            raise
    return final

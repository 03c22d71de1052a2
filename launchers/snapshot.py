"""The code as it is now, kept: what was submitted is what runs, whatever is edited while runs wait.

    runs/sweeps/code/<hash>/
      algd/ analysis/ launchers/     the packages, uncommitted and untracked files included
      my_lab/                        packages that the user trusts (`trusted`), but for installed ones
      code.json                      the git commit and the uncommitted diff, for meta.json (`algd.storage.provenance`)

A snapshot is named by its content, so that sweeps of the same code share it. Configurations are not in it: each run's
is frozen in the run's own folder.
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


def code_files(root: Path = ROOT) -> list[Path]:
    """Every file of the packages, relative to their root, sorted; not what Python compiled from them."""
    found = [path for package in PACKAGES for path in (root / package).rglob("*") if path.is_file()]
    return sorted(path.relative_to(root) for path in found if "__pycache__" not in path.parts)


def own_packages(trusted: Iterable[str]) -> list[Path]:
    """The packages, and single files, that trusted modules are in; not those that pip has installed."""
    found = {place for module in trusted for place in package_places(module)}
    return sorted(path for path in found if not {"site-packages", "dist-packages"} & set(path.parts))


def take_snapshot(sweeps: Path, own: Sequence[Path] = (), root: Path = ROOT) -> Path:
    """Copy the code into `sweeps`/code, if it is not there yet.

    Args:
        sweeps: the folder of the sweeps' files.
        own: packages of the user's (`own_packages`).
        root: the folder that this project's packages are in.

    Returns:
        The snapshot's folder.
    """
    contents = {path: (root / path).read_bytes() for path in code_files(root)}
    for package in own:
        files = [package] if package.is_file() else [path for path in sorted(package.rglob("*")) if path.is_file()]
        contents |= {path.relative_to(package.parent): path.read_bytes() for path in files
                     if "__pycache__" not in path.parts}
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
    except OSError:  # Another sweep was quicker.
        shutil.rmtree(temporary)
        if not final.exists():
            raise
    return final

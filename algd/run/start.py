"""A run's starts in meta.json: the versions and settings of each, and what makes a resume inexact."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from algd.config.identity import identity
from algd.envs.registered import module_of
from algd.execution.native.library import worthwhile
from algd.execution.step import Execution
from algd.storage.checkpoint import Checkpoints
from algd.storage.files import free_name
from algd.storage.provenance import gpu_driver, package_hashes, start_record
from algd.storage.run_folder import RunFolder

SAME_DIFF = "as at the start before"  # replaces a diff that is unchanged, so that meta.json stays small
# What determines floating-point results to the last bit, besides the versions of these packages.
EXACTNESS = {"threads": "thread count", "device": "device", "execution": "execution", "processor": "processor",
             "cpu_capability": "instruction set", "python": "Python", "gpu": "GPU", "gpu_driver": "GPU driver"}
EXACT_PACKAGES = ("torch", "numpy", "scipy", "gymnasium", "mujoco", "safety-gymnasium")


@dataclass(frozen=True)
class Earlier:
    """The starts before this one.

    A start continues the previous one if there was a checkpoint then; otherwise the run began again.

    Attributes:
        starts: their records, oldest first.
        goes_on: whether there is a checkpoint to continue from now.
    """

    starts: Sequence[Mapping[str, Any]]
    goes_on: bool

    @property
    def begun(self) -> int:
        """The number of the start that the run began with."""
        return max((i for i, start in enumerate(self.starts) if not start.get("goes_on", i > 0)), default=0)

    @property
    def first(self) -> Mapping[str, Any] | None:
        """The start that the run began with; None if it begins now, or if that is not known."""
        return self.starts[self.begun] if self.goes_on and self.starts else None


def choose(config: Mapping[str, Any], device: str, execution: Execution, earlier: Earlier,
           native_pays: Callable[[], bool]) -> tuple[int, Execution]:
    """Threads and execution: for `auto` the same as when the run began, if that is possible.

    Args:
        config: the checked configuration.
        device: that this start computes on.
        execution: what `compile` means for a run that begins now.
        native_pays: whether networks in C are available and worthwhile here.
    """
    first, threads = earlier.first, config["threads"]
    if threads == "auto":
        threads = first["threads"] if first else 1
    if config["compile"] == "auto" and first and first.get("device") == device:
        execution = first.get("execution", execution)
        if execution == "native" and not native_pays():
            execution = "eager"
    return threads, execution


def inexactness(record: Mapping[str, Any], earlier: Earlier) -> list[str]:
    """Return the reasons why the run differs, so far or from now on, from one that was never interrupted.

    Args:
        record: of this start.

    Returns:
        A sentence for each reason; empty if it is the same bit for bit, as far as is known.
    """
    starts, first = earlier.starts, earlier.first
    if first is None:
        return ["what the run was trained with so far is not known without meta.json: it continues, but perhaps not "
                "bit for bit as it would have"] if earlier.goes_on else []
    # Starts that were recorded before a key was known have nothing to compare.
    compared = [(what, first.get(key), record[key]) for key, what in EXACTNESS.items()
                if key in first or key not in ("gpu", "gpu_driver")]
    compared += [(package, first["versions"][package], record["versions"].get(package))
                 for package in EXACT_PACKAGES if package in first["versions"]]
    notes = [f"{what} was {then} and is {now} now: the run continues, but not bit for bit as it would have"
             for what, then, now in compared if then != now]
    if starts[-1].get("commit") != record["commit"]:
        notes.append(f"the code was commit {starts[-1].get('commit')} at the last start and is commit "
                     f"{record['commit']} now: the run continues, but perhaps not bit for bit as it would have")
    elif "diff" in starts[-1] and _last_diff(starts) != record["diff"]:
        notes.append("the code's uncommitted changes are not those of the last start: the run continues, but perhaps "
                     "not bit for bit as it would have")
    earlier_code = starts[-1].get("trusted", {})
    notes += [f"the code of {package} was {earlier_code[package]} at the last start and is {now} now (hashes): the run "
              "continues, but perhaps not bit for bit as it would have"
              for package, now in record.get("trusted", {}).items() if earlier_code.get(package, now) != now]
    if not notes and not all(start.get("exact", True) for start in starts[earlier.begun:]):
        notes.append("the run continues as it was begun, but an earlier start did not (meta.json): as a whole it is "
                     "not bit for bit what it would have been")
    return notes


def _last_diff(starts: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the uncommitted changes at the last start; None if there were none, or no start."""
    diffs = [start["diff"] for start in starts if start.get("diff") not in (None, SAME_DIFF)]
    return diffs[-1] if diffs and starts[-1].get("diff") else None


def without_repeated_diff(record: Mapping[str, Any], starts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the record without its diff of uncommitted changes if the previous start had the same."""
    repeated = record["diff"] and record["diff"] == _last_diff(starts)
    return dict(record) | ({"diff": SAME_DIFF} if repeated else {})


def compute_record(device: torch.device) -> dict[str, str | None]:
    """Return what determines the last bits of a result and only torch knows; entries of the GPU are None on a CPU."""
    on_gpu = device.type == "cuda"
    return {"cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "gpu": torch.cuda.get_device_name(device) if on_gpu else None,
            "gpu_driver": gpu_driver() if on_gpu else None}


def own_code(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the hash of the code of each module of the user's that the run uses."""
    return package_hashes([*config["trusted"], *filter(None, [module_of(config["env"])])])


def record_inexact(folder: RunFolder) -> None:
    """Record in meta.json that the last start does not continue the run exactly."""
    starts = folder.meta()["starts"]
    folder.write_meta({"identity": folder.meta()["identity"], "starts": [*starts[:-1], starts[-1] | {"exact": False}]})


def record_start(folder: RunFolder, config: Mapping[str, Any], device: torch.device,
                 execution: Execution) -> tuple[dict[str, Any], list[str]]:
    """Add this start to meta.json.

    Args:
        folder: the run's folder, locked by this process.
        config: the checked configuration.
        device: that this start computes on.
        execution: what `compile` means for a run that begins now.

    Returns:
        Its record, and what makes resuming inexact, a sentence each.
    """
    run, meta = identity(config), folder.meta()
    if meta.get("identity", run) != run:
        meta = {}
    earlier = Earlier(meta.get("starts", []), bool(Checkpoints(folder.checkpoints).numbers()))
    threads, execution = choose(config, str(device), execution, earlier, worthwhile)
    record = start_record(threads, str(device)) | compute_record(device) | {
        "execution": execution, "goes_on": earlier.goes_on}
    if own := own_code(config):
        record["trusted"] = own
    notes = inexactness(record, earlier)
    record = without_repeated_diff(record | {"exact": not notes}, earlier.starts)
    if folder.meta_file.exists() and not meta:
        os.rename(folder.meta_file, free_name(folder.meta_file, "damaged"))
    folder.write_meta({"identity": run, "starts": [*earlier.starts, record]})
    return record, notes

"""Import safety-gymnasium 1.0.0 with newer versions than its pins allow: Python >= 3.11, gymnasium >= 1.0.

The package is the reference implementation of the navigation and velocity tasks, but its last release predates
both. `import_safety_gymnasium` imports it unchanged and repairs, from the outside,

1. twelve dataclasses with NumPy arrays as defaults, which Python >= 3.11 refuses (`mutable default`);
2. five modules below `gymnasium.wrappers` that gymnasium 1.0 renamed, and `gymnasium_robotics`, which only the
   multi-agent tasks need and which pins NumPy below 1.24;
3. the fields `autoreset` and `apply_api_compatibility`, which gymnasium 1.0 removed from `EnvSpec`;
4. `OffScreenViewer`, which gymnasium 1.0 no longer builds without a width and a height.

Repairs 1 and 2 last for the import only. `make_stock` makes the package's environments. This module can go when a
release of safety-gymnasium supports gymnasium >= 1.0; each repair already leaves alone what is not broken.
"""

import atexit
import contextlib
import ctypes.util
import dataclasses
import difflib
import functools
import importlib
import importlib.util
import inspect
import os
import sys
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np

from algd.errors import UsageError


def choose_headless_opengl() -> None:
    """Let MuJoCo render with EGL if there is no display and MUJOCO_GL is not set.

    Call it before `mujoco` is imported, which reads MUJOCO_GL once. Without the EGL library nothing is chosen,
    because MuJoCo could not be imported then.
    """
    headless = sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if headless and "MUJOCO_GL" not in os.environ and ctypes.util.find_library("EGL"):
        os.environ["MUJOCO_GL"] = "egl"


def import_safety_gymnasium() -> ModuleType:
    """The module `safety_gymnasium`, repaired as this module's docstring says. Calling it again is free.

    Raises:
        UsageError: the package is not installed.
    """
    if "safety_gymnasium" in sys.modules:
        return sys.modules["safety_gymnasium"]
    if importlib.util.find_spec("safety_gymnasium") is None:
        raise UsageError("safety-gymnasium is not installed: run `make setup`, or `pip install --no-deps "
                         "safety-gymnasium==1.0.0` (without --no-deps pip looks for the packages that it pins, "
                         "which do not exist for this Python)")
    choose_headless_opengl()
    with _renamed_modules(), _array_defaults_allowed():
        package = importlib.import_module("safety_gymnasium")
    _restore_spec_fields()
    _give_offscreen_viewer_its_size()
    return package


def make_stock(id: str, horizon: int, render_mode: str | None, **kwargs: Any) -> gymnasium.Env:
    """One of the package's environments with gymnasium's five values a step and the cost in `info`.

    Raises:
        UsageError: the package has no environment of this name.
    """
    package = import_safety_gymnasium()
    from safety_gymnasium.utils.registration import safe_registry

    if id not in safe_registry:
        raise UsageError(f"id={id} is not an environment of safety-gymnasium, which has "
                         f"{', '.join(_alike(id, safe_registry))} and others")
    with np.errstate(over="ignore"), deprecations_unsaid():  # gymnasium casts the largest float64 to compare bounds
        env = package.make(id, max_episode_steps=horizon, disable_env_checker=True, render_mode=render_mode, **kwargs)
    return package.wrappers.SafetyGymnasium2Gymnasium(env)


def _alike(id: str, known: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(id, sorted(known), n=3, cutoff=0.0)


@contextlib.contextmanager
def deprecations_unsaid() -> Iterator[None]:
    """Let MuJoCo not warn (nor write to a file in the working directory) that a model file is dated."""
    import mujoco

    def say(message: str) -> None:
        if "deprecated" not in message:
            warnings.warn(message, stacklevel=2)

    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(say)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


@contextlib.contextmanager
def _array_defaults_allowed() -> Iterator[None]:
    """While open, `dataclasses.dataclass` turns an unhashable default into a factory of copies."""
    original = dataclasses.dataclass
    dataclasses.dataclass = _copying_defaults(original)
    try:
        yield
    finally:
        dataclasses.dataclass = original


def _copying_defaults(original: Callable[..., Any]) -> Callable[..., Any]:
    def decorate(cls: type, **options: Any) -> type:
        for name in inspect.get_annotations(cls):
            default: Any = cls.__dict__.get(name)
            if hasattr(default, "copy") and type(default).__hash__ is None:
                setattr(cls, name, dataclasses.field(default_factory=default.copy))
        return original(cls, **options)

    def dataclass(cls: type | None = None, /, **options: Any) -> Any:
        return functools.partial(decorate, **options) if cls is None else decorate(cls, **options)

    return dataclass


@contextlib.contextmanager
def _renamed_modules() -> Iterator[None]:
    """While open, the modules that safety-gymnasium imports under names that are gone can be imported."""
    from gymnasium import wrappers
    from gymnasium.wrappers.utils import RunningMeanStd

    contents: dict[str, dict[str, Any]] = {
        "gymnasium.wrappers.compatibility": {"EnvCompatibility": _Unavailable},
        "gymnasium.wrappers.autoreset": {"AutoResetWrapper": wrappers.Autoreset},
        "gymnasium.wrappers.env_checker": {"PassiveEnvChecker": wrappers.PassiveEnvChecker},
        "gymnasium.wrappers.time_limit": {"TimeLimit": wrappers.TimeLimit},
        "gymnasium.wrappers.normalize": {"NormalizeObservation": wrappers.NormalizeObservation,
                                         "NormalizeReward": wrappers.NormalizeReward,
                                         "RunningMeanStd": RunningMeanStd},
    }
    if importlib.util.find_spec("gymnasium_robotics") is None:
        contents |= {"gymnasium_robotics": {}, "gymnasium_robotics.envs": {},
                     "gymnasium_robotics.envs.multiagent_mujoco": {},
                     "gymnasium_robotics.envs.multiagent_mujoco.mujoco_multi": {"MultiAgentMujocoEnv": _Unavailable}}
    added = []
    try:
        for name, attributes in contents.items():
            if name not in sys.modules and not _exists(name):
                module = ModuleType(name)
                vars(module).update(attributes)
                sys.modules[name] = module
                added.append(name)
        yield
    finally:
        for name in added:
            del sys.modules[name]


def _exists(name: str) -> bool:
    """Whether the module can be found; the parents of the names asked for are packages or stand-ins."""
    parent = name.rpartition(".")[0]
    if parent and not hasattr(sys.modules.get(parent), "__path__"):
        return False
    return importlib.util.find_spec(name) is not None


class _Unavailable:
    """A stand-in for classes that this project's tasks do not need."""

    def __init__(self, *args: Any, **kwargs: Any):
        raise UsageError("this part of safety-gymnasium is not supported here: it needs gymnasium below 1.0 or "
                         "gymnasium-robotics")


def _restore_spec_fields() -> None:
    """Let safety-gymnasium's `make` read, and pass on, two fields that gymnasium 1.0 removed from `EnvSpec`."""
    from gymnasium.envs.registration import EnvSpec
    from safety_gymnasium.utils import registration

    removed = {"autoreset", "apply_api_compatibility"} - {field.name for field in dataclasses.fields(EnvSpec)}
    if not removed:
        return
    for name in removed:
        setattr(EnvSpec, name, False)

    class Lenient(type):
        """`make` tests specs with isinstance, so every EnvSpec has to count as an instance."""

        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, EnvSpec)

        def __call__(cls, *args: Any, **kwargs: Any) -> EnvSpec:
            return EnvSpec(*args, **{key: value for key, value in kwargs.items() if key not in removed})

    class LenientEnvSpec(metaclass=Lenient):
        """An EnvSpec that accepts the removed fields."""

    registration.EnvSpec = LenientEnvSpec


def _give_offscreen_viewer_its_size() -> None:
    """Give the viewer its size, which the task has written into the model by then."""
    from gymnasium.envs.mujoco.mujoco_rendering import OffScreenViewer
    from safety_gymnasium.bases import underlying

    alive: weakref.WeakSet[OffScreenViewer] = weakref.WeakSet()

    def free_all() -> None:
        for viewer in list(alive):
            viewer.free()

    def sized_viewer(model: Any, data: Any) -> OffScreenViewer:
        size = model.vis.global_
        viewer = OffScreenViewer(model, data, width=size.offwidth, height=size.offheight)
        if not alive:  # viewers must be freed at exit before OpenGL ends, which would otherwise print errors
            atexit.register(free_all)
        alive.add(viewer)
        return viewer

    underlying.OffScreenViewer = sized_viewer

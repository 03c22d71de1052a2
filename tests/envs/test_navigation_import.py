"""Importing safety-gymnasium: what is repaired, what stays unchanged, and the error if it is missing."""

import ctypes.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new process, without a display and without a choice of OpenGL unless given."""
    inherited = {key: value for key, value in os.environ.items()
                 if key not in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL", "PYOPENGL_PLATFORM")}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                          env={**inherited, **environment})


def test_the_import_works_and_leaves_other_modules_as_they_were() -> None:
    done = run("""
import dataclasses, sys
original = dataclasses.dataclass
from algd.envs.safety_gymnasium.import_repairs import import_safety_gymnasium
package = import_safety_gymnasium()
assert package is import_safety_gymnasium() is sys.modules['safety_gymnasium']
assert dataclasses.dataclass is original
assert not [name for name in sys.modules if name.startswith(('gymnasium.wrappers.compat', 'gymnasium_robotics'))]
try:
    dataclasses.make_dataclass('Wrong', [('values', list, [])])
except ValueError:
    pass
else:
    raise AssertionError('mutable defaults are allowed for everybody')
from safety_gymnasium.assets.geoms import Hazards
first, second = Hazards(), Hazards()
first.color[0] = 99
assert second.color[0] != 99, 'each object has its own colours'
import gymnasium
env = gymnasium.make('SafetyPointGoal1Gymnasium-v0')
env.reset(seed=0)
assert 'cost' in env.step(env.action_space.sample())[4]
""")
    assert done.returncode == 0, done.stderr


def test_a_failing_import_leaves_dataclasses_as_they_were(tmp_path: Path) -> None:
    broken = tmp_path / "safety_gymnasium"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise RuntimeError('broken on purpose')")
    done = run("""
import dataclasses
original = dataclasses.dataclass
from algd.envs.safety_gymnasium.import_repairs import import_safety_gymnasium
for _ in range(2):
    try:
        import_safety_gymnasium()
    except RuntimeError as error:
        assert 'on purpose' in str(error)
    else:
        raise AssertionError('nothing was raised')
    assert dataclasses.dataclass is original
""", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_without_the_package_a_user_is_told_what_to_run(tmp_path: Path) -> None:
    """With links to all installed packages except this one, the error says what to run."""
    import numpy

    for installed in Path(numpy.__file__).parents[1].iterdir():
        if not installed.name.startswith("safety_gymnasium"):
            (tmp_path / installed.name).symlink_to(installed)
    code = f"""
import sys
sys.path[:] = [path for path in sys.path if not path.endswith('site-packages')] + [{str(tmp_path)!r}]
from algd.envs.safety_gymnasium.import_repairs import import_safety_gymnasium
from algd.errors import UsageError
try:
    import_safety_gymnasium()
except UsageError as error:
    print(error)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert "make setup" in done.stdout and "--no-deps" in done.stdout and done.stdout.count("\n") == 1


HEADLESS = "egl" if sys.platform == "linux" and ctypes.util.find_library("EGL") else "None"


@pytest.mark.parametrize(("environment", "chosen"), [({}, HEADLESS), ({"MUJOCO_GL": "osmesa"}, "osmesa"),
                                                     ({"DISPLAY": ":0"}, "None"), ({"WAYLAND_DISPLAY": "w"}, "None")])
def test_egl_is_chosen_without_a_display_unless_somebody_has_chosen(environment: dict[str, str], chosen: str) -> None:
    done = run("from algd.envs.safety_gymnasium.import_repairs import choose_headless_opengl as choose\n"
               "import os; choose(); print(os.environ.get('MUJOCO_GL'))", **environment)
    assert done.stdout.strip() == chosen, done.stderr

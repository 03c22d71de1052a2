"""Videos: frames of a real episode with a caption, complete files or none, and machines that cannot render."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from algd.budget import Budget
from algd.envs import toy
from algd.envs.task import Task
from algd.errors import UsageError
from algd.run import video
from algd.run.episodes import Episode, run_episode
from tests.support.command import ROOT


def drawn_toy(render_mode: str | None = "rgb_array", steps: int = 16) -> Task:
    return toy.make("toy", "toy", 1, 4.0, "episode", steps, render_mode=render_mode)


def drawn_start() -> np.ndarray:
    task = drawn_toy()
    task.reset(seed=3)
    return task.render()


def ahead(observation: np.ndarray) -> np.ndarray:
    return np.array([1.0, 0.0])


def frames_of(path: Path) -> list[np.ndarray]:
    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    return [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]


def test_a_video_shows_every_step_of_the_episode(tmp_path: Path) -> None:
    path = tmp_path / "videos" / "step7.mp4"
    episode = video.record(drawn_toy(), ahead, 3, 0.99, path)
    assert episode.row() == run_episode(drawn_toy(None), ahead, 3, 0.99).row()
    frames = frames_of(path)
    assert len(frames) == 17 and frames[0].shape == (512 + video.CAPTION_HEIGHT, 512, 3)
    # Compression changes colours slightly: the last frame is close to what was drawn, and the first is not.
    task = drawn_toy()
    task.reset(seed=3)
    for _ in range(16):
        task.step(np.array([1.0, 0.0]))
    expected = video.captioned(task.render(), episode, task.budget).astype(int)
    shown = (np.abs(expected - video.captioned(drawn_start(), Episode(0.99), task.budget)) > 60).any(-1)
    first, last = (np.abs(frame - expected)[shown].mean() for frame in (frames[0], frames[-1]))
    assert last < 20 < 60 < first
    assert [p.name for p in path.parent.iterdir()] == ["step7.mp4"]


def test_the_caption_turns_red_over_the_budget() -> None:
    def reddish(cost: float, budget: Budget) -> bool:
        episode = Episode(0.5)
        for _ in range(2):
            episode.add(1.0, cost)
        caption = video.captioned(np.zeros((60, 481, 3), np.uint8), episode, budget)
        assert caption.shape == (60 + video.CAPTION_HEIGHT, 482, 3)
        caption = caption[:video.CAPTION_HEIGHT].astype(int)
        return bool((caption[..., 0] - caption[..., 1] > 80).any())

    episode_budget, discounted_budget = Budget(4.0, "episode", 2), Budget(4.0, "discounted", 2)
    assert not reddish(2.0, episode_budget) and reddish(2.1, episode_budget)
    assert not reddish(2.1, discounted_budget) and reddish(2.7, discounted_budget)  # 2.7 + 0.5 · 2.7 = 4.05


def test_an_episode_that_fails_leaves_no_file(tmp_path: Path) -> None:
    steps = []

    def fails(observation: np.ndarray) -> np.ndarray:
        steps.append(observation)
        if len(steps) == 5:
            raise RuntimeError("the policy broke")
        return ahead(observation)

    with pytest.raises(RuntimeError, match="the policy broke"):
        video.record(drawn_toy(), fails, 0, 0.99, tmp_path / "step1.mp4")
    assert list(tmp_path.iterdir()) == []


def test_frames_are_not_kept(tmp_path: Path) -> None:
    """A video of three times as many steps needs no more memory: a frame is 835 kB."""
    def most(steps: int) -> int:
        tracemalloc.start()
        try:
            video.record(drawn_toy(steps=steps), ahead, 3, 0.99, tmp_path / "step1.mp4")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    most(2)
    assert most(24) - most(8) < 3 * (512 + video.CAPTION_HEIGHT) * 512 * 3


def test_a_task_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="env=toy draws no frames"):
        video.check_rendering(lambda: drawn_toy(None))
    with pytest.raises(UsageError, match="env=toy draws no frames"):
        video.record(drawn_toy(None), ahead, 0, 0.99, tmp_path / "step1.mp4")
    video.check_rendering(drawn_toy)


CHECK = """
import gymnasium
from algd.budget import Budget
from algd.envs.task import Task
from algd.errors import UsageError
from algd.run.video import check_rendering
try:
    check_rendering(lambda: Task(gymnasium.make("Hopper-v4", render_mode="rgb_array"), "hopper", "other",
                                 Budget(1.0, "episode", 10)))
    print("it can draw")
except UsageError as error:
    print(f"UsageError: {error}")
"""


def test_mujoco_without_opengl_is_said_in_a_sentence() -> None:
    def check(mujoco_gl: str) -> str:
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", CHECK], cwd=ROOT, text=True, capture_output=True,
                              env={"PATH": "/usr/bin:/bin", "MUJOCO_GL": mujoco_gl, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    for impossible in ("disable", "nonsense"):
        message = check(impossible)
        assert message.startswith("UsageError: ") and "OpenGL" in message and "eval.video=false" in message
        assert "\n" not in message

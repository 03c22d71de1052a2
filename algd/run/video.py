"""Videos of episodes: frames of a task with the return and the cost so far written above them."""

import contextlib
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from algd.budget import Budget
from algd.envs.task import Task
from algd.errors import UsageError
from algd.run.acting import Act
from algd.run.episodes import Episode, run_episode
from algd.run.loaded_agent import LoadedAgent
from algd.seeding import episode_seed
from algd.storage.files import write_atomically

Frame = NDArray[np.uint8]

LEAST_WIDTH = 480  # narrower frames are enlarged by a whole number, so that the caption can be read
CAPTION_HEIGHT = 32
BACKGROUND, TEXT, OVER_BUDGET = (24, 26, 31), (235, 235, 235), (255, 110, 100)


def check_rendering(build: Callable[[], Task]) -> None:
    """Render one frame, so that a machine without rendering is detected before training.

    Args:
        build: makes the task with render_mode="rgb_array". (MuJoCo looks for OpenGL when it is imported, so making
            the task can be what fails.)

    Raises:
        UsageError: no frame or no encoder.
    """
    try:
        imageio_ffmpeg.get_ffmpeg_exe()
        task = build()
        try:
            task.reset(seed=0)
            _render(task)
        finally:
            task.close()
    except UsageError:
        raise
    except Exception as error:  # OpenGL's bindings raise exceptions of many types
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UsageError(
            f"eval.video=true: this machine cannot render a video ({reason}); MuJoCo needs OpenGL: install libegl1, or "
            "libosmesa6 and set MUJOCO_GL=osmesa; other environments need what the error names; or set eval.video=false"
        ) from error


def record(task: Task, act: Act, seed: int, cost_discount: float, path: Path) -> Episode:
    """Run one episode and write it as an H.264 video, atomically; if the simulator fails, as far as it came.

    Args:
        task: made with render_mode="rgb_array".
        act: observation (s,) ↦ action (d,).
        seed: of the episode.
        cost_discount: γ_c.
        path: of the video, *.mp4; its folder is made.

    Raises:
        UsageError: the task draws no frames.
        SimulatorError: the simulator failed before the first.
    """
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "video.mp4"
        with contextlib.closing(_encoder(film, float(task.metadata.get("render_fps") or 30))) as encoder:
            next(encoder)

            def add_frame(episode: Episode, observation: np.ndarray, action: np.ndarray | None) -> None:
                encoder.send(captioned(_render(task), episode, task.budget))

            episode = run_episode(task, act, seed, cost_discount, observe=add_frame)
        if episode.error is not None and not film.exists():
            raise episode.error
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, film.read_bytes())
    return episode


def record_evaluation(loaded: LoadedAgent) -> str:
    """Write a video of one deterministic evaluation episode of a loaded agent, in its run's videos/.

    Args:
        loaded: loaded with render_mode="rgb_array".

    Returns:
        Its path, and why it is not of a whole episode if it is not.

    Raises:
        UsageError: the task draws no frames.
        SimulatorError: the simulator failed before the first.
    """
    config = loaded.config
    seed = episode_seed(config["seed"], "evaluation video", loaded.step)
    path = loaded.folder.video(loaded.step)
    episode = record(loaded.task, loaded.act, seed, config["agent"]["cost_discount"], path)
    return str(path) if episode.error is None else f"{path}, until the simulator failed: {episode.error}"


def captioned(frame: Frame, episode: Episode, budget: Budget) -> Frame:
    """A frame with the step, the return and the cost so far above it; height and width are even, as H.264 needs.

    The cost is in the budget's kind, and in red once it exceeds the limit.
    """
    zoom = -(-LEAST_WIDTH // frame.shape[1])
    picture = np.repeat(np.repeat(frame, zoom, axis=0), zoom, axis=1)
    height, width = (n + n % 2 for n in picture.shape[:2])
    canvas = Image.new("RGB", (width, height + CAPTION_HEIGHT), BACKGROUND)
    canvas.paste(Image.fromarray(picture), (0, CAPTION_HEIGHT))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=17)
    spent = budget.spent(episode.cost, episode.discounted_cost)
    kind = "discounted cost" if budget.kind == "discounted" else "cost"
    left = f"step {episode.length}   return {episode.reward:.1f}   "
    draw.text((10, 6), left, fill=TEXT, font=font)
    draw.text((10 + draw.textlength(left, font=font), 6), f"{kind} {spent:.1f} of {budget.limit:g}",
              fill=OVER_BUDGET if spent > budget.limit else TEXT, font=font)
    return np.asarray(canvas)


def _render(task: Task) -> Frame:
    frame = task.render()
    if not (isinstance(frame, np.ndarray) and frame.ndim == 3 and frame.shape[2] == 3 and frame.dtype == np.uint8):
        raise UsageError(f"env={task.name} draws no frames (render_mode={task.render_mode}): "
                         "a video needs an environment that offers rgb_array")
    return frame


def _encoder(path: Path, frames_per_second: float) -> Generator[None, Frame]:
    """Write the frames that are sent, each (H, W, 3), to an mp4 file as they come: a whole episode's need a lot of
    memory. Without any there is no file."""
    frame = yield
    height, width = frame.shape[:2]
    writer = imageio_ffmpeg.write_frames(str(path), (width, height), fps=frames_per_second, macro_block_size=2,
                                         ffmpeg_log_level="error")
    with contextlib.closing(writer):
        writer.send(None)
        while True:
            writer.send(np.ascontiguousarray(frame))
            frame = yield

"""Learning curves show what run folders contain."""

import contextlib
import dataclasses
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.lines import Line2D

from algd.errors import UsageError
from analysis.__main__ import main
from analysis.report.figures import columns_of, curve_figure, thinned_alike
from analysis.results.cells import Cell, cells
from analysis.results.curves import curve, draw, draw_curvature, series_of, smoothed
from analysis.results.style import STYLE, WIDTH, legend, look
from analysis.results.tradeoff import draw_tradeoff, path
from analysis.runs.model import Series
from analysis.runs.read import read_run
from tests.analysis.run_folders import FIXTURE, config, evaluation, fixture_runs, make_run, runs_in

matplotlib.use("Agg")
KEYS = ("agent", "guidance")


def paper_cells(*conditions: str) -> list[Cell]:
    return cells(fixture_runs("env.family=paper", *conditions))


def lines(figure: Figure, panel: int, colour: str) -> list[tuple[list[float], list[float]]]:
    """Return steps and values of the fully opaque lines of a colour."""
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in figure.axes[panel].lines
            if line.get_color() == colour and line.get_alpha() is None]


def test_a_curve_uses_the_seeds_that_are_there() -> None:
    """For four seeds of different lengths nothing is padded, and fewer than three seeds have no interval."""
    one = curve([Series(np.array([0.0, 10, 20]), np.array([1.0, 2, 3])),
                 Series(np.array([0.0, 10]), np.array([3.0, 4])),
                 Series(np.array([0.0, 10]), np.array([5.0, np.nan])), Series(np.array([0.0]), np.array([100.0]))])
    assert one.steps.tolist() == [0, 10, 20] and one.count.tolist() == [4, 2, 1]
    assert one.centre.tolist() == [4, 3, 3]  # mean of the middle two of 1 3 5 100
    assert np.isnan(one.low[1:]).all() and np.isnan(one.high[1:]).all() and one.low[0] < 4 < one.high[0]


def test_smoothing_looks_back_only() -> None:
    one = Series(np.arange(4.0), np.array([1.0, 3, 5, 9]))
    assert smoothed(one, 1).values.tolist() == [1, 3, 5, 9]
    assert smoothed(one, 2).values.tolist() == [1, 2, 4, 7]
    assert smoothed(one, 9).values.tolist() == [1, 2, 3, 4.5]


def test_series_come_from_the_files() -> None:
    (run,) = fixture_runs("env=point_button1", "guidance=augmented", "seed=1")
    assert series_of(run, "return").values.tolist() == [0, 10, 22, 24]
    assert series_of(run, "cost").steps.tolist() == [0, 100, 200, 300]
    assert series_of(run, "lam").values.tolist() == [0.7, 1.1, 1.5]
    assert len(series_of(run, "not there").steps) == 0


def test_what_is_drawn_is_the_table() -> None:
    """A line ends at the table's number, the limit is drawn on top, and bands need three seeds."""
    found = paper_cells()
    figure = draw(found, KEYS, "return")
    car, point = figure.axes[:2]
    assert [axis.get_title() for axis in (car, point)] == ["car_button1", "point_button1"]
    augmented = next(cell for cell in found if cell.row == ("point_button1",) and cell.column[1] == "augmented")
    ((steps, values),) = lines(figure, 1, "#0072B2")
    assert augmented.mean_return is not None and (steps[-1], values[-1]) == (300, augmented.mean_return.value)
    costs = draw(found, KEYS, "cost")
    (limit,) = [line for line in costs.axes[1].lines if set(line.get_ydata()) == {10.0}]
    assert limit.get_zorder() > max(line.get_zorder() for line in costs.axes[1].lines if line is not limit)
    ((_, values),) = lines(costs, 1, "#0072B2")
    assert augmented.mean_cost is not None and values[-1] == augmented.mean_cost.value
    # Two seeds of plain on car_button1: an empty band.
    bands = [band for band in car.collections if isinstance(band, PolyCollection)]
    filled = [any(len(path.vertices) for path in band.get_paths()) for band in bands]
    assert sorted(filled) == [False, True]
    assert figure.get_suptitle().replace("\n", " ") == (
        "deterministic evaluations (markers); n = 2–5 seeds; line: interquartile mean; band: 95% bootstrap t interval, "
        "from 3 seeds on")
    said = draw(found, KEYS, "cost", window=3, raw=True, sampler="stochastic").get_suptitle().replace("\n", " ")
    assert said == ("stochastic evaluations (markers); n = 2–5 seeds; line: mean; band: lowest to highest seed; "
                    "thin: each seed; each point averages 3 values")
    percentile = cells(fixture_runs("env=point_button1"), method="percentile")
    assert "percentile interval" in draw(percentile, KEYS, "return").get_suptitle()


def test_lines_that_coincide_can_be_told_apart() -> None:
    """Of two equal curves, as on the stock task, the lower one has a wider line and larger markers."""
    found = cells(fixture_runs("env.family=stock"))
    below, above = draw(found, KEYS, "return").axes[0].lines
    assert np.array_equal(below.get_ydata(), above.get_ydata())
    assert below.get_linewidth() > above.get_linewidth() and below.get_markersize() > above.get_markersize()
    assert below.get_zorder() < above.get_zorder() and below.get_marker() != above.get_marker()
    # One marker per evaluation.
    assert above.get_markevery() == 1 and len(above.get_xdata()) == 2
    # For greyscale, every algorithm has its own pair of marker and dashes.
    every = [look((agent, guidance), KEYS, []) for agent in ("vesde", "ddpm", "gaussian")
             for guidance in ("augmented", "plain", "pid", "none")]
    assert len({(one["marker"], repr(one["linestyle"])) for one in every}) == 12


@pytest.mark.parametrize(("lams", "scale"), [("0.7,1e-5", "log"), ("0.7,0.01", "linear"), ("0.7,0", "linear")])
def test_a_multiplier_that_falls_by_decades_can_be_seen(tmp_path: Path, lams: str, scale: str) -> None:
    folder = make_run(tmp_path / "run", config(), evaluation(200, [(1, 1, 1), (2, 1, 1)]))
    (folder / "metrics.csv").write_text("step,lam\n" + "".join(f"{100 * i},{lam}\n"
                                                              for i, lam in enumerate(lams.split(","))))
    found = cells([read_run(folder)])
    assert draw(found, KEYS, "lam").axes[0].get_yscale() == scale
    with contextlib.nullcontext() if scale == "linear" else pytest.raises(UsageError, match=r"lam=0:1: .* above 0"):
        draw(found, KEYS, "lam", between=(0, 1))


@pytest.mark.parametrize(("lams", "centre", "said"), [
    ((1e-2, 1e-6), 1e-4, "line: mean (geometric on a logarithmic axis)"), ((0.02, 0.04), 0.03, "line: mean")])
def test_a_mean_of_multipliers_is_one_on_their_axis(tmp_path: Path, lams: tuple[float, ...], centre: float,
                                                    said: str) -> None:
    for seed, lam in enumerate(lams):
        folder = make_run(tmp_path / str(seed), config(seed), evaluation(200, [(1, 1, 1), (2, 1, 1)]))
        (folder / "metrics.csv").write_text(f"step,lam\n100,{lam}\n200,{lam}\n")
    figure = draw(cells(runs_in(tmp_path)), KEYS, "lam")
    (line,) = figure.axes[0].get_lines()
    assert line.get_ydata() == pytest.approx([centre, centre])
    assert said in figure.get_suptitle().replace("\n", " ").split("; ")
    found = cells(runs_in(tmp_path))
    report = curve_figure("toy", found[0].row, found, columns_of(found, KEYS), "lam", {})
    assert report is not None and ("geometric mean" in report.title) == (centre == 1e-4)
    (over,) = [trace for trace in report.data if trace["meta"]["kind"] == "line"]
    assert over["y"] == pytest.approx([centre, centre])
    assert report.layout["yaxis"].get("type") == ("log" if centre == 1e-4 else None)


def test_runs_without_a_constraint_have_no_multiplier(tmp_path: Path) -> None:
    """Their λ of 0 would make a logarithmic axis impossible."""
    for guidance, lams in (("none", "0,0"), ("augmented", "0.7,1e-5")):
        folder = make_run(tmp_path / guidance, config(guidance=guidance), evaluation(200, [(1, 1, 1), (2, 1, 1)]))
        (folder / "metrics.csv").write_text("step,lam\n" + "".join(f"{100 * i},{lam}\n"
                                                                  for i, lam in enumerate(lams.split(","))))
    (axis,) = draw(cells(runs_in(tmp_path)), KEYS, "lam").axes
    assert axis.get_yscale() == "log" and len(axis.get_lines()) == 1


def test_a_multiplier_that_is_0_for_one_seed_is_part_of_the_mean(tmp_path: Path) -> None:
    for seed, lam in enumerate((0, 0, 30)):
        folder = make_run(tmp_path / str(seed), config(seed), evaluation(200, [(1, 1, 1), (2, 1, 1)]))
        (folder / "metrics.csv").write_text(f"step,lam\n100,{lam}\n200,{lam}\n")
    (line,) = draw(cells(runs_in(tmp_path)), KEYS, "lam").axes[0].get_lines()
    assert line.get_ydata().tolist() == [10, 10]


def test_while_a_seed_has_no_metrics_yet(tmp_path: Path) -> None:
    """The line is faint where seeds are missing, in the printed figure and on the page; NaN alone is no line."""
    for seed in range(3):
        folder = make_run(tmp_path / str(seed), config(seed), state="running")
        (folder / "metrics.csv").write_text("step,lam,broken\n" + "100,0.5,nan\n200,0.4,nan\n" * (seed > 0))
    found = cells(runs_in(tmp_path))
    figure = draw(found, KEYS, "lam")
    figure.canvas.draw()
    (line,) = figure.axes[0].get_lines()
    assert line.get_ydata().tolist() == [0.5, 0.4] and line.get_alpha() == 0.5
    columns = columns_of(found, KEYS)
    numbers = {run.folder: index for index, run in enumerate(found[0].runs)}
    assert curve_figure("toy", found[0].row, found, columns, "lam", numbers) is not None
    assert curve_figure("toy", found[0].row, found, columns, "broken", numbers) is None


def test_a_moving_average_leaves_out_what_is_not_a_number() -> None:
    series = Series(np.arange(5.0), np.array([1, np.nan, 3, 5, np.inf]))
    assert smoothed(series, 2).steps.tolist() == [0, 2, 3] and smoothed(series, 2).values.tolist() == [1, 2, 4]
    assert smoothed(series, 1) is series


def test_cumulative_training_cost() -> None:
    """The value at an evaluation is the total cost of the training episodes up to it."""
    (run,) = fixture_runs("env=point_button1", "guidance=augmented", "seed=1")
    found = series_of(run, "training_cost")
    assert found.values[-1] == 50 and found.steps[-1] == 300 and (np.diff(found.values) >= 0).all()


def test_the_cost_critics_error(tmp_path: Path) -> None:
    """The error is Qc at the start minus the discounted cost, here computed by hand. Other samplers, mode=eval and
    incomplete evaluations do not count; with agent.cost_backup=reach there is no such error."""
    rows = ["0,deterministic,train,0,7,1,9,5,16,3", "0,deterministic,train,1,8,1,9,2,16,4",
            "0,stochastic,train,0,7,1,9,5,16,9", "0,stochastic,train,1,8,1,9,5,16,8",
            "100,deterministic,train,0,7,1,9,1,16,1.5", "100,deterministic,train,1,8,1,9,1,16,1",
            "100,deterministic,eval-1,0,7,1,9,1,16,50", "200,deterministic,train,0,7,1,9,1,16,1"]
    header = "step,sampler,source,episode,seed,return,cost,discounted_cost,length,predicted_cost"
    for backup in ("sum", "reach"):
        settings = config()
        settings["agent"] |= {"cost_backup": backup}
        folder = make_run(tmp_path / backup, settings)
        (folder / "evals.csv").write_text("\n".join([header, *rows, ""]))
    found = series_of(read_run(tmp_path / "sum"), "critic_error")
    assert (found.steps.tolist(), found.values.tolist()) == ([0, 100], [0, 0.25])
    assert series_of(read_run(tmp_path / "sum"), "critic_error", "stochastic").values.tolist() == [3.5]
    assert len(series_of(read_run(tmp_path / "reach"), "critic_error").steps) == 0
    # Runs of versions before this column.
    (run,) = fixture_runs("env=point_button1", "guidance=augmented", "seed=1")
    assert len(series_of(run, "critic_error").steps) == 0


def test_the_trade_off_is_drawn_with_its_seeds() -> None:
    """Seeds are small points, cells large ones, with the front, and cost over limit beside it; paths are optional."""
    found = cells(fixture_runs("env=point_button1"), columns=("agent", "guidance", "env.limit"))
    absolute, relative = draw_tradeoff(found, ("agent", "guidance", "env.limit")).axes
    drawn = sorted(x for line in absolute.lines for x in line.get_xdata())
    assert {6.0, 8.0, 10.0, 14.0, 7.0, 9.0, 15.4} <= set(drawn)  # augmented's seeds; means of augmented and plain
    assert any(np.allclose(line.get_xdata(), [0.6, 0.8, 1.0, 1.4, 0.7]) for line in relative.lines)
    way = draw_tradeoff(found, ("agent", "guidance", "env.limit"), training=True).axes[0]
    assert any(len(line.get_xdata()) == 3 and line.get_linestyle() != "None" for line in way.lines)
    assert len(path(found[0])) == 3 and path(found[0])[-1] == (9, pytest.approx(67 / 3))


def test_where_seeds_stop_the_line_goes_on_faintly_and_without_a_gap() -> None:
    """Of two seeds that end at 200 and 300 the mean is opaque up to 200 and faint beyond, without a gap."""
    runs = [dataclasses.replace(run, evaluations=run.evaluations[:length])
            for run, length in zip(fixture_runs("env=point_button1", "guidance=augmented", "seed=0,1"), (3, 4),
                                   strict=True)]
    full, faint = draw(cells(runs), KEYS, "return").axes[0].lines
    assert np.array_equal(full.get_ydata(), [0, 10, 20, np.nan], equal_nan=True)
    assert np.array_equal(faint.get_ydata(), [np.nan, np.nan, 20, 24], equal_nan=True)
    assert (full.get_color(), full.get_alpha(), faint.get_alpha()) == (faint.get_color(), None, 0.5)


def test_raw_seeds_on_request() -> None:
    found = paper_cells("env=point_button1", "guidance=plain")
    assert len(draw(found, KEYS, "return", raw=True).axes[0].lines) == len(
        draw(found, KEYS, "return").axes[0].lines) + 5


def test_values_beyond_a_given_axis_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    found = paper_cells("env=point_button1", "guidance=plain")

    def told(low: float, high: float) -> str:
        figure = draw(found, KEYS, "cost", between=(low, high))
        assert figure.axes[0].get_ylim() == (low, high)
        return figure.get_suptitle().replace("\n", " ")

    most = max(max(run.costs) for cell in found for run in cell.runs)
    least = min(min(run.costs) for cell in found for run in cell.runs)
    assert told(0, most + 1) == draw(found, KEYS, "cost").get_suptitle().replace("\n", " ")
    assert told(0, most - 1).endswith(f"; values beyond the axis, up to {most:.4g}, are not shown")
    assert f"beyond the axis, down to {least:.4g} and up to {most:.4g}, are" in told(least + 1, most - 1)
    for given, said in (("cost=5", "QUANTITY=LOW:HIGH"), ("cost=5:5", "QUANTITY=LOW:HIGH"),
                        ("cost=0:nan", "QUANTITY=LOW:HIGH"), ("lam=0:1", "one of --quantities return,cost is needed")):
        assert main(["curves", str(FIXTURE), "--range", given]) == 2 and said in capsys.readouterr().err


def test_an_algorithm_looks_the_same_in_every_figure() -> None:
    alone = look(("vesde", "plain"), KEYS, [("vesde", "plain")])
    among = look(("vesde", "plain"), KEYS, [("ddpm", "pid"), ("gaussian", "none"), ("vesde", "plain")])
    assert alone == among == look(("plain",), ("guidance",), [("augmented",), ("plain",)])
    every = [look((agent, guidance), KEYS, []) for agent in ("vesde", "ddpm", "gaussian")
             for guidance in ("augmented", "plain", "pid", "none")]
    assert len({repr(one) for one in every}) == 12
    columns = [(str(rho),) for rho in (0.1, 0.5, 1, 2, 4)]
    assert len({repr(look(one, ("guidance.rho",), columns)) for one in columns}) == 5
    strangers = [("SACLag", "imported"), ("CPO", "imported")]
    assert not {look(one, KEYS, strangers)["color"] for one in strangers} & {one["color"] for one in every}


def test_curvature_and_what_is_missing() -> None:
    figure = draw_curvature(paper_cells("env=point_button1", "guidance=augmented"), "s1")
    # λ of the seeds ends at 1.4 … 1.8; the fixture's medians are −λ for L and −λ/2 for L_A.
    ends = {line.get_color(): line.get_ydata()[-1] for line in figure.axes[0].lines if len(line.get_ydata()) == 3}
    assert ends == {"#D55E00": pytest.approx(-1.6), "#0072B2": pytest.approx(-0.8)}
    with pytest.raises(UsageError, match=r"curvature\.states"):
        draw_curvature(paper_cells(), "raw")
    with pytest.raises(UsageError, match="none of the runs has values"):
        draw(paper_cells(), KEYS, "critic_los")


def test_the_command_writes_vectors_and_pixels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One figure for each family and quantity, in PNG and PDF, one column wide, reproducible to the byte."""
    arguments = ["curves", str(FIXTURE), "--quantities", "return,lam", "--where", "env=point_button1"]
    assert main([*arguments, "--out", str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out.split() == [
        str(tmp_path / "a" / f"{name}_paper.{ending}") for name in ("return", "lam") for ending in ("png", "pdf")]
    assert imread(tmp_path / "a" / "return_paper.png").shape[1] == 850  # 3.4 inches of 250 pixels
    assert (tmp_path / "a" / "return_paper.pdf").read_bytes().startswith(b"%PDF")
    main([*arguments, "--out", str(tmp_path / "b")])
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    assert main(["curves", str(FIXTURE), "--quantities", "nothing", "--out", str(tmp_path)]) == 2


@pytest.mark.filterwarnings("error")
def test_a_long_legend_leaves_the_panels_their_height() -> None:
    heights = []
    for count in (1, 4, 20):
        with plt.rc_context(STYLE):
            figure, axis = plt.subplots(figsize=(WIDTH, 2.4), layout="constrained")
            legend(figure, [Line2D([], [], label=f"gaussian, reachability, {number}") for number in range(count)], 1)
            figure.draw_without_rendering()
        heights.append(axis.get_position().height * figure.get_figheight())
        plt.close(figure)
    assert heights[0] > heights[1] > 1 and heights[2] > 0.8 * heights[1]


def test_a_page_has_the_means_of_all_seeds_that_were_there() -> None:
    """Three seeds of constant returns 10, 20 and 30, of which two stop early: no step lacks a seed that it had."""
    def series(count: int, value: float) -> Series:
        return Series(50.0 * np.arange(1, count + 1), np.full(count, value))

    thin = thinned_alike([series(200, 10.0), series(150, 20.0), series(90, 30.0)], 100)
    found = curve(thin)
    assert len(found.steps) <= 101 and found.steps[-1] == 10_000
    assert set(found.centre[found.steps <= 4500]) == {20.0} and set(found.count[found.steps <= 4500]) == {3}
    assert set(found.count[(found.steps > 4500) & (found.steps <= 7500)]) == {2} and found.count[-1] == 1


def test_a_damaged_table_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, value in enumerate(("0.5", "oops")):
        folder = make_run(tmp_path / str(seed), config(seed), evaluation(200, [(1, 1, 1), (2, 1, 1)]))
        (folder / "metrics.csv").write_text(f"step,lam\n100,{value}\n")
    assert main(["curves", str(tmp_path), "--quantities", "lam", "--out", str(tmp_path / "out")]) == 2
    assert f"{tmp_path / '1'}: lam cannot be drawn, since a table is damaged" in capsys.readouterr().err
    found = cells(runs_in(tmp_path))
    figure = curve_figure("toy", found[0].row, found, columns_of(found, KEYS), "lam", {})
    assert figure is not None and "without" in figure.title and "whose tables are damaged" in figure.title
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "report.html")]) == 0

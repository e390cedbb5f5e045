"""Figures are written whole, without global state, and refuse data that cannot be shown."""

import json

import numpy as np
import pytest
import torch
from matplotlib import _pylab_helpers
from matplotlib.figure import Figure
from PIL import Image

from diffsim.errors import DataError
from diffsim.plots import plot_controls, plot_curves, plot_loss

ROWS = [
    {"iteration": k, "loss": 10.0**-k, "gradient_norm": 2.0**-k, "score": None if k == 0 else k / 4} for k in range(5)
]
X = np.linspace(0, 1, 5)
FIGURES = {
    "loss": lambda path: plot_loss(ROWS, path),
    "loss without norms, one row": lambda path: plot_loss([{"loss": -1.0}], path),
    "loss with gaps": lambda path: plot_loss([{"loss": None}, {"loss": float("nan")}, {"loss": 2.0}], path),
    "curves": lambda path: plot_curves(X, {"a": X, "b": X**2}, path, xlabel="t [s]", log=True),
    "velocities": lambda path: plot_controls(torch.zeros(4, 2, 6, requires_grad=True), 0.1, path),
    "poses": lambda path: plot_controls(np.zeros((4, 1, 7)), 0.1, path),
    "other controls": lambda path: plot_controls(np.zeros((4, 1, 2)), 0.1, path),
}


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved."""
    saved = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (saved.append(self), save(self, *a, **k)))
    return saved


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_a_figure_is_a_whole_picture_and_the_only_file(tmp_path, draw):
    path = tmp_path / "figure.png"
    assert draw(path) == path
    with Image.open(path) as image:
        assert image.format == "PNG" and min(image.size) > 200
        assert np.ptp(np.asarray(image.convert("L"))) > 100
    assert list(tmp_path.iterdir()) == [path]
    assert not _pylab_helpers.Gcf.figs  # pyplot knows of none


def test_the_loss_figure_shows_loss_norm_and_score_with_losses_on_a_log_axis(tmp_path, figures):
    plot_loss(ROWS, tmp_path / "loss.png")
    loss, norm, score = figures[0].axes
    assert [ax.get_ylabel() for ax in figures[0].axes] == ["loss", "gradient norm", "score"]
    assert (loss.get_yscale(), norm.get_yscale(), score.get_yscale()) == ("log", "log", "linear")
    np.testing.assert_allclose(loss.lines[0].get_ydata(), [row["loss"] for row in ROWS])


def test_a_loss_that_is_not_positive_is_on_a_linear_axis(tmp_path, figures):
    plot_loss([{"loss": 1.0}, {"loss": -100.0}], tmp_path / "loss.png")
    assert figures[0].axes[0].get_yscale() == "linear"


def test_a_loss_figure_can_be_made_from_a_metrics_file(tmp_path, figures):
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    plot_loss(metrics, tmp_path / "loss.png")
    np.testing.assert_allclose(figures[0].axes[0].lines[0].get_xdata(), range(5))


def test_controls_are_constant_over_each_step(tmp_path, figures):
    controls = np.arange(12.0).reshape(2, 1, 6)
    plot_controls(controls, 0.5, tmp_path / "controls.png")
    values, edges, _ = figures[0].axes[1].patches[2].get_data()
    np.testing.assert_allclose(values, controls[:, 0, 5])
    np.testing.assert_allclose(edges, [0, 0.5, 1.0])


BAD = {
    "no rows": lambda path: plot_loss([], path),
    "no finite loss": lambda path: plot_loss([{"loss": float("inf")}], path),
    "no curves": lambda path: plot_curves(X, {}, path),
    "curve of another length": lambda path: plot_curves(X, {"a": X[1:]}, path),
    "controls of two axes": lambda path: plot_controls(np.zeros((4, 6)), 0.1, path),
    "no steps": lambda path: plot_controls(np.zeros((0, 1, 6)), 0.1, path),
    "no folder": lambda path: plot_loss(ROWS, path / "missing" / "loss.png"),
}


@pytest.mark.parametrize("draw", BAD.values(), ids=BAD)
def test_data_that_cannot_be_shown_is_an_error_of_one_line(tmp_path, draw):
    with pytest.raises(DataError) as caught:
        draw(tmp_path / "figure.png")
    assert "\n" not in str(caught.value) and "figure.png" in str(caught.value)
    assert not list(tmp_path.iterdir())

"""Pictures: which panels there are and what they say; that they look well is for the eye."""

import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from diffff.errors import InputError
from diffff.train.lcurve import LearningCurve
from diffff.train.plot import plot


@pytest.fixture
def lcurve(tmp_path):
    """A learning curve of 50 rows without virials."""
    path = tmp_path / "lcurve.out"
    with LearningCurve(path, ["rmse", "rmse_e", "rmse_f", "rmse_v"], validation=True) as curve:
        for step in range(0, 500, 10):
            errors = {"rmse": 30 / (1 + step), "rmse_e": 0.1 / (1 + step), "rmse_f": 0.3}
            curve.write(step, train=errors, valid=errors, lr=1e-3)
    return path


@pytest.fixture
def details(tmp_path):
    """The detail files of a test with a force error of exactly 0.25 eV/Å."""
    rng = np.random.default_rng(1)
    prefix = tmp_path / "detail.1"
    for kind, columns in (("e", 1), ("e_peratom", 1), ("f", 3), ("v", 9)):
        labels = rng.normal(size=(40, columns))
        error = 0.25 * rng.choice([-1.0, 1.0], size=labels.shape)
        np.savetxt(f"{prefix}.{kind}.out", np.hstack([labels, labels + error]), header="system: data_* pred_*")
    return prefix


@pytest.fixture
def figures(monkeypatch):
    """The figures saved, to look into."""
    saved = []
    save = Figure.savefig

    def remember(figure, *args, **kwargs):
        saved.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", remember)
    return saved


def titles(figure):
    return [ax.get_title() for ax in figure.axes if ax.axison]


def test_learning_curve_has_a_panel_for_each_quantity_with_numbers(lcurve, figures):
    assert plot([lcurve]) == lcurve.with_suffix(".png")
    assert lcurve.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert titles(figures[0]) == ["Energy RMSE", "Force RMSE", "√loss", "Learning rate"]
    force = figures[0].axes[1]
    assert (force.get_xlabel(), force.get_ylabel(), force.get_yscale()) == ("step", "eV/Å", "log")
    assert [line.get_label() for line in force.lines] == ["training", "validation"]


def test_several_curves_are_overlaid_and_told_apart(lcurve, tmp_path, figures):
    other = tmp_path / "other" / "lcurve.out"
    other.parent.mkdir()
    other.write_text(lcurve.read_text())
    plot([lcurve, other], tmp_path / "both.svg")
    assert (tmp_path / "both.svg").read_text().startswith("<?xml")
    labels = [line.get_label() for line in figures[0].axes[0].lines]
    assert len(labels) == len(set(labels)) == 4
    assert labels[1::2] == ["lcurve, validation", "other/lcurve, validation"]


def test_prefix_stands_for_its_files_per_atom_where_there_are(details, tmp_path, figures):
    plot([details], tmp_path / "parity.png")
    assert titles(figures[0]) == ["Energy", "Force components", "Virial components"]
    energy, force, _ = figures[0].axes
    assert energy.get_xlabel() == "label (eV/atom)"
    assert force.get_ylabel() == "model (eV/Å)"
    assert force.get_legend_handles_labels()[1] == ["RMSE 0.25 eV/Å"]
    assert force.get_xlim() == force.get_ylim()


def test_curves_and_parity_share_a_picture(lcurve, details, tmp_path, figures):
    plot([lcurve, f"{details}.f.out"], tmp_path / "all.pdf")
    assert titles(figures[0])[-1] == "Force components"
    assert (tmp_path / "all.pdf").read_bytes().startswith(b"%PDF")


def test_values_without_a_label_are_left_out(tmp_path, figures):
    file = tmp_path / "d.e.out"
    np.savetxt(file, [[np.nan, 1.0], [2.0, 3.0]])
    plot([file])
    assert figures[0].axes[0].get_legend_handles_labels()[1] == ["RMSE 1 eV"]
    np.savetxt(file, [[np.nan, 1.0]])
    plot([file])
    assert figures[1].axes[0].get_legend_handles_labels()[1] == ["no labels"]


def test_what_cannot_be_drawn_is_refused(lcurve, tmp_path):
    with pytest.raises(InputError, match=r"none: there is no such file, and no none.e.out"):
        plot([tmp_path / "none"])
    with pytest.raises(InputError, match=r"cannot write this format; choose one of .*svg"):
        plot([lcurve], tmp_path / "picture.xyz")
    (tmp_path / "notes.txt").write_text("hello\n")
    with pytest.raises(InputError, match="neither a learning curve"):
        plot([tmp_path / "notes.txt"])
    (tmp_path / "x.f.out").write_text("1 2 3\n")
    with pytest.raises(InputError, match=r"x.f.out: expected as many columns"):
        plot([tmp_path / "x.f.out"])
    (tmp_path / "begun.out").write_text("# step rmse_trn lr\n")
    with pytest.raises(InputError, match="nothing to draw"):
        plot([tmp_path / "begun.out"])


def test_a_missing_matplotlib_names_the_extra(lcurve, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"pip install 'diffff\[plot\]'"):
        plot([lcurve])

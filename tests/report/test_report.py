"""The page of a run: it holds the numbers of the record, needs nothing else, and whatever is wrong is a sentence."""

import json
import re
import shutil
import sys
from html.parser import HTMLParser
from itertools import pairwise

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from diffff import cli
from diffff.errors import InputError
from diffff.fit.parity import Parity, read_parity, write_parity
from diffff.fit.provenance import provenance
from diffff.report import figures
from diffff.report.page import number
from diffff.report.run import report
from diffff.train.lcurve import LearningCurve, read_lcurve
from tests.fit.small_fit import small_fit

AWKWARD = "<b>warm & 'dry'</b>"
EMPTY = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta"}


class Page(HTMLParser):
    """What a page consists of; every end tag must have its start tag."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.rows, self.headings = [], [], [], [], []
        self.words = ""
        self.feed(text)
        self.close()
        assert not self.open
        self.ids = [value for _, name, value in self.attributes if name == "id"]

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in EMPTY:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "h2":
            self.headings.append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data
        if self.open[-1:] and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data
        if "h2" in self.open:
            self.headings[-1] += data


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The directory of a small fit, and its record."""
    folder = tmp_path_factory.mktemp("run")
    done = small_fit(folder, names=("cold", AWKWARD))
    completed = {"training": {"numb_steps": 5}, "_note": "</pre><script>alert(1)</script>"}
    left_out = [{"system": name, "errors": {"rmse": 1.5, "rmse_force": 31.25}} for name in ("cold", AWKWARD)]
    with LearningCurve(folder / "lcurve.out", ["rmse", "rmse_energy", "rmse_force"], validation=True) as curve:
        for step in range(4):
            errors = {"rmse": 9.0 / (1 + step), "rmse_energy": 4.0 / (1 + step), "rmse_force": 90.0 / (1 + step)}
            curve.write(step, train=errors, valid=errors, lr=np.nan)
    origin = provenance(completed, [folder / "water.xml"])
    content = done.written(folder, origin, left_out, read_lcurve(folder / "lcurve.out"))
    return folder, content


@pytest.fixture
def run(made, tmp_path):
    """A copy of it."""
    return shutil.copytree(made[0], tmp_path / "run")


@pytest.fixture(scope="module")
def text(made):
    return report(made[0], made[0] / "elsewhere" / "page.html").read_text(encoding="utf-8")


@pytest.fixture
def deep(tmp_path):
    """What a Deep Potential's training leaves."""
    given = {"training": {"disp_file": "curve.out"}, "validating": {"full_val_file": "all.log"}}
    (tmp_path / "out.json").write_text(json.dumps(given))
    with LearningCurve(tmp_path / "curve.out", ["rmse", "rmse_e", "rmse_f"], validation=True) as curve:
        for step in (1, 100, 200):
            curve.write(step, train={"rmse_f": 2.0 / step}, valid={"rmse_e": 0.5, "rmse_f": 3.0 / step}, lr=1e-3)
    lines = [
        "# step E_RMSE(meV/atom) F_MAE(meV/Å) F_RMSE(meV/Å)",
        "# E: per atom",
        "100 5.0 6.0 nan",
        "200 4.0 5.0 7.5",
    ]
    (tmp_path / "all.log").write_text("\n".join(lines) + "\n")
    with h5py.File(tmp_path / "model.ckpt.h5", "w") as file:
        file["header"] = json.dumps({"version": "1.2.3", "step": 200})
    return tmp_path


def test_the_page_is_whole_and_needs_nothing_else(text):
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert "script" not in page.tags and "link" not in page.tags and "img" not in page.tags
    assert not re.search(r"https?:|//|@import", re.sub(r"(?s)<pre>.*?</pre>|base64,[^\"]*", "", text))
    assert len(page.ids) == len(set(page.ids))
    for tag, name, value in page.attributes:
        if name == "href":
            assert value.startswith("data:image/png;base64," if tag == "image" else "#")
            assert tag == "image" or value[1:] in page.ids
        assert name != "src" and not name.startswith("on")
        for target in re.findall(r"url\(#([^)]+)\)", value or ""):
            assert target in page.ids
    assert not re.search(r"url\((?!#)", text)


def test_the_sections(text):
    titles = ["Learning curve", "Predictions and reference", "Errors by system", "Residuals"]
    titles += ["How far the numbers moved", "What the data determine", "All numbers", "Provenance"]
    assert Page(text).headings == titles
    for name in ("curve-rmse_force", "parity-valid-force", "residuals-energy", "moves-0", "spectrum"):
        assert f'id="{name}-figure_1"' in text


def test_its_numbers_are_those_of_the_record(made, text):
    content, rows = made[1], Page(text).rows
    for one in content["numbers"]:
        (row,) = [row for row in rows if row[0] == one["label"] and len(row) == 8]
        shown = [float(word.replace("−", "-")) for word in row[1:3]]
        np.testing.assert_allclose(shown, [one["start"], one["value"]], rtol=1e-2)
        assert row[7] == f"water.xml:{one['line']}, {one['attribute']}"
        if one["error"] is None:
            assert row[3:5] == ["not determined", "–"]
        else:
            assert float(row[3]) == pytest.approx(one["error"], rel=0.06)
            assert abs(shown[1] - one["value"]) < 0.05 * one["error"]
    for one in content["errors"]:
        cells = [
            one["system"],
            "20",
            number(one["before"]),
            number(one["after"]),
            number(one["after"] / one["before"], 2),
        ]
        assert cells in rows
    totals = [row for row in rows if row[:2] == ["all", "40"]]
    assert len(totals) == 2
    force = [one for one in content["errors"] if (one["split"], one["target"]) == ("train", "force")]
    assert totals[1][3] == number(float(np.sqrt(np.mean([one["after"] ** 2 for one in force]))))
    assert ["cold", "force, kJ/mol/nm", number(force[0]["after"]), "31.2", number(31.25 / force[0]["after"], 2)] in rows
    for kind in ("stiff", "sloppy"):
        for one in content["combinations"][kind]:
            assert [number(one["relative"], 2), one["words"]] in rows


def test_numbers_at_bounds_and_in_ties(run):
    content = json.loads((run / "fit.json").read_text())
    for one, standing in zip(content["numbers"], ("at its bound", "held by a tie", None, None), strict=True):
        one["standing"] = standing
    (run / "fit.json").write_text(json.dumps(content))
    page = Page(report(run).read_text())
    rows = {row[0]: row[3:5] for row in page.rows if len(row) == 8}
    assert rows["k(H–O–H)"] == ["at its bound", "–"] and rows["k(O–H)"] == ["held by a tie", "–"]
    assert rows["k(H–H)"] == ["not determined", "–"] and "1 not determined" in page.words


def test_the_summary(made, text):
    content, words = made[1], Page(text).words
    objective = content["objective"]
    assert "The fit to 40 frames of 2 systems moved 4 numbers of 3 arrays and reached a minimum after" in words
    assert f"went from {number(objective['start'], 4)} to {number(objective['end'], 4)}." in words
    valid = content["errors"][-1]
    assert (
        f"error on validation frames went from {number(valid['before'])} to {number(valid['after'])} kJ/mol/nm."
        in words
    )
    assert "k(H–H). Neither data nor priors hold what stands here" in words
    for one in content["provenance"]["files"]:
        assert one["sha256"] in words


@pytest.mark.parametrize(
    ("converged", "words"), [(None, "went down to the end of its learning rate in"), (False, "had not reached a min")]
)
def test_how_a_fit_ended(run, converged, words):
    content = json.loads((run / "fit.json").read_text())
    content["objective"]["converged"] = converged
    (run / "fit.json").write_text(json.dumps(content))
    assert words in Page(report(run).read_text()).words


def test_text_of_others_is_escaped(text):
    assert AWKWARD not in text and "&lt;b&gt;warm &amp; &#x27;dry&#x27;&lt;/b&gt;" in text
    assert "<script" not in text and "alert(1)" in Page(text).words


def test_many_points_are_thinned_and_the_page_says_so(run):
    parities = read_parity(run / "parity.h5")
    rng = np.random.default_rng(1)
    big = rng.normal(size=(400, 9, 3))
    write_parity(
        run / "parity.h5", [*parities, Parity("train", "big", "force", "kJ/mol/nm", 20.0, big, 2.0 * big, big + 1.0)]
    )
    words = Page(report(run).read_text()).words
    assert f"{figures.MAX_POINTS} of {10800 + 2 * 180} values are drawn" in words


def test_values_that_are_not_finite_are_left_out():
    values, broken = np.arange(5.0), np.array([0.0, np.nan, 2.0, np.inf, 5.0])
    words = Page(figures.parity("p", "Force", "kJ/mol", values, values, broken)).words
    assert "2 of 5 values are not finite and left out." in words and "after: RMSE 0.577" in words
    assert "RMSE 0" in Page(figures.parity("p", "Force", "kJ/mol", values, values, values * np.nan)).words
    Page(figures.residuals("r", "Force", {"training": broken, "validation": values * np.nan}))


def test_names_are_no_formulas_and_no_markup(deep):
    awkward = "k($x_$\\b<i>&amp;)"
    page = Page(figures.moves('a"><i>', awkward, "scale", [figures.Move(awkward, 1.0, 0.1)] * 2, 3))
    assert page.words.count(awkward) >= 3 and "3 more, which moved less" in page.words
    assert "i" not in page.tags
    lines = (deep / "curve.out").read_text().replace("rmse_f", 'a"><script>$x$').splitlines(keepends=True)
    (deep / "curve.out").write_text("".join(lines))
    page = Page(report(deep).read_text())
    assert "script" not in page.tags and 'a"><script>$x$' in page.words
    assert len(page.ids) == len(set(page.ids))


def test_the_command_writes_into_the_run(run):
    result = CliRunner().invoke(cli.main, ["report", str(run)])
    assert (result.exit_code, result.output) == (0, f"wrote {run / 'report.html'}\n")
    first = (run / "report.html").read_bytes()
    report(run)
    assert (run / "report.html").read_bytes() == first  # the same run gives the same page


def test_a_training_without_a_fit(deep):
    text = report(deep).read_text()
    page = Page(text)
    assert page.headings == ["Learning curve", "All validation frames", "Provenance"]
    assert "The training has come to step 200." in page.words
    assert "0.015eV/Å, last validation batch shown" in page.words.replace("0.0150", "0.015")
    assert ["diffff", "1.2.3"] in page.rows and ["step of the checkpoint", "200"] in page.rows
    assert {row[0] for row in page.rows if len(row) == 2 and len(row[1]) == 64} == {
        *("out.json", "curve.out", "all.log", "model.ckpt.h5")
    }
    for name in ("curve-rmse_e", "curve-rmse_f", "curve-lr", "all-E_RMSE", "all-F_RMSE"):
        assert f'id="{name}-figure_1"' in text
    assert "curve-rmse-figure_1" not in text  # nothing but nan


def test_a_training_of_which_little_is_left(deep):
    for name in ("out.json", "all.log", "model.ckpt.h5"):
        (deep / name).unlink()
    (deep / "curve.out").rename(deep / "lcurve.out")
    assert Page(report(deep).read_text()).headings == ["Learning curve", "Provenance"]


def test_what_is_no_run(tmp_path, deep):
    with pytest.raises(InputError, match="there is no such directory"):
        report(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: holds no run of `dff train`, .* neither fit\.json nor lcurve\.out"):
        report(tmp_path / "empty")
    with pytest.raises(InputError, match="is a directory"):
        report(deep, tmp_path)
    (deep / "out.json").write_text("{")
    with pytest.raises(InputError, match=r"out\.json: cannot be read"):
        report(deep)
    (deep / "out.json").write_text("[]")
    with pytest.raises(InputError, match=r"out\.json: is no input of `dff train`"):
        report(deep)


def test_predictions_that_are_missing(run):
    (run / "parity.h5").unlink()
    with pytest.raises(InputError, match=r"parity\.h5: cannot be read"):
        report(run)


def test_the_curve_is_that_of_the_fit(run):
    """Whatever has become of lcurve.out since."""
    first = report(run).read_bytes()
    (run / "lcurve.out").write_text("# step rmse_e_trn\n1 2.0\n")
    assert report(run).read_bytes() == first
    content = json.loads((run / "fit.json").read_text())
    assert content["curve"]["step"] == [0, 1, 2, 3] and content["curve"]["lr"] == [None] * 4
    (run / "fit.json").write_text(json.dumps(content | {"curve": {}}))
    assert "Learning curve" not in Page(report(run).read_text()).headings


def test_a_network_that_was_trained_in_its_place_since(run, deep):
    """The page is that of the last run, and mixes nothing of the fit into it."""
    for name in ("out.json", "curve.out"):
        shutil.copy(deep / name, run / name)
    assert Page(report(run).read_text()).headings == ["Learning curve", "Provenance"]
    (run / "out.json").write_text(json.dumps({"model": {"type": "xml"}}))
    assert "All numbers" in Page(report(run).read_text()).headings


@pytest.mark.parametrize("part", ["numbers", "errors", "left_out", "objective"])
def test_entries_that_lack_something(run, part):
    content = json.loads((run / "fit.json").read_text())
    content[part] = {"label": 1} if part == "objective" else [{"label": "a"}, 3]
    (run / "fit.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf'fit\.json: an entry of "{part}" lacks "\w+"\. Is the file damaged'):
        report(run)


def test_without_matplotlib(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"a report needs matplotlib\. Run: pip install 'diffff\[plot\]'"):
        report(run)


def test_numbers_as_they_are_read():
    assert [number(x) for x in (0.0, 1.0, 99.96, 0.00099951, 1e7, -2.5e-5)] == [
        *("0", "1.00", "100", "0.00100", "1.00e7", "−2.50e−5")
    ]
    sizes = [abs(float(number(x, 4).replace("−", "-"))) for x in np.logspace(-8, 8, 97)]
    assert all(a < b for a, b in pairwise(sizes))

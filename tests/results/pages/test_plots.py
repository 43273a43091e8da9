"""Figures: what is drawn, the same bytes twice, and text that stays text."""

import math
import re
import sys

import pytest
from synthetic_rows import make_results

from steer_bench.results.board.entries import entries
from steer_bench.results.pages import canvas, figures, plots
from steer_bench.results.pages.figures import draw_figures
from steer_bench.results.rows import Row

PANEL = plots.Panel(
    "a to b",
    (
        plots.Series("native", "baseline", (1.0, 1.2, 1.6), (0.0, 0.3, 0.5)),
        plots.Series("linear", "transfer", (1.0, 1.3, 40.0), (0.0, 0.2, 9.0)),
        plots.Series("random", "control", (1.0, 1.4, 2.0), (0.0, 0.01, 0.02)),
    ),
)
DOTS = plots.Panel(
    "a to b",
    (
        plots.Dot("linear", "transfer", 0.9, 0.8, 1.05),
        plots.Dot("mlp", "transfer", None, None, None),
        plots.Dot("random", "control", 0.1, None, None),
    ),
)


def lines_of(axis) -> dict:
    return {line.get_label(): line for line in axis.lines if not line.get_label().startswith("_")}


def test_the_frontier_draws_every_arm_over_its_cost_and_marks_the_limit():
    axis = plots.draw_frontier([PANEL], 1.3).axes[0]
    lines = lines_of(axis)
    assert list(lines["native"].get_xdata()) == [1.0, 1.2, 1.6]
    assert list(lines["native"].get_ydata()) == [0.0, 0.3, 0.5]
    assert any(list(line.get_xdata()) == [1.3, 1.3] for line in axis.lines)
    assert axis.get_xlabel() == "perplexity of neutral text, steered / unsteered"
    assert axis.get_ylabel() == "likelihood lift (nats/token)"


def test_destroyed_text_is_off_the_frontier_and_does_not_stretch_it():
    axis = plots.draw_frontier([PANEL], 1.3).axes[0]
    assert axis.get_xlim()[1] <= plots.RATIO_CUT
    assert axis.get_ylim()[1] < 1.0  # the arm's 9.0 lies at a ratio of 40


def test_arms_differ_in_colour_and_in_marker_and_keep_both_in_every_figure():
    frontier, dots = plots.draw_frontier([PANEL], 1.3).axes[0], plots.draw_recovered([DOTS], "t").axes[0]
    styles = {(line.get_color(), line.get_marker()) for line in lines_of(frontier).values()}
    assert len({colour for colour, _ in styles}) == len({marker for _, marker in styles}) == 3
    arms = ("native", "linear", "mlp", "random")
    kinds = ("baseline", "transfer", "transfer", "control")
    assert canvas.styles_of(zip(arms, kinds, strict=True)) == canvas.styles_of(zip(arms[1:], kinds[1:], strict=True))
    assert [tick.get_text() for tick in dots.get_yticklabels()] == ["linear", "mlp", "random"]


def test_recovered_fractions_have_their_intervals_and_a_missing_one_says_so():
    axis = plots.draw_recovered([DOTS], "t").axes[0]
    drawn = [list(line.get_xdata()) for line in axis.lines]
    assert [0.8, 1.05] in drawn
    assert [0.9] in drawn
    assert [text.get_text() for text in axis.texts] == ["n/a"]


def test_svg_and_png_are_the_same_bytes_twice():
    for save in (canvas.to_svg, canvas.to_png):
        assert save(plots.draw_frontier([PANEL], 1.3)) == save(plots.draw_frontier([PANEL], 1.3))
    svg = canvas.to_svg(plots.draw_factor_curves([PANEL] * 4, "score", "t")).decode()
    assert svg.startswith("<?xml")
    assert not re.search(r"<dc:date>|<script", svg)


def test_names_with_mathematics_or_markup_are_drawn_as_text():
    panel = plots.Panel("$x_{", (plots.Series("<b>&$\\frac", "transfer", (0.0, 1.0), (0.0, 1.0)),))
    svg = canvas.to_svg(plots.draw_factor_curves([panel], "score", "$")).decode()
    assert "<b>" not in svg


def test_the_users_own_settings_are_left_alone():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    canvas.to_svg(plots.draw_recovered([DOTS], "t"))
    assert dict(mpl.rcParams) == before


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.draw_frontier([], 1.3)


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"steer-bench\[plots\]"):
        plots.draw_frontier([PANEL], 1.3)


def test_results_become_figures_with_the_known_effects(monkeypatch):
    drawn = {}
    monkeypatch.setattr(plots, "draw_frontier", lambda panels, limit, label, title: drawn.update({title: panels}))
    monkeypatch.setattr(plots, "draw_factor_curves", lambda panels, label, title: drawn.update({title: panels}))
    monkeypatch.setattr(plots, "draw_recovered", lambda panels, title: drawn.update(recovered=panels))
    monkeypatch.setattr(canvas, "to_svg", lambda figure: b"<svg/>")
    results = make_results(wobble=0.0, n_concepts=3)
    monkeypatch.setattr(plots, "draw_small_multiples", lambda panels, label, title: drawn.update(concepts=panels))
    found = draw_figures([results], entries(results))
    factors = ["factors-likelihood", "factors-steering", "factors-rules"]
    frontiers = ["frontier", "frontier-steering", "frontier-rules"]
    assert list(found) == [*frontiers, *factors, "concepts-likelihood", "recovered"]
    assert [panel.title for panel in drawn["concepts"]] == ["c00", "c01", "c02"]
    one = next(s for s in drawn["concepts"][1].marks if s.arm == "linear")
    assert (one.x, one.y) == ((0.0, 0.2, 0.4, 0.8), pytest.approx((0.0, 0.18, 0.36, 0.72)))
    linear = next(s for s in drawn["Effect against cost"][0].marks if s.arm == "linear")
    assert linear.x == pytest.approx((1.0, *(math.exp(0.5 * factor) for factor in (0.2, 0.4, 0.8))))
    assert linear.y == pytest.approx((0.0, 0.18, 0.36, 0.72))  # strength 0.9 times the factor
    assert [dot.arm for dot in drawn["recovered"][0].marks] == ["mean", "random", "identity", "linear"]
    rated = drawn["concept_steering over the factor (selection prompts)"][0]
    assert next(s for s in rated.marks if s.arm == "native").x == (0.0, 0.2, 0.4, 0.8)
    costly = drawn["Effect against cost: concept_steering (selection prompts)"][0]
    for one, other in zip(rated.marks, costly.marks, strict=True):
        assert one.y == other.y
        assert other.x == pytest.approx([math.exp(0.5 * factor) for factor in one.x])


def test_a_run_without_likelihoods_has_no_frontier():
    results = make_results(n_concepts=2)
    rated = type(results)(results.run, tuple(row for row in results.rows if row.task == "rule_following"))
    assert list(draw_figures([rated], entries(rated))) == ["factors-rules", "concepts-rules", "recovered"]


def test_the_specificity_matrix_is_white_at_0_and_says_which_concept_lifts_which():
    effects = {("a", "a"): 0.4, ("a", "b"): -0.1, ("b", "a"): 0.0, ("b", "b"): 0.2}
    rows = [Row("specificity", "t", "", "unsteered", "", 0.0, f"{c}-1", c, -3.0, 9) for c in "ab"]
    rows += [
        Row("specificity", "t", source, arm, of, 0.4, f"{on}-1", on, -3.0 + effect, 9)
        for source, arm in (("", "native"), ("s", "linear"), ("", "random"))
        for (of, on), effect in effects.items()
    ]
    results = make_results(n_concepts=2)
    found = figures._specificity([type(results)(results.run, tuple(rows))], several=False)
    assert [matrix.title for matrix in found] == ["native on t", "linear on t from s"]  # controls are in the table only
    assert found[1].rows == found[1].columns == ("a", "b")
    assert found[1].values == (pytest.approx((0.4, -0.1)), pytest.approx((0.0, 0.2)))
    native, linear = plots.draw_matrices(found, "title", "texts of", "vector of", "effect").axes[:2]
    assert native.images[0].get_clim() == pytest.approx((-0.4, 0.4))
    assert [text.get_text() for text in native.texts] == ["0.40", "-0.10", "0.00", "0.20"]
    labelled = [axis.yaxis.get_tick_params()["labelleft"] for axis in (native, linear)]
    assert labelled == [True, False]  # once a line of panels


def test_a_matrix_has_the_sources_that_were_measured_and_not_every_model():
    runs = [make_results(name, target=name, n_concepts=2) for name in ("t1", "t2")]
    found = figures._matrices([entry for run in runs for entry in entries(run)])
    assert {(matrix.rows, matrix.columns) for matrix in found} == {(("source-model",), ("t1", "t2"))}

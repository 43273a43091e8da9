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
        plots.Series("native", "baseline", (1.1, 1.3, 1.6), (0.1, 0.3, 0.5)),
        plots.Series("linear", "transfer", (1.1, 1.35, 1.7), (0.0, 0.2, 0.4)),
        plots.Series("random", "control", (1.1, 1.2), (0.01, 0.02)),
    ),
)
DOTS = plots.Panel(
    "a to b",
    (
        plots.Dot("linear", "transfer", 0.9, 0.8, 1.05),
        plots.Dot("mlp", "transfer", 0.5, None, None),
        plots.Dot("random", "control", 0.1, -math.inf, math.inf),
    ),
)
CONCEPTS = plots.Panel(
    "a to b",
    tuple(
        plots.Dot(arm, kind, value, None, None, row=concept)
        for arm, kind, values in (("native", "baseline", (0.1, 0.5)), ("wrong-concept", "control", (0.0, -0.2)))
        for concept, value in zip(("law", "sea"), values, strict=True)
    ),
)


def levels(*panels) -> object:
    return plots.draw_levels(panels or [PANEL], 1.3, "effect", "t")


def lines_of(axis) -> dict:
    return {line.get_label(): line for line in axis.lines if not line.get_label().startswith("_")}


def test_levels_draw_every_arm_over_the_damage_it_did_and_mark_the_main_level():
    axis = levels().axes[0]
    lines = lines_of(axis)
    assert list(lines["linear"].get_xdata()) == [1.1, 1.35, 1.7]
    assert list(lines["linear"].get_ydata()) == [0.0, 0.2, 0.4]
    assert any(list(line.get_xdata()) == [1.3, 1.3] for line in axis.lines)
    assert axis.get_xlabel() == "damage: perplexity of neutral text, steered / unsteered"
    assert axis.get_ylabel() == "effect"


def test_concepts_stand_in_the_order_of_native_with_every_arm_on_their_line():
    axis = plots.draw_concepts([CONCEPTS], "value", "t").axes[0]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["sea", "law"]
    wrong = lines_of(axis)["wrong-concept"]
    assert dict(zip(wrong.get_ydata(), wrong.get_xdata(), strict=True)) == {0: -0.2, 1: 0.0}


def test_arms_differ_in_colour_and_in_marker_and_keep_both_in_every_figure():
    lines, dots = lines_of(levels().axes[0]), plots.draw_recovered([DOTS], "t").axes[0]
    styles = {(line.get_color(), line.get_marker()) for line in lines.values()}
    assert len({colour for colour, _ in styles}) == len({marker for _, marker in styles}) == 3
    arms = ("native", "linear", "mlp", "random")
    kinds = ("baseline", "transfer", "transfer", "control")
    assert canvas.styles_of(zip(arms, kinds, strict=True)) == canvas.styles_of(zip(arms[1:], kinds[1:], strict=True))
    assert [tick.get_text() for tick in dots.get_yticklabels()] == ["linear", "mlp", "random"]
    every = [("native", "baseline"), ("linear", "transfer"), ("random", "control"), ("wrong-concept", "control")]
    alone = lines_of(plots.draw_concepts([CONCEPTS], "value", "t", every).axes[0])["wrong-concept"]
    assert alone.get_color() == canvas.styles_of(every)["wrong-concept"][0] != lines["random"].get_color()


def test_recovered_fractions_have_their_intervals_where_there_are_any():
    axis = plots.draw_recovered([DOTS], "t").axes[0]
    drawn = [list(line.get_xdata()) for line in axis.lines]
    assert [0.8, 1.05] in drawn
    assert [0.9] in drawn
    assert [0.5] in drawn
    assert max(map(max, drawn)) > 2 > axis.get_xlim()[1]  # one without an end runs out of the picture


def test_svg_and_png_are_the_same_bytes_twice():
    for save in (canvas.to_svg, canvas.to_png):
        assert save(levels()) == save(levels())
    svg = canvas.to_svg(levels(*[PANEL] * 4)).decode()
    assert svg.startswith("<?xml")
    assert not re.search(r"<dc:date>|<script", svg)


def test_names_with_mathematics_or_markup_are_drawn_as_text():
    panel = plots.Panel("$x_{", (plots.Series("<b>&$\\frac", "transfer", (0.0, 1.0), (0.0, 1.0)),))
    svg = canvas.to_svg(levels(panel)).decode()
    assert "<b>" not in svg


def test_the_users_own_settings_are_left_alone():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    canvas.to_svg(plots.draw_recovered([DOTS], "t"))
    assert dict(mpl.rcParams) == before


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.draw_levels([], 1.3, "effect", "t")


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"steer-bench\[plots\]"):
        levels()


def test_results_become_figures_with_the_known_effects(monkeypatch):
    drawn = {}
    monkeypatch.setattr(plots, "draw_levels", lambda panels, level, label, title: drawn.update({title: panels}))
    monkeypatch.setattr(plots, "draw_concepts", lambda panels, label, title, arms: drawn.update({title: panels}))
    monkeypatch.setattr(plots, "draw_recovered", lambda panels, title: drawn.update({title: panels}))
    monkeypatch.setattr(canvas, "to_svg", lambda figure: b"<svg/>")
    results = make_results(wobble=0.0, n_concepts=6, unreached=[("random", 1.6)])
    found = draw_figures([results], entries(results))
    tasks = ("likelihood", "steering", "rules")
    assert set(found) == {f"{figure}-{task}" for figure in ("levels", "concepts", "recovered") for task in tasks}
    lines = {
        series.arm: series for series in drawn["likelihood: effect over wrong-concept at each level of damage"][0].marks
    }
    assert lines["linear"].x == pytest.approx((1.1, 1.3, 1.6))
    assert lines["linear"].y == pytest.approx([0.9 * gain for gain in (0.15, 0.25, 0.35)])
    assert lines["random"].x == pytest.approx((1.1, 1.3))
    assert set(lines) == {"native", "linear", "identity", "random"}
    dots = drawn["likelihood, concept by concept at damage 1.3"][0].marks
    assert {dot.arm: round(dot.value, 6) for dot in dots if dot.row == "c03"} == {
        "native": round(0.25 - math.log(1.3), 6),
        "linear": round(0.225 - math.log(1.3), 6),
        "wrong-concept": round(-math.log(1.3), 6),
    }
    fractions = {dot.arm: dot.value for dot in drawn["likelihood: recovered fraction with 95 % intervals"][0].marks}
    assert fractions == pytest.approx({"linear": 0.9, "identity": 0.0, "random": 0.0})


def test_a_run_at_one_level_has_no_curves_and_a_board_of_runs_no_concepts():
    one = make_results(n_concepts=6, levels=[1.3])
    rated = type(one)(one.run, tuple(row for row in one.rows if row.task == "rule_following"))
    assert list(draw_figures([rated], entries(rated))) == ["concepts-rules", "recovered-rules"]
    other = make_results("b", target="t2", n_concepts=6, levels=[1.3])
    found = draw_figures([one, other], [*entries(one), *entries(other)])
    assert not any(name.startswith("concepts") for name in found)


def test_the_specificity_matrix_is_white_at_0_and_says_which_concept_lifts_which():
    effects = {("a", "a"): 0.4, ("a", "b"): -0.1, ("b", "a"): 0.0, ("b", "b"): 0.2}
    rows = [Row("specificity", "t", "", "unsteered", "", 0.0, f"{c}-1", c, -3.0, 9) for c in "ab"]
    rows += [
        Row("specificity", "t", source, arm, of, 0.3 * level, f"{on}-1", on, -3.0 + times * effect, 9, level=level)
        for source, arm in (("", "native"), ("s", "linear"), ("", "random"))
        for (of, on), effect in effects.items()
        for level, times in ((1.3, 1.0), (1.6, 5.0))  # the main level is 1.3
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

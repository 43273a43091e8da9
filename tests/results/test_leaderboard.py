"""Leaderboards: the numbers in them, what they refuse, and that text from a run stays text."""

import csv
import io
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic_rows import UNREACHED, make_results, make_rows, make_run

from steer_bench.results.board.board import build_board
from steer_bench.results.board.entries import entries
from steer_bench.results.board.table import Table, interval, number
from steer_bench.results.file import Results, save_results
from steer_bench.results.leaderboard import write_leaderboard
from steer_bench.results.pages import html as pages
from steer_bench.results.pages import text as render
from steer_bench.results.provenance import Provenance
from steer_bench.results.stats.estimate import Estimate
from steer_bench.vectors.arms import GeometryLine

HOSTILE = (
    '<script>alert(1)</script>|`x`\n# y [z](javascript:alert(2)) " onerror="a()" \x1b]0;t\x07 \u202e $a$ {{ 7*7 }}'
)
HEADLINE = "concept_likelihood"


def to_markdown(results) -> str:
    return render.to_markdown(build_board(results))


def to_csv(results) -> str:
    return render.to_csv(build_board(results))


def to_latex(results) -> str:
    return render.to_latex(build_board(results))


def to_html(results) -> str:
    return pages.to_html(build_board(results))


@pytest.fixture(scope="module")
def results() -> Results:
    geometry = {"source": "source-model", "target": "target-model", "arm": "linear", "cosine": 0.97}
    geometry |= {"centred_cosine": 0.95, "retrieval": 1.0, "r2": None}
    return make_results(run={"geometry": [geometry]})


def table_of(results: Results, title: str) -> Table:
    """The table whose title ends so."""
    return next(table for table in build_board([results]).tables if table.title.endswith(title))


def line_of(table: Table, arm: str) -> dict[str, str]:
    """Heading -> text of an arm's row."""
    place = table.columns.index("arm")
    line = next(line for line in table.lines if line.cells[place].text == arm)
    return {column: cell.text for column, cell in zip(table.columns, line.cells, strict=True)}


LIKELIHOOD, STEERING = "likelihood at damage 1.3", "steering at damage 1.3"
VALUE = r"-?\d\.\d\d \[-?\d\.\d\d, -?\d\.\d\d\]"


class TestArmTables:
    def test_a_task_has_value_effect_recovered_and_its_own_verdict(self, results):
        linear = line_of(table_of(results, LIKELIHOOD), "linear")
        assert list(linear) == [
            *("group", "arm", "dC", "effect", "recovered", "verdict", "damage", "dN", "wrong way", "n", "unscored")
        ]
        for name in ("dC", "effect", "recovered"):
            assert re.fullmatch(VALUE, linear[name])
        assert float(linear["recovered"].split()[0]) == pytest.approx(0.9, abs=0.03)
        assert (linear["verdict"], linear["damage"], linear["dN"]) == ("transfers", "1.30 at 0.34", "-0.26")
        assert (linear["n"], linear["unscored"]) == ("10", "0")

    def test_native_is_1_by_definition_and_wrong_concept_is_what_effects_are_over(self, results):
        table = table_of(results, STEERING)
        native, wrong = line_of(table, "native"), line_of(table, "wrong-concept")
        assert (native["recovered"], native["verdict"]) == ("1", "steers")
        assert (wrong["effect"], wrong["recovered"], wrong["verdict"]) == ("-", "-", "-")
        assert [line.cells[1].text for line in table.lines].count("wrong-concept") == 1  # two seeds, one arm

    def test_unsteered_and_arms_that_ask_have_no_dose_and_no_effect_on_it(self):
        results = make_results(prompt=1.2)
        table = table_of(results, STEERING)
        for arm in ("unsteered", "prompt"):
            line = line_of(table, arm)
            assert (line["damage"], line["wrong way"], line["verdict"]) == ("-", "-", "-")
            assert re.fullmatch(VALUE, line["score"])
        assert "unsteered" not in [line.cells[1].text for line in table_of(results, LIKELIHOOD).lines]

    def test_a_level_that_an_arm_does_not_reach_says_so_with_the_reason_and_nothing_stands_in_its_place(self):
        results = make_results(unreached=[("identity", 1.3)])
        table = table_of(results, STEERING)
        line = line_of(table, "identity")
        assert (line["score"], line["verdict"], line["n"]) == ("not reached", "not reached", "0")
        assert {line[name] for name in ("effect", "recovered", "damage", "wrong way")} == {"-"}
        assert f"identity does not reach damage 1.3 on 10 concepts: {UNREACHED}." in table.remarks
        overview = table_of(results, "Verdicts")
        assert line_of(overview, "identity")["steering"] == "not reached"
        levels = line_of(table_of(results, "by level of damage"), "identity")
        assert levels["effect at 1.1"] != levels["effect at 1.3"] == levels["recovered at 1.3"] == "-"

    def test_damage_far_from_the_level_is_marked(self, results):
        def hurt(row):
            more = row.role == "neutral" and (row.arm, row.level) == ("linear", 1.3)
            return replace(row, value=row.value - 0.15) if more else row

        table = table_of(Results(results.run, map(hurt, results.rows)), LIKELIHOOD)
        assert line_of(table, "linear")["damage"] == "1.51, above by 16% at 0.34"  # exp(0.15) of 1.3
        assert line_of(table, "native")["damage"] == "1.30 at 0.31"

    def test_every_task_has_its_verdict_in_the_overview_beside_what_is_recovered(self, results):
        overview = table_of(results, "Verdicts")
        assert overview.columns == ("target", "source", "arm", "likelihood", "steering", "rules")
        linear = line_of(overview, "linear")
        assert re.fullmatch(f"transfers; {VALUE}", linear["likelihood"])
        assert re.fullmatch(f"transfers; {VALUE}", linear["steering"])
        assert line_of(overview, "identity")["steering"].startswith("no evidence")

    def test_where_native_does_not_steer_nothing_is_recovered(self):
        strengths = {"native": 0.0, "linear": 0.9, "wrong-concept-0": 0.0}
        table = table_of(make_results(strengths=strengths, wobble=0.3), LIKELIHOOD)
        assert "recovered" not in table.columns
        assert line_of(table, "linear")["verdict"] == line_of(table, "native")["verdict"] == "native does not steer"

    def test_a_run_without_wrong_concept_has_values_alone_and_says_why(self):
        table = table_of(make_results(strengths={"native": 1.0, "linear": 0.9}), LIKELIHOOD)
        assert not {"effect", "recovered"} & set(table.columns)
        assert re.fullmatch(VALUE, line_of(table, "linear")["dC"])
        assert any("no wrong-concept to compare with" in remark for remark in table.remarks)

    def test_arms_that_the_run_does_not_claim_are_marked(self):
        table = table_of(make_results(run={"claims": ["linear"]}), LIKELIHOOD)
        assert line_of(table, "linear")["verdict"] == "transfers"
        assert line_of(table, "identity")["verdict"] == "no evidence (exploratory)"

    def test_too_few_concepts_are_said(self):
        table = table_of(make_results(n_concepts=3), STEERING)
        assert line_of(table, "linear")["verdict"] == "too few concepts"
        assert line_of(table, "linear")["score"].endswith("[n/a]")

    def test_bold_is_for_a_lead_that_the_interval_shows_and_a_tie_is_said(self):
        for other, bold in ((0.3, ["linear"]), (0.89, [])):
            strengths = {"native": 1.0, "linear": 0.9, "mlp": other, "wrong-concept-0": 0.0}
            table = table_of(make_results(strengths=strengths, wobble=0.15), LIKELIHOOD)
            assert [line.cells[1].text for line in table.lines if line.strong] == bold
            assert any("No arm is in bold" in remark for remark in table.remarks) == (not bold)

    def test_unscored_values_are_counted_with_the_reason_and_unequal_shares_are_pointed_out(self, results):
        def refused(row):
            lost = (row.task, row.arm, row.level) == ("concept_steering", "native", 1.3) and row.concept < "c03"
            return replace(row, value=None, reason="refused") if lost else row

        table = table_of(Results(results.run, map(refused, results.rows)), STEERING)
        native = line_of(table, "native")
        assert (native["unscored"], native["n"]) == ("18 of 60 (refused)", "7")
        assert line_of(table, "linear")["n"] == "10"
        assert "30% of native is unscored, unlike other arms; compare with care." in table.remarks

    def test_an_arm_whose_every_value_overflowed_is_na_with_the_reason_in_every_format(self, results):
        rows = [
            replace(row, value=None, reason="non_finite", ratings={}) if row.arm == "linear" else row
            for row in results.rows
        ]
        board = build_board([Results(results.run, rows)])
        formats = [render.to_markdown(board), render.to_csv(board), render.to_latex(board), pages.to_html(board)]
        line = line_of(table_of(Results(results.run, rows), LIKELIHOOD), "linear")
        assert (line["dC"], line["effect"], line["unscored"]) == ("n/a", "-", "120 of 120 (non_finite)")
        assert line["verdict"] not in ("transfers", "equivalent")
        lines = [line for line in csv.DictReader(io.StringIO(formats[1])) if line["arm"] == "linear"]
        assert {(line["value"], line["recovered"], line["scored"]) for line in lines} == {("", "", "0")}
        for text in formats:
            shown = re.sub(r"<(script|style)>.*?</\1>", "", text, flags=re.S)  # our own script speaks of Infinity
            assert not re.search(r"\bnan\b|\binf\b|NaN|Infinity", shown)

    def test_a_rule_that_is_not_obeyed_when_asked_for_is_said_to_leave_nothing_to_suppress(self, results):
        def suppressed(unsteered):
            rows = [replace(row, task="rule_suppression") for row in results.rows if row.task == "rule_following"]
            rows = [replace(row, value=unsteered) if row.arm == "unsteered" else row for row in rows]
            return to_markdown([Results(results.run, (*results.rows, *rows))])

        told = "1.00 of the unsteered replies break the rule although asked to obey it"
        assert told in suppressed(1.0)
        assert told not in suppressed(0.5)

    def test_another_lm_eval_task_has_a_table_without_verdicts(self, results):
        rows = [replace(row, task="hellaswag", value=0.25) for row in results.rows if row.task == "rule_following"]
        table = table_of(Results(results.run, (*results.rows, *rows)), "hellaswag at damage 1.3")
        linear = line_of(table, "linear")
        assert linear["value"].startswith("0.25")
        assert "verdict" not in linear

    def test_a_grid_says_where_its_factors_come_from(self):
        results = make_results(grid=True, strengths={"native": 1.0, "linear": 0.9, "wrong-concept-0": 0.0})
        table = table_of(results, "steering at the factor chosen on selection prompts")
        cell = next(e for e in entries(results) if e.arm == "linear").cells["concept_steering"]
        assert cell.factor == pytest.approx(0.4)
        assert line_of(table, "linear")["verdict"] == "transfers"
        markdown = to_markdown([results])
        assert "- grids of factors: concept_steering, rule_following: 0.2 0.4" in markdown
        assert "Grids: a task on a grid of factors uses" in markdown

    def test_an_arm_that_the_run_does_not_list_is_refused_and_never_guessed_by_its_name(self, results):
        known = [info for info in results.run.arms if info.arm != "random"]
        run = results.run.model_copy(update={"arms": tuple(known)})
        with pytest.raises(ValueError, match=r"run 'toy' has rows of an arm 'random' that it does not list"):
            entries(Results(run, results.rows))


class TestFurtherTables:
    def test_levels_have_effect_and_recovered_each_and_the_verdict_of_the_main_one(self, results):
        table = table_of(results, "by level of damage")
        found = [f"{what} at {level}" for level in (1.1, 1.3, 1.6) for what in ("effect", "recovered")]
        assert table.columns == ("task", "arm", *found, "verdict at 1.3")
        linear = line_of(table, "linear")
        effects = [float(linear[f"effect at {level}"].split()[0]) for level in (1.1, 1.3, 1.6)]
        assert effects == pytest.approx([0.9 * gain for gain in (0.15, 0.25, 0.35)], abs=0.02)
        assert linear["verdict at 1.3"] == "transfers"
        assert not any(t.title.endswith("by level of damage") for t in build_board([make_results(levels=[1.3])]).tables)

    def test_methods_are_ranked_over_all_pairs_with_their_spread(self, results):
        back = make_results("back", target="source-model", source="target-model", seed=2)
        table = next(t for t in build_board([results, back]).tables if t.title == "Methods over all pairs")
        linear = line_of(table, "linear")
        parts = {
            e.target: e.cells[HEADLINE].recovered.value
            for r in (results, back)
            for e in entries(r)
            if e.arm == "linear"
        }
        assert linear["least to most"] == f"{min(parts.values()):.2f} to {max(parts.values()):.2f}"
        assert min(parts.values()) <= table.lines[0].cells[2].sort <= max(parts.values())
        assert (linear["pairs"], linear["transfers"]) == ("2", "2 of 2")
        assert [line.cells[1].text for line in table.lines if line.cells[0].text == "likelihood"] == [
            "linear",
            "identity",
        ]

    def test_concepts_stand_one_by_one_worst_first_and_the_worst_is_named(self, results):
        table = table_of(results, "likelihood, concept by concept")
        assert table.columns == (
            *("concept", "native", "linear", "wrong-concept", "effect of native", "effect of linear"),
        )
        cell = next(e for e in entries(results) if e.arm == "linear").cells[HEADLINE]
        assert [line.cells[0].text for line in table.lines] == sorted(cell.effects, key=cell.effects.__getitem__)
        first = table.lines[0].cells
        assert first[5].sort == pytest.approx(first[2].sort - first[3].sort)
        assert table.remarks[1] == f"Worst under linear: {first[0].text}, effect {first[5].text}."
        both = build_board([results, make_results("b", target="t2")])
        assert not any("concept by concept" in table.title for table in both.tables)

    def test_concepts_and_samples_that_move_the_wrong_way_are_counted(self, results):
        def turned(row):
            back = (row.task, row.arm, row.level, row.concept) == ("rule_following", "linear", 1.3, "c04")
            return replace(row, value=0.0) if back else row

        rows = [replace(row, value=1.0) if row.arm.startswith("wrong") and row.concept == "c04" and row.task == "rule_following"
                else turned(row) for row in results.rows]  # fmt: skip
        changed = Results(results.run, rows)
        linear = next(e for e in entries(changed) if e.arm == "linear").cells["rule_following"]
        concepts, samples = linear.anti_concepts, linear.anti_samples.share
        assert concepts >= 0.1
        assert samples >= 0.1  # the six of c04, of 60
        table = table_of(changed, "rules at damage 1.3")
        assert line_of(table, "linear")["wrong way"] == f"{concepts:.0%} / {samples:.0%}"
        assert "Worst under linear: c04, effect -1.00." in table_of(changed, "rules, concept by concept").remarks


class TestMarkdown:
    def test_groups_stand_in_order_and_are_named_once(self, results):
        groups = [line.cells[0].text for line in table_of(results, STEERING).lines]
        assert groups == ["unsteered", "baseline", "transfer", "transfer", "control", "control"]
        assert to_markdown([results]).count("| transfer ") == 3  # one for each task

    def test_the_header_traces_the_numbers(self, results):
        markdown = to_markdown([results])
        tasks = "concept_likelihood, concept_steering, rule_following"
        for fact in (
            "- model: source-model: revision abc1234, layer 12, d_model 64, dtype float32",
            "- positions: all",
            "- judge: embedding (all-MiniLM-L6-v2): a proxy",
            "- judge's check: none: how well it rates is not known",
            "- concepts: fit 2 (f1, f2), select 1 (s1), test 10 (c00, c01, c02, c03, c04, c05, c06, c07, c08, c09)",
            f"- levels of damage: {tasks}: 1.1 1.3 1.6; verdicts are about 1.3",
            "- claims: all transfer arms; one-sided 0.025, Holm over 6 claims",  # 2 arms on 3 tasks
            "- versions: steer_bench 0.1.0, torch 2.13.0",
            "Damage: arms are compared where they do the same damage.",
        ):
            assert fact in markdown
        assert "partial" not in markdown.lower()
        assert "Grids:" not in markdown
        assert "read them as such" in markdown  # the judge calls itself a proxy

    def test_a_run_that_does_not_say_it_is_complete_is_partial(self):
        run = make_run().model_dump(exclude={"complete"})
        assert "(partial)" in to_markdown([Results(Provenance(**run), tuple(make_rows(n_concepts=2)))])

    def test_rows_that_are_not_there_are_shown_whatever_the_run_says_of_itself(self, results):
        kept = [
            row for row in results.rows if (row.task, row.arm, row.concept) != ("concept_steering", "linear", "c03")
        ]
        markdown = to_markdown([Results(results.run, kept)])
        assert "## Run toy (partial)" in markdown
        assert "- partial: concept\\_steering" not in markdown
        assert (
            "- partial: concept_steering on target-model: 18 values of concepts x arms x items are missing" in markdown
        )
        assert "Partial: not all rows of toy are there; its numbers may change." in markdown

    def test_nothing_is_bold_where_nothing_transfers(self):
        strengths = {"native": 1.0, "linear": 0.0, "wrong-concept-0": 0.05}
        assert "**" not in to_markdown([make_results(strengths=strengths)])

    def test_geometry_has_its_table(self, results):
        assert re.search(r"\| linear +\| 0\.970 +\| 0\.950 +\| 1\.000 +\| n/a", to_markdown([results]))

    def test_a_run_without_sources_or_with_one_concept_still_has_a_page(self):
        alone = make_results(strengths={"native": 1.0, "wrong-concept-0": 0.0}, n_concepts=1)
        table = table_of(alone, LIKELIHOOD)
        assert table.title == f"target-model, no transfer: {LIKELIHOOD}"
        assert line_of(table, "native")["dC"].endswith("[n/a]")
        assert line_of(table, "native")["n"] == "1"
        assert "nan" not in to_markdown([alone]).lower().replace("nats", "")


class TestNumbers:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (0.0, "0.000"),
            (-0.0004, "0.000"),
            (-1.2345, "-1.234"),
            (99.96, "100.0"),
            (float("nan"), "n/a"),
            (None, "n/a"),
        ],
    )
    def test_number(self, value, text):
        assert number(value) == text

    def test_interval_of_nothing_and_without_an_end(self):
        assert interval(Estimate(None, None, None, 3)) == "n/a"
        assert interval(Estimate(2.0, 0.1, float("inf"), 12)) == "2.00 [0.10, unbounded]"
        assert render.escape_markdown(interval(Estimate(2.0, -float("inf"), float("inf"), 12))) == "2.00 [unbounded]"


MODEL = {"revision": "abc1234", "layer": 12, "d_model": 64, "dtype": "float32", "scale": 35.0}


class TestMerging:
    @pytest.mark.parametrize(
        ("change", "key"),
        [
            ({"judge": {"name": "other"}}, "judge"),
            ({"levels": {"concept_likelihood": [1.1, 1.3]}}, "levels of concept_likelihood"),
            ({"headline": 1.6}, "headline level"),
            ({"splits": {"test": ["c00"]}}, "splits"),
            ({"hashes": {"concepts": "0a1b", "instructions": "ffff"}}, "hash of instructions"),
            ({"hashes": {"concepts": "0a1b"}}, "hash of instructions"),
            ({"positions": None}, "positions: all and not recorded"),
            ({"models": {"target-model": {**MODEL, "layer": 3}}}, "layer of the target"),
            ({"models": {"target-model": MODEL, "source-model": {**MODEL, "layer": 3}}}, "layer of source-model"),
        ],
    )
    def test_another_protocol_on_one_target_is_refused_naming_the_key(self, change, key):
        with pytest.raises(ValueError, match=f"runs 'a' and 'b' measured target 'target-model' with different {key}"):
            to_markdown([make_results("a", n_concepts=2), make_results("b", run=change, n_concepts=2)])

    def test_the_judges_check_is_a_measurement_and_not_the_protocol(self):
        judges = [
            {"name": "j", "check": {"auroc": {"fluency": value}, "n": 8, "unscored": 0.0}} for value in (0.91, 0.92)
        ]
        runs = [make_results(name, {"judge": judge}, n_concepts=2) for name, judge in zip("ab", judges, strict=True)]
        assert "- judge's check: fluency AUROC 0.92, n 8, unscored 0" in to_markdown(runs)

    def test_other_test_concepts_are_refused(self):
        with pytest.raises(ValueError, match="different test concepts: c00 c01 and c00 c01 c02"):
            to_markdown([make_results("a", n_concepts=2), make_results("b", n_concepts=3)])

    def test_other_protocols_on_other_targets_stand_beside_each_other(self):
        other = make_results("b", {"judge": {"name": "other"}}, target="third-model", n_concepts=2)
        assert "third-model" in to_markdown([make_results("a", n_concepts=2), other])

    def test_one_run_twice_is_refused(self):
        with pytest.raises(ValueError, match="two results of the run 'toy'"):
            to_markdown([make_results(n_concepts=2)] * 2)

    def test_no_run_is_refused(self):
        with pytest.raises(ValueError, match="no results"):
            to_markdown([])


class Elements(HTMLParser):
    """The elements, attributes and text of a page as a parser sees them."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def hostile() -> Results:
    """A run whose every name is hostile."""
    rows = make_rows(
        {"native": 1.0, "linear": 0.9, "wrong-concept-0": 0.0}, target=HOSTILE, source="s" + HOSTILE, n_concepts=2
    )
    rows = [replace(row, arm="z" + HOSTILE) if row.arm == "linear" else row for row in rows]
    check = {"auroc": {HOSTILE: 0.5}, "n": 1, "unscored": 0.0}
    run = make_run(
        HOSTILE,
        {row.arm for row in rows},
        judge={"name": HOSTILE, "check": check},
        models={HOSTILE: {"revision": HOSTILE}},
        versions={HOSTILE: HOSTILE},
        splits={"test": [HOSTILE]},
        geometry=[geometry_line(HOSTILE)],
    )
    return Results(run, tuple(rows))


def geometry_line(name: str) -> dict:
    """Geometry of an arm, source and target of that name."""
    return {"source": name, "target": name, "arm": name, "cosine": 0.5, "centred_cosine": 0.5, "retrieval": 0.0}


class TestHostileText:
    def test_markdown_tables_keep_their_columns_and_no_markup_gets_through(self, hostile):
        markdown = to_markdown([hostile])
        assert "<script" not in markdown
        assert not re.search(r"(?<!\\)`", markdown)
        assert not re.search(r"(?<!\\)\]\(", markdown)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", markdown)
        table: list[int] = []
        for line in markdown.splitlines():
            if line.startswith("|"):
                table.append(len(re.findall(r"(?<!\\)\|", line)))
                assert table[-1] == table[0]
            else:
                table = []

    def test_html_has_no_element_or_handler_that_is_not_ours(self, hostile):
        elements = Elements(to_html([hostile]))
        assert elements.tags.count("script") == 2  # the data block, which no browser runs, and ours
        assert not [name for name, _ in elements.attributes if name.startswith("on")]
        links = [value for name, value in elements.attributes if name in ("href", "src")]
        assert set(links) <= {"data:,", "#tables", "#samples", "#figures", "#notes"}
        assert "alert(1)</script>" in "".join(elements.text)
        assert "{{ 7*7 }}" in "".join(elements.text)
        assert "\x1b" not in "".join(elements.text)

    def test_csv_keeps_its_columns_and_runs_no_formula(self, hostile):
        run = hostile.run.model_copy(update={"name": "=1+1"})
        table = list(csv.reader(io.StringIO(to_csv([Results(run, hostile.rows)]))))
        assert {len(line) for line in table} == {len(table[0])}
        assert {line[0] for line in table[1:]} == {"'=1+1"}

    @pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", " =", "\r@"])
    def test_no_csv_cell_starts_as_a_formula_whatever_stands_before_it(self, start):
        name = start + 'HYPERLINK("http://x.invalid","y")'
        rows = [replace(row, arm=name) if row.arm == "linear" else row for row in make_rows(n_concepts=2)]
        cells = [
            cell
            for line in csv.reader(
                io.StringIO(to_csv([Results(make_run(name, {row.arm for row in rows}), tuple(rows))]))
            )
            for cell in line
        ]
        assert any("HYPERLINK" in cell for cell in cells)
        number = re.compile(r"-?[\d.]+(e-?\d+)?")
        assert not [
            cell for cell in cells if cell.lstrip()[:1] in tuple("=+-@") and cell and not number.fullmatch(cell)
        ]

    def test_latex_runs_no_command_of_a_name(self, hostile):
        name = r"[\input{/etc/passwd}\write18{id}] $x$ 50% a_b & c # ~ ^ `` \\ % {"
        rows = [replace(row, arm=name) if row.arm.startswith("z") else row for row in hostile.rows]
        arms = [info.model_copy(update={"arm": name} if info.arm.startswith("z") else {}) for info in hostile.run.arms]
        lines = (GeometryLine(**geometry_line(name)),)
        run = hostile.run.model_copy(update={"geometry": lines, "name": name, "arms": tuple(arms)})
        latex = to_latex([Results(run, tuple(rows))])
        ours = {"begin", "end", "hline", "textbf", "textbackslash", "textasciitilde", "textasciicircum"}
        ours |= {"textless", "textgreater", "textbar", "textasciigrave"}
        widths: list[int] = []
        for line in latex.splitlines():
            if line.startswith("%"):  # a table's title, one line of comment
                widths = []
                continue
            assert set(re.findall(r"\\([A-Za-z]+)", line)) <= ours
            bare = re.sub(r"\\[A-Za-z]+|\\[\\&%$#_{}]", "", line)
            assert not re.search(r"[%$#_^~`]", bare)
            assert not re.match(r"\s*[\[*]", bare)  # the line break before it would take it for its option
            if line.endswith(r"\\"):
                widths.append(bare.count("&"))
                assert widths[-1] == widths[0]

    def test_latex_escapes_its_commands(self):
        strengths = {"native": 1.0, "a_b&c": 0.9, "wrong-concept-0": 0.0}
        latex = to_latex([make_results("50%_$x$", strengths=strengths, n_concepts=8)])
        assert r"\textbf{a\_b\&c}" in latex
        code = "\n".join(line for line in latex.splitlines() if not line.startswith("%"))
        assert not re.search(r"(?<!\\)[_%$#]", code)


class TestHtml:
    def test_it_needs_nothing_from_outside_and_says_so(self, results):
        page = to_html([results])
        policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page).group(1)
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        assert "unsafe" not in policy
        outside = page.replace("http://www.w3.org/2000/svg", "")  # the name of a namespace, which nothing fetches
        assert not re.search(r"https?://|@import|url\(|innerHTML|insertAdjacentHTML|document\.write|eval\(", outside)

    def test_the_policy_has_the_hashes_of_the_style_and_script_that_are_there(self, results):
        import base64
        import hashlib

        page = to_html([results])
        assert "require-trusted-types-for &#39;script&#39;" in page or "require-trusted-types-for 'script'" in page
        for tag in ("style", "script"):
            source = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.S).group(1)
            digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
            assert f"{tag}-src &#39;sha256-{digest}&#39;" in page or f"{tag}-src 'sha256-{digest}'" in page

    def test_what_many_runs_are_is_folded_and_a_partial_one_among_them_is_seen(self):
        runs = [make_results(f"r{i}", {"complete": i != 2}, target=f"t{i}", n_concepts=2) for i in range(4)]
        page = to_html(runs)
        summary = re.search(r"<details>\s*<summary>(4 runs: .*?)</summary>", page).group(1)
        assert summary.count("partial") == 2  # the class and the words, once
        assert "<summary>Run r0, judge" in page
        assert "4 runs" not in to_html(runs[:3])

    def test_numbers_carry_what_they_are_sorted_by(self, results):
        value = next(e for e in entries(results) if e.arm == "linear").cells[HEADLINE].value.value
        assert f'data-sort="{value}"' in to_html([results])


class TestWriting:
    def test_all_files_are_written_and_the_same_twice(self, results, tmp_path):
        save_results(tmp_path / "toy.json", results)
        first = write_leaderboard([tmp_path / "toy.json"], tmp_path / "one")
        second = write_leaderboard([tmp_path / "toy.json"], tmp_path / "two")
        names = [str(path.relative_to(tmp_path / "one")) for path in first]
        assert names[-4:] == ["leaderboard.md", "leaderboard.html", "leaderboard.csv", "leaderboard.tex"]
        assert "figures/levels-likelihood.svg" in names
        for a, b in zip(first, second, strict=True):
            assert a.read_bytes() == b.read_bytes()
        assert (
            "![levels-likelihood](figures/levels-likelihood.svg)" in (tmp_path / "one" / "leaderboard.md").read_text()
        )
        assert (tmp_path / "one" / "leaderboard.html").read_text().count("data:image/svg+xml;base64,") == 10

    def test_csv_has_the_numbers_of_every_level_in_full(self, results):
        lines = list(csv.DictReader(io.StringIO(to_csv([results]))))
        mine = [line for line in lines if (line["arm"], line["task"]) == ("linear", HEADLINE)]
        assert [line["level"] for line in mine] == ["1.1", "1.3", "1.6"]
        assert [line["verdict"] for line in mine] == ["", "transfers", ""]
        cell = next(e for e in entries(results) if e.arm == "linear").cells[HEADLINE]
        for name, estimate in (("value", cell.value), ("effect", cell.effect), ("recovered", cell.recovered)):
            assert float(mine[1][name]) == pytest.approx(estimate.value, rel=1e-5)
            assert float(mine[1][f"{name}_low"]) == pytest.approx(estimate.low, rel=1e-5)
        assert float(mine[1]["dN"]) == pytest.approx(-math.log(1.3), rel=1e-5)
        assert (mine[1]["value_concepts"], mine[1]["scored"], mine[1]["exploratory"]) == ("10", "120", "False")
        unsteered = next(line for line in lines if line["arm"] == "unsteered")
        assert unsteered["effect"] == unsteered["verdict"] == ""

    def test_a_wrong_file_writes_nothing(self, tmp_path):
        (tmp_path / "bad.json").write_text(json.dumps({"schema": "x"}))
        with pytest.raises(ValueError, match="schema 'x'"):
            write_leaderboard([tmp_path / "bad.json"], tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_without_figures_neither_torch_nor_matplotlib_is_loaded(self, results, tmp_path):
        save_results(tmp_path / "toy.json", results)
        code = (
            "import sys; from steer_bench.results.leaderboard import write_leaderboard;"
            f"write_leaderboard([{str(tmp_path / 'toy.json')!r}], {str(tmp_path / 'out')!r}, figures=False);"
            "print(sorted({'torch', 'lm_eval', 'transformers', 'matplotlib'} & set(sys.modules)))"
        )
        root = Path(__file__).parents[2]
        done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"
        assert not (tmp_path / "out" / "figures").exists()

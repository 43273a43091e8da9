"""Leaderboards: the numbers in them, what they refuse, and that text from a run stays text."""

import csv
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean

import pytest
from steer_bench.results.stats.bootstrap import Estimate
from synthetic_rows import make_results, make_rows, make_run

from steer_bench.results.board.board import build_board
from steer_bench.results.board.entries import entries
from steer_bench.results.board.table import interval, number
from steer_bench.results.file import Results, save_results
from steer_bench.results.leaderboard import write_leaderboard
from steer_bench.results.pages import html as pages
from steer_bench.results.pages import text as render
from steer_bench.results.provenance import Provenance
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


def line_of(markdown: str, name: str) -> list[str]:
    """The cells of the first table row that names an arm."""
    row = next(line for line in markdown.splitlines() if line.startswith("|") and re.search(rf"\| \**{name}\** ", line))
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


class TestEntries:
    def test_there_is_one_entry_an_arm_with_what_was_put_in(self, results):
        found = {entry.arm: entry for entry in entries(results)}
        assert list(found) == ["unsteered", "native", "mean", "random", "identity", "linear"]
        assert (found["linear"].source, found["linear"].kind, found["linear"].target) == (
            "source-model",
            "transfer",
            "target-model",
        )
        assert found["native"].source == found["random"].source == ""
        cell = found["linear"].cells[HEADLINE]
        assert cell.recovered.low < 0.9 < cell.recovered.high
        assert cell.recovered.value == pytest.approx(0.9, abs=0.02)
        assert cell.ratio == pytest.approx(1.3)
        assert cell.factor == pytest.approx(0.524729, abs=1e-6)
        assert (cell.scored, cell.total, cell.unscored) == (120, 120, 0)  # 10 concepts x (6 texts + 6 neutral texts)

    def test_verdicts_are_those_of_the_known_effects(self, results):
        found = {entry.arm: entry.verdict for entry in entries(results)}
        assert found == {
            "unsteered": "",
            "native": "",
            "mean": "",
            "random": "",
            "identity": "no evidence",
            "linear": "transfers",
        }

    def test_a_native_that_does_nothing_is_said_to_do_nothing(self):
        dead = make_results(strengths={"native": 0.0, "linear": 0.5, "random": 0.0}, wobble=0.3)
        found = {entry.arm: entry for entry in entries(dead)}
        assert found["linear"].verdict == found["native"].verdict == "native itself does not steer"
        assert found["linear"].cells[HEADLINE].recovered.value is None

    def test_verdicts_come_from_a_task_without_a_judge_where_there_is_one(self, results):
        rated = Results(results.run, tuple(row for row in results.rows if row.task == "concept_steering"))
        assert {entry.headline for entry in entries(results)} == {HEADLINE}
        assert {entry.headline for entry in entries(rated)} == {"concept_steering"}

    def test_unscored_values_are_counted(self, results):
        rows = tuple(
            replace(row, value=None, reason="parse")
            if (row.task, row.arm, row.role, row.concept) == ("concept_steering", "linear", "score", "c01")
            else row
            for row in results.rows
        )
        cell = next(e for e in entries(Results(results.run, rows)) if e.arm == "linear").cells["concept_steering"]
        assert (cell.unscored, cell.total, cell.score.n) == (6, 60, 9)

    def test_replies_have_a_score_at_matched_damage_too(self):
        # perplexity ratio exp(0.5 * factor): at most 1.15 up to 0.28, so 0.2 of 0.2, 0.4, 0.8; at most 1.05 up to 0.0976, so none
        found = {}
        for limit in (1.15, 1.05):
            results = make_results(run={"damage_limit": limit})
            found[limit] = next(e for e in entries(results) if e.arm == "native").cells["concept_steering"]
        at_02 = [
            row.value
            for row in results.rows
            if (row.task, row.arm, row.role, row.factor) == ("concept_steering", "native", "score", 0.2)
        ]
        assert (found[1.15].matched_factor, found[1.05].matched_factor) == (0.2, 0.0)
        assert found[1.15].matched.value == pytest.approx(fmean(at_02))
        assert found[1.05].matched.value == pytest.approx(0.1)  # what unsteered replies have
        assert found[1.15].factor == found[1.05].factor == 0.4

    def test_the_cost_is_not_known_where_it_was_not_measured_at_every_selected_factor(self, results):
        def without(rows, factor, concepts):
            """No likelihoods at the factor and above, for those concepts."""
            return tuple(
                row for row in rows if not (row.task == HEADLINE and row.factor >= factor and row.concept in concepts)
            )

        cell = next(
            e for e in entries(Results(results.run, without(results.rows, 0.4, ("c01",)))) if e.arm == "native"
        ).cells["concept_steering"]
        assert (cell.factor, cell.ratio) == (0.4, None)
        assert cell.matched.n == 10  # that concept's 0.2 is known to be within the limit

    def test_another_lm_eval_task_is_a_column(self, results):
        capability = [
            replace(row, task="hellaswag", value=0.25, concept="", factor=row.factor)
            for row in results.rows
            if (row.task, row.role, row.concept, row.factor)
            in (("rule_following", "score", "c00", f) for f in (0.0, 0.4))
        ]
        board = build_board([Results(results.run, (*results.rows, *capability))])
        assert "hellaswag" in board.tables[0].columns
        linear = next(entry for entry in board.entries if entry.arm == "linear").cells["hellaswag"]
        assert (linear.score.value, linear.factor, linear.matched) == (0.25, 0.4, None)

    def test_an_arm_that_the_run_does_not_list_is_refused_and_never_guessed_by_its_name(self, results):
        known = [info for info in results.run.arms if info.arm != "random"]
        run = results.run.model_copy(update={"arms": tuple(known)})
        with pytest.raises(ValueError, match=r"run 'toy' has rows of an arm 'random' that it does not list"):
            entries(Results(run, results.rows))


class TestMarkdown:
    def test_cells_have_value_interval_and_n(self, results):
        markdown = to_markdown([results])
        cells = line_of(markdown, "linear")
        assert cells[1:3] == ["**linear**", "transfers"]
        header = [
            cell.strip() for cell in next(x for x in markdown.splitlines() if x.startswith("| group")).split("|")[1:-1]
        ]
        assert header == [
            *("group", "arm", "verdict", "likelihood", "recovered", "cost", "steering", "recovered", "cost"),
            *("matched", "rules", "recovered", "matched", "n", "unscored"),
        ]
        for place in (3, 4, 6, 7, 10, 11):
            assert re.fullmatch(r"[01]\.\d\d \[[01]\.\d\d, [01]\.\d\d\]", cells[place])
        assert (cells[5], cells[8], cells[13:]) == ("1.30 at 0.52", "1.22 at 0.40", ["10", "0"])
        assert cells[9] == f"{cells[6]} at 0.40"  # the best factor, 0.4, is within the limit, which lies at 0.52
        assert line_of(markdown, "native")[4] == "1"

    def test_groups_stand_in_order_and_are_named_once(self, results):
        groups = [cells[0].text for cells in (line.cells for line in build_board([results]).tables[0].lines)]
        assert groups == ["unsteered", "baseline", "transfer", "transfer", "control", "control"]
        assert to_markdown([results]).count("| transfer ") == 1

    def test_the_header_traces_the_numbers(self, results):
        markdown = to_markdown([results])
        for fact in (
            "- model: source-model: revision abc1234, layer 12, d_model 64",
            "- judge: embedding (all-MiniLM-L6-v2): a proxy",
            "- judge's check: none: how well it rates is not known",
            "- concepts: fit 2 (f1, f2), select 1 (s1), test 10 (c00, c01, c02, c03, c04, c05, c06, c07, c08, c09)",
            "- factors: concept_likelihood, concept_steering: 0.2 0.4 0.8",
            "- seeds: bootstrap 0",
            "- versions: steer_bench 0.1.0, torch 2.13.0",
        ):
            assert fact in markdown
        assert "partial" not in markdown.lower()
        assert "read them as such" in markdown  # the judge calls itself a proxy

    def test_a_partial_run_is_marked(self):
        markdown = to_markdown([make_results(run={"complete": False, "expected_rows": 9999})])
        assert "## Run toy (partial)" in markdown
        assert re.search(r"- partial: \d+ of 9999 rows", markdown)

    def test_a_run_that_does_not_say_it_is_complete_is_partial(self):
        run = make_run().model_dump(exclude={"complete"})
        assert "(partial)" in to_markdown([Results(Provenance(**run), tuple(make_rows(n_concepts=2)))])

    def test_nothing_is_bold_where_nothing_transfers(self):
        assert "**" not in to_markdown([make_results(strengths={"native": 1.0, "linear": 0.0, "random": 0.05})])

    def test_matrix_and_geometry_have_their_tables(self, results):
        back = make_results("back", target="source-model", source="target-model", seed=2)
        markdown = to_markdown([results, back])
        found = {
            e.target: e.cells[HEADLINE].recovered for r in (results, back) for e in entries(r) if e.arm == "linear"
        }
        matrix = markdown.split("## Recovered fraction, source (rows) by target (columns): likelihood")[1].split("##")[
            0
        ]
        rows = [
            [cell.strip() for cell in line.split("|")[1:-1]] for line in matrix.splitlines() if line.startswith("|")
        ]
        assert rows[0] == ["arm", "source", "source-model", "target-model"]
        linear = next(place for place, row in enumerate(rows) if row[0] == "linear")
        assert rows[linear][1:3] == ["source-model", "native"]
        assert rows[linear][3] == interval(found["target-model"])
        assert rows[linear + 1][:2] == ["", "target-model"]
        assert rows[linear + 1][2] == interval(found["source-model"])
        assert re.search(r"\| linear +\| 0\.970 +\| 0\.950 +\| 1\.000 +\| n/a", markdown)

    def test_unequal_unscored_shares_are_pointed_out(self, results):
        rows = tuple(
            replace(row, value=None, reason="refused")
            if row.task == "concept_steering" and row.arm == "native" and row.concept < "c03" and row.role == "score"
            else row
            for row in results.rows
        )
        markdown = to_markdown([Results(results.run, rows)])
        assert "concept_steering: 30% of native is unscored, unlike other arms" in markdown
        cells = line_of(markdown, "native")
        assert cells[-2:] == ["10/7/10", "18 of 60 steering (refused)"]

    def test_an_arm_whose_every_value_overflowed_is_na_with_the_reason_in_every_format(self, results):
        rows = tuple(
            replace(row, value=None, reason="non_finite", ratings={}) if row.arm == "linear" else row
            for row in results.rows
        )
        board = build_board([Results(results.run, rows)])
        formats = [render.to_markdown(board), render.to_csv(board), render.to_latex(board), pages.to_html(board)]
        cells = line_of(formats[0], "linear")
        assert cells[3:5] == ["n/a", "n/a"]  # likelihood and what is recovered of it
        assert "120 of 120 likelihood (non_finite)" in cells[-1]
        entry = next(entry for entry in board.entries if entry.arm == "linear")
        assert {cell.score.value for cell in entry.cells.values()} == {None}
        assert entry.verdict == "no evidence"
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

        told = "suppression: 1.00 of the unsteered replies do not obey although asked to"
        assert told in suppressed(1.0)
        assert told not in suppressed(0.5)

    def test_a_run_without_sources_or_with_one_concept_still_has_a_page(self):
        alone = make_results(strengths={"native": 1.0, "random": 0.0}, n_concepts=1)
        markdown = to_markdown([alone])
        assert "## target-model, no transfer" in markdown
        assert line_of(markdown, "native")[3].endswith("[n/a]")
        assert line_of(markdown, "native")[-2] == "1"
        assert "nan" not in markdown.lower().replace("nats", "")


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

    def test_interval_of_nothing(self):
        assert interval(Estimate(None, None, None, 3)) == "n/a"


class TestMerging:
    @pytest.mark.parametrize(
        ("change", "key"),
        [
            ({"judge": {"name": "other"}}, "judge"),
            ({"factors": {"concept_likelihood": [0.1]}}, "factors"),
            ({"splits": {"test": ["c00"]}}, "splits"),
            ({"models": {"target-model": {"layer": 3}}}, "layer of the target"),
            ({"damage_limit": 1.5}, "damage_limit"),
        ],
    )
    def test_another_protocol_on_one_target_is_refused_naming_the_key(self, change, key):
        with pytest.raises(ValueError, match=f"runs 'a' and 'b' measured target 'target-model' with different {key}:"):
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
    rows = make_rows({"native": 1.0, "linear": 0.9, "random": 0.0}, target=HOSTILE, source="s" + HOSTILE, n_concepts=2)
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
        strengths = {"native": 1.0, "a_b&c": 0.9, "random": 0.0}
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
        value = next(e for e in entries(results) if e.arm == "linear").cells[HEADLINE].score.value
        assert f'data-sort="{value}"' in to_html([results])


class TestWriting:
    def test_all_files_are_written_and_the_same_twice(self, results, tmp_path):
        save_results(tmp_path / "toy.json", results)
        first = write_leaderboard([tmp_path / "toy.json"], tmp_path / "one")
        second = write_leaderboard([tmp_path / "toy.json"], tmp_path / "two")
        names = [str(path.relative_to(tmp_path / "one")) for path in first]
        assert names[-4:] == ["leaderboard.md", "leaderboard.html", "leaderboard.csv", "leaderboard.tex"]
        assert "figures/frontier.svg" in names
        for a, b in zip(first, second, strict=True):
            assert a.read_bytes() == b.read_bytes()
        assert "![frontier](figures/frontier.svg)" in (tmp_path / "one" / "leaderboard.md").read_text()
        assert (tmp_path / "one" / "leaderboard.html").read_text().count("data:image/svg+xml;base64,") == 9

    def test_csv_has_the_numbers_in_full(self, results):
        lines = list(csv.DictReader(io.StringIO(to_csv([results]))))
        line = next(line for line in lines if (line["arm"], line["task"]) == ("linear", HEADLINE))
        cell = next(e for e in entries(results) if e.arm == "linear").cells[HEADLINE]
        assert float(line["value"]) == pytest.approx(cell.score.value, rel=1e-5)
        assert (line["concepts"], line["scored"], line["verdict"]) == ("10", "120", "transfers")
        unsteered = next(line for line in lines if line["arm"] == "unsteered")
        assert unsteered["low"] == unsteered["verdict"] == ""

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

"""Two runs compared, and pages in the formats asked for; every number by hand."""

from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from children import command
from synthetic_rows import make_results

from steer_bench.results.board.comparison import compare, comparison_table
from steer_bench.results.file import Results, save_results
from steer_bench.results.provenance import ArmInfo, Provenance
from steer_bench.results.rows import Row

GAINS = (0.25, 0.25, 0.5)


def results(name: str, gains: tuple[float, ...] = (0.0, 0.0, 0.0), *, level: float = 1.3, **run: object) -> Results:
    """Three rules of two prompts each on one target: unsteered obeys never, native half of the time and the gain of the rule."""
    rows = [
        Row("rule_following", "target", "", arm, f"r{place}", factor, f"{place}-{item}", "score", value, 8, level=at)
        for place, gain in enumerate(gains)
        for arm, factor, at, value in (("unsteered", 0.0, 0.0, 0.0), ("native", 0.4, level, 0.5 + gain))
        for item in range(2)
    ]
    info = ArmInfo(arm="native", adapter="native", kind="baseline", method="native")
    levels = {"rule_following": (level,)}
    return Results(Provenance(name=name, complete=True, arms=(info,), levels=levels, headline=level, **run), rows)


def test_the_difference_is_the_second_minus_the_first_with_the_exact_sign_flip_p():
    found, remarks = compare(results("one"), results("two", GAINS))
    (native,) = [line for line in found if line.arm == "native"]
    assert (native.first.value, native.second.value) == (0.5, pytest.approx(0.5 + 1 / 3))
    assert (native.difference.value, native.difference.n, native.level) == (pytest.approx(1 / 3), 3, 1.3)
    assert native.difference.low is None  # an interval needs five concepts
    assert (
        native.p == 0.5
    )  # of 8 sign patterns +++ alone reaches the sum: 2 x 1/8, twice after Holm over native and unsteered
    assert remarks == []


def test_a_concept_is_the_mean_of_the_items_both_have():
    first, second = results("one"), results("two", GAINS)
    rows = [replace(row, value=1.0) if row.item == "0-1" and row.arm == "native" else row for row in second.rows]
    rows = [row for row in rows if (row.item, row.arm) != ("0-0", "native")]  # what is left of r0 is 1.0, against 0.5
    found, _ = compare(first, Results(second.run, rows))
    (native,) = [line for line in found if line.arm == "native"]
    assert native.difference.value == pytest.approx((0.5 + 0.25 + 0.5) / 3)


@pytest.mark.parametrize(
    ("run", "told"),
    [
        ({"hashes": {"concepts": "bb"}}, "target: different hash of concepts: aa and bb."),
        ({"hashes": {}}, "target: different hash of concepts: aa and not recorded."),
        ({"positions": "last"}, "target: different positions: all and last."),
        ({"positions": None}, "target: different positions: all and not recorded."),
        ({"models": {"target": {"layer": 9}}}, "target: different layer of the target: 8 and 9."),
    ],
)
def test_what_is_not_equal_is_said_and_a_key_that_one_run_lacks_too(run, told):
    known = {"hashes": {"concepts": "aa"}, "positions": "all", "models": {"target": {"layer": 8}}}
    made = [Provenance.model_validate({**results("x").run.model_dump(), "name": n, **known, **more}) for n, more in
            (("one", {}), ("two", run))]  # fmt: skip
    _, remarks = compare(*(Results(one, results("x").rows) for one in made))
    assert told in remarks


def test_levels_that_the_runs_do_not_share_are_left_out():
    with pytest.raises(ValueError, match="rules is left out, for the runs measured it at no common level of damage"):
        compare(results("one"), results("two", level=1.6))


def test_ratings_of_different_judges_are_left_out():
    made = []
    for name in "ab":
        run = {**results(name).run.model_dump(), "judge": {"name": name}}
        rows = [replace(row, task="concept_steering") for row in results(name).rows]
        made.append(Results(Provenance.model_validate(run), rows))
    with pytest.raises(ValueError, match="ratings of different judges are not comparable"):
        compare(*made)


def test_runs_without_a_common_measurement_are_refused():
    other = Results(Provenance(name="other"), (replace(row, target="x") for row in results("a").rows))
    with pytest.raises(ValueError, match="share no target, arm and task"):
        comparison_table(results("one"), other)


def test_rows_that_are_not_there_are_said():
    second = results("two", GAINS)
    rows = [row for row in second.rows if (row.item, row.arm) != ("0-1", "native")]
    table = comparison_table(results("one"), Results(second.run, rows))
    assert any("1 values of concepts x arms x items are missing" in remark for remark in table.remarks)


def test_seeds_of_a_random_control_are_compared_as_one_arm():
    def seeded(gain: float) -> Results:
        found = results("r", (gain,) * 3)
        rows = [replace(row, arm=f"{row.arm}-{seed}") for row in found.rows if row.factor for seed in (1, 2)]
        infos = (
            ArmInfo(arm=f"native-{seed}", adapter="native", variant=str(seed), kind="control", method="random")
            for seed in (1, 2)
        )
        run = found.run.model_copy(update={"arms": tuple(infos)})
        return Results(run, [*(row for row in found.rows if not row.factor), *rows])

    found, _ = compare(seeded(0.0), seeded(0.25))
    assert [(line.arm, line.difference.value) for line in found] == [("native", 0.25), ("unsteered", 0.0)]


def test_compare_and_the_formats_asked_for_by_command(tmp_path: Path):
    for name, gains in (("one", (0.0,) * 3), ("two", (0.25,) * 3)):
        save_results(tmp_path / f"{name}.json", results(name, gains))

    def run(*arguments: str) -> CompletedProcess[str]:
        return command("-m", "steer_bench", *arguments, cwd=tmp_path)

    compared = run("compare", "one.json", "two.json")
    assert compared.returncode == 0
    assert "0.25" in compared.stdout
    made = run("leaderboard", "one.json", "-o", "board", "--format", "md,csv", "--no-figures")
    assert made.returncode == 0
    assert sorted(path.name for path in (tmp_path / "board").iterdir()) == ["leaderboard.csv", "leaderboard.md"]
    save_results(tmp_path / "levels.json", make_results(n_concepts=5, n_items=2))
    drawn = run("leaderboard", "levels.json", "-o", "drawn", "--format", "md", "--png")
    assert drawn.returncode == 0
    figures = sorted((tmp_path / "drawn" / "figures").iterdir())
    assert {path.suffix for path in figures} == {".svg", ".png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures if path.suffix == ".png")
    wrong = run("leaderboard", "one.json", "-o", "board", "--format", "pdf")
    assert wrong.returncode == 2
    assert "pdf" in wrong.stderr

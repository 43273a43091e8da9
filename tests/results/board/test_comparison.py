"""Two runs compared, and pages in the formats asked for; every number by hand."""

from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from children import command

from steer_bench.results.board.comparison import compare, comparison_table
from steer_bench.results.file import Results, save_results
from steer_bench.results.provenance import ArmInfo, Provenance
from steer_bench.results.rows import Row

ITEMS = (("p1", "select"), ("p2", "score"), ("p3", "score"))


def results(name: str, native: float) -> Results:
    """Three rules on one target: unsteered obeys never, native as often as said."""
    rows = [
        Row("rule_following", "target", "", arm, rule, factor, item, role, value, 8)
        for rule in ("r1", "r2", "r3")
        for arm, factor, value in (("unsteered", 0.0, 0.0), ("native", 0.4, native))
        for item, role in ITEMS
    ]
    info = ArmInfo(arm="native", adapter="native", kind="baseline", method="native")
    return Results(Provenance(name=name, complete=True, arms=(info,)), rows)


def test_the_difference_is_the_second_minus_the_first_with_the_exact_sign_flip_p():
    found, _ = compare(results("one", 0.5), results("two", 0.75))
    (native,) = [line for line in found if line.arm == "native"]
    assert (native.first.value, native.second.value, native.difference.value) == (0.5, 0.75, 0.25)
    assert native.difference.n == 3
    assert (native.difference.low, native.difference.high) == (None, None)  # the same for every rule: nothing varies
    assert native.p is not None
    assert native.p >= 0.25  # of 8 sign patterns, +++ and --- reach the sum: 2 / 8, before Holm


def test_runs_without_a_common_measurement_are_refused():
    other = Results(Provenance(name="other"), (replace(row, target="x") for row in results("a", 0.5).rows))
    with pytest.raises(ValueError, match="share no target, arm and task"):
        comparison_table(results("one", 0.5), other)


def test_seeds_of_a_random_control_are_compared_as_one_arm():
    def seeded(value: float) -> Results:
        found = results("r", value)
        rows = [replace(row, arm=f"{row.arm}-{seed}") for row in found.rows if row.factor for seed in (1, 2)]
        infos = (
            ArmInfo(arm=f"native-{seed}", adapter="native", variant=str(seed), kind="control", method="random")
            for seed in (1, 2)
        )
        run = found.run.model_copy(update={"arms": tuple(infos)})
        return Results(run, [*(row for row in found.rows if not row.factor), *rows])

    found, _ = compare(seeded(0.5), seeded(0.75))
    assert [(line.arm, line.difference.value) for line in found] == [("native", 0.25), ("unsteered", 0.0)]


def test_compare_and_the_formats_asked_for_by_command(tmp_path: Path):
    for name, native in (("one", 0.5), ("two", 0.75)):
        save_results(tmp_path / f"{name}.json", results(name, native))

    def run(*arguments: str) -> CompletedProcess[str]:
        return command("-m", "steer_bench", *arguments, cwd=tmp_path)

    compared = run("compare", "one.json", "two.json")
    assert compared.returncode == 0
    assert "0.25" in compared.stdout
    made = run("leaderboard", "one.json", "-o", "board", "--format", "md,csv", "--no-figures")
    assert made.returncode == 0
    assert sorted(path.name for path in (tmp_path / "board").iterdir()) == ["leaderboard.csv", "leaderboard.md"]
    drawn = run("leaderboard", "one.json", "-o", "drawn", "--format", "md", "--png")
    assert drawn.returncode == 0
    figures = sorted((tmp_path / "drawn" / "figures").iterdir())
    assert figures
    assert {path.suffix for path in figures} == {".svg", ".png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures if path.suffix == ".png")
    wrong = run("leaderboard", "one.json", "-o", "board", "--format", "pdf")
    assert wrong.returncode == 2
    assert "pdf" in wrong.stderr

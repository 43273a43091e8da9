"""The cost side: KL, non-finite log-likelihoods, our multiple-choice task, capability and suppression in a run, the table of costs."""

import json
import math

import pytest
import torch
import yaml
from lm_eval.api.instance import Instance
from steered import TEXTS, likelihoods, make_arms, rolling, steer, steered_lm, tiny_pair
from synthetic_rows import make_run
from tiny import save_tiny, taught, tiny_gemma3, tiny_llama, tiny_tokenizer

from steer_bench import shipped
from steer_bench.concepts.load import load_texts
from steer_bench.concepts.rules.table import RULES
from steer_bench.experiment import run as runs
from steer_bench.experiment.engines import STAGES, order
from steer_bench.experiment.stages import report
from steer_bench.harness.multiple_choice import load, mean_valid, rated
from steer_bench.models.steered.selftest import SelfTestError
from steer_bench.models.steered.steering import Steering
from steer_bench.results.board.costs import costs_table
from steer_bench.results.file import Results, load_results
from steer_bench.results.lmeval_samples import newest_samples
from steer_bench.results.rows import Row

NAN = float("nan")


class TestDivergence:
    @pytest.mark.parametrize("together", [True, False])
    @pytest.mark.parametrize("family", ["llama", "gemma3"])
    def test_kl_is_the_mean_over_tokens_of_that_from_the_unsteered_to_the_steered_model(self, family, together):
        lm = steered_lm(*tiny_pair(family), make_arms())
        spec = {**steer(factor=0.7), "kl": True}
        others = (
            [(TEXTS[0], steer("linear", factor=0.2))] if together else []
        )  # two steerings of a text: the shared trunk
        answer = rolling(lm, [(TEXTS[0], spec), *others])[0]
        ids = lm.tok_encode(TEXTS[0])
        ids = ids if ids[0] == lm.prefix_token_id else [lm.prefix_token_id, *ids]
        steering = Steering.from_mapping(spec["steer"])
        with torch.no_grad():
            plain = lm.model(torch.tensor([ids[:-1]])).logits[0].double().log_softmax(-1)
            with lm.steerer.steering(lm.bank.rows([steering]), torch.tensor([1])):
                steered = lm.model(torch.tensor([ids[:-1]])).logits[0].double().log_softmax(-1)
        expected = float((plain.exp() * (plain - steered)).sum(-1).mean())
        assert expected > 0.01
        assert answer.kl == pytest.approx(expected, rel=1e-3)
        assert answer.n_tokens == len(ids) - 1

    def test_it_is_there_only_where_asked_for_and_changes_no_log_likelihood(self):
        lm = steered_lm(*tiny_pair("llama"), make_arms())
        without, with_kl = rolling(lm, [(TEXTS[0], steer()), (TEXTS[0], {**steer(), "kl": True})])
        assert without.kl is None
        assert float(without) == pytest.approx(float(with_kl), abs=1e-4)
        assert rolling(lm, [(TEXTS[0], {**steer(factor=0.0), "kl": True})])[0].kl is None

    def test_it_is_recorded(self, tmp_path, monkeypatch):
        model, tokenizer = tiny_pair("llama")
        ask_it = [(TEXTS[0], {**steer(), "kl": True}), (TEXTS[1], {**steer(factor=0.3), "kl": True})]
        first = steered_lm(model, tokenizer, make_arms(), records=str(tmp_path / "r.sqlite"))
        values = [(float(answer), answer.kl) for answer in rolling(first, ask_it)]
        first.steerer.remove()
        monkeypatch.setattr(type(model), "forward", None)
        again = steered_lm(model, tokenizer, make_arms(), records=str(tmp_path / "r.sqlite"))
        assert [(float(answer), answer.kl) for answer in rolling(again, ask_it)] == values


class TestNonFinite:
    @pytest.fixture
    def sound(self):
        return steered_lm(*tiny_pair("llama"), make_arms())

    @pytest.fixture
    def broken(self, sound):
        return self.without_numbers(sound)

    def without_numbers(self, lm):
        with torch.no_grad():
            lm.model.model.norm.weight.fill_(NAN)
        return lm

    def test_a_model_that_is_broken_unsteered_is_stopped_by_the_self_test(self, broken):
        with pytest.raises(SelfTestError, match="the model's own logits are not finite"):
            likelihoods(broken, [("The sea", " was grey", steer())])

    def test_a_task_that_would_take_nan_for_an_answer_stops_with_a_line_that_says_so(self, broken):
        with pytest.raises(FloatingPointError, match=r"2 of 2 results are not finite.*give a smaller factor") as caught:
            likelihoods(broken, [("The sea", " was grey"), ("The sea", " is wide")])
        assert "\n" not in str(caught.value)

    def test_our_tasks_and_those_that_mark_such_samples_get_the_value(self, sound):
        likelihoods(sound, [("The self", " test", steer())])  # it would stop a model that is broken unsteered
        broken = self.without_numbers(sound)
        assert math.isnan(likelihoods(broken, [("The sea", " was grey", steer())])[0][0])
        request = Instance("loglikelihood", {}, ("The sea", " was grey"), 0, metadata=("capability_choices", 0, 1))
        assert math.isnan(broken.loglikelihood([request])[0][0])
        broken.keep_non_finite = True
        assert math.isnan(likelihoods(broken, [("The sea", " was grey")])[0][0])


class TestChoices:
    def test_no_option_is_right_more_often_by_its_place(self):
        """A model that always takes the first option scores a quarter."""
        docs = load()["test"]
        assert len(docs) == 60
        assert [sum(doc["answer"] == place for doc in docs) for place in range(4)] == [15, 15, 15, 15]
        assert all(len(set(doc["choices"])) == 4 for doc in docs)
        assert len(set(docs["question"])) == 60

    @pytest.mark.parametrize("values", [[NAN] * 4, [-1.0, NAN, -2.0, -3.0], [-1.0, float("-inf"), -2.0, -3.0]])
    def test_a_log_likelihood_that_is_not_finite_makes_the_sample_neither_right_nor_wrong(self, values):
        for answer in range(4):
            assert rated({"answer": answer}, [(value, False) for value in values]) == {"acc": None, "invalid": 1.0}
        assert math.isnan(mean_valid([None, None]))

    def test_a_broken_model_scores_nothing_and_all_60_are_shown_as_invalid(self):
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager

        model, tokenizer = tiny_pair("llama")
        manager = TaskManager(include_path=str(shipped("tasks")), include_defaults=False)

        def results(lm):
            return simple_evaluate(model=lm, tasks=["capability_choices"], task_manager=manager, bootstrap_iters=0)[
                "results"
            ]

        sound = results(steered_lm(model, tokenizer))["capability_choices"]
        assert 0 <= sound["acc,none"] <= 1
        assert sound["invalid,none"] == 0
        with torch.no_grad():
            model.model.norm.weight.fill_(NAN)
        broken = results(steered_lm(model, tokenizer))["capability_choices"]
        assert broken["invalid,none"] == 1
        assert math.isnan(broken["acc,none"])


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A run with a suppressed rule and two capability tasks, on tiny models."""
    folder = tmp_path_factory.mktemp("costs")
    texts = load_texts(shipped("tasks") / "data" / "neutral.jsonl")
    for name, model, bos in (("a", tiny_gemma3(40), True), ("b", tiny_llama(32), False)):
        tokenizer = tiny_tokenizer(texts[:8], bos=bos)
        save_tiny(folder / name, taught(model, tokenizer, texts), tokenizer)
    questions = [json.dumps({"q": f"{i} and {i}", "options": ["one", "two"], "right": i % 2}) for i in range(3)]
    (folder / "sums.jsonl").write_text("\n".join(questions))
    (folder / "sums.yaml").write_text(
        f"task: sums\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder}/sums.jsonl}}}}\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: '{{q}} is'\ndoc_to_choice: '{{options}}'\ndoc_to_target: right\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    experiment = {
        "name": "costs",
        "models": [{"name": str(folder / "a"), "layer": 2}, {"name": str(folder / "b"), "layer": 2}],
        "pairs": [[str(folder / "a"), str(folder / "b")]],
        "concepts": {"source": "concepts.jsonl", "limit": 6, "held_out": 4},
        "splits": {"fit": 2, "test": 2},
        "neutral": {"map": "neutral_map.jsonl", "map_limit": 20, "perplexity": "neutral.jsonl"},
        "adapters": ["native", "linear"],
        "rules": ["question"],
        "suppress": ["numbered-list", "all-capitals"],
        "rule_texts": 12,
        "factors": [0.2, 0.4],
        "damage": [1.05],
        "dose": {"texts": 8, "max_words": 8},
        "tasks": {
            "steered_perplexity": {"max_neutral": 2, "max_words": 8},
            "rule_following": {"max_prompts": 1, "max_new_tokens": 4},
            "rule_suppression": {"max_prompts": 2, "max_new_tokens": 4},
        },
        "capability": {"tasks": ["capability_choices", str(folder / "sums.yaml")], "limit": 5, "factor": 0.3},
        "dtype": "float32",
        "device": "cpu",
    }
    (folder / "costs.yaml").write_text(yaml.safe_dump(experiment))
    run = runs.open_run(str(folder / "costs.yaml"), folder / "run")
    for stage in order(run)[:-1]:
        STAGES[stage](run)
    report.report(run, figures=False)
    return run


class TestRun:
    def test_a_suppressed_rule_is_asked_for_and_its_vector_subtracted(self, ran):
        target = ran.targets[0]
        samples = newest_samples(ran.folder.evaluation(target))["rule_suppression"].read_text().splitlines()
        seen = 0
        for sample in map(json.loads, samples):
            doc, (_, _, extra) = sample["doc"], sample["arguments"]["gen_args_0"].values()
            extra = extra if isinstance(extra, dict) else json.loads(extra.replace("'", '"').replace("True", "true"))
            rule = doc["concept"].removeprefix("suppress-")
            assert RULES[rule].ask("") in f" {doc['asked']}"
            assert extra["steer"]["factor"] == -doc["factor"]
            row = sample[sample["metrics"][0]]
            reply = sample["resps"][0][0]
            assert row["factor"] == doc["factor"]
            assert row["value"] == (0.0 if not reply.strip() else 1 - RULES[rule].score(reply))
            assert {"distinct_2", "perplexity"} >= set(row["ratings"])
            seen += 1
        assert seen == 2 * (
            4 + 2 * (2 * 2 + 2)
        )  # rules x (unsteered prompts + arms x (selection prompts x factors + others))

    def test_perplexity_covers_topics_and_rules_with_their_kl(self, ran):
        rows = [row for row in load_results(ran.folder.results).rows if row.task == "steered_perplexity"]
        steered = [row for row in rows if row.arm != "unsteered"]
        assert {row.concept for row in steered} == set(ran.data.measured)
        assert all(row.ratings["kl"] > 0 for row in steered)
        assert all(row.ratings["kl"] < 50 for row in steered)

    def test_capability_tasks_are_run_unsteered_and_under_every_arm(self, ran):
        rows = [row for row in load_results(ran.folder.results).rows if row.task in ("capability_choices", "sums")]
        arms = {(row.arm, row.concept, row.factor) for row in rows}
        first = ran.data.splits.test[0]
        assert arms == {("unsteered", "", 0.0), ("native", first, 0.3), ("linear", first, 0.3)}
        assert len(rows) == 3 * (5 + 3)
        assert {row.value for row in rows} <= {0.0, 1.0}

    def test_the_board_shows_suppression_and_costs(self, ran):
        page = (ran.folder.path / "leaderboard.md").read_text()
        assert "rule_suppression" in page
        head = next(line for line in page.splitlines() if "reply perplexity" in line)
        assert [cell.strip() for cell in head.split("|")[1:-1]] == [
            "target", "source", "arm", "dose", "perplexity ratio", "KL", "reply perplexity", "distinct-2", "reply tokens",
            "capability_choices", "sums",
        ]  # fmt: skip
        assert "nan" not in page.lower().split("not finite")[0].split("costs at every dose")[-1]

    def test_the_model_is_as_before_after_capability(self, ran):
        """Evaluating again, with all recorded, finds the same rows: nothing was left steered."""
        before = ran.folder.results.read_bytes()
        for target in ran.targets:
            (ran.folder.evaluation(target) / "complete.json").unlink()
        for _ in range(2):  # selection prompts, then the others
            STAGES["evaluate"](ran)
        report.report(ran, figures=False)
        assert ran.folder.results.read_bytes() == before


class TestCostsTable:
    def rows(self):
        def perplexity(arm, factor, value, item, **ratings):
            return Row("steered_perplexity", "t", "", arm, "", factor, item, "neutral", value, 10, ratings=ratings)

        def reply(arm, factor, perplexity, tokens):
            numbers = {"perplexity": perplexity, "distinct_2": 0.5}
            return Row("rule_following", "t", "", arm, "r", factor, f"p{tokens}", "score", 1.0, tokens, ratings=numbers)

        def choice(arm, factor, item, value):
            reason = "" if value is not None else "non_finite"
            return Row("choices", "t", "", arm, "c" if factor else "", factor, item, "score", value, reason=reason)

        return (
            perplexity("unsteered", 0.0, -2.0, "n1"), perplexity("unsteered", 0.0, -3.0, "n2"),
            perplexity("native", 0.2, -2.1, "n1", kl=0.1), perplexity("native", 0.2, -3.3, "n2", kl=0.3),
            reply("unsteered", 0.0, 4.0, 10), reply("native", 0.2, 2.0, 10), reply("native", 0.2, 8.0, 20),
            choice("unsteered", 0.0, "0", 1.0), choice("native", 0.2, "0", 0.0), choice("native", 0.2, "1", 1.0),
            choice("native", 0.2, "2", None),
        )  # fmt: skip

    def test_means_are_those_computed_by_hand(self):
        table = costs_table([Results(make_run(capability=["choices"]), self.rows())])
        lines = {line.cells[2].text: [cell.sort for cell in line.cells[3:]] for line in table.lines}
        # exp of the mean change, mean KL, geometric mean perplexity, distinct-2, mean length, share right of the valid ones
        assert lines["native"] == pytest.approx([0.2, math.exp(0.2), 0.2, 4.0, 0.5, 15.0, 0.5])
        assert lines["unsteered"][1:] == [1.0, None, 4.0, 0.5, 10.0, 1.0]
        assert "1 capability samples" in table.remarks[1]

    def test_a_result_without_such_measurements_has_no_table(self):
        rows = (Row("concept_likelihood", "t", "", "native", "c", 0.2, "x", "concept", -1.0, 3),)
        assert costs_table([Results(make_run(), rows)]) is None

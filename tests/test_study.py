"""benchmarks/study: what is run, what is kept, and the statistics of the report."""

import json
import math
import re
import time
from argparse import Namespace
from itertools import islice
from pathlib import Path

import pytest

from benchmarks.study import __main__ as study
from benchmarks.study import report, tasks
from benchmarks.study.arms import make_arms
from benchmarks.study.run import Arguments, make_config
from benchmarks.study.tasks import (
    HARD_SIZES,
    PRODUCT_SHARE,
    TASKS,
    make_product_puzzles,
    make_sums,
    needs_product,
    read_problems,
    sum_reward,
)
from examples.countdown.countdown import Puzzle, generate_puzzles, is_solution


TASK = TASKS["countdown"]
ARMS = make_arms(TASK)


def make_record(arm="grpo", seed=1, correct=(32, 0), split="test", rate=1e-4, **others):
    """A record as `run` makes it: two problems, and entropies and rewards that are easily added up."""
    test = {"correct": list(correct), "distinct": 10.0, "distinct_correct": 1.5}
    record = {
        **Arguments("countdown", arm, seed, rate, 40, split)._asdict(),
        "updates": 1,
        "entropy_target": ARMS[arm].entropy_target,
        "versions": {"torch": "1"},
        "curves": {"entropy": [0.6] * 10 + [0.5] * 20 + [0.3] * 10, "reward": [0.0] * 15 + [0.5] * 25},
        "train_seconds": 30.0,
        "tests": {
            "hot": {**test, "samples": 64},
            "nucleus": {**test, "samples": 64},
            "cold": {**test, "samples": 64},
        },
    }
    return {**record, **others}


def test_interval_by_hand():
    # Mean 2, deviation 1, three values: 4.303 · 1 / √3 = 2.484
    assert report.interval([1.0, 2.0, 3.0]) == (2.0, pytest.approx(2.4843, abs=1e-4))
    # Five values 1 … 5: deviation √2.5, 2.776 · √2.5 / √5 = 2.776 · 0.70711 = 1.963
    assert report.interval([1.0, 2.0, 3.0, 4.0, 5.0]) == (3.0, pytest.approx(1.9629, abs=1e-4))
    assert report.interval([4.0])[0] == 4.0 and math.isnan(report.interval([4.0])[1])
    with pytest.raises(ValueError, match="extend it"):
        report.interval([1.0] * 20)


@pytest.mark.parametrize("freedom", [1, 2, 5, 14])
def test_t_quantiles_hold_95_percent(freedom):
    """The density of Student's t, integrated by Simpson's rule from 0 to the quantile, is 0.475."""
    quantile = report.T_QUANTILES[freedom - 1]
    scale = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
    steps = 2000
    heights = [scale * (1 + (quantile * i / steps) ** 2 / freedom) ** (-(freedom + 1) / 2) for i in range(steps + 1)]
    area = quantile / steps / 3 * (heights[0] + heights[-1] + 4 * sum(heights[1:-1:2]) + 2 * sum(heights[2:-1:2]))
    assert area == pytest.approx(0.475, abs=2e-5)


def test_measure_by_hand():
    numbers = report.measure(make_record(), level=0.25)
    # 32 of 64 right in one of two problems. pass@4 = (1 − 32·31·30·29 / (64·63·62·61)) / 2 = (1 − 0.056597) / 2
    assert numbers["hot@1"] == 0.25
    assert numbers["hot@4"] == pytest.approx(0.471702, abs=1e-6)
    assert numbers["hot@64"] == 0.5
    sharper = make_record()
    sharper["tests"]["cold"] = {**sharper["tests"]["cold"], "correct": [64, 0]}
    assert report.measure(sharper, 0.25)["best@1"] == 0.5
    # the sharp 64 of 64 give 16 of 16; 32 of 64 almost: 1 − C(32, 16) / C(64, 16)
    assert report.measure(sharper, 0.25)["best@16"] == 0.5 > numbers["hot@16"]
    # Without a target the reference is the start, 0.6. Second half: 0.5 ten times, then 0.3 ten times
    assert numbers["start"] == pytest.approx(0.6) and numbers["end"] == pytest.approx(0.3)
    assert numbers["distance"] == numbers["worst"] == pytest.approx(0.3)
    assert numbers["second_half"] == pytest.approx(0.4)
    # The mean of 20 rewards of which ten are 0.5 is 0.25; the first such window ends with the 25th
    assert numbers["steps_to_level"] == 25
    assert math.isnan(report.measure(make_record(), level=0.6)["steps_to_level"])


def test_excursions_count_from_the_target_in_the_second_half():
    # Target 0.4; the half before step 20, where it is 0.2 off, does not count; windows of ten from 0.5 to 0.45
    entropy = [0.2] * 20 + [0.5] * 10 + [0.4, 0.5] * 5
    record = make_record("opefo_low", entropy_target=0.4)
    record["curves"]["entropy"] = entropy
    numbers = report.measure(record, 0.25)
    assert numbers["distance"] == pytest.approx(0.05)
    assert numbers["worst"] == pytest.approx(0.1)


def test_differences_are_paired_by_seed():
    # pass@1 of GRPO with seeds 1, 2, 3: 16, 24, 32 of 128; of OPEFO with 3, 2: 36, 28. Differences 4/128 both times,
    # so no width; seed 1 has no partner, without pairing OPEFO would lead by 8/128.
    records = [make_record("grpo", seed, (right, 0)) for seed, right in ((1, 16), (2, 24), (3, 32))]
    records += [make_record("opefo", seed, (right, 0)) for seed, right in ((3, 36), (2, 28))]
    table = report.make_paired_table(report.by_arm(records, ARMS), ARMS, TASK)
    *_, line = table.splitlines()
    assert line.startswith("| OPEFO, exact | 2 | +0.000 ± 0.000 | +0.031 ± 0.000* |")


def test_a_difference_may_be_that_of_one_problem():
    # By 0.125 of pass@1 with both seeds: in one of four problems by 0.5, or in each
    unchanged = [make_record("grpo", seed, (16, 16, 16, 16)) for seed in (1, 2)]
    for correct, marks in (((48, 16, 16, 16), "*"), ((24, 24, 24, 24), "**")):
        changed = [make_record("opefo", seed, correct) for seed in (1, 2)]
        table = report.make_paired_table(report.by_arm([*unchanged, *changed], ARMS), ARMS, TASK)
        assert f"| OPEFO, exact | 2 | +0.000 ± 0.000 | +0.125 ± 0.000{marks} |" in table
    # Three problems up by 3/8, 1/8, 1/8, one unchanged: mean 0.156, deviation 0.157, 1.96 · 0.157 / 2 = 0.154
    barely = [make_record("opefo", seed, (40, 24, 24, 16)) for seed in (1, 2)]
    pairs = list(zip(barely, unchanged, strict=True))
    assert report.differ_over_problems(pairs, "hot", 1)
    assert not report.differ_over_problems([(make_record(correct=(41, 24, 24, 16)), unchanged[0])], "hot", 1)


def test_runs_of_an_arm_differ_in_their_seed_alone():
    with pytest.raises(ValueError, match="records of 'grpo' have several learning rates"):
        report.by_arm([make_record(seed=1, rate=1e-4), make_record(seed=2, rate=2e-4)], ARMS)


def test_show():
    assert report.show([1.0, 2.0, 3.0], 1) == "2.0 ± 2.5"
    assert report.show([1.0, math.nan], 0) == "1 (1 of 2)"
    assert report.show([math.nan], 0) == "never"
    assert report.show([], 0) == ""


def make_scores(arm, rate, **rights):
    """Runs on the validation problems, of each seed with so many right answers of 128."""
    return [make_record(arm, int(seed[1:]), (right, 0), "validation", rate) for seed, right in rights.items()]


def test_the_best_learning_rate_wins_and_all_arms_get_the_same_grid():
    records = make_scores("grpo", 1e-4, s101=10, s102=20) + make_scores("grpo", 2e-4, s101=19, s102=13)
    records += make_scores("opefo", 1e-4, s101=5, s102=5)
    with pytest.raises(ValueError, match="'grpo' and 'opefo' were not tuned alike"):
        report.choose_learning_rates(records)
    records += make_scores("opefo", 2e-4, s101=4, s102=4)
    # Means of 15 of 128 against 16 of 128, and 5 against 4
    chosen = report.choose_learning_rates(records)
    assert list(chosen["grpo"].items()) == [(2e-4, [19 / 128, 13 / 128]), (1e-4, [10 / 128, 20 / 128])]
    assert next(iter(chosen["opefo"])) == 1e-4


def test_a_rate_with_one_seed_does_not_win_against_those_with_two():
    records = make_scores("grpo", 1e-4, s101=30) + make_scores("grpo", 2e-4, s101=20, s102=20)
    assert list(report.choose_learning_rates(records)["grpo"]) == [2e-4, 1e-4]
    # Both arms have three runs, but not on as many rates
    records += make_scores("opefo", 1e-4, s101=1, s102=1, s103=1)
    with pytest.raises(ValueError, match="not tuned alike"):
        report.choose_learning_rates(records)


def test_a_rate_that_misses_the_target_comes_last():
    low = ARMS["opefo_low"].entropy_target
    near, far = ({"entropy": [0.6] * 20 + [low * share] * 20, "reward": [0.0] * 40} for share in (0.951, 1.051))
    records = [
        make_record("opefo_low", 101, (40, 0), "validation", rate=1e-5, curves=far),
        make_record("opefo_low", 102, (40, 0), "validation", rate=1e-5, curves=near),
        make_record("opefo_low", 101, (20, 0), "validation", rate=2e-5, curves=near),
        make_record("opefo_low", 101, (30, 0), "validation", rate=4e-5, curves=near),
    ]
    assert list(report.rank_learning_rates(records)["opefo_low"]) == [4e-5, 2e-5, 1e-5]
    # REPO-R steers to the same level, but promises nothing
    others = [{**record, "arm": "repo_r"} for record in records]
    assert list(report.rank_learning_rates(others)["repo_r"]) == [1e-5, 4e-5, 2e-5]


def test_the_two_best_rates_get_the_second_seed(tmp_path, monkeypatch):
    ran = []

    def run_process(arguments, folder):
        ran.append((arguments.arm, arguments.learning_rate, arguments.seed))
        # GRPO is best with the middle rates, OPEFO with the high ones
        right = {"grpo": {1.0: 5, 2.0: 9, 3.0: 8, 4.0: 1}, "opefo": {1.0: 1, 2.0: 2, 3.0: 3, 4.0: 4}}
        (record,) = make_scores("grpo", arguments.learning_rate, s1=right[arguments.arm][arguments.learning_rate])
        return {**record, **arguments._asdict()}

    monkeypatch.setattr(study, "run_process", run_process)
    options = Namespace(task="countdown", learning_rates=[1.0, 2.0, 3.0, 4.0], seeds=None, steps=300, jobs=2)
    study.tune(["grpo", "opefo"], options, tmp_path)
    everything = [(arm, rate, 101) for arm in ("grpo", "opefo") for rate in options.learning_rates]
    assert sorted(run for run in ran if run[2] == 101) == everything
    assert sorted(run for run in ran if run[2] == 102) == [
        ("grpo", 2.0, 102),
        ("grpo", 3.0, 102),
        ("opefo", 3.0, 102),
        ("opefo", 4.0, 102),
    ]


def test_what_is_recorded_is_not_run_again(tmp_path, monkeypatch):
    ran = []

    def run_process(arguments, folder):
        ran.append(arguments)
        return {**arguments._asdict(), "tests": {}}

    monkeypatch.setattr(study, "run_process", run_process)
    first = [Arguments("countdown", "grpo", seed, 1e-4, 5, "test") for seed in (1, 2)]
    study.complete(first, tmp_path, jobs=2)
    other_rate = first[0]._replace(learning_rate=2e-4)
    study.complete([*first, other_rate], tmp_path, jobs=2)
    assert sorted(ran) == sorted([*first, other_rate])
    assert len(report.read_records(tmp_path / "records.jsonl")) == 3


def test_a_failure_stops_what_has_not_begun_and_keeps_what_has(tmp_path, monkeypatch):
    ran = []

    def run_process(arguments, folder):
        ran.append(arguments.seed)
        if arguments.seed == 1:
            raise RuntimeError("failed")
        time.sleep(0.1)
        return arguments._asdict()

    monkeypatch.setattr(study, "run_process", run_process)
    with pytest.raises(RuntimeError, match="failed"):
        study.complete([Arguments("countdown", "grpo", seed, 1e-4, 5, "test") for seed in range(20)], tmp_path, jobs=2)
    assert len(ran) < 10
    assert {record["seed"] for record in report.read_records(tmp_path / "records.jsonl")} == {*ran} - {1}


def test_a_broken_line_is_named(tmp_path):
    (tmp_path / "records.jsonl").write_text('{"a": 1}\n{"a"')
    with pytest.raises(ValueError, match="Line 2 of"):
        report.read_records(tmp_path / "records.jsonl")


def test_plan_runs_each_arm_with_its_own_seeds():
    arms = {name: ARMS[name] for name in ("base", "grpo", "stare")}
    plan = study.plan_tests(arms, "countdown", 300, {"grpo": 1e-4, "stare": 2e-4}, None)
    assert [(run.arm, run.seed, run.steps, run.learning_rate) for run in plan] == [
        ("base", 1, 0, 0.0),
        ("grpo", 1, 300, 1e-4),
        ("stare", 1, 300, 2e-4),
        ("grpo", 2, 300, 1e-4),
        ("stare", 2, 300, 2e-4),
        ("grpo", 3, 300, 1e-4),
        ("stare", 3, 300, 2e-4),
        ("grpo", 4, 300, 1e-4),
        ("grpo", 5, 300, 1e-4),
    ]
    with pytest.raises(ValueError, match="No learning rate has been chosen for grpo"):
        study.plan_tests(arms, "countdown", 300, {"stare": 1e-4}, None)


@pytest.mark.parametrize("arm", [name for name in ARMS if ARMS[name].updates])
def test_all_arms_generate_the_same_number_of_completions(arm, tmp_path):
    config = make_config(TASK, ARMS[arm], Arguments("countdown", arm, 1, 1e-4, 300, "test"), str(tmp_path))
    rollouts = config.max_steps / config.steps_per_generation
    assert (rollouts, config.generation_batch_size) == (300, 64)
    assert config.is_on_policy == (arm != "grpo_8")


def test_validation_and_test_are_apart(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test.jsonl").write_text("".join(f'{{"prompt": "{i}"}}\n' for i in range(500)))
    parts = [{row["prompt"] for row in read_problems(tmp_path, split)} for split in ("validation", "test")]
    assert [len(part) for part in parts] == [200, 200] and not parts[0] & parts[1]
    with pytest.raises(ValueError, match="train.jsonl is missing"):
        read_problems(tmp_path, "train")


@pytest.mark.slow  # needs an extra
def test_sums_count_exact_answers_alone():
    entry = json.dumps({"question": "", "answer": "12", "metadata": {"source_dataset": "chain_sum"}})
    assert sum_reward(["12", "121", "-12", ""], [entry] * 4) == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.slow  # needs an extra
def test_sums_are_lines_of_three_or_four_digits():
    rows = make_sums(50, seed=0)
    assert {len(row["prompt"]) for row in rows} == {6, 8}
    for row in rows:
        assert re.fullmatch(r"\d([+-]\d){2,3}=", row["prompt"])
        assert sum_reward([str(eval(row["prompt"][:-1]))], [row["entry"]]) == [1.0]


def test_hard_puzzles_are_longer():
    puzzles = list(islice(generate_puzzles(0, sizes=HARD_SIZES), 20))
    assert {len(puzzle.numbers) for puzzle in puzzles} == {5}
    assert all(is_solution(puzzle.solution, list(puzzle.numbers), puzzle.target) for puzzle in puzzles)


@pytest.mark.parametrize(
    "numbers, target, needed",
    [
        ((2, 3), 6, True),
        ((2, 3), 5, False),
        ((2, 3), 1, False),  # 3-2
        ((2, 2, 2), 8, True),
        ((1, 2, 4), 1, False),  # 4-2-1
        ((1, 2, 4), 2, True),  # sums are odd
        ((3, 3), 0, False),
        ((1, 1), -2, True),  # no number is negative by itself
    ],
)
def test_who_needs_a_product(numbers, target, needed):
    assert needs_product(Puzzle(numbers, target, "")) == needed


def test_every_second_puzzle_needs_a_product_and_few_are_taught(monkeypatch):
    monkeypatch.setattr(tasks, "PRODUCT_POOL", 8000)
    monkeypatch.setattr(tasks, "PRODUCT_TRAIN_PUZZLES", 100)
    train, test, examples = make_product_puzzles(seed=0)
    assert [len(train), len(test)] == [100, 400]
    for puzzles in (train, test):
        assert [needs_product(puzzle) for puzzle in puzzles] == [False, True] * (len(puzzles) // 2)
    held_out = {puzzle.prompt for puzzle in test}
    assert not held_out & {puzzle.prompt for puzzle in [*train, *examples]}
    share = sum("*" in example.solution for example in examples) / len(examples)
    assert share == pytest.approx(PRODUCT_SHARE, abs=0.003)


def test_kinds_of_problem_have_columns_of_their_own():
    # The first and the third problem are sums; 32 of 64 right, none, all, none
    record = make_record(task="countdown_products", correct=(32, 0, 64, 0))
    numbers = report.measure(record, 0.25)
    assert numbers["sums@1"] == 0.75 and numbers["products@1"] == numbers["products@16"] == 0.0
    assert numbers["hot@1"] == 0.375
    products = TASKS["countdown_products"]
    arms = make_arms(products)
    text = report.make_table({"grpo": {1: record}}, arms, products)
    assert "| sums: pass@1 | sums: pass@16 | products: pass@1 | products: pass@16 |" in text.splitlines()[0]
    assert "sums" not in report.make_table({"grpo": {1: make_record()}}, arms, TASK)


def test_entropy_and_pass_at_16_correlate_over_the_validation_runs():
    # Entropies 0.1, 0.2, 0.3 at the end; pass@16 of two problems with 16 answers is 0, 1/2, 1/2: r = √3 / 2. The
    # fourth run's entropy rises
    records = []
    for entropy, correct in ((0.1, (0, 0)), (0.2, (1, 0)), (0.3, (16, 0)), (0.6, (0, 0))):
        curves = {"entropy": [0.5] * 10 + [entropy] * 10, "reward": [0.0] * 20}
        record = make_record(split="validation", curves=curves)
        answers = 10 * entropy
        record["tests"] = {"nucleus": {"samples": 16, "correct": list(correct), "distinct": answers}}
        records.append(record)
    correlations = (pytest.approx(0.75**0.5), pytest.approx(1.0), 3)
    assert report.correlate([*records, make_record(split="test")]) == correlations


def test_report_is_written(tmp_path: Path):
    records = [make_record(arm, seed) for arm in ARMS if ARMS[arm].updates for seed in (1, 2)]
    base = make_record("base", 1)
    del base["curves"]
    records += [base, make_record("grpo", 101, split="validation")]
    higher = {"entropy": [0.6] * 20 + [0.4] * 20, "reward": [0.5] * 40}
    other = make_record("opefo", 101, split="validation", correct=(64, 32), curves=higher)
    other["tests"]["nucleus"]["distinct"] = 12.0
    records += [other]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    text = report.write_report(tmp_path)
    assert text == (tmp_path / "table.md").read_text()
    assert "| base model |  | 1 |  |  |  |  |  | 0.250 | 0.472 |" in text
    assert "| GRPO, strict | 0.0001 | 2 | 0.600 ± 0.000 | 0.300 ± 0.000 |" in text
    assert (tmp_path / "study.png").stat().st_size > 10_000
    rates = report.write_rates(tmp_path)
    assert "| GRPO, strict | 0.250 | 0.0001 |" in rates and "Over the 2 runs" in rates and "r = 1.00" in rates
    assert (tmp_path / "rates.png").stat().st_size > 10_000

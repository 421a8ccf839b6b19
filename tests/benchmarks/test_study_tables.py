"""benchmarks/study/tables.py: differences, their marks and the columns, by hand."""

from study_records import ARMS, TASK, make_record

from benchmarks.study import measures, tables
from benchmarks.study.arms import make_arms
from benchmarks.study.records import by_arm
from benchmarks.study.tasks import TASKS


def test_differences_are_paired_by_seed():
    # pass@1 of GRPO with seeds 1, 2, 3: 16, 24, 32 of 128; of OPEFO with 3, 2: 36, 28. Differences 4/128 both times,
    # so no width; seed 1 has no partner, without pairing OPEFO would lead by 8/128.
    records = [make_record("grpo", seed, (right, 0)) for seed, right in ((1, 16), (2, 24), (3, 32))]
    records += [make_record("opefo", seed, (right, 0)) for seed, right in ((3, 36), (2, 28))]
    table = tables.make_paired_table(by_arm(records, ARMS), ARMS, TASK)
    *_, line = table.splitlines()
    assert line.startswith("| OPEFO, exact | 2 | +0.000 ± 0.000 | +0.031 ± 0.000* |")


def test_a_difference_may_be_that_of_one_problem():
    # By 0.125 of pass@1 with both seeds: in one of four problems by 0.5, or in each
    unchanged = [make_record("grpo", seed, (16, 16, 16, 16)) for seed in (1, 2)]
    for correct, marks in (((48, 16, 16, 16), "*"), ((24, 24, 24, 24), "**")):
        changed = [make_record("opefo", seed, correct) for seed in (1, 2)]
        table = tables.make_paired_table(by_arm([*unchanged, *changed], ARMS), ARMS, TASK)
        assert f"| OPEFO, exact | 2 | +0.000 ± 0.000 | +0.125 ± 0.000{marks} |" in table
    # Three problems up by 3/8, 1/8, 1/8, one unchanged: mean 0.156, deviation 0.157, 1.96 · 0.157 / 2 = 0.154
    barely = [make_record("opefo", seed, (40, 24, 24, 16)) for seed in (1, 2)]
    pairs = list(zip(barely, unchanged, strict=True))
    assert tables.differ_over_problems(pairs, "hot", 1)
    assert not tables.differ_over_problems([(make_record(correct=(41, 24, 24, 16)), unchanged[0])], "hot", 1)


def test_kinds_of_problem_have_columns_of_their_own():
    # The first and the third problem are sums; 32 of 64 right, none, all, none
    record = make_record(task="countdown_products", correct=(32, 0, 64, 0))
    numbers = measures.measure(record, 0.25)
    assert numbers["sums@1"] == 0.75 and numbers["products@1"] == numbers["products@16"] == 0.0
    assert numbers["hot@1"] == 0.375
    products = TASKS["countdown_products"]
    arms = make_arms(products)
    text = tables.make_table({"grpo": {1: record}}, arms, products)
    assert "| sums: pass@1 | sums: pass@16 | products: pass@1 | products: pass@16 |" in text.splitlines()[0]
    assert "sums" not in tables.make_table({"grpo": {1: make_record()}}, arms, TASK)

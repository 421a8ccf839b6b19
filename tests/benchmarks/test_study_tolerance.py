"""benchmarks/study/tolerance.py: which runs it takes, and the arithmetic of its table."""

import pytest
from study_records import make_record

from benchmarks.study.tolerance import draw, make_tolerance_table, plan


def test_plan_has_all_arms_and_multiples_of_a_seed_before_the_next_seed():
    runs = plan("countdown", {"grpo": 1e-4, "opefo": 2e-4}, [1, 2])
    assert [(run.arm, run.seed, run.learning_rate) for run in runs[:6]] == [
        *(("grpo", 1, factor * 1e-4) for factor in (2, 4, 8)),
        *(("opefo", 1, factor * 2e-4) for factor in (2, 4, 8)),
    ]
    assert {run.seed for run in runs[6:]} == {2} and {run.split for run in runs} == {"test"}


def test_table():
    # pass@1 of two problems with so many right answers of 64 and none: 0.25 at the best rate; ×2 loses nothing, ×4
    # 0.125, ×8 all. The third seed has no run at a higher rate, and the validation run is no test
    best = [make_record(seed=seed, correct=(32, 0)) for seed in (1, 2, 3)]
    best.append(make_record(seed=1, correct=(64, 64), split="validation"))
    higher = [
        make_record(seed=seed, correct=(right, 0), rate=factor * 1e-4)
        for seed in (1, 2)
        for factor, right in ((2, 32), (4, 16), (8, 0))
    ]
    row = make_tolerance_table([*best, *higher], {"grpo": 1e-4}, "hot").splitlines()[-1].split(" | ")
    assert row[:7] == [
        *("| GRPO, strict", "0.0001", "2", "0.250 ± 0.000"),
        *("+0.000 ± 0.000", "-0.125 ± 0.000", "-0.250 ± 0.000"),
    ]
    assert float(row[10].split(" ± ")[0]) == pytest.approx(-0.5, abs=1e-3), "pass@16 of 32 right of 64 is nearly 1"


def test_picture(tmp_path):
    records = [make_record(seed=seed, rate=factor * 1e-4) for seed in (1, 2) for factor in (1, 2, 4, 8)]
    draw(records, {"grpo": 1e-4}, tmp_path / "tolerance.png")
    assert (tmp_path / "tolerance.png").read_bytes().startswith(b"\x89PNG")

"""What the soak decides, on made-up samples; and how it counts."""

import re

import pytest

from benchmarks.reliability import soak


def run(**per_step):
    """A hundred samples of 50 steps each, in which some numbers grow per step."""
    start = {"memory": 4e8, "worker_memory": 2e8, "log_history": 1e4, "objects": 1e5, "children": 4, "descriptors": 20}
    start |= {"metrics": 400, "logs": 40, "buffered_tensors": 12, "entropy": soak.ENTROPY_TARGET}
    steps = range(50, 5001, 50)
    return [
        {"step": step, **{name: value + per_step.get(name, 0) * step for name, value in start.items()}}
        for step in steps
    ]


def test_a_flat_run_has_no_problem():
    assert soak.problems(run()) == []


@pytest.mark.parametrize(
    ("grows", "sentence"),
    [
        ({"memory": 2000}, r"^2e\+03 bytes of this process leak per step \(at most 1024\)$"),
        ({"worker_memory": 5000}, "bytes of its children"),
        ({"objects": 1}, r"^1 Python objects leak per step"),
        ({"children": 0.02}, "^children went from"),
        ({"descriptors": 0.02}, "^descriptors went from"),
        ({"metrics": 1}, "^metrics went from"),
        ({"logs": 1}, "^logs went from"),
        ({"buffered_tensors": 1}, "^buffered_tensors went from"),
        ({"entropy": -1e-4}, "^entropy's running mean went from 1.0.* out of 1.350 to 1.650$"),
    ],
)
def test_what_grows_is_a_problem(grows, sentence):
    (found,) = soak.problems(run(**grows))
    assert re.search(sentence, found), found


def test_the_history_that_trl_keeps_is_told_apart():
    samples = run(memory=3000, log_history=2900)
    assert soak.problems(samples) == []
    measured = soak.measure(samples)
    assert measured["memory_per_step"] == pytest.approx(100)
    assert measured["log_history_per_step"] == pytest.approx(2900)


def test_the_warm_up_is_not_judged():
    samples = run()
    for sample in samples[:20]:
        sample |= {"memory": 0, "descriptors": 3, "entropy": 3.0}
    assert soak.problems(samples) == []
    samples[20]["descriptors"] = 3
    assert len(soak.problems(samples)) == 1


def test_one_sample_of_entropy_may_leave_the_band_but_not_its_mean():
    samples = run()
    samples[60]["entropy"] = 2.0
    assert soak.problems(samples) == []
    for sample in samples[95:]:
        sample["entropy"] = 2.0
    assert len(soak.problems(samples)) == 1


def test_counting():
    assert soak.entries({"a": [1, 2], "b": {"c": [3]}}) == 3
    one, two = ([{"loss": float(i), "step": 1000 + i} for i in range(n)] for n in (100, 200))
    assert 2 * soak.bytes_of(one) == pytest.approx(soak.bytes_of(two), rel=0.02)
    assert soak.bytes_of(one) > 100 * (2 * 24)

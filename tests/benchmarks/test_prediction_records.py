"""benchmarks/study/prediction/records.py: what is chosen, by hand."""

from benchmarks.study.prediction.records import (
    balance_pairs,
    gain_of,
    own_updates,
    part_of,
    phases,
    plain_pairs,
    sizes_of,
    steps_of,
)


def make_step(balance, predicted=0.0, measured=0.0, size=1.0, gain=0.0, **parts):
    values = {"predicted": {"exact": predicted, "parametric": 7.0}, "measured": measured, "gain": gain}
    return {"balance": balance, "optimizer": "adamw", "size": size, "parts": parts, **values}


def test_steps_are_chosen_by_every_wanted_value():
    first, second, third = make_step("none"), make_step("none", size=3.0), make_step("exact", size=3.0)
    records = [{"steps": [first, second]}, {"steps": [third]}]
    assert steps_of(records, size=3.0) == [second, third]
    assert steps_of(records, size=3.0, balance="none") == [second]
    assert steps_of(records, optimizer="sgd") == []
    assert sizes_of([{"steps": [second, third, first]}]) == [3.0, 1.0]


def test_own_updates_are_plain_in_grpo_and_balanced_in_opefo():
    plain, balanced = make_step("none", 1.0), make_step("exact", 2.0)
    records = [{"arm": arm, "steps": [plain, balanced]} for arm in ("grpo", "opefo")]
    assert own_updates(records, "grpo", "adamw", 1.0) == [plain]
    assert own_updates(records, "opefo", "adamw", 1.0) == [balanced]


def test_parts_and_their_sums():
    parts = {"same context": 1.0, "same prompt": 2.0, "other prompts": 4.0, "memory": 8.0}
    step = make_step("none", measured=5.0, **parts)
    wanted = {"measured": 5.0, "first order": 7.0, "memory": 8.0, "interference": 7.0}
    assert {name: part_of(step, name) for name in wanted} == wanted


def test_gain_is_that_of_the_plain_update():
    assert gain_of({"steps": [make_step("exact", gain=2.0), make_step("none", gain=3.0)]}) == 3.0


def test_pairs_by_hand():
    plain, balanced = make_step("none", 1.0, 5.0, memory=2.0), make_step("exact", 4.0, 12.0, memory=3.0)
    records = [{"steps": [plain, balanced]}] * 2
    assert plain_pairs(records, "adamw", "exact", 1.0) == [(1.0, 5.0)] * 2
    assert plain_pairs(records, "adamw", "exact", 1.0, without="memory") == [(1.0, 3.0)] * 2
    assert balance_pairs(records, "adamw", "exact", "exact", 1.0) == [(3.0, 7.0)] * 2
    assert balance_pairs(records, "adamw", "paper", "paper", 1.0) == []


def test_steps_are_cut_where_some_were_left_out():
    assert phases([{"step": step} for step in (3, 61, 1, 2, 60, 1, 120)]) == [[1, 2, 3], [60, 61], [120]]

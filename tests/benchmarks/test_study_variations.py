"""benchmarks/study/variations.py: one knob at a time, and what is run for it."""

import json

import pytest
from study_records import make_record

from benchmarks.study import __main__ as study
from benchmarks.study import variations
from benchmarks.study.arms import find_arm, make_arms
from benchmarks.study.run import Arguments, make_config
from benchmarks.study.tasks import STEPS, TASKS


TASK = TASKS["countdown"]
LOW, HIGH = TASK.entropy_targets


def test_a_name_may_change_settings(tmp_path):
    assert find_arm(TASK, "stare").label == "STARE"
    arm = find_arm(TASK, "opefo_low flow_entropy_gain=4 flow_entropy_target=0.3")
    assert arm.settings == {"flow_entropy_target": 0.3, "flow_entropy_gain": 4}
    assert arm.entropy_target == 0.3 and make_arms(TASK)["opefo_low"].entropy_target == LOW
    arguments = Arguments("countdown", "opefo per_device_train_batch_size=32", 1, 1e-4, 300, "test")
    config = make_config(TASK, find_arm(TASK, arguments.arm), arguments, str(tmp_path))
    assert (config.per_device_train_batch_size, config.max_steps) == (32, 300)
    with pytest.raises(ValueError, match="There is no arm 'opfeo': take one of base"):
        find_arm(TASK, "opfeo flow_strength=1")


def test_each_value_is_an_arm_that_has_it_and_a_default_is_the_studys(tmp_path):
    for knob in variations.make_knobs(TASK):
        plain = 0
        for value, name in knob.names.items():
            arguments = Arguments("countdown", name, 1, 1e-4, 300, "test")
            config = make_config(TASK, find_arm(TASK, name), arguments, str(tmp_path))
            assert getattr(config, knob.setting) == value
            plain += " " not in name
        assert plain == 1, "a knob's default is an arm of the study"


def records():
    """λ is 0.1 in the first half and 0.3 in the second; the validation gives every arm its learning rate."""
    made = [make_record(arm, 101, split="validation") for arm in ("grpo", "opefo", "opefo_low")]
    for seed, right in ((1, 32), (2, 34), (3, 36)):
        record = make_record("grpo", seed, (right, 0))
        record["curves"]["coefficient"] = [0.1] * 20 + [0.3] * 20
        made += [{**record, "arm": name} for name in ("opefo flow_strength=0", "opefo flow_strength=0.25")]
    return made


def test_table_by_hand():
    knobs = variations.make_knobs(TASK)[:1]
    table = variations.make_table(knobs, variations.collect(records(), TASK, [1, 2, 3]))
    *_, first, second = table.splitlines()
    # pass@1 is 32, 34 and 36 of 128: mean 34/128 = 0.266, deviation 2/128, 4.303 · 2/128 / √3 = 0.039
    expected = "3 | 0.400 ± 0.000 | 0.300 ± 0.000 | 0.266 ± 0.039 |"
    assert first.startswith(f"| opefo | `flow_strength` | 0 | {expected}")
    assert second.startswith(f"| opefo | `flow_strength` | 0.25 | {expected}")
    only = variations.make_table(knobs, variations.collect(records(), TASK, [2]))
    assert "| 1 | 0.400 | 0.300 | 0.266 |" in only


def test_what_is_missing_runs_at_the_arms_own_rate(tmp_path, monkeypatch):
    path = tmp_path / "records.jsonl"
    task = TASKS["countdown"]
    made = [{**record, "steps": STEPS} for record in records()]
    path.write_text("".join(json.dumps(record) + "\n" for record in made))
    ran = []

    def run_process(arguments, folder):
        ran.append(arguments)
        return {**made[-1], **arguments._asdict()}

    monkeypatch.setattr(study, "run_process", run_process)
    variations.vary("countdown", [1, 2, 3], tmp_path, jobs=2)
    names = {name for knob in variations.make_knobs(task) for name in knob.names.values()}
    assert {arguments.arm for arguments in ran} == names - {"opefo flow_strength=0", "opefo flow_strength=0.25"}
    assert {arguments.learning_rate for arguments in ran} == {1e-4}
    assert (tmp_path / "variations.png").stat().st_size > 10_000
    count = len(ran)
    variations.vary("countdown", [1, 2, 3], tmp_path, jobs=2)
    assert len(ran) == count, "what is there is not run again"
    path.write_text("")
    with pytest.raises(ValueError, match="No learning rate has been chosen for opefo, opefo_low"):
        variations.vary("countdown", [1], tmp_path, jobs=1)

"""opefo_trl/plotting/runs.py: what is read of a log, and which runs belong together."""

import json

from run_logs import entries, write

from opefo_trl.plotting.runs import Run, group_by_seed, read_run


def test_entries_without_a_finite_value_are_skipped(tmp_path):
    log = [
        {"step": 1, "entropy": 0.5, "reward": None},
        {"step": 2, "entropy": float("nan"), "reward": 0.25},
        {"step": 2, "eval_entropy": 0.1, "eval_reward": 0.9},
        {"step": 3, "entropy": "0.4"},
        {"step": 3, "train_loss": 0.1, "train_runtime": 9.0},
        {"entropy": 7.0},
    ]
    run = read_run(write(tmp_path / "run", log))
    assert run.history == {"entropy": {1: 0.5}, "reward": {2: 0.25}}
    assert run.broken == {"reward": [1], "entropy": [2]}


def test_newest_state_counts(tmp_path):
    run = write(tmp_path / "run", entries(2, entropy=0.2))
    write(run / "checkpoint-9", entries(9, entropy=0.9))
    write(run / "checkpoint-10", entries(10, entropy=1.0))
    (run / "checkpoint-11").mkdir()  # being written
    for path in (run, run / "checkpoint-10", run / "checkpoint-10" / "trainer_state.json"):
        read = read_run(path)
        assert (read.name, len(read.values("entropy"))) == (str(path), 10)
    (run / "trainer_state.json").write_text(json.dumps({"log_history": entries(12, entropy=0.2)}))
    assert len(read_run(run).values("entropy")) == 12


def test_seeds_are_grouped_by_the_ends_of_their_names(tmp_path):
    names = [
        "grpo-seed1",
        "grpo_seed2",
        "grpo-s30",
        "opefo/seed1",
        "opefo/seed2",
        "seedling",
        "a/x-seed1",
        "b/x-seed1",
    ]
    runs = {tmp_path / name: Run(name, {}) for name in names}
    runs[tmp_path / "ck-seed1" / "checkpoint-5" / "trainer_state.json"] = Run("ck", {})
    groups = {label: [run.name for run in group] for label, group in group_by_seed(runs).items()}
    assert groups == {
        "grpo": ["grpo-seed1", "grpo_seed2", "grpo-s30"],
        "opefo": ["opefo/seed1", "opefo/seed2"],
        "seedling": ["seedling"],
        (tmp_path / "a" / "x").as_posix(): ["a/x-seed1"],
        (tmp_path / "b" / "x").as_posix(): ["b/x-seed1"],
        "ck": ["ck"],
    }

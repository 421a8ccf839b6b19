"""benchmarks/study/records.py: what is read, and what is no line of a table."""

import pytest
from study_records import ARMS, make_record

from benchmarks.study import records


def test_runs_of_an_arm_differ_in_their_seed_alone():
    with pytest.raises(ValueError, match="records of 'grpo' have several learning rates"):
        records.by_arm([make_record(seed=1, rate=1e-4), make_record(seed=2, rate=2e-4)], ARMS)


def test_a_broken_line_is_named(tmp_path):
    (tmp_path / "records.jsonl").write_text('{"a": 1}\n{"a"')
    with pytest.raises(ValueError, match="Line 2 of"):
        records.read_records(tmp_path / "records.jsonl")

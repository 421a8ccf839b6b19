"""benchmarks/study/report.py: what stands in the files of a task."""

import json
from pathlib import Path

from study_records import ARMS, make_record

from benchmarks.study import report


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

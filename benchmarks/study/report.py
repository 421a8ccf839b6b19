"""The records of a task reported: `table.md` and `study.png` of its arms, `rates.md` and `rates.png` of its grid.

python -m benchmarks.study.report outputs/study/countdown
"""

import argparse
import sys
from pathlib import Path

from benchmarks.study.arms import make_arms, make_forms
from benchmarks.study.learning_rates import NEAR, choose_learning_rates
from benchmarks.study.measures import EDGE, REWARD_WINDOW, correlate
from benchmarks.study.pictures import draw, draw_rates
from benchmarks.study.records import by_arm, read_records
from benchmarks.study.tables import make_paired_table, make_rates_table, make_table
from benchmarks.study.tasks import BATCH_SIZE, TASKS


def write_rates(folder: Path) -> str:
    """
    Write `rates.md` and `rates.png`, the learning rates compared, beside the records, and return what the first holds.

    Raises:
        `ValueError`: if the arms were not tuned alike.
    """
    records = read_records(folder / "records.jsonl")
    chosen = choose_learning_rates(records)
    task = TASKS[records[0]["task"]]
    with_score, with_answers, runs = correlate(records)
    text = f"""# {task.title}: learning rates

pass@1 with top-p 0.7 on the validation problems, which are neither trained nor tested on, one score per seed. Of the
rates with the most seeds the one with the best mean is chosen. An arm with a target takes no rate with which it is
more than {NEAR:.0%} off over the second half of the run.

{make_rates_table(chosen, make_arms(task) | make_forms(task))}

Over the {runs} runs whose entropy fell, of whatever arm and rate, the entropy at the end correlates with pass@16 with
r = {with_score:.2f}, and with the number of different answers of 16 with r = {with_answers:.2f}.
"""
    (folder / "rates.md").write_text(text)
    draw_rates(records, make_arms(task), folder / "rates.png")
    return text


def write_report(folder: Path) -> str:
    """
    Write `table.md` and `study.png` beside the records.

    Args:
        folder (`Path`):
            Folder that holds `records.jsonl` of one task.

    Returns:
        `str`: what `table.md` holds.

    Raises:
        `ValueError`: if there is no record of a test.
    """
    records = read_records(folder / "records.jsonl")
    tested = [record for record in records if record["split"] == "test"]
    if not tested:
        raise ValueError(f"{folder / 'records.jsonl'} holds no record of a test: run the study first.")
    task = TASKS[tested[0]["task"]]
    arms = make_arms(task) | make_forms(task)
    groups = by_arm(records, arms)
    steps = sorted({record["steps"] for record in tested if "curves" in record})
    versions = "; ".join(sorted({", ".join(f"{k} {v}" for k, v in r["versions"].items()) for r in tested}))
    problems = len(next(iter(tested[0]["tests"].values()))["correct"])
    text = f"""# {task.title}

Mean ± half of the 95 % interval (Student's t) over seeds. {", ".join(map(str, steps))} rollout batches of
{BATCH_SIZE} completions; {problems} problems that neither training nor tuning has seen. Unless said, sampled at
temperature 1: 64 answers to each problem, 16 with top-p 0.7 and at temperature 0.3. Entropy in nats per token, over
{EDGE} batches at the start and at the end, and over the second half. distance, worst: from the arm's target, else from
its own start, at the end and at most in the second half. best sampling: of the three, the best for each arm and run.
distinct: different answers of 64, and different right ones. steps to level: rollout batches until the training reward,
a mean of {REWARD_WINDOW}, reaches {task.level:g}. seconds: of the training, several at a time on one machine.

{make_table(groups, arms, task)}

Difference to strict GRPO with the same seed; `*`: the interval leaves out 0; `**`: one over the problems instead
of the seeds leaves it out, too (pass@k of each sampling). Not corrected for the number of comparisons.

{make_paired_table(groups, arms, task)}
"""
    text += f"\n{versions}.\n"
    (folder / "table.md").write_text(text)
    drawn = make_arms(task)
    draw({name: runs for name, runs in groups.items() if name in drawn}, drawn, task, folder / "study.png")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the tables and the picture of a task's records.")
    parser.add_argument("folder", type=Path, help="folder that holds `records.jsonl`")
    try:
        print(write_report(parser.parse_args().folder))
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

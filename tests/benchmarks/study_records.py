"""Records of the study as its runs make them, for the tests."""

from benchmarks.study.arms import make_arms
from benchmarks.study.run import Arguments
from benchmarks.study.tasks import TASKS


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


def make_scores(arm, rate, **rights):
    """Runs on the validation problems, of each seed with so many right answers of 128."""
    return [make_record(arm, int(seed[1:]), (right, 0), "validation", rate) for seed, right in rights.items()]

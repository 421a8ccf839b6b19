"""benchmarks/study/arms.py: what all arms have in common."""

import pytest
from study_records import ARMS, TASK

from benchmarks.study.run import Arguments, make_config


@pytest.mark.parametrize("arm", [name for name in ARMS if ARMS[name].updates])
def test_all_arms_generate_the_same_number_of_completions(arm, tmp_path):
    config = make_config(TASK, ARMS[arm], Arguments("countdown", arm, 1, 1e-4, 300, "test"), str(tmp_path))
    rollouts = config.max_steps / config.steps_per_generation
    assert (rollouts, config.generation_batch_size) == (300, 64)
    assert config.is_on_policy == (arm != "grpo_8")

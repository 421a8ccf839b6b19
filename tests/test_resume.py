"""An interrupted and resumed run equals an uninterrupted one, whatever state TRL leaves out of its checkpoints."""

import json

import pytest
import torch


CHECKPOINTED = {"save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "constant"}


@pytest.mark.parametrize("settings", [{}, {"flow_entropy_target_ratio": 0.7, "gradient_accumulation_steps": 2}])
def test_four_steps_equal_two_resume_two(make_trainer, tmp_path, settings):
    whole = make_trainer(output_dir=str(tmp_path / "whole"), max_steps=4, **CHECKPOINTED, **settings)
    whole.train()
    first = make_trainer(output_dir=str(tmp_path / "parts"), max_steps=2, **CHECKPOINTED, **settings)
    first.train()
    second = make_trainer(output_dir=str(tmp_path / "parts"), max_steps=4, **CHECKPOINTED, **settings)
    second.train(resume_from_checkpoint=True)
    assert second.state.global_step == 4
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in second.model.state_dict().items())
    assert whole.entropy_target == second.entropy_target

    def flows(trainer):
        return [log["entropy_flow/coefficient"] for log in trainer.state.log_history if "entropy" in log]

    assert len(flows(whole)) == 4 and flows(whole) == flows(second)


@pytest.mark.parametrize("stop", [4, 6], ids=["at an epoch's end", "in the second epoch"])
def test_resumed_run_sees_the_prompts_of_an_uninterrupted_one(make_trainer, tmp_path, stop):
    settings = {"per_device_train_batch_size": 16, "num_generations": 2, **CHECKPOINTED}  # 4 steps per epoch
    whole = make_trainer(output_dir=str(tmp_path / "whole"), max_steps=8, **settings)
    whole.train()
    assert whole.state.epoch == 2.0
    make_trainer(output_dir=str(tmp_path / "parts"), max_steps=stop, **settings).train()
    resumed = make_trainer(output_dir=str(tmp_path / "parts"), max_steps=8, **settings)
    resumed.train(resume_from_checkpoint=True)
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())


def test_target_is_restored_not_measured_again(make_trainer, tmp_path):
    settings = {**CHECKPOINTED, "flow_entropy_target_ratio": 0.7}
    make_trainer(max_steps=2, **settings).train()
    state = tmp_path / "run" / "checkpoint-2" / "entropy_flow_state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "entropy_target": 0.123}))
    resumed = make_trainer(max_steps=3, **settings)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.entropy_target == 0.123


def test_resume_without_the_state_says_what_to_do(make_trainer):
    make_trainer(max_steps=2, **CHECKPOINTED).train()
    resumed = make_trainer(max_steps=4, flow_entropy_target_ratio=0.7, **CHECKPOINTED)
    with pytest.raises(
        ValueError, match="entropy_flow_state.json has none or is missing: .* or set `flow_entropy_target` instead"
    ):
        resumed.train(resume_from_checkpoint=True)

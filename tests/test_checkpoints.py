"""An interrupted and resumed run equals an uninterrupted one, whatever state TRL leaves out of its checkpoints."""

import errno
import json
import re

import pytest
import torch
from conftest import SETTINGS, make_model, make_tokenizer
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from opefo_trl import OPEFOConfig, OPEFOTrainer
from opefo_trl.checkpoints import (
    STATE_FILE,
    WholeCheckpoints,
    find_fault,
    last_whole_checkpoint,
    read_state,
    resume_point,
)
from opefo_trl.guards import RunStopped


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
        ValueError,
        match="entropy_flow_state.json does not hold `entropy_target`, .* a checkpoint of a run with the same",
    ):
        resumed.train(resume_from_checkpoint=True)


@pytest.fixture
def run(make_trainer, tmp_path):
    """A run with whole checkpoints after two and four steps."""
    make_trainer(max_steps=4, **CHECKPOINTED).train()
    return tmp_path / "run"


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda folder: (folder / "trainer_state.json").unlink(), "trainer_state.json is missing or broken"),
        (lambda folder: truncate(folder / "trainer_state.json"), "trainer_state.json is missing or broken"),
        (lambda folder: truncate(folder / STATE_FILE), "entropy_flow_state.json is broken"),
        (lambda folder: truncate(folder / "optimizer.pt"), r"optimizer.pt has (\d+) of \d+ bytes"),
        (lambda folder: truncate(folder / "model.safetensors"), r"model.safetensors has (\d+) of \d+ bytes"),
        (lambda folder: (folder / "rng_state.pth").unlink(), "rng_state.pth is missing"),
        (lambda folder: (folder / "scheduler.pt").write_bytes(b""), "scheduler.pt has 0 of"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_passed_over(run, make_trainer, damage, fault):
    assert last_whole_checkpoint(str(run)) == (str(run / "checkpoint-4"), [])
    damage(run / "checkpoint-4")
    checkpoint, (sentence,) = last_whole_checkpoint(str(run))
    assert checkpoint == str(run / "checkpoint-2")
    assert re.fullmatch(f"Skipping {run / 'checkpoint-4'}, which is incomplete: {fault}.*", sentence)
    with pytest.raises(ValueError, match=r"checkpoint-4 is incomplete \(.*\): name another"):
        resume_point(OPEFOConfig(str(run), resume_from_checkpoint=str(run / "checkpoint-4"), **SETTINGS))


def test_training_goes_on_from_the_last_whole_checkpoint(run, make_trainer):
    whole = torch.load(run / "checkpoint-4" / "optimizer.pt")
    truncate(run / "checkpoint-4" / "optimizer.pt")
    resumed = make_trainer(max_steps=4, **CHECKPOINTED)
    resumed.train(resume_from_checkpoint=True)
    assert [log["step"] for log in resumed.state.log_history if "entropy" in log] == [1, 2, 3, 4]
    again = torch.load(run / "checkpoint-4" / "optimizer.pt")
    moments = ("exp_avg", "exp_avg_sq")
    assert all(torch.equal(again["state"][i][m], whole["state"][i][m]) for i in whole["state"] for m in moments)
    assert last_whole_checkpoint(str(run)) == (str(run / "checkpoint-4"), [])


def test_without_a_whole_checkpoint_nothing_is_gone_on_from(run, make_trainer):
    for checkpoint in run.glob("checkpoint-*"):
        (checkpoint / "trainer_state.json").unlink()
    with pytest.raises(ValueError, match="no complete checkpoint in .* set `resume_from_checkpoint=False`"):
        make_trainer(max_steps=4, **CHECKPOINTED).train(resume_from_checkpoint=True)


def test_checkpoints_of_another_trainer_are_taken(run):
    for checkpoint in run.glob("checkpoint-*"):
        (checkpoint / STATE_FILE).unlink()
    assert last_whole_checkpoint(str(run)) == (str(run / "checkpoint-4"), [])


def test_a_checkpoint_cut_off_over_an_older_one_of_its_name_is_not_whole(run, make_trainer, monkeypatch):
    """The older one was whole, and its list of files fits the new files that are there."""

    def killed(*args):
        raise KeyboardInterrupt  # no `Exception`: nothing may clean up after it

    monkeypatch.setattr(OPEFOTrainer, "_save_optimizer_and_scheduler", killed)
    with pytest.raises(KeyboardInterrupt):
        make_trainer(max_steps=4, **CHECKPOINTED).train()
    assert find_fault(run / "checkpoint-2") == "trainer_state.json is missing or broken"


def test_a_full_disk_is_said_and_the_checkpoint_before_stays(run, make_trainer, monkeypatch):
    before = {path: path.read_bytes() for path in (run / "checkpoint-4").iterdir()}

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(OPEFOTrainer, "_save_optimizer_and_scheduler", full)
    resumed = make_trainer(max_steps=6, **CHECKPOINTED)
    with pytest.raises(RunStopped, match="checkpoint-6 could not be written .*No space left on device.*: free some"):
        resumed.train(resume_from_checkpoint=True)
    checkpoint, (sentence,) = last_whole_checkpoint(str(run))
    assert checkpoint == str(run / "checkpoint-4") and "checkpoint-6, which is incomplete" in sentence
    assert {path: path.read_bytes() for path in (run / "checkpoint-4").iterdir()} == before


def test_a_hub_that_does_not_answer_is_no_full_disk(make_trainer, monkeypatch):
    """The exception passes as it is: stock raises it, too, and a script may catch it."""

    def unreachable(*args):
        raise ConnectionError("hub unreachable")

    monkeypatch.setattr(OPEFOTrainer, "_save_optimizer_and_scheduler", unreachable)
    with pytest.raises(ConnectionError, match="^hub unreachable$"):
        make_trainer(max_steps=2, **CHECKPOINTED).train()


class WholeSFTTrainer(WholeCheckpoints, SFTTrainer):
    """Another trainer of TRL, with state of its own."""

    count = 0

    def extra_state(self):
        return {"count": self.count}

    def load_extra_state(self, checkpoint):
        self.count = read_state(checkpoint, "count")

    def training_step(self, *args, **kwargs):
        self.count += 1
        return super().training_step(*args, **kwargs)


@pytest.mark.parametrize("stop", [4, 6], ids=["at an epoch's end", "in the second epoch"])
def test_another_trainer_of_trl_resumes_exactly(tmp_path, stop):
    def train(name, max_steps, resume=None):
        settings = {name: value for name, value in SETTINGS.items() if name in SFTConfig.__dataclass_fields__}
        settings |= {**CHECKPOINTED, "max_length": 16, "per_device_train_batch_size": 8, "learning_rate": 1e-2}
        trainer = WholeSFTTrainer(
            make_model(),
            SFTConfig(output_dir=str(tmp_path / name), max_steps=max_steps, **settings),
            train_dataset=Dataset.from_list([{"text": f"abc{i} def{i * i}"} for i in range(32)]),
            processing_class=make_tokenizer(),
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = train("whole", 8)
    train("parts", stop)
    resumed = train("parts", 8, resume=True)
    assert whole.state.epoch == 2.0 and resumed.count == 8
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())
    resumed.save_final_model()
    assert (tmp_path / "parts" / "model.safetensors").exists() and not (tmp_path / "parts" / "unfinished").exists()


def test_a_hub_that_does_not_answer_stops_nothing(make_trainer, tmp_path, monkeypatch, caplog):
    class NoAnswer(OSError):
        """As `huggingface_hub` has it: an `OSError`, with that of the socket as its cause."""

    NoAnswer.__module__ = "huggingface_hub.errors"

    def push(self, checkpoint):
        raise NoAnswer("503") from OSError(errno.ENOSPC, "in the message of the server")

    monkeypatch.setattr("transformers.Trainer._push_from_checkpoint", push)
    trainer = make_trainer(output_dir=str(tmp_path), max_steps=2, **CHECKPOINTED)
    with caplog.at_level("WARNING"):
        trainer._push_from_checkpoint(str(tmp_path / "checkpoint-2"))
    assert "checkpoint-2 could not be pushed to the hub (NoAnswer: 503). The run continues" in caplog.text

    def full(self, checkpoint):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("transformers.Trainer._push_from_checkpoint", full)
    with pytest.raises(OSError, match="No space left"):
        trainer._push_from_checkpoint(str(tmp_path / "checkpoint-2"))


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_weight_is_not_missing(make_trainer, monkeypatch, tied):
    said = []
    monkeypatch.setattr("transformers.trainer.logger.warning", said.append)
    trainer = make_trainer()
    trainer.model.config.tie_word_embeddings = tied
    loaded = torch.nn.modules.module._IncompatibleKeys(["lm_head.weight"], [])
    trainer._issue_warnings_after_load(loaded)
    assert said == ([] if tied else ["There were missing keys in the checkpoint model loaded: ['lm_head.weight']."])


def test_going_on_with_other_settings_is_said(make_trainer, tmp_path, caplog):
    make_trainer(output_dir=str(tmp_path), max_steps=2, **CHECKPOINTED).train()
    other = make_trainer(output_dir=str(tmp_path), max_steps=3, **{**CHECKPOINTED, "flow_strength": 0.5})
    with caplog.at_level("WARNING"):
        other.train(resume_from_checkpoint=True)
    assert "checkpoint-2 belongs to another run: `flow_strength` was 1.0 and is 0.5." in caplog.text

"""Two processes (gloo) against one, on the same rollouts: the same λ, metrics, update and saved model."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import METRICS, make_model, relative_error
from distributed_worker import SCENARIOS, TRAININGS
from peft import PeftModel
from transformers import AutoModelForCausalLM


TESTS = Path(__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0", "--config_file"]
ZERO = {
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
}
ZERO_STAGES = {
    "zero2": {"stage": 2},
    # Without a threshold of 0 a model as small as ours would not be sharded
    "zero3": {"stage": 3, "stage3_param_persistence_threshold": 0, "stage3_gather_16bit_weights_on_model_save": True},
}
FSDP2 = {
    "fsdp_version": 2,
    "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "fsdp_reshard_after_forward": True,
    "fsdp_state_dict_type": "FULL_STATE_DICT",
    "fsdp_cpu_ram_efficient_loading": True,
    "fsdp_offload_params": False,
    "fsdp_activation_checkpointing": False,
}
# The LM head has 21 rows of 32; FSDP2 shards whole rows
SHARDING = {
    "ddp": {"type": "MULTI_CPU", "zero_stage": None, "lm_head_elements": 21 * 32},
    "zero2": {"type": "DEEPSPEED", "zero_stage": 2, "lm_head_elements": 21 * 32},
    "zero3": {"type": "DEEPSPEED", "zero_stage": 3, "lm_head_elements": 21 * 32 // 2},
    "fsdp2": {"type": "FSDP", "zero_stage": None, "lm_head_elements": 11 * 32},
}
FLOW_METRICS = [f"entropy_flow/{name}" for name in METRICS]


def launcher(mode: str, folder: Path) -> list[str]:
    """The command before the script's name."""
    if mode in ("one", "ddp"):
        return [*TORCHRUN, "1" if mode == "one" else "2"]
    config: dict = {"num_processes": 2}
    if mode == "fsdp2":
        config |= {"distributed_type": "FSDP", "mixed_precision": "no", "fsdp_config": FSDP2}
    else:
        (folder / "deepspeed.json").write_text(json.dumps({**ZERO, "zero_optimization": ZERO_STAGES[mode]}))
        config |= {
            "distributed_type": "DEEPSPEED",
            "deepspeed_config": {
                "deepspeed_config_file": str(folder / "deepspeed.json"),
                "zero3_init_flag": mode == "zero3",
            },
        }
    (folder / "accelerate.json").write_text(json.dumps(config))
    return [*ACCELERATE, str(folder / "accelerate.json")]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The models that the trainings start from."""
    folder = tmp_path_factory.mktemp("base")
    model = make_model()
    model.save_pretrained(folder / "untied")
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(folder / "tied")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, base):
    """Launch a mode once, with all that is run in it, and return the folder of its results."""

    @functools.cache
    def launch(mode: str) -> Path:
        folder = tmp_path_factory.mktemp(mode)
        names = [*SCENARIOS, *TRAININGS] if mode in ("one", "ddp") else TRAININGS
        done = subprocess.run(
            [*launcher(mode, folder), str(TESTS / "distributed_worker.py"), str(folder), str(base), *names],
            env={
                **os.environ,
                "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}",
                "TRL_EXPERIMENTAL_SILENCE": "1",
                "CUDA_VISIBLE_DEVICES": "",
                "DS_ACCELERATOR": "cpu",
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-10000:]
        return folder

    return launch


def read(folder: Path, name: str, rank: int = 0) -> dict:
    return json.loads((folder / f"{name}-rank{rank}.json").read_text())


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_two_processes_equal_one(run, scenario):
    one, two = (read(run(mode), scenario) for mode in ("one", "ddp"))
    for key in FLOW_METRICS:
        assert two["logs"][key] == pytest.approx(one["logs"][key], rel=1e-5, abs=1e-9)
    if scenario == "target_ratio":
        assert one["entropy_target"] > 0
        assert two["entropy_target"] == pytest.approx(one["entropy_target"], rel=1e-6)
    if scenario != "all_masked":
        assert one["logs"]["entropy_flow/decrease"] > 0
        gradients = [torch.load(run(mode) / f"{scenario}.pt") for mode in ("one", "ddp")]
        assert relative_error(gradients[1], gradients[0]) < 2e-6


def test_a_rank_without_a_valid_token(run):
    tokens = [read(run("ddp"), "idle_rank", rank)["tokens"] for rank in (0, 1)]
    assert tokens[0] > 0 and tokens[1] == 0


def test_one_small_all_reduce_per_rollout_batch(run):
    (num_bytes,) = read(run("ddp"), "dapo", rank=1)["reduced_bytes"]
    assert num_bytes < 128


every_training = pytest.mark.parametrize("training", TRAININGS)
every_mode = pytest.mark.parametrize("mode", SHARDING)


@every_training
@every_mode
def test_training_equals_that_of_one_process(run, mode, training):
    one, two = (read(run(mode), training)["whole"] for mode in ("one", mode))
    assert two["sharding"] == SHARDING[mode]
    assert two["entropy_target"] == pytest.approx(one["entropy_target"], rel=1e-6)
    assert len(one["logs"]) == 4
    for expected, actual in zip(one["logs"], two["logs"], strict=True):
        assert actual.keys() == expected.keys()
        for key in {"loss", "reward", "grad_norm", *FLOW_METRICS} & expected.keys():
            # These two may cancel to almost 0
            absolute = 1e-6 if key in ("loss", "entropy_flow/net") else 0.0
            assert actual[key] == pytest.approx(expected[key], rel=1e-5, abs=absolute), key
    # λ is not at its bound, where it would hide what it is made from
    coefficients = [log["entropy_flow/coefficient"] for log in one["logs"] if "entropy_flow/coefficient" in log]
    assert len(coefficients) >= 2 and max(map(abs, coefficients)) < 0.9


@every_training
@pytest.mark.parametrize("mode", ["zero2", "zero3", "fsdp2"])
def test_metrics_of_trl_equal_those_of_ddp(run, mode, training):
    """TRL averages these over processes, not over tokens, so that only runs in two processes compare."""
    ddp, two = (read(run(mode), training)["whole"]["logs"] for mode in ("ddp", mode))
    for expected, actual in zip(ddp, two, strict=True):
        assert expected["entropy"] > 0
        for key in {"entropy", "kl"} & expected.keys():
            assert actual[key] == pytest.approx(expected[key], rel=1e-5), key


def load(folder: Path, base: Path) -> dict[str, torch.Tensor]:
    """What plain transformers and PEFT make of a saved model."""
    if not (folder / "adapter_config.json").exists():
        return dict(AutoModelForCausalLM.from_pretrained(folder).named_parameters())
    model = AutoModelForCausalLM.from_pretrained(base / "untied")
    return dict(PeftModel.from_pretrained(model, folder).named_parameters())


@every_training
@every_mode
def test_saved_model_equals_that_of_one_process(run, base, mode, training):
    one, two = (load(run(mode) / f"{training}-whole", base) for mode in ("one", mode))
    assert two.keys() == one.keys()
    # A few times float32's spacing at the largest weights, which is 1e-7
    assert max((two[name] - one[name]).abs().max() for name in one) < 1e-6


@every_training
@every_mode
def test_two_steps_resume_two_equal_four(run, base, mode, training):
    result = read(run(mode), training)
    assert len(result["whole"]["logs"]) == 4
    assert result["resumed"] == result["whole"]
    whole, resumed = (load(run(mode) / f"{training}-{part}", base) for part in ("whole", "resumed"))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@every_training
@every_mode
def test_the_first_process_alone_writes_the_state(run, mode, training):
    writes = [read(run(mode), training, rank)["state_writes"] for rank in (0, 1)]
    assert writes == [["checkpoint-2", "checkpoint-4", "checkpoint-4"], []]

"""The memory estimate: its model states against DeepSpeed's own estimators, its other parts by hand."""

import pytest
from qwen import SHAPES

from opefo_trl.commands.memory import FIXED_BYTES, Sharding, estimate_memory


CONFIG = SHAPES["Qwen/Qwen2.5-Math-7B"]
PARAMS = 7_615_616_512
BATCH = {"batch_size": 4, "generation_batch_size": 32, "num_tokens": 4096, "gradient_checkpointing": True}


def estimate(sharding, num_trainable=PARAMS, weight_bytes=2.0, **settings):
    return estimate_memory(CONFIG, PARAMS, num_trainable, sharding, weight_bytes, **{**BATCH, **settings})


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("num_processes", [1, 8])
def test_model_states_are_deepspeeds(num_processes, offload):
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    embedding = CONFIG.vocab_size * CONFIG.hidden_size
    gpus = {"num_gpus_per_node": num_processes, "cpu_offload": offload}
    _, stage2 = estimate_zero2_model_states_mem_needs(PARAMS, **gpus)
    parts = estimate(Sharding(num_processes, 2, offload_optimizer=offload))
    assert parts["weights"] + parts["gradients and optimizer"] == pytest.approx(stage2, abs=1)
    for offload_params in {False, offload}:
        _, stage3, _ = estimate_zero3_model_states_mem_needs(
            PARAMS, embedding, cpu_offload_params=offload_params, **gpus
        )
        parts = estimate(Sharding(num_processes, 3, offload_optimizer=offload, offload_params=offload_params))
        assert parts["weights"] + parts["gradients and optimizer"] == pytest.approx(stage3, abs=1)


def test_without_deepspeed():
    parts = estimate(Sharding(1), weight_bytes=4.0)
    assert parts["weights"] == 4 * PARAMS and parts["gradients and optimizer"] == 12 * PARAMS
    assert estimate(Sharding(2), weight_bytes=4.0)["gradients and optimizer"] == 16 * PARAMS, "DDP's buckets"


def test_lora():
    parts = estimate(Sharding(1), num_trainable=80_000_000)
    assert parts["weights"] == 2 * (PARAMS - 80_000_000) + 4 * 80_000_000
    assert parts["gradients and optimizer"] == 12 * 80_000_000
    head = 4 * CONFIG.vocab_size * CONFIG.hidden_size
    assert estimate(Sharding(1))["activations"] - parts["activations"] == head, "a frozen LM head has no gradient"


def test_reference_model():
    for sharding, reference in [(Sharding(1), 2.0), (Sharding(8, 2), 2.0), (Sharding(8, 3), 2.0 / 8)]:
        more = estimate(sharding, has_reference=True)["weights"] - estimate(sharding)["weights"]
        assert more == pytest.approx(reference * PARAMS)
    lora = {"num_trainable": 80_000_000}
    assert estimate(Sharding(1), **lora) == estimate(Sharding(1), **lora, has_reference=True)


def test_activations_and_cache():
    tokens = 4 * 4096
    # norms and residuals 4 × 3584, queries and output 2 × 3584, keys and values 2 × 4 × 128, MLP 3 × 18944; 16-bit
    layer = 2 * tokens * (6 * 3584 + 1024 + 3 * 18944)
    head = 4 * tokens * 3584 + 4 * 152064 * 3584
    parts = estimate(Sharding(1))
    assert parts["activations"] == 28 * 2 * tokens * 3584 + 2 * layer + head
    assert estimate(Sharding(1), gradient_checkpointing=False)["activations"] == 28 * layer + head
    assert parts["KV cache"] == 2 * 28 * 1024 * 32 * 4096


def test_peak_is_of_training_or_of_generation():
    parts = estimate(Sharding(1))
    always = parts["weights"] + parts["gradients and optimizer"] + FIXED_BYTES
    assert parts["peak"] == always + max(parts["activations"], parts["KV cache"])
    vllm = 30e9
    assert estimate(Sharding(1), vllm_bytes=vllm)["peak"] == always + parts["activations"] + vllm
    assert estimate(Sharding(1), vllm_bytes=vllm, vllm_sleeps=True)["peak"] == always + vllm
    assert estimate(Sharding(1), vllm_bytes=0)["peak"] == always + parts["activations"]

"""An estimate of the memory that one GPU needs, from the sizes of the model and of the batch."""

from dataclasses import dataclass
from typing import Any


GIB = 1024**3
# CUDA context, NCCL, the allocator's fragments: what every process needs before it does anything
FIXED_BYTES = int(2.0 * GIB)


@dataclass(frozen=True)
class Sharding:
    """
    How the model's states are sharded.

    Args:
        num_processes (`int`):
            GPUs that train.
        zero_stage (`int`):
            ZeRO stage of DeepSpeed; 0 for a model that is not sharded, 3 also for FSDP.
        offload_optimizer (`bool`):
            Whether gradients, master weights and Adam's moments live in CPU memory.
        offload_params (`bool`):
            Whether the weights live in CPU memory, too (stage 3).
    """

    num_processes: int
    zero_stage: int = 0
    offload_optimizer: bool = False
    offload_params: bool = False


def estimate_memory(
    config: Any,
    num_params: int,
    num_trainable: int,
    sharding: Sharding,
    weight_bytes: float,
    batch_size: int,
    generation_batch_size: int,
    num_tokens: int,
    gradient_checkpointing: bool,
    has_reference: bool = False,
    vllm_bytes: float | None = None,
    vllm_sleeps: bool = False,
) -> dict[str, float]:
    """
    Estimate the peak memory of one GPU, part by part, in bytes.

    Model states are those of mixed-precision Adam. Under DeepSpeed, they are counted as in DeepSpeed's own estimators:
    2 bytes per parameter for the 16-bit weights, and 18 bytes per trainable parameter for 16- and 32-bit gradients,
    32-bit master weights and two moments (in stage 3, the 18 bytes include the weights). Without DeepSpeed, weights,
    gradients and two moments have the weights' own precision (LoRA's adapters: 32-bit). Activations assume attention
    that does not materialize its scores. With gradient checkpointing, they are those of one layer, beside the inputs
    of all layers.

    Args:
        config ([`~transformers.PretrainedConfig`]):
            Of the model's text part.
        num_params (`int`):
            Parameters of the model, adapters included.
        num_trainable (`int`):
            Parameters that are trained.
        sharding ([`Sharding`]):
            How the states are sharded.
        weight_bytes (`float`):
            Bytes per weight outside DeepSpeed: 4, 2, 1 or, for 4-bit quantization, 0.5.
        batch_size (`int`):
            Completions per GPU in one forward and backward pass.
        generation_batch_size (`int`):
            Completions that one GPU generates at once.
        num_tokens (`int`):
            Longest prompt and completion together.
        gradient_checkpointing (`bool`):
            Whether layers are recomputed in the backward pass.
        has_reference (`bool`, *optional*, defaults to `False`):
            Whether a second model is kept for a KL penalty (LoRA needs none: it turns its adapters off).
        vllm_bytes (`float`, *optional*):
            Bytes that a vLLM on the same GPU takes. 0 for a vLLM elsewhere, `None` without vLLM.
        vllm_sleeps (`bool`, *optional*, defaults to `False`):
            Whether that vLLM gives its memory back while the model trains.

    Returns:
        `dict[str, float]`: parts by name, and `"peak"`. Training and generation do not coincide, so it is not the sum.
    """
    spread = sharding.num_processes
    is_lora = num_trainable < num_params
    if sharding.zero_stage == 3:
        # One layer, the widest being the embedding, is gathered at a time
        live = 4.0 * config.vocab_size * config.hidden_size
        weights = live + (0 if sharding.offload_params else 2.0 * (num_params - num_trainable) / spread)
        if sharding.offload_optimizer and not sharding.offload_params:
            weights += 2.0 * num_trainable / spread
        states = 0 if sharding.offload_optimizer else 18.0 * num_trainable / spread
        reference = 2.0 * num_params / spread
    elif sharding.zero_stage > 0:
        weights = 2.0 * num_params
        states = 0 if sharding.offload_optimizer else 18.0 * num_trainable / spread
        reference = 2.0 * num_params
    else:
        weights = weight_bytes * (num_params - num_trainable if is_lora else num_params)
        weights += 4.0 * num_trainable if is_lora else 0
        # Gradients and two moments; DDP's buckets are a second copy of the gradients
        states = (3 if spread == 1 else 4) * (4.0 if is_lora else weight_bytes) * num_trainable
        reference = weight_bytes * num_params
    if has_reference and not is_lora:
        weights += reference

    tokens = batch_size * num_tokens
    hidden, layers = config.hidden_size, config.num_hidden_layers
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or hidden // heads
    key_value = 2 * (getattr(config, "num_key_value_heads", None) or heads) * head_dim
    # 16-bit: norms and residuals, queries and the attention's output, keys and values, gate, up and their product
    layer = 2.0 * tokens * (4 * hidden + 2 * heads * head_dim + key_value + 3 * config.intermediate_size)
    inputs = 2.0 * tokens * hidden
    # In the backward pass, a layer's gradients are held beside its activations
    activations = layers * inputs + 2 * layer if gradient_checkpointing else layers * layer
    # 32-bit gradients of the hidden states and, where it is trained, of the LM head's weight
    head = 4.0 * tokens * hidden + (0 if is_lora else 4.0 * config.vocab_size * hidden)
    cache = 2.0 * layers * key_value * generation_batch_size * num_tokens

    always = FIXED_BYTES + weights + states
    training = activations + head + (vllm_bytes if vllm_bytes is not None and not vllm_sleeps else 0)
    generation = cache if vllm_bytes is None else vllm_bytes
    return {
        "weights": weights,
        "gradients and optimizer": states,
        "activations": activations + head,
        "KV cache" if vllm_bytes is None else "vLLM": generation,
        "CUDA and the rest": FIXED_BYTES,
        "peak": always + max(training, generation),
    }

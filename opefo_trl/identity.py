"""The settings that determine the result of a run: saved in its checkpoints and compared on resumption."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any
from zlib import crc32


# A resumed run may use other values of these. The first five may change because a run may be extended, or spread over
# other devices with the same number of completions per step. A schedule that ends with the run follows its new length.
MAY_CHANGE = set(
    "max_steps num_train_epochs per_device_train_batch_size gradient_accumulation_steps steps_per_generation "
    "output_dir resume_from_checkpoint dry_run save_on_interrupt run_name project disable_tqdm "
    "per_device_eval_batch_size prediction_loss_only include_for_metrics batch_eval_metrics load_best_model_at_end "
    "metric_for_best_model greater_is_better dataset_test_split do_train do_eval do_predict debug skip_memory_metrics "
    "include_num_input_tokens_seen num_completions_to_print num_generations_eval ignore_bias_buffers local_rank "
    "use_cpu deepspeed fsdp fsdp_config accelerator_config parallelism_config gradient_checkpointing "
    "gradient_checkpointing_kwargs activation_checkpointing activation_checkpointing_kwargs torch_empty_cache_steps "
    "torch_compile torch_compile_backend torch_compile_mode attn_implementation ds3_gather_for_generation "
    "auto_find_batch_size restore_callback_states_from_checkpoint enable_jit_checkpoint reward_warn_seconds".split()
)
MAY_CHANGE_PREFIXES = (
    *("logging_", "log_", "save_", "report_", "hub_", "push_", "eval_", "trackio_", "dataloader_", "ddp_"),
    *("vllm_server_", "vllm_gpu_", "vllm_group_", "vllm_max_model_", "vllm_tensor_", "vllm_mode", "vllm_enable_"),
)
NUM_SAMPLED = 1000
BLOCK, NUM_BLOCKS = 4096, 1000  # bytes per block, and blocks per file of weights
SHOWN_LENGTH = 80


def settings_of(configs: Iterable[Any]) -> dict[str, Any]:
    """
    The settings that determine the result of a run, as JSON.

    Args:
        configs (`Iterable[Any]`):
            Dataclasses. If two have a field of the same name, the later one wins.
    """
    settings = {}
    for config in configs:
        if is_dataclass(config):
            for field in fields(config):
                if field.name not in MAY_CHANGE and not field.name.startswith(MAY_CHANGE_PREFIXES):
                    settings[field.name] = getattr(config, field.name)
    return json.loads(json.dumps(settings, default=_plain))


def completions_per_step(training_args: Any) -> int:
    """Completions of one optimizer step, over all processes and accumulation steps. A resumed run must keep it."""
    per_process = training_args.per_device_train_batch_size * training_args.gradient_accumulation_steps
    return per_process * training_args.world_size


def fingerprint(dataset: Any) -> str | None:
    """Number of rows, and a checksum of evenly spaced rows (fewer than 2,000). `None` for a streamed dataset."""
    try:
        size = len(dataset)
    except TypeError:
        return None
    rows = [dataset[place] for place in range(0, size, max(1, size // NUM_SAMPLED))]
    return f"{size} rows, checksum {crc32(json.dumps(rows, default=_plain, sort_keys=True).encode()):08x}"


def model_fingerprint(name: str) -> str:
    """Name of a model. For a folder, also a checksum of evenly spaced blocks of its weights."""
    folder = Path(name)
    if not folder.is_dir():
        return name
    weights = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
    checksum = 0
    for path in weights:
        size = path.stat().st_size
        checksum = crc32(str(size).encode(), checksum)
        with path.open("rb") as file:
            for start in range(0, size, max(BLOCK, size // NUM_BLOCKS)):
                file.seek(start)
                checksum = crc32(file.read(BLOCK), checksum)
    return f"{folder.resolve().name} (weights {checksum:08x})"


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A clause for each setting that differs. Settings that only one of the two has are ignored."""
    return [
        f"`{name}` was {_shown(before[name])} and is {_shown(now[name])}"
        for name in before
        if name in now and before[name] != now[name]
    ]


def _plain(value: Any) -> str:
    """Text for an object that JSON does not know: its type if its `repr` contains an address."""
    return type(value).__name__ if " at 0x" in repr(value) else str(value)


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= SHOWN_LENGTH else f"{text[:SHOWN_LENGTH]}…"

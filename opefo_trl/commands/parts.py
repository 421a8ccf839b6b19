"""Finds out before a model is loaded whether the packages and hardware that settings need are there."""

from importlib.util import find_spec
from typing import Any

import torch


# Packages of trackers that have another name
TRACKER_PACKAGES = {"azure_ml": "azureml.core", "flyte": "flytekit"}
INSTALLS = {"azureml.core": "azureml-sdk"}
NO_TRACKERS = ("none", "all")


def missing_parts(training_args: Any, model_args: Any, wants_cpu: bool) -> list[str]:
    """
    A sentence for each package or device that is needed but missing.

    Args:
        training_args ([`OPEFOConfig`]):
            Settings of the training.
        model_args ([`~trl.ModelConfig`]):
            Settings of the model.
        wants_cpu (`bool`):
            Whether the user set `use_cpu`.
    """
    found = []

    def need(package: str, setting: str, install: str, otherwise: str) -> None:
        if not _is_there(package):
            found.append(f"`{setting}` needs the package {package}: `pip install {install}`, or {otherwise}.")

    trackers = training_args.report_to or []
    for tracker in [trackers] if isinstance(trackers, str) else trackers:
        if tracker not in NO_TRACKERS:
            package = TRACKER_PACKAGES.get(tracker, tracker)
            need(
                package,
                f"report_to: {tracker}",
                INSTALLS.get(package, package.replace("_", "-")),
                "set `report_to: none`",
            )
    if training_args.use_vllm:
        need("vllm", "use_vllm", "'trl[vllm]'", "set `use_vllm: false`")
        if training_args.vllm_mode == "colocate" and not torch.cuda.is_available():
            found.append("`vllm_mode: colocate` needs a GPU, and torch finds none here: set `use_vllm: false`.")
    if training_args.use_liger_kernel:
        need("liger_kernel", "use_liger_kernel", "liger-kernel", "set `use_liger_kernel: false`")
    for setting in ("load_in_8bit", "load_in_4bit"):
        if getattr(model_args, setting):
            need("bitsandbytes", setting, "bitsandbytes", f"set `{setting}: false`")
    attention = str(model_args.attn_implementation)
    if attention == "flash_attention_2":
        need("flash_attn", "attn_implementation: flash_attention_2", "flash-attn", "remove `attn_implementation`")
    if attention == "flash_attention_3" and not _is_there("flash_attn_interface"):
        found.append(
            "`attn_implementation: flash_attention_3` needs FlashAttention-3: install it from the folder `hopper` of "
            "github.com/Dao-AILab/flash-attention, or remove `attn_implementation`."
        )
    if not wants_cpu and not torch.accelerator.is_available() and (training_args.bf16 or training_args.fp16):
        found.append(
            "PyTorch finds no GPU on this machine: to train on the CPU, add `--use_cpu true` and switch off "
            f"`{'bf16' if training_args.bf16 else 'fp16'}`. The CPU is for small models and trials."
        )
    if training_args.deepspeed:
        need("deepspeed", "deepspeed", "deepspeed", "remove `deepspeed`")
    return found


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False

"""Turns the settings of `opefo train` into arguments of its trainer, and checks them before a model is loaded."""

import tempfile
from pathlib import Path
from typing import Any, cast

from transformers import AutoTokenizer
from trl import DatasetMixtureConfig, ModelConfig, get_peft_config, get_quantization_config

from ..config import OPEFOConfig
from ..data.datasets import keep_rows, load_splits, pick_split
from ..data.prompts import check_bos, drop_long_prompts, to_prompts
from ..grading.policy import Policy
from .arguments import OPEFOScriptArguments


def check_output_dir(output_dir: str) -> None:
    """
    Check that the folder, or the existing one that it will be created in, can be written to. Leaves nothing behind.

    Raises:
        `ValueError`: if it cannot be written to.
    """
    path = Path(output_dir).absolute()
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"x")
    except OSError as error:
        raise ValueError(f"`output_dir` {output_dir} cannot be written to: {error.strerror}.") from error


def load_tokenizer(model_args: ModelConfig, training_args: OPEFOConfig) -> Any:
    """
    Raises:
        `ValueError`: if the model's tokenizer cannot be loaded.
    """
    try:
        return AutoTokenizer.from_pretrained(
            model_args.model_name_or_path,
            revision=model_args.model_revision,
            trust_remote_code=training_args.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        name = str(model_args.model_name_or_path)
        if not Path(name).is_dir() and (name.startswith((".", "/", "~")) or name.count("/") != 1):
            raise ValueError(f"`model_name_or_path` {name} is neither a folder nor a name on the hub.") from error
        raise ValueError(f"The tokenizer of `model_name_or_path` {name} cannot be loaded: {error}") from error


def chat_template_kwargs(training_args: OPEFOConfig) -> dict[str, Any]:
    return cast(dict, training_args.chat_template_kwargs or {})


def prepare(
    script_args: OPEFOScriptArguments,
    training_args: OPEFOConfig,
    model_args: ModelConfig,
    dataset_args: DatasetMixtureConfig,
) -> dict[str, Any]:
    """
    Load and check data and rewards, before any model is loaded.

    Returns:
        `dict[str, Any]`: arguments of [`OPEFOTrainer`].

    Raises:
        `ValueError`: if something is missing or does not fit. The message names the field to change.
    """
    from trl import get_dataset

    from ..grading.rewards import check_reward, load_reward

    if model_args.model_name_or_path is None:
        raise ValueError("No model: set `model_name_or_path` to a folder or a name on the hub.")
    if not script_args.reward_funcs and not script_args.reward_model_name_or_path:
        raise ValueError("No reward: set `reward_funcs` to names or dotted paths, or `reward_model_name_or_path`.")
    if dataset_args.datasets and script_args.dataset_name:
        raise ValueError("Both `datasets` and `dataset_name` are set: remove one.")
    if not dataset_args.datasets and not script_args.dataset_name:
        raise ValueError("No dataset: set `dataset_name` to a file, a folder or a name on the hub.")

    max_completion_length = cast(int, training_args.max_completion_length)
    policy = Policy.from_options(script_args)
    rewards: list[Any] = [load_reward(name, max_completion_length, policy) for name in script_args.reward_funcs or []]
    name = script_args.dataset_name or "mixture"
    if dataset_args.datasets:
        splits = get_dataset(dataset_args)
    else:
        splits = load_splits(name, script_args.dataset_config, script_args.dataset_streaming)

    def prompts(split_field: str) -> Any:
        rows = pick_split(splits, getattr(script_args, split_field), split_field, name)
        if script_args.dataset_filter:
            rows = keep_rows(rows, cast(dict, script_args.dataset_filter), name)
        rows = to_prompts(
            rows,
            name,
            prompt_column=script_args.dataset_prompt_column,
            solution_column=script_args.dataset_solution_column,
            prompt_template=script_args.prompt_template,
            system_prompt=script_args.system_prompt,
            conversational=script_args.conversational,
        )
        if script_args.dataset_max_prompt_length is None:
            return rows
        return drop_long_prompts(
            rows,
            load_tokenizer(model_args, training_args),
            script_args.dataset_max_prompt_length,
            name,
            **chat_template_kwargs(training_args),
        )

    train_dataset = prompts("dataset_train_split")
    first = next(iter(train_dataset))
    for reward in rewards:
        check_reward(reward, first)
    tokenizer = load_tokenizer(model_args, training_args)
    if isinstance(first["prompt"], str):  # a chat template adds its own BOS token
        check_bos(first["prompt"], tokenizer)
    if script_args.reward_model_name_or_path:
        rewards.insert(0, script_args.reward_model_name_or_path)
    if training_args.reward_weights is not None and len(training_args.reward_weights) != len(rewards):
        raise ValueError(
            f"`reward_weights` holds {len(training_args.reward_weights)} weights for {len(rewards)} rewards: give one "
            "for each."
        )
    training_args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "trust_remote_code": training_args.trust_remote_code,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        "use_safetensors": True,
        **cast(dict, training_args.model_init_kwargs or {}),
    }
    return {
        "model": model_args.model_name_or_path,
        "reward_funcs": rewards,
        "args": training_args,
        "train_dataset": train_dataset,
        "eval_dataset": prompts("dataset_test_split") if training_args.eval_strategy != "no" else None,
        "quantization_config": get_quantization_config(model_args),
        "peft_config": get_peft_config(model_args),
    }

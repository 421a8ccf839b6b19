"""`opefo train --dry_run`: checks a run without training, in one process for any planned number of GPUs."""

import asyncio
import inspect
import os
import sys
from dataclasses import dataclass, fields
from enum import Enum
from itertools import islice
from numbers import Real
from typing import Any, cast

import torch
import yaml
from accelerate.commands.config.config_args import default_config_file, load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, TrainerState
from trl import ModelConfig, get_peft_config
from trl.trainer.utils import get_callable_name

from ..config import OPEFOConfig
from ..data.prompts import prompt_length, render
from ..grading.answers import MAX_ANSWER_LENGTH, gold_answer
from ..grading.golds import describe_text_golds
from .arguments import OPEFOScriptArguments, parse
from .memory import GIB, Sharding, estimate_memory
from .messages import PROG, fail, quiet, say
from .parts import missing_parts
from .preparation import chat_template_kwargs, load_tokenizer, prepare


# Rows whose gold answers and prompt lengths are checked: all of DAPO-Math-17k, in seconds
ROWS_LOOKED_AT = 20_000
WRONG_ANSWER = r"\boxed{-987654321}"
# Rewards that must tell the bare gold answer from a wrong one
MATH_REWARDS = ("math_reward", "accuracy_reward")
# Without a GPU, vLLM's share is computed for this memory size
ASSUMED_GPU_BYTES = 80 * GIB


@dataclass(frozen=True)
class Plan(Sharding):
    """What `accelerate launch` would start."""

    num_machines: int = 1


def read_plan(launch_args: list[str]) -> Plan:
    """Number of processes and DeepSpeed stage from the options of `accelerate launch` and its config file."""
    options = vars(launch_command_parser().parse_args([*launch_args, "script"]))
    file = options["config_file"] or (default_config_file if os.path.isfile(default_config_file) else None)
    config = vars(load_config_from_file(file)) if file is not None else {}
    deepspeed = {**(config.get("deepspeed_config") or {}), **{k: v for k, v in options.items() if v is not None}}
    uses_deepspeed = options["use_deepspeed"] or config.get("distributed_type") == DistributedType.DEEPSPEED
    uses_fsdp = options["use_fsdp"] or config.get("distributed_type") == DistributedType.FSDP
    # FSDP shards what stage 3 shards
    stage = int(deepspeed.get("zero_stage") or 2) if uses_deepspeed else 3 if uses_fsdp else 0
    num_processes = options["num_processes"] or config.get("num_processes") or max(1, torch.cuda.device_count())
    return Plan(
        num_processes=int(num_processes),
        zero_stage=stage,
        offload_optimizer=stage > 0 and deepspeed.get("offload_optimizer_device") not in (None, "none"),
        offload_params=stage == 3 and deepspeed.get("offload_param_device") not in (None, "none"),
        num_machines=int(options["num_machines"] or config.get("num_machines") or 1),
    )


def main(args: list[str], launch_args: list[str]) -> int:
    """
    Print what a training would do.

    Returns:
        `int`: exit code, 0 if all is well, else 2 with one line on stderr for each problem.
    """
    quiet()
    try:
        problems = _report(args, read_plan(launch_args))
    except (ValueError, TypeError, OSError) as error:
        fail(error)
    for problem in problems:
        say(f"{PROG}: error: {' '.join(problem.split())}", file=sys.stderr)
    say("No problems found." if not problems else f"Problems found: {len(problems)}.")
    return 2 if problems else 0


def planned_config(num_processes: int) -> type[OPEFOConfig]:
    """[`OPEFOConfig`] as one of `num_processes` processes would have it, without starting them."""

    class PlannedConfig(OPEFOConfig):
        world_size = property(lambda self: num_processes)  # type: ignore[assignment]

    return PlannedConfig


def _report(args: list[str], plan: Plan) -> list[str]:
    has_gpu = torch.cuda.is_available()
    parsed = parse(args, planned_config(plan.num_processes))
    script_args, training_args, model_args, _ = parsed
    say("Settings that differ from the defaults:\n" + _indent(_differences(parsed)))
    say(_batch(training_args, plan))
    trainer_args = prepare(*parsed)
    tokenizer = load_tokenizer(model_args, training_args)
    model_config = _load_model_config(model_args, training_args)
    rows = list(islice(iter(trainer_args["train_dataset"]), ROWS_LOOKED_AT))
    say("First prompt:\n" + _indent(render(rows[0]["prompt"], tokenizer, **chat_template_kwargs(training_args))))
    lengths = sorted(prompt_length(row["prompt"], tokenizer, **chat_template_kwargs(training_args)) for row in rows)
    problems = [
        *_check_steps(trainer_args["train_dataset"], script_args, training_args),
        *_check_lengths(lengths, training_args, model_config),
        *_check_golds(rows, script_args),
        *_check_rewards(trainer_args["reward_funcs"], rows, tokenizer),
        *_check_memory(model_config, lengths[-1], training_args, model_args, plan),
    ]
    missing = missing_parts(training_args, model_args, wants_cpu=True)
    if has_gpu:
        return [*problems, *missing, *_check_machine(training_args, plan)]
    for sentence in missing:  # the training may be meant for another machine
        say(f"Not on this machine: {sentence}")
    say("GPUs: none on this machine, so bf16, vLLM and the number of GPUs were not checked.")
    return problems


def _differences(parsed: tuple) -> str:
    changed: dict[str, Any] = {}
    for config in parsed:
        # Some defaults depend on other fields, so compare with an untouched config of the same class
        settings = {"output_dir": "", "use_cpu": config.use_cpu} if isinstance(config, OPEFOConfig) else {}
        untouched = type(config)(**settings)
        for setting in fields(config):
            value = getattr(config, setting.name)
            if setting.init and value != getattr(untouched, setting.name):
                changed[setting.name] = value
    for name in ("dry_run",) if torch.cuda.is_available() else ("dry_run", "use_cpu"):
        changed.pop(name, None)
    return yaml.safe_dump({name: _plain(value) for name, value in changed.items()}, sort_keys=False, width=119)


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Enum):
        return value.value
    return value if type(value) in (bool, int, float, str, type(None)) else str(value)


def _batch(args: OPEFOConfig, plan: Plan) -> str:
    completions = plan.num_processes * args.per_device_train_batch_size * args.gradient_accumulation_steps
    num_generations = cast(int, args.num_generations)
    strict = "strictly on-policy" if args.is_on_policy else "NOT strictly on-policy (`strict_on_policy: false`)"
    return (
        f"Rollouts: {_count(plan.num_processes, 'process', 'es')} × {args.per_device_train_batch_size} completions × "
        f"{_count(args.gradient_accumulation_steps, 'accumulation step')} = "
        f"{completions // num_generations} prompts × {num_generations} completions = "
        f"{completions} completions per optimizer step, {strict}"
    )


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else plural}"


def _check_steps(dataset: Any, script_args: OPEFOScriptArguments, args: OPEFOConfig) -> list[str]:
    steps_per_generation = cast(int, args.steps_per_generation)
    batch = cast(int, args.generation_batch_size)
    completions = batch * args.gradient_accumulation_steps // steps_per_generation
    if script_args.dataset_streaming:
        if args.max_steps <= 0:
            return ["A streamed dataset has no length: set `max_steps`."]
        say(f"Steps: {args.max_steps} optimizer steps, {args.max_steps * completions} completions (streamed dataset)")
        return []
    prompts = batch // cast(int, args.num_generations)
    # TRL's sampler leaves out the prompts that do not fill a rollout batch
    micro_batches = len(dataset) // prompts * steps_per_generation * args.num_iterations
    per_epoch = -(-micro_batches // args.gradient_accumulation_steps)
    if per_epoch == 0:
        return [
            f"{len(dataset)} rows do not fill a rollout batch of {prompts} prompts: use more rows or a smaller batch."
        ]
    steps = args.max_steps if args.max_steps > 0 else int(-(-args.num_train_epochs * per_epoch // 1))
    say(
        f"Steps: {len(dataset)} rows = {per_epoch} optimizer steps per epoch; {steps} steps = {steps / per_epoch:.2f} "
        f"epochs, {steps * completions} completions"
    )
    return []


def _check_lengths(lengths: list[int], args: OPEFOConfig, model_config: Any) -> list[str]:
    completion = cast(int, args.max_completion_length)
    say(
        f"Prompts: {lengths[len(lengths) // 2]} tokens at the median, {lengths[-1]} at most (of {len(lengths)} rows); "
        f"completions: {completion} at most"
    )
    limits = {"`max_position_embeddings`": getattr(model_config.get_text_config(), "max_position_embeddings", None)}
    if args.use_vllm and args.vllm_mode == "colocate":
        limits["`vllm_max_model_length`"] = args.vllm_max_model_length
    return [
        f"A prompt of {lengths[-1]} tokens and a completion of {completion} exceed {name} ({limit}): set "
        f"`dataset_max_prompt_length: {max(limit - completion, 0)}`, or lower `max_completion_length`."
        for name, limit in limits.items()
        if limit is not None and lengths[-1] + completion > limit
    ]


def _check_golds(rows: list[dict], script_args: OPEFOScriptArguments) -> list[str]:
    if script_args.dataset_solution_column is None:
        return []
    golds = [row["solution"] for row in rows]
    unreadable = sum(gold is None or len(gold) > MAX_ANSWER_LENGTH for gold in golds)
    if unreadable:
        say(f"{len(golds) - unreadable} of {len(golds)} gold answers can be read. The other rows give no reward.")
    else:
        say(f"All {len(golds)} gold answers can be read.")
    if "math_reward" in (script_args.reward_funcs or []):
        answers = [answer for gold in golds if gold is not None and (answer := gold_answer(gold)) is not None]
        say(describe_text_golds(answers))
    if unreadable < len(golds) / 2:
        return []
    return [
        f"Most rows have no gold answer in column {script_args.dataset_solution_column!r}: set "
        "`dataset_solution_column` to the column that holds it."
    ]


def _check_rewards(rewards: list[Any], rows: list[dict], tokenizer: Any) -> list[str]:
    row = next((row for row in rows if row.get("solution") is not None), rows[0])
    gold = row.get("solution") if isinstance(row.get("solution"), str) else None
    answers = {"the gold answer": gold, "a wrong answer": WRONG_ANSWER} if gold else {"a wrong answer": WRONG_ANSWER}
    problems = []
    for reward in rewards:
        if isinstance(reward, str):
            say(f"Reward: {reward} is a model and was not tested")
            continue
        name = get_callable_name(reward)
        try:
            values = _call(reward, row, list(answers.values()), tokenizer)
        except Exception as error:  # any exception of the user's function: TRL would get it after the first rollout
            problems.append(f"Reward function `{name}` raises {type(error).__name__} on row {row}: {error}")
            continue
        if len(values) != len(answers) or not all(isinstance(value, Real | None) for value in values):
            problems.append(f"Reward function `{name}` must return a number or None per completion, got {values!r}.")
            continue
        told = ", ".join(
            f"{value} for {what} ({answer})" for (what, answer), value in zip(answers.items(), values, strict=True)
        )
        say(f"Reward: {name} gives {told}")
        if name in MATH_REWARDS and values != [1.0, 0.0]:
            problems.append(
                f"`{name}` must give 1.0 for the gold answer and 0.0 for a wrong one, not {values}: set "
                "`dataset_solution_column` to the column of the answers."
            )
    return problems


def _call(reward: Any, row: dict, answers: list[str], tokenizer: Any) -> list[Any]:
    """The reward of answers to one row, called as TRL calls it."""
    prompt = row["prompt"]
    completions: list[Any] = answers
    if not isinstance(prompt, str):
        completions = [[{"role": "assistant", "content": answer}] for answer in answers]
    columns = {name: [value] * len(answers) for name, value in row.items() if name not in ("prompt", "completion")}
    values = reward(
        prompts=[prompt] * len(answers),
        completions=completions,
        completion_ids=[tokenizer(text=answer)["input_ids"] for answer in answers],
        trainer_state=TrainerState(),
        log_extra=lambda name, values: None,
        log_metric=lambda name, value: None,
        **columns,
    )
    return asyncio.run(values) if inspect.iscoroutine(values) else values


def _load_model_config(model_args: ModelConfig, args: OPEFOConfig) -> Any:
    try:
        return AutoConfig.from_pretrained(
            cast(str, model_args.model_name_or_path),
            revision=model_args.model_revision,
            trust_remote_code=args.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"`model_name_or_path` {model_args.model_name_or_path} cannot be loaded: {error}") from error


def _check_memory(
    model_config: Any,
    longest_prompt: int,
    args: OPEFOConfig,
    model_args: ModelConfig,
    plan: Plan,
) -> list[str]:
    with torch.device("meta"):
        try:
            model: Any = AutoModelForCausalLM.from_config(model_config, trust_remote_code=args.trust_remote_code)
        except ValueError:  # a model of images and text
            say(f"Memory: not estimated for a model of type {model_config.model_type}")
            return []
        if (peft_config := get_peft_config(model_args)) is not None:
            model = get_peft_model(model, peft_config)
    num_params = sum(p.numel() for p in model.parameters())
    num_trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    dtype_bytes = 4.0 if model_args.dtype in (None, "float32") else 2.0
    gpu_bytes = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else ASSUMED_GPU_BYTES
    is_colocated = args.use_vllm and args.vllm_mode == "colocate"
    parts = estimate_memory(
        model_config.get_text_config(),
        num_params,
        num_trainable,
        plan,
        weight_bytes=0.5 if model_args.load_in_4bit else 1.0 if model_args.load_in_8bit else dtype_bytes,
        batch_size=args.per_device_train_batch_size,
        generation_batch_size=args.per_device_train_batch_size * cast(int, args.steps_per_generation),
        num_tokens=longest_prompt + cast(int, args.max_completion_length),
        gradient_checkpointing=args.gradient_checkpointing,
        has_reference=args.beta != 0.0,
        vllm_bytes=args.vllm_gpu_memory_utilization * gpu_bytes if is_colocated else 0 if args.use_vllm else None,
        vllm_sleeps=args.vllm_enable_sleep_mode,
    )
    peak = parts.pop("peak")
    listed = ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts.items())
    if is_colocated and not torch.cuda.is_available():
        listed += f"; vLLM's share assumes a GPU of {ASSUMED_GPU_BYTES / GIB:.0f} GiB"
    say(
        f"Memory: {peak / GIB:.0f} GiB per GPU at the peak, estimated ({listed}); "
        f"{num_params / 1e9:.2f} B parameters, {num_trainable / 1e9:.3f} B trained"
    )
    if torch.cuda.is_available() and peak > gpu_bytes:
        return [
            f"The estimated {peak / GIB:.0f} GiB exceed this GPU's {gpu_bytes / GIB:.0f} GiB: lower "
            "`per_device_train_batch_size` and raise `gradient_accumulation_steps` by the same factor, use a higher "
            "ZeRO stage (`--accelerate_config zero3`) or `use_peft`."
        ]
    return []


def _check_machine(args: OPEFOConfig, plan: Plan) -> list[str]:
    needed = plan.num_processes // plan.num_machines
    if needed <= torch.cuda.device_count() or args.use_cpu:
        return []
    return [
        f"{needed} processes need {needed} GPUs, but this machine has {torch.cuda.device_count()}: lower "
        "`num_processes`, and raise `gradient_accumulation_steps` to keep the batch."
    ]


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())

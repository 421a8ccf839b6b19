"""OPEFO with LoRA on one GPU, as your own script.

python examples/lora.py --max_steps 100
python examples/lora.py --dataset problems.jsonl --prompt_column question --solution_column answer
"""

from dataclasses import dataclass
from typing import Any

from peft import LoraConfig
from trl import TrlParser

from opefo_trl import OPEFOConfig, OPEFOTrainer
from opefo_trl.data.datasets import load_splits
from opefo_trl.data.prompts import to_prompts
from opefo_trl.grading.rewards import math_reward


# Every field of `OPEFOConfig` is an option of the command line. These values replace its defaults. They are those of
# recipes/Qwen3-1.7B-Base/opefo_lora.yaml without vLLM. If it is installed, add `--use_vllm true --vllm_mode colocate`
DEFAULTS: dict[str, Any] = {
    "output_dir": "outputs/lora",
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 64,  # 16 prompts × 8 completions per optimizer step, strictly on-policy
    "num_generations": 8,
    "max_completion_length": 2048,
    "learning_rate": 2e-5,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "report_to": ["none"],
}


@dataclass
class ScriptArguments:
    """
    Arguments in addition to those of [`~opefo_trl.OPEFOConfig`].

    Args:
        model (`str`, *optional*, defaults to `"Qwen/Qwen2.5-Math-1.5B"`):
            Base model, a folder or a name on the hub.
        dtype (`str`, *optional*, defaults to `"bfloat16"`):
            dtype of the base model's weights, which are not trained.
        dataset (`str`, *optional*, defaults to `"DigitalLearningGmbH/MATH-lighteval"`):
            Problems with gold answers, a file or a name on the hub.
        prompt_column (`str`, *optional*, defaults to `"problem"`):
            Column with the problems.
        solution_column (`str`, *optional*, defaults to `"solution"`):
            Column with the gold answers, in any supported answer format.
        prompt_template (`str`, *optional*, defaults to `"qwen_math"`):
            Name of a template, or a text with `{prompt}` where the problem goes.
        lora_rank (`int`, *optional*, defaults to `32`):
            Rank of the adapter of every linear layer.
    """

    model: str = "Qwen/Qwen2.5-Math-1.5B"
    dtype: str = "bfloat16"
    dataset: str = "DigitalLearningGmbH/MATH-lighteval"
    prompt_column: str = "problem"
    solution_column: str = "solution"
    prompt_template: str = "qwen_math"
    lora_rank: int = 32


def train(script: ScriptArguments, args: OPEFOConfig) -> OPEFOTrainer:
    """Trains an adapter, saves it to `args.output_dir`, and returns the trainer."""
    dataset = to_prompts(
        load_splits(script.dataset)["train"],
        script.dataset,
        prompt_column=script.prompt_column,
        solution_column=script.solution_column,
        prompt_template=script.prompt_template,
    )
    args.model_init_kwargs = {"dtype": script.dtype, "use_safetensors": True}
    adapter = LoraConfig(r=script.lora_rank, lora_alpha=2 * script.lora_rank, target_modules="all-linear")
    trainer = OPEFOTrainer(script.model, math_reward, args, dataset, peft_config=adapter)
    trainer.train()
    trainer.save_model()
    return trainer


def main() -> None:
    parser = TrlParser((ScriptArguments, OPEFOConfig))  # type: ignore[arg-type]
    parser.set_defaults(**DEFAULTS)
    train(*parser.parse_args_and_config())


if __name__ == "__main__":
    main()

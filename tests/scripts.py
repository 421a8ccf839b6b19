"""Training scripts as people publish them, in miniature: each takes the two names that a user of OPEFO changes."""

import asyncio
import re

import torch
import transformers
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config


SCRIPTS = []


def script(function):
    SCRIPTS.append(function)
    return function


SYSTEM = "a 1"
PROBLEMS = Dataset.from_list(
    [{"problem": f"{i} {i + 3}", "solution": str(2 * i + 3), "level": i % 3} for i in range(24)]
)
LETTERS = Dataset.from_list([{"prompt": f"{letter}{i}"} for i in range(4) for letter in "abcdefgh"])


def as_chat(row):
    return {"prompt": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": row["problem"]}]}


def format_reward(completions, **kwargs):
    contents = [completion[0]["content"] for completion in completions]
    return [1.0 if re.search("[a-h] ?[0-9]", content) else 0.0 for content in contents]


def accuracy_reward(completions, solution, **kwargs):
    contents = [completion[0]["content"] for completion in completions]
    return [2.0 * (answer[0] in content) for content, answer in zip(contents, solution, strict=True)]


def reward_num_unique_chars(completions, **kwargs):
    return [len(set(completion)) for completion in completions]


def reward_len(completions, **kwargs):
    return [-abs(6 - len(completion)) for completion in completions]


@script
def lora_on_chats(GRPOConfig, GRPOTrainer, folder):
    dataset = PROBLEMS.map(as_chat).remove_columns(["problem"])
    model = AutoModelForCausalLM.from_pretrained(folder / "chat", dtype="auto")
    lora_config = LoraConfig(
        task_type="CAUSAL_LM", r=8, lora_alpha=32, lora_dropout=0.1, target_modules=["q_proj", "v_proj"]
    )
    training_args = GRPOConfig(
        output_dir=folder / "out",
        learning_rate=1e-2,
        remove_unused_columns=False,  # the rewards read `solution`
        gradient_accumulation_steps=2,
        max_steps=3,
        max_completion_length=12,
        num_generations=4,
        save_strategy="steps",
        save_steps=2,
    )
    rewards = [format_reward, accuracy_reward]
    trainer = GRPOTrainer(model, rewards, args=training_args, train_dataset=dataset, peft_config=lora_config)
    trainer.train()
    trainer.save_model(training_args.output_dir)
    return trainer


@script
def full_fine_tuning_with_several_rewards(GRPOConfig, GRPOTrainer, folder):
    def digits(completions, **kwargs):
        return [0.5 if any(c.isdigit() for c in r[0]["content"]) else 0.0 for r in completions]

    def counted(prompts, completions, solution, level, **kwargs):
        return [float(len(r[0]["content"])) / (1 + n) for r, n in zip(completions, level, strict=True)]

    args = GRPOConfig(
        output_dir=str(folder / "out"),
        learning_rate=5e-3,
        adam_beta2=0.99,
        weight_decay=0.1,
        warmup_steps=1,
        lr_scheduler_type="cosine",
        per_device_train_batch_size=1,
        gradient_accumulation_steps=8,
        num_generations=4,
        max_steps=2,
        max_grad_norm=0.1,
    )
    tokenizer = AutoTokenizer.from_pretrained(folder / "chat")
    tokenizer.pad_token = tokenizer.eos_token
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "chat"),
        processing_class=tokenizer,
        reward_funcs=[format_reward, digits, counted, accuracy_reward],
        args=args,
        train_dataset=PROBLEMS.map(as_chat),
    )
    trainer.train()
    return trainer


@script
def dr_grpo(GRPOConfig, GRPOTrainer, folder):
    args = GRPOConfig(
        str(folder / "out"),
        loss_type="dr_grpo",
        scale_rewards=False,
        beta=0.0,
        epsilon_high=0.28,
        max_steps=2,
        learning_rate=1e-2,
    )
    trainer = GRPOTrainer(str(folder / "model"), reward_funcs=reward_len, args=args, train_dataset=LETTERS)
    trainer.train()
    return trainer


@script
def with_a_reference_model(GRPOConfig, GRPOTrainer, folder):
    args = GRPOConfig(
        output_dir=str(folder / "out"),
        beta=0.04,
        max_steps=3,
        learning_rate=1e-2,
        model_init_kwargs={"dtype": "float32"},
    )
    trainer = GRPOTrainer(str(folder / "model"), reward_num_unique_chars, args=args, train_dataset=LETTERS)
    trainer.train()
    return trainer


@script
def adapter_and_reference(GRPOConfig, GRPOTrainer, folder):
    args = GRPOConfig(str(folder / "out"), beta=0.1, max_steps=3, learning_rate=2e-2, gradient_accumulation_steps=2)
    trainer = GRPOTrainer(
        model=str(folder / "model"),
        reward_funcs=[reward_num_unique_chars, reward_len],
        args=args,
        train_dataset=LETTERS,
        peft_config=LoraConfig(r=16, lora_alpha=64, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    return trainer


@script
def adapter_and_gradient_checkpointing(GRPOConfig, GRPOTrainer, folder):
    args = GRPOConfig(
        output_dir=str(folder / "out"),
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        max_steps=2,
        learning_rate=2e-2,
    )
    trainer = GRPOTrainer(
        AutoModelForCausalLM.from_pretrained(folder / "model", use_cache=False),
        reward_funcs=reward_len,
        args=args,
        train_dataset=LETTERS,
        peft_config=LoraConfig(r=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM"),
    )
    trainer.model.print_trainable_parameters()
    trainer.train()
    return trainer


@script
def truncated_completions_masked(GRPOConfig, GRPOTrainer, folder):
    args = GRPOConfig(
        output_dir=str(folder / "out"),
        mask_truncated_completions=True,
        max_completion_length=16,
        loss_type="dapo",
        epsilon_high=0.28,
        max_steps=2,
        learning_rate=1e-2,
    )
    trainer = GRPOTrainer(str(folder / "model"), reward_num_unique_chars, args, LETTERS)
    trainer.train()
    assert 0 < trainer.state.log_history[0]["completions/clipped_ratio"] < 1
    return trainer


class Watch(TrainerCallback):
    """Reads what is logged, and stops when there is enough of it."""

    def __init__(self):
        self.rewards = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "reward" in logs:
            self.rewards.append(logs["reward"])

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= 3


@script
def callbacks(GRPOConfig, GRPOTrainer, folder):
    watch = Watch()
    trainer = GRPOTrainer(
        model=str(folder / "model"),
        reward_funcs=reward_len,
        args=GRPOConfig(output_dir=str(folder / "out"), num_train_epochs=2, learning_rate=1e-2),
        train_dataset=LETTERS.shuffle(seed=42).select(range(20)),
        callbacks=[watch],
    )
    trainer.train()
    assert len(watch.rewards) == 3
    return trainer


async def judge(prompts, completions, **kwargs):
    async def score(prompt, completion):
        await asyncio.sleep(0)
        return float(sum(letter in completion for letter in "abc0123"))

    return await asyncio.gather(*(score(*pair) for pair in zip(prompts, completions, strict=True)))


@script
def async_reward_and_logged_completions(GRPOConfig, GRPOTrainer, folder):
    args = GRPOConfig(
        output_dir=str(folder / "out"),
        log_completions=True,
        num_completions_to_print=2,
        reward_weights=[1.0, 0.2],
        max_steps=2,
        learning_rate=1e-2,
    )
    trainer = GRPOTrainer(str(folder / "model"), reward_funcs=[judge, reward_len], args=args, train_dataset=LETTERS)
    trainer.train()
    return trainer


@script
def evaluation_during_training(GRPOConfig, GRPOTrainer, folder):
    split = LETTERS.train_test_split(test_size=8, seed=0)
    args = GRPOConfig(
        output_dir=str(folder / "out"),
        eval_strategy="steps",
        eval_steps=1,
        per_device_eval_batch_size=4,
        num_generations_eval=2,
        eval_on_start=True,
        max_steps=3,
        learning_rate=1e-2,
    )
    trainer = GRPOTrainer(
        model=str(folder / "model"),
        reward_funcs=reward_num_unique_chars,
        args=args,
        train_dataset=split["train"],
        eval_dataset=split["test"],
    )
    trainer.train()
    assert len([log for log in trainer.state.log_history if "eval_reward" in log]) == 4
    return trainer


@script
def high_entropy_tokens_alone(GRPOConfig, GRPOTrainer, folder):
    args = GRPOConfig(
        str(folder / "out"), top_entropy_quantile=0.2, epsilon_high=0.28, max_steps=2, learning_rate=1e-2
    )
    trainer = GRPOTrainer(str(folder / "model"), reward_len, args, LETTERS)
    trainer.train()
    return trainer


@script
def everything_by_position(GRPOConfig, GRPOTrainer, folder):
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=False)
    scheduler = transformers.get_constant_schedule_with_warmup(optimizer, num_warmup_steps=1)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model", padding_side="left")
    args = GRPOConfig(str(folder / "out"), max_steps=3)
    trainer = GRPOTrainer(model, [reward_len], args, LETTERS, None, tokenizer, None, [Watch()], (optimizer, scheduler))
    trainer.train()
    return trainer


@script
def generation_kwargs(GRPOConfig, GRPOTrainer, folder):
    args = GRPOConfig(
        output_dir=str(folder / "out"),
        temperature=0.9,
        top_p=0.95,
        generation_kwargs={"no_repeat_ngram_size": 2, "min_new_tokens": 2},
        max_steps=2,
        learning_rate=1e-2,
    )
    trainer = GRPOTrainer(str(folder / "model"), reward_len, args=args, train_dataset=LETTERS)
    trainer.train()
    return trainer


@script
def command_line(GRPOConfig, GRPOTrainer, folder):
    words = f"--model_name_or_path {folder / 'model'} --output_dir {folder / 'out'} --learning_rate 0.01 --max_steps 2"
    words += " --use_peft --lora_r 4 --lora_target_modules q_proj v_proj --num_generations 2 --dataset_name letters"
    parser = TrlParser((ScriptArguments, GRPOConfig, ModelConfig))
    script_args, training_args, model_args = parser.parse_args_and_config(args=words.split())
    training_args.model_init_kwargs = {"attn_implementation": model_args.attn_implementation}
    trainer = GRPOTrainer(
        model=model_args.model_name_or_path,
        args=training_args,
        reward_funcs=[reward_num_unique_chars],
        train_dataset=LETTERS,
        peft_config=get_peft_config(model_args),
    )
    trainer.train()
    return trainer


@script
def stopped_and_resumed(GRPOConfig, GRPOTrainer, folder):
    for steps in (1, 3):
        args = GRPOConfig(
            output_dir=str(folder / "out"), save_strategy="steps", save_steps=1, max_steps=steps, learning_rate=1e-2
        )
        trainer = GRPOTrainer(str(folder / "model"), reward_len, args=args, train_dataset=LETTERS)
        trainer.train(resume_from_checkpoint=steps > 1)
    return trainer


def gspo(GRPOConfig, GRPOTrainer, folder):
    args = GRPOConfig(
        output_dir=str(folder / "out"),
        importance_sampling_level="sequence",
        loss_type="grpo",
        beta=0.0,
        epsilon=3e-4,
        epsilon_high=4e-4,
        gradient_accumulation_steps=2,
        steps_per_generation=2,
        max_steps=2,
        learning_rate=1e-2,
    )
    trainer = GRPOTrainer(model=str(folder / "model"), reward_funcs=reward_len, args=args, train_dataset=LETTERS)
    trainer.train()
    return trainer

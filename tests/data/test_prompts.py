"""Rows turned into prompts and solutions: published formats, templates, and what does not fit."""

from pathlib import Path

import pytest
import trl
from conftest import make_tokenizer
from datasets import Dataset
from tokenizers.processors import TemplateProcessing

from opefo_trl.data.prompts import (
    BOXED_INSTRUCTION,
    DAPO_AFTER,
    DAPO_BEFORE,
    check_bos,
    drop_long_prompts,
    render,
    to_prompts,
)


ROWS = [{"problem": r"What is $\frac{1}{2} + \frac{1}{2}$?", "answer": "1"}, {"problem": "2+2?", "answer": "4"}]
# A row as DAPO-Math's authors published it, and as the processed copies hold it
DAPO_RAW = {
    "data_source": "math_dapo",
    "prompt": [{"content": DAPO_BEFORE + "What is $\\{1\\} \\cap \\{1\\}$ in size?" + DAPO_AFTER, "role": "user"}],
    "ability": "MATH",
    "reward_model": {"ground_truth": "1", "style": "rule-lighteval/MATH_v2"},
    "extra_info": {"index": "9a9b6eb4"},
}
DAPO_PROCESSED = {
    "prompt": "What is $\\{1\\} \\cap \\{1\\}$ in size?",
    "solution": "1",
    "source_prompt": DAPO_RAW["prompt"],
}
QWEN = (
    "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
    "<|im_start|>user\nWhat is $\\{1\\} \\cap \\{1\\}$ in size?<|im_end|>\n<|im_start|>assistant\n"
)


@pytest.fixture
def rows():
    return Dataset.from_list(ROWS)


def qwen_tokenizer():
    """A tokenizer with the chat template that Qwen2.5 models have."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (Path(trl.__file__).parent / "chat_templates" / "qwen2_5.jinja").read_text()
    return tokenizer


@pytest.mark.parametrize(
    ("row", "solution_column"), [(DAPO_RAW, "reward_model.ground_truth"), (DAPO_PROCESSED, "solution")]
)
@pytest.mark.parametrize("template", ["qwen_math", "qwen_math_chat"])
def test_dapo_math_in_qwens_template(row, solution_column, template):
    dataset = Dataset.from_list([row])
    prompts = to_prompts(dataset, "dapo", solution_column=solution_column, prompt_template=template)
    assert isinstance(prompts[0]["prompt"], str) == (template == "qwen_math")
    assert render(prompts[0]["prompt"], qwen_tokenizer()) == QWEN
    assert prompts[0]["solution"] == r"\boxed{1}"


def test_dapo_math_as_it_is():
    prompts = to_prompts(Dataset.from_list([DAPO_RAW]), "dapo", solution_column="reward_model.ground_truth")
    assert prompts[0]["prompt"] == [{"content": DAPO_RAW["prompt"][0]["content"], "role": "user"}]


def test_solutions_of_every_type():
    for value, solution in [(27.0, "27"), (["2", "3"], "2, 3"), ("so \\boxed{5}.", "5")]:
        dataset = Dataset.from_list([{"prompt": "?", "solution": value}])
        assert to_prompts(dataset, "d", solution_column="solution")[0]["solution"] == rf"\boxed{{{solution}}}"
    dataset = Dataset.from_list([{"prompt": "?", "solution": "5"}, {"prompt": "?", "solution": None}])
    assert to_prompts(dataset, "d", solution_column="solution")["solution"][:] == [r"\boxed{5}", None]


def test_long_prompts_are_dropped():
    dataset = Dataset.from_list([{"prompt": "ab" * length} for length in (5, 1, 3)])
    assert drop_long_prompts(dataset, make_tokenizer(), 6, "d")["prompt"][:] == ["ab", "ababab"]
    with pytest.raises(ValueError, match="`dataset_max_prompt_length: 1` leaves no row of dataset d"):
        drop_long_prompts(dataset, make_tokenizer(), 1, "d")


def test_length_of_messages_is_that_of_the_rendered_text():
    dataset = Dataset.from_list([{"prompt": [{"role": "user", "content": "a" * length}]} for length in (1, 9)])
    tokenizer = qwen_tokenizer()
    limit = len(tokenizer(render(dataset[0]["prompt"], tokenizer))["input_ids"])
    assert len(drop_long_prompts(dataset, tokenizer, limit, "d")) == 1
    assert len(drop_long_prompts(dataset, tokenizer, limit + 8, "d")) == 2


def test_instruction_in_a_text_of_braces(rows):
    chat = to_prompts(rows, "d", prompt_column="problem", prompt_template="qwen_math_chat")[0]["prompt"]
    assert [message["content"] for message in chat] == [BOXED_INSTRUCTION, ROWS[0]["problem"]]


@pytest.mark.parametrize("option", [{"system_prompt": "Think."}, {"conversational": True}])
def test_template_of_messages_with_other_messages(rows, option):
    with pytest.raises(ValueError, match="`prompt_template: qwen_math_chat` already makes chat messages"):
        to_prompts(rows, "d", prompt_column="problem", prompt_template="qwen_math_chat", **option)


def test_plain_prompts_pass_through():
    dataset = Dataset.from_list([{"prompt": "a", "numbers": [1, 2]}])
    assert to_prompts(dataset, "d") is dataset


def test_template_and_columns(rows):
    prompts = to_prompts(
        rows, "d", prompt_column="problem", solution_column="answer", prompt_template="Q: {prompt}\nA: \\boxed{}"
    )
    assert prompts[0]["prompt"] == "Q: What is $\\frac{1}{2} + \\frac{1}{2}$?\nA: \\boxed{}"
    assert prompts["solution"][:] == [r"\boxed{1}", r"\boxed{4}"]


def test_conversational(rows):
    user = {"role": "user", "content": "2+2?"}
    prompts = to_prompts(rows, "d", prompt_column="problem", conversational=True)
    assert prompts[1]["prompt"] == [user]
    prompts = to_prompts(rows, "d", prompt_column="problem", system_prompt="Think.")
    assert prompts[1]["prompt"] == [{"role": "system", "content": "Think."}, user]


def test_system_prompt_goes_before_messages_that_are_there():
    dataset = Dataset.from_list([{"prompt": [{"role": "user", "content": "hi"}]}])
    messages = to_prompts(dataset, "d", system_prompt="Be brief.")[0]["prompt"]
    assert [message["content"] for message in messages] == ["Be brief.", "hi"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "Dataset d has no column 'prompt': set `dataset_prompt_column` to one of problem, answer."),
        (
            {"prompt_column": "problem", "solution_column": "x"},
            "no column 'x': set `dataset_solution_column` to one of",
        ),
        (
            {"prompt_column": "problem", "prompt_template": "no place"},
            r"must be one of qwen_math, qwen_math_chat, or a text with \{prompt\}",
        ),
    ],
)
def test_what_does_not_fit(rows, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        to_prompts(rows, "d", **settings)


def test_prompts_that_are_neither_text_nor_messages():
    with pytest.raises(ValueError, match="must hold texts or lists of chat messages, but its first row holds 3"):
        to_prompts(Dataset.from_list([{"prompt": 3}]), "d")


def test_template_on_a_conversation():
    turns = [{"role": role, "content": "hi"} for role in ("user", "assistant", "user")]
    dataset = Dataset.from_list([{"prompt": turns}])
    with pytest.raises(ValueError, match="needs a text or a single user message, .* holds 3 messages"):
        to_prompts(dataset, "d", prompt_template="{prompt}")


def test_empty_dataset():
    with pytest.raises(ValueError, match="Dataset d has no rows"):
        to_prompts(Dataset.from_dict({"prompt": []}), "d")


def test_two_tokens_for_the_beginning():
    tokenizer = make_tokenizer()
    check_bos("aa", tokenizer)  # it has none
    tokenizer.bos_token = "a"
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="a $A", special_tokens=[("a", bos)])
    check_bos("b1", tokenizer)
    with pytest.raises(
        ValueError, match="The prompts begin with two a tokens: .* the tokenizer adds another. .* `prompt_template`"
    ):
        check_bos("ab1", tokenizer)

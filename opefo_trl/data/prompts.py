"""Turns rows of a dataset into the `prompt` and the `solution` that TRL and its rewards expect."""

from typing import Any

from ..grading.answers import boxed


BOXED_INSTRUCTION = r"Please reason step by step, and put your final answer within \boxed{}."
# A template that a base model has never seen can ruin training from the first step, so known ones have names
TEMPLATES: dict[str, str | list[dict[str, str]]] = {
    # Qwen2.5-Math's own, as text: for base models, whatever chat template their tokenizer has
    "qwen_math": (
        f"<|im_start|>system\n{BOXED_INSTRUCTION}<|im_end|>\n"
        "<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    ),
    # The same as messages: the tokenizer's chat template makes the text
    "qwen_math_chat": [
        {"role": "system", "content": BOXED_INSTRUCTION},
        {"role": "user", "content": "{prompt}"},
    ],
}

# Text that DAPO-Math's authors put around each problem. It is removed first, since a template has its own instruction
DAPO_BEFORE = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
DAPO_AFTER = '\n\nRemember to put your answer on its own line after "Answer:".'


def to_prompts(
    dataset: Any,
    name: str,
    prompt_column: str = "prompt",
    solution_column: str | None = None,
    prompt_template: str | None = None,
    system_prompt: str | None = None,
    conversational: bool = False,
) -> Any:
    r"""
    Give each row a `prompt` (and a `solution`) as TRL and its rewards expect them. Other columns stay.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Rows.
        name (`str`):
            What the dataset is called in messages.
        prompt_column (`str`, *optional*, defaults to `"prompt"`):
            Column with a problem text or with chat messages. `a.b` is field `b` of column `a`.
        solution_column (`str`, *optional*):
            Column with the gold answer, in any format that [`~answers.gold_answer`] reads. Reward functions get it as
            `solution`, in a `\boxed{}`. `a.b` is field `b` of column `a`.
        prompt_template (`str`, *optional*):
            One of `TEMPLATES`, or a text with `{prompt}` where the problem goes. The problem is the text of the row,
            or of its only user message, without the text that DAPO-Math puts around it.
        system_prompt (`str`, *optional*):
            System message to put first. Makes a text prompt conversational.
        conversational (`bool`, *optional*, defaults to `False`):
            Whether to turn a text prompt into a user message, so that the model's chat template is applied.

    Raises:
        `ValueError`: if a column is missing, the dataset is empty, or the prompts do not fit the options.
    """
    first = next(iter(dataset), None)
    if first is None:
        raise ValueError(f"Dataset {name} has no rows.")
    for field, column in (("dataset_prompt_column", prompt_column), ("dataset_solution_column", solution_column)):
        if column is not None:
            _check_column(first, column, field, name)
    first_prompt = _value(first, prompt_column)
    if not isinstance(first_prompt, (str, list)):
        raise ValueError(
            f"Column {prompt_column!r} of dataset {name} must hold texts or lists of chat messages, but its first row "
            f"holds {first_prompt!r}."
        )
    template = TEMPLATES.get(prompt_template, prompt_template) if prompt_template is not None else None
    if isinstance(template, str) and "{prompt}" not in template:
        raise ValueError(
            f"`prompt_template` must be one of {', '.join(TEMPLATES)}, or a text with {{prompt}} where the problem "
            f"goes, but it is {prompt_template!r}."
        )
    if isinstance(template, list) and (system_prompt is not None or conversational):
        raise ValueError(
            f"`prompt_template: {prompt_template}` already makes chat messages: remove `system_prompt` and "
            "`conversational`, or use a text template."
        )
    if prompt_column == "prompt" and not (solution_column or template or system_prompt or conversational):
        return dataset

    def convert(row: dict[str, Any]) -> dict[str, Any]:
        prompt = _value(row, prompt_column)
        if template is not None:
            prompt = _fill(template, _problem(prompt, prompt_column, name))
        if isinstance(prompt, str) and (conversational or system_prompt is not None):
            prompt = [{"role": "user", "content": prompt}]
        if system_prompt is not None:
            prompt = [{"role": "system", "content": system_prompt}, *prompt]
        converted = {"prompt": prompt}
        if solution_column is not None:
            converted["solution"] = boxed(_value(row, solution_column))
        return converted

    # Drop old columns first: `map` cannot change a column in place from text to messages or from number to text
    made = ["prompt", "solution"] if solution_column is not None else ["prompt"]
    return dataset.map(convert, remove_columns=[column for column in made if column in first])


def drop_long_prompts(dataset: Any, tokenizer: Any, max_length: int, name: str, **chat_template_kwargs: Any) -> Any:
    """
    Keep the rows whose rendered prompt has at most `max_length` tokens.

    Raises:
        `ValueError`: if no row is left.
    """
    kept = dataset.filter(lambda row: prompt_length(row["prompt"], tokenizer, **chat_template_kwargs) <= max_length)
    if next(iter(kept), None) is None:
        raise ValueError(
            f"`dataset_max_prompt_length: {max_length}` leaves no row of dataset {name}: raise it, or check the "
            "prompt template."
        )
    return kept


def check_bos(prompt: str | list[dict[str, Any]], tokenizer: Any, **chat_template_kwargs: Any) -> None:
    """
    Raises:
        `ValueError`: if a prompt begins with two BOS tokens, its own and the one that the tokenizer adds.
    """
    bos = tokenizer.bos_token_id
    if bos is not None and prompt_ids(prompt, tokenizer, **chat_template_kwargs)[:2] == [bos, bos]:
        raise ValueError(
            f"The prompts begin with two {tokenizer.bos_token} tokens: the text has one, and the tokenizer adds "
            "another. Remove it from `prompt_template` or from the dataset's prompts."
        )


def prompt_length(prompt: str | list[dict[str, Any]], tokenizer: Any, **chat_template_kwargs: Any) -> int:
    """Number of tokens of a prompt as the model sees it."""
    return len(prompt_ids(prompt, tokenizer, **chat_template_kwargs))


def prompt_ids(prompt: str | list[dict[str, Any]], tokenizer: Any, **chat_template_kwargs: Any) -> list[int]:
    """The tokens that the model sees, as TRL makes them from a text or from messages."""
    if isinstance(prompt, str):
        return tokenizer(text=prompt)["input_ids"]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, **chat_template_kwargs}
    return tokenizer.apply_chat_template(prompt, **options)["input_ids"]


def render(prompt: str | list[dict[str, Any]], tokenizer: Any, **chat_template_kwargs: Any) -> str:
    """The text that the model sees: messages in the chat template, text unchanged."""
    if isinstance(prompt, str):
        return prompt
    return tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True, **chat_template_kwargs)


def _fill(template: str | list[dict[str, str]], problem: str) -> str | list[dict[str, str]]:
    # Not `str.format`: templates and problems are full of LaTeX braces
    if isinstance(template, str):
        return template.replace("{prompt}", problem)
    return [{**message, "content": message["content"].replace("{prompt}", problem)} for message in template]


def _problem(prompt: str | list[dict[str, str]], column: str, name: str) -> str:
    if not isinstance(prompt, str):
        if [message["role"] for message in prompt if message["role"] != "system"] != ["user"]:
            raise ValueError(
                f"`prompt_template` needs a text or a single user message, but a row of column {column!r} of dataset "
                f"{name} holds {len(prompt)} messages: remove `prompt_template`."
            )
        prompt = prompt[-1]["content"]
    return prompt.removeprefix(DAPO_BEFORE).removesuffix(DAPO_AFTER)


def _value(row: dict[str, Any], column: str) -> Any:
    if column in row:
        return row[column]
    value: Any = row
    for key in column.split("."):
        value = value[key]
    return value


def _check_column(row: dict[str, Any], column: str, field: str, name: str) -> None:
    try:
        _value(row, column)
    except (KeyError, TypeError):
        raise ValueError(
            f"Dataset {name} has no column {column!r}: set `{field}` to one of {', '.join(row)}."
        ) from None

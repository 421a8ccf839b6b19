"""Chats: a tokenizer with a template of tool calls, and a model of random weights that makes some calls by chance."""

from conftest import PROMPTS, SYMBOLS, letter_reward, make_model, make_tokenizer
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM


# Each of the last two ends a turn and calls a tool, with the digit before it
CALLS = ["<up>", "<down>"]
CHAT_SYMBOLS = [*SYMBOLS, "<unk>", "<user>", "<assistant>", "<tool>", *CALLS]
TEMPLATE = (
    "{% for tool in tools or [] %}{{ tool['function']['name'] }} {% endfor %}"
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}"
    "{% for call in message['tool_calls'] or [] %}"
    "{{ call['function']['arguments'] | tojson }}<{{ call['function']['name'] }}>{% endfor %}"
    "{% if message['role'] == 'assistant' %}<eos>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
RESPONSE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<assistant>",
    "fields": {
        "tool_calls": {
            "open_pattern": "(?P<steps>[0-9]?)<(?P<name>up|down)>",
            "content": "text",
            "repeats": True,
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": {"steps": "{steps}"}}},
        },
        "content": {"content": "text"},
    },
}


def make_chat_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer(CHAT_SYMBOLS, "<[a-z]+>|.", "<unk>", unk_token="<unk>", chat_template=TEMPLATE)
    tokenizer.response_template = RESPONSE
    return tokenizer


def make_chat_model() -> Qwen2ForCausalLM:
    model = make_model(symbols=CHAT_SYMBOLS, max_position_embeddings=128)
    model.generation_config.eos_token_id = [CHAT_SYMBOLS.index(symbol) for symbol in ("<eos>", *CALLS)]
    return model


def make_chats(rows: int = 32, **columns) -> Dataset:
    """Prompts of one message, and columns whose values come round again and again."""
    return Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": PROMPTS[i % len(PROMPTS)] + str(i)}]}
            | {name: values[i % len(values)] for name, values in columns.items()}
            for i in range(rows)
        ]
    )


def chat_reward(completions, **kwargs):
    """`letter_reward` of what the model itself wrote, over all its turns."""
    return letter_reward(["".join(m["content"] for m in turns if m["role"] == "assistant") for turns in completions])

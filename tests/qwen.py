"""The shapes of the Qwen models that the recipes train, and a tokenizer of their size, made here: no download."""

from pathlib import Path

import trl
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen3Config


SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]  # ids 151643 to 151645
SHAPES = {
    "Qwen/Qwen2.5-Math-1.5B": Qwen2Config(
        vocab_size=151936,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        architectures=["Qwen2ForCausalLM"],
    ),
    "Qwen/Qwen2.5-Math-7B": Qwen2Config(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        architectures=["Qwen2ForCausalLM"],
    ),
    "Qwen/Qwen3-1.7B-Base": Qwen3Config(
        vocab_size=151936,
        hidden_size=2048,
        intermediate_size=6144,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        architectures=["Qwen3ForCausalLM"],
    ),
    "Qwen/Qwen3-4B-Base": Qwen3Config(
        vocab_size=151936,
        hidden_size=2560,
        intermediate_size=9728,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        architectures=["Qwen3ForCausalLM"],
    ),
}


def make_qwen_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, unused tokens up to the real vocabulary's size, and the special tokens at their real ids."""
    vocabulary = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary += [f"<unused{i}>" for i in range(151643 - len(vocabulary))]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    template = Path(trl.__file__).parent / "chat_templates" / "qwen2_5.jinja"
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        chat_template=template.read_text(),
    )

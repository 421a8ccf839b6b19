"""Writes a tiny model with its tokenizer and a few problems, for a try of the installed package without a hub."""

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM


SYMBOLS = ["<pad>", "<eos>", *map(chr, range(32, 127)), "\n"]

words = Tokenizer(models.WordLevel({symbol: i for i, symbol in enumerate(SYMBOLS)}, unk_token="<pad>"))
words.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
words.decoder = decoders.Fuse()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", padding_side="left")
tokenizer.save_pretrained("model")
config = Qwen2Config(
    vocab_size=len(SYMBOLS),
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=4096,
    pad_token_id=0,
    eos_token_id=1,
)
Qwen2ForCausalLM(config).save_pretrained("model")
rows = [{"problem": f"What is {i} + {i}?", "level": "Level 3", "solution": rf"\boxed{{{2 * i}}}"} for i in range(512)]
Path("problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

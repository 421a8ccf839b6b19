"""A model of images and text: measured with its images, on whole batches and on micro-batches of several images."""

import pytest
import torch
from conftest import SETTINGS, SYMBOLS, letter_reward, make_tokenizer
from datasets import Dataset
from PIL import Image
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen2Config,
)
from trl import GRPOConfig, GRPOTrainer

from opefo_trl import OPEFOConfig, OPEFOTrainer
from opefo_trl.entropy_flow import entropy_sensitivity


IMAGE = "<image>"
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)


def make_processor():
    tokenizer = make_tokenizer([*SYMBOLS, IMAGE], "<image>|.", additional_special_tokens=[IMAGE])
    return LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}),
        tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        image_token=IMAGE,
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )


def make_model():
    torch.manual_seed(0)
    text = Qwen2Config(
        vocab_size=len(SYMBOLS) + 1,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.1,
        eos_token_id=SYMBOLS.index("<eos>"),
        pad_token_id=SYMBOLS.index("<pad>"),
    )
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=8, patch_size=4
    )
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=len(SYMBOLS), pad_token_id=SYMBOLS.index("<pad>")
    )
    model = LlavaForConditionalGeneration(config)
    for parameter in model.model.multi_modal_projector.parameters():
        torch.nn.init.normal_(parameter, std=0.5)  # so that the image matters
    model.generation_config.suppress_tokens = [len(SYMBOLS)]
    return model


def make_rows():
    """Prompts with one image and with two."""
    colours = ["red", "green", "blue", "white"]
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": f"a{i}"}],
                "images": [Image.new("RGB", (8, 8), colours[(i + j) % 4]) for j in range(1 + i % 2)],
            }
            for i in range(16)
        ]
    )


def train(trainer_class, config_class, folder, **settings):
    defaults = {"per_device_train_batch_size": 8, "max_steps": 2, "learning_rate": 1e-2, "seed": 7}
    trainer = trainer_class(
        make_model(),
        lambda completions, **kwargs: letter_reward([completion[0]["content"] for completion in completions]),
        config_class(output_dir=str(folder), **{**SETTINGS, **defaults, **settings}),
        make_rows(),
        processing_class=make_processor(),
    )
    trainer.train()
    return trainer


SPLIT = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "learning_rate": 0.0}


@pytest.mark.parametrize("settings", [{"learning_rate": 0.0}, SPLIT], ids=["one micro-batch", "two"])
def test_sensitivities_are_those_of_full_logits_with_the_images(tmp_path, settings):
    trainer = train(OPEFOTrainer, OPEFOConfig, tmp_path, **settings)
    largest = 0.0
    for batch in trainer._buffered_inputs:
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
        attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
        with torch.no_grad():
            num_tokens = batch["completion_ids"].size(1)
            inputs = {"input_ids": ids, "attention_mask": attention, "pixel_values": batch["pixel_values"]}
            logits = trainer.model(**inputs).logits[:, -num_tokens - 1 : -1]
            others = trainer.model(**{**inputs, "pixel_values": -batch["pixel_values"]}).logits[
                :, -num_tokens - 1 : -1
            ]
        mask = batch["completion_mask"]
        expected = entropy_sensitivity(logits.double(), batch["completion_ids"]) * mask  # (B, T)
        torch.testing.assert_close(batch["flow_sensitivities"].double(), expected, rtol=0, atol=5e-6)
        other = entropy_sensitivity(others.double(), batch["completion_ids"]) * mask  # (B, T)
        largest = max(largest, (other - expected).abs().max().item())
    assert largest > 1e-3, "the images must matter"
    logs = trainer.state.log_history[:2]
    assert all(log["entropy_flow/decrease"] > 0 and log["entropy_flow/seam_error"] < 1e-5 for log in logs)


def test_strength_zero_is_grpo_bit_for_bit(tmp_path):
    grpo = train(GRPOTrainer, GRPOConfig, tmp_path / "grpo").model.state_dict()
    monitored = train(OPEFOTrainer, OPEFOConfig, tmp_path / "opefo", flow_strength=0.0).model.state_dict()
    balanced = train(OPEFOTrainer, OPEFOConfig, tmp_path / "balanced").model.state_dict()
    assert all(torch.equal(value, monitored[name]) for name, value in grpo.items())
    assert any(not torch.equal(value, balanced[name]) for name, value in grpo.items())

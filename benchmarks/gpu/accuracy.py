"""The measuring pass on the device against float64, beside what full logits in the same dtype give."""

from typing import Any

import torch

from benchmarks.cost.projection import HIDDEN, VOCABULARY
from opefo_trl.entropy_flow.projection import project_flow
from tests.references import VOCAB_TILE, naive_flow


TOKENS = 256
LOGIT_DEVIATION = 3.0  # some tokens are likely, as in a language model
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def run(device: torch.device, quick: bool) -> list[dict[str, Any]]:
    """One record per dtype: the largest absolute errors of ln p, H and s, OPEFO's and those of full logits."""
    hidden_size, vocabulary, tokens = (64, 4096, 32) if quick else (HIDDEN["Qwen2.5-Math-1.5B"], VOCABULARY, TOKENS)
    records = []
    for dtype in DTYPES:
        generator = torch.Generator(device).manual_seed(0)
        scale = LOGIT_DEVIATION / hidden_size**0.5
        weight = (
            torch.randn(vocabulary, hidden_size, device=device, generator=generator).mul_(scale).to(dtype)
        )  # (V, D)
        hidden = torch.randn(tokens, hidden_size, device=device, generator=generator).to(dtype)  # (N, D)
        labels = torch.randint(vocabulary, (tokens,), device=device, generator=generator)  # (N,)
        with torch.no_grad():
            exact = naive_flow(hidden.double() @ weight.double().t(), labels)
            naive = naive_flow(hidden @ weight.t(), labels)
        ours = project_flow(hidden, weight, None, labels, 1.0, VOCAB_TILE)
        records.append(
            {
                "part": "accuracy",
                "case": {"dtype": str(dtype)[6:], "tokens": tokens, "vocabulary": vocabulary},
                "errors": {
                    name: {
                        field: (getattr(found, field).double() - getattr(exact, field)).abs().max().item()
                        for field in exact._fields
                    }
                    for name, found in {"OPEFO": ours, "full logits": naive}.items()
                },
                "largest": {field: getattr(exact, field).abs().max().item() for field in exact._fields},
            }
        )
    return records

"""Adds the paper and the base model to model cards."""

from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from transformers import Trainer as Base
else:
    Base = object  # what the mixin is mixed with


PAPER = {
    "title": "Understanding and Preventing Entropy Collapse in RLVR with On-Policy Entropy Flow Optimization",
    "id": "2605.11491",
    "citation": """\
@inproceedings{xu2026opefo,
    title     = {{Understanding and Preventing Entropy Collapse in RLVR with On-Policy Entropy Flow Optimization}},
    author    = {Xu, Huimin and Zhao, Shuai and Wu, Xiaobao and Luu, Anh Tuan},
    year      = 2026,
    booktitle = {Findings of the Association for Computational Linguistics: ACL 2026},
    pages     = {17759--17771},
    note      = {2026.findings-acl.879},
    eprint    = {arXiv:2605.11491},
}""",
}

NO_BASE = "[None](https://huggingface.co/None)"


class ModelCards(Base):
    """Mixin for a TRL trainer: for a model from a folder, TRL's card links to a hub page that does not exist."""

    def create_model_card(self, *trl_args: Any, **trl_kwargs: Any) -> None:
        super().create_model_card(*trl_args, **trl_kwargs)
        output_dir, model = str(self.args.output_dir), self.model
        if self.is_world_process_zero():
            card = Path(output_dir) / "README.md"
            name = Path(str(model.config._name_or_path)).name or "a model made in a script"  # type: ignore[union-attr]
            text = card.read_text(encoding="utf-8").replace(NO_BASE, f"`{name}` (from a folder)")
            card.write_text(text.replace('model="None"', f'model="{output_dir}"'), encoding="utf-8")

"""`OPEFOTrainer`: GRPO that measures the entropy flow of each rollout batch and balances it."""

import functools
import inspect
from typing import Any

import torch
from accelerate.logging import get_logger
from peft import PeftModel
from transformers import PreTrainedModel
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from .checkpoints import WholeCheckpoints, read_state
from .citation import PAPER, ModelCards
from .config import OPEFOConfig, with_config
from .entropy_flow.head import FlowHead, as_columns
from .entropy_flow.mathematics import balance_advantages, balance_coefficient, flow_coefficient, flow_sums
from .entropy_flow.weights import advantages_per_token, loss_mask, spread_over_sequence, token_weights
from .guards import GuardedRollouts, count_lost
from .metrics import FlowMetrics
from .seam import SeamProof
from .watching import Watcher


logger = get_logger(__name__)


class EntropyFlowMixin(FlowMetrics, SeamProof, GuardedRollouts, WholeCheckpoints, ModelCards):
    """
    Adds OPEFO to a subclass of [`~trl.GRPOTrainer`]: `class Mine(EntropyFlowMixin, TheirGRPOTrainer)`.

    The subclass takes an [`OPEFOConfig`]. Its loss must accept advantages of shape `(B, T)`, and weight tokens as in
    TRL's loss. Each step checks this (metric `entropy_flow/seam_error`), and the run stops at the first step that
    fails. Advantages per token that the subclass makes in `_generate_and_score_completions` are balanced.
    """

    args: OPEFOConfig
    model: PreTrainedModel | PeftModel  # type: ignore[assignment]
    _buffered_inputs: list[dict[str, Any]] | None  # type: ignore[assignment]

    def __init__(self, *trl_args: Any, **trl_kwargs: Any):
        trl_args, trl_kwargs = with_config(trl_args, trl_kwargs)
        super().__init__(*trl_args, **trl_kwargs)
        base_model = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        self.flow_head = FlowHead(base_model, estimator=self.args.flow_estimator)  # type: ignore[arg-type]
        self.add_callback(Watcher())
        # In nats; with `flow_entropy_target_ratio`, known from the first rollout batch on
        self.entropy_target = self.args.flow_entropy_target
        if self.args.runs_sequence_level_per_token:
            self.importance_sampling_level = "token"
            self.get_high_entropy_mask = self._spread_high_entropy_mask  # type: ignore[method-assign]
            logger.warning("On-policy, sequence-level importance sampling is run per token, with the same update.")

    # Measure: if TRL runs a forward pass of the policy itself, record it. It is the first pass
    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        runs_pass = not self.args.is_on_policy or (self.use_vllm and self.vllm_importance_sampling_correction)
        with self.flow_head.record(rows=len(inputs) if self.model.training and runs_pass else 0) as chunks:
            output = super()._generate_and_score_completions(inputs)
        if chunks and sum(chunk.logps.size(0) for chunk in chunks) == output["completion_ids"].size(0):
            output.update(as_columns(chunks, num_tokens=output["completion_ids"].size(1)))
        return output

    # The whole rollout batch, as the loss will see it, before any gradient
    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        inputs = super()._prepare_inputs(generation_batch)
        if self.model.training and "flow_coefficient" not in inputs:
            micro_batches = self._buffered_inputs or []
            self._check_buffered(inputs, micro_batches)
            self._measure([micro_batch for micro_batch in micro_batches if "flow_logps" not in micro_batch])
            for micro_batch in micro_batches if self.args.is_on_policy else ():
                # Recomputed in other chunks, these differ by rounding; without them the ratio is 1 (TRL #6789)
                micro_batch.pop("old_per_token_logps", None)
                ratio = micro_batch.get("importance_sampling_ratio")  # (B, T) or (B, 1), vLLM only
                if self.args.runs_sequence_level_per_token and ratio is not None:
                    ratio = spread_over_sequence(ratio, loss_mask(micro_batch), self.args.loss_type)
                    micro_batch["importance_sampling_ratio"] = ratio
            coefficient = self._flow_coefficient(micro_batches)
            for micro_batch in micro_batches:
                micro_batch["flow_coefficient"] = coefficient
            self._measured_advantages = [micro_batch["advantages"] for micro_batch in micro_batches]
        return inputs

    def _measure(self, micro_batches: list[dict[str, Any]]) -> None:
        """Run one forward pass without gradient over micro-batches, and add ln p, H and s of their tokens to them."""
        # Images and token types, under the names that the batch and TRL's forward share
        accepted = inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters
        # Dropout must not draw from the generator that GRPO samples with
        devices = [self.accelerator.device] if self.accelerator.device.type == "cuda" else []
        with (
            torch.no_grad(),
            torch.random.fork_rng(devices),
            disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs),  # type: ignore[arg-type]
        ):
            for batch in micro_batches:
                input_ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)  # (B, P+T)
                attention_mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)  # (B, P+T)
                num_tokens = batch["completion_ids"].size(1)
                forward_kwargs = {name: value for name, value in batch.items() if name in accepted}
                with self.flow_head.record(rows=input_ids.size(0)) as chunks:
                    self._get_per_token_logps_and_entropies(
                        self.model, input_ids, attention_mask, num_tokens, **forward_kwargs
                    )
                self._check_recorded(chunks)
                batch.update(as_columns(chunks, num_tokens))

    # Balance after the rollout batch is split, since some loss types weight a token by its micro-batch
    def _flow_coefficient(self, micro_batches: list[dict[str, Any]]) -> torch.Tensor:
        """λ of one rollout batch, over all its micro-batches and all processes, 0-d. It stays on the device."""
        sums = torch.stack([self._flow_sums(inputs) for inputs in micro_batches]).sum(0)  # (8,)
        # Turn weights in a micro-batch's loss into weights in the optimizer step's loss
        sums[:2] /= self.current_gradient_accumulation_steps * self.accelerator.num_processes
        increase, decrease, num_increasing, num_trained, num_skipped, entropy, num_tokens, num_lost = (
            self.accelerator.reduce(sums, reduction="sum")
        )
        entropy = entropy / num_tokens  # NaN without a token
        if self.entropy_target is None and self.args.flow_entropy_target_ratio is not None and entropy.isfinite():
            self.entropy_target = self.args.flow_entropy_target_ratio * entropy.item()
        coefficient = flow_coefficient(
            increase,
            decrease,
            entropy,
            strength=self.args.flow_strength,
            max_coefficient=self.args.flow_max_coefficient,
            entropy_target=self.entropy_target,
            entropy_gain=self.args.flow_entropy_gain,
        )
        share, net = num_increasing / num_trained.clamp(min=1.0), -balance_coefficient(increase, decrease)
        num_infinite = torch.zeros_like(num_lost) if self._num_infinite is None else self._num_infinite
        self._keep_metrics(increase, decrease, net, coefficient, share, num_skipped, num_lost, num_infinite)
        return coefficient

    def _flow_sums(self, inputs: dict[str, Any]) -> torch.Tensor:
        """The seven sums of one micro-batch that give λ and the metrics, and the number of lost tokens, `(8,)`."""
        mask, entropies = loss_mask(inputs), inputs["flow_entropies"]  # (B, T) each
        weights = self._token_weights(inputs)  # (B, T)
        sums = flow_sums(weights, advantages_per_token(inputs), inputs["flow_sensitivities"], entropies, mask.bool())
        return torch.cat([sums, count_lost(inputs, mask).unsqueeze(0)])  # (8,)

    def _token_weights(self, inputs: dict[str, Any]) -> torch.Tensor:
        """c of each token, shape `(B, T)`, before the division by the number of accumulated micro-batches."""
        kept = None
        if self.top_entropy_quantile < 1.0:
            threshold = 1 - self.top_entropy_quantile
            kept = self.get_high_entropy_mask(inputs["flow_entropies"], loss_mask(inputs), threshold)  # (B, T)
        return token_weights(inputs, self.args, self.accelerator.num_processes, inputs["flow_logps"], kept)

    def _new_advantages(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Advantages for the loss: A' of shape `(B, T)`, or GRPO's own if λ is always 0."""
        if not self.args.balances:
            return inputs["advantages"]  # (B,)
        return balance_advantages(
            advantages_per_token(inputs), inputs["flow_sensitivities"], inputs["flow_coefficient"]
        )  # (B, T)

    # Apply: TRL's loss accepts advantages per token
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        self._is_balanced = True
        if not self.model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        self._check_measured(inputs)
        inputs = {**inputs, "advantages": self._new_advantages(inputs)}
        with self._explained():
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self.args.is_on_policy:
            self._prove_loss(loss, inputs)
        self._read_metrics()
        return loss

    # A resumed run keeps the entropy target that the first batch set
    def extra_state(self) -> dict[str, Any]:
        return {} if self.args.flow_entropy_target_ratio is None else {"entropy_target": self.entropy_target}

    def load_extra_state(self, checkpoint: str) -> None:
        if self.args.flow_entropy_target_ratio is not None:
            self.entropy_target = read_state(checkpoint, "entropy_target")


class OPEFOTrainer(EntropyFlowMixin, GRPOTrainer):
    """
    Trainer for On-Policy Entropy Flow Optimization (OPEFO), arXiv 2605.11491.

    Each rollout batch is measured once, before any gradient: how much would training on each token raise or lower the
    policy's entropy? The advantages of the two kinds of token are then rescaled, by `1 + λ` and `1 − λ`, so that the
    flows cancel (see [`OPEFOConfig`]). Everything else, including the arguments, is as in [`~trl.GRPOTrainer`].

    Logged beside TRL's metrics, once per rollout batch: P, N, λ and more (see [`~opefo_trl.metrics.FlowMetrics`]).

    Raises:
        `TypeError`: if `args` is not an [`OPEFOConfig`].
    """

    _tag_names = ["trl", "opefo"]
    _name = "OPEFO"
    _paper = PAPER

    @functools.wraps(GRPOTrainer.__init__)  # type: ignore[misc]  # for the names of its arguments
    def __init__(self, *trl_args: Any, **trl_kwargs: Any):
        super().__init__(*trl_args, **trl_kwargs)

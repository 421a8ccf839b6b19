"""`OPEFOTrainer`: GRPO that measures the entropy flow of each rollout batch and balances it."""

import inspect
import textwrap
import traceback
from pathlib import Path
from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import operations
from peft import PeftModel
from transformers import PreTrainedModel
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import get_config_model_id

from .config import OPEFOConfig
from .entropy_flow import balance_advantages, balance_coefficient, flow_coefficient, token_weights
from .flow_head import FlowHead
from .flow_projection import TokenFlow
from .resume import FastForwardSampler, last_whole_checkpoint, read_entropy_target, write_state


logger = get_logger(__name__)


class RunStopped(RuntimeError):
    """The training cannot go on; the message says in one sentence why and what to do."""


class OPEFOTrainer(GRPOTrainer):
    """
    Trainer for On-Policy Entropy Flow Optimization (OPEFO), arXiv 2605.11491.

    Each rollout batch is measured once, before any gradient: how much would training on each token raise or lower the
    policy's entropy? The advantages of the two kinds of token are then rescaled, by `1 + λ` and `1 − λ`, so that the
    flows cancel (see [`OPEFOConfig`]). Everything else is [`~trl.GRPOTrainer`]'s.

    Logged beside TRL's metrics, once per rollout batch: `entropy_flow/increase` (P), `entropy_flow/decrease` (N),
    `entropy_flow/net` ((P − N) / (P + N), before balancing), `entropy_flow/coefficient` (λ),
    `entropy_flow/increase_share` (share of the trained tokens that raise entropy), `entropy_flow/skipped` (trained
    tokens whose entropy or flow is no number: the balance leaves them as they are and does not count them) and, where
    one is set, `entropy_flow/target` (H*, nats per token).

    Args:
        model (`str` or [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            As [`~trl.GRPOTrainer`] takes it.
        reward_funcs (`RewardFunc | list[RewardFunc]`, *optional*):
            As [`~trl.GRPOTrainer`] takes them.
        args ([`OPEFOConfig`], *optional*):
            Configuration. If `None`, the defaults.
        *trl_args, **trl_kwargs:
            The remaining arguments of [`~trl.GRPOTrainer`], by position or by keyword.

    Raises:
        `TypeError`: if `args` is not an [`OPEFOConfig`].
    """

    _tag_names = ["trl", "opefo"]
    _name = "OPEFO"
    _paper = {
        "title": "Understanding and Preventing Entropy Collapse in RLVR with On-Policy Entropy Flow Optimization",
        "id": "2605.11491",
        "citation": textwrap.dedent("""\
            @inproceedings{xu2026opefo,
                title        = {{Understanding and Preventing Entropy Collapse in RLVR with On-Policy Entropy Flow
                                Optimization}},
                author       = {Xu and Zhao and Wu and Luu},
                year         = 2026,
                booktitle    = {Findings of ACL 2026},
                eprint       = {arXiv:2605.11491},
            }"""),
    }

    args: OPEFOConfig
    model: PreTrainedModel | PeftModel  # type: ignore[assignment]
    _buffered_inputs: list[dict[str, Any]]  # type: ignore[assignment]

    def __init__(self, model, reward_funcs=None, args: OPEFOConfig | None = None, *trl_args, **trl_kwargs):
        if args is None:
            model_name = model if isinstance(model, str) else get_config_model_id(model.config)
            args = OPEFOConfig(f"{model_name.split('/')[-1]}-OPEFO")
        elif not isinstance(args, OPEFOConfig):
            raise TypeError(
                f"`args` must be an `OPEFOConfig`, got `{type(args).__name__}`: build it with "
                "`from opefo_trl import OPEFOConfig`, which takes every field of `GRPOConfig`."
            )
        super().__init__(model, reward_funcs, args, *trl_args, **trl_kwargs)
        base_model = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        self.flow_head = FlowHead(
            base_model,  # type: ignore[arg-type]
            estimator=args.flow_estimator,
        )
        self._fast_forward = FastForwardSampler()
        self.add_callback(self._fast_forward)
        # In nats; with `flow_entropy_target_ratio`, known from the first rollout batch on
        self.entropy_target = args.flow_entropy_target

    # Measure: the only place that sees the whole rollout batch before any gradient
    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.model.training:
            return super()._generate_and_score_completions(inputs)
        # Where TRL needs old log-probabilities it runs a pass over the policy, first of all passes: record that one
        trl_runs_pass = not self.args.is_on_policy or (self.use_vllm and self.vllm_importance_sampling_correction)
        with self.flow_head.record(rows=len(inputs) if trl_runs_pass else 0) as chunks:
            try:
                output = super()._generate_and_score_completions(inputs)
            except RunStopped:
                raise
            except RuntimeError as error:  # sampling from NaN is one
                if all(parameter.isfinite().all() for parameter in self.model.parameters()):
                    raise
                raise RunStopped(
                    f"The model's weights are NaN or infinite at step {self.state.global_step}: go on from an earlier "
                    "checkpoint (`resume_from_checkpoint`) with a lower `learning_rate` or `max_grad_norm`."
                ) from error
        if not trl_runs_pass:
            chunks = self._measure(output)
        num_tokens = output["completion_ids"].size(1)
        for name, values in zip(TokenFlow._fields, zip(*chunks, strict=True), strict=True):
            output[f"flow_{name}"] = torch.cat([value[:, -num_tokens:] for value in values])  # (B, T)
        if self.args.is_on_policy:
            # Recomputed in another chunking they differ by rounding; without them TRL's ratio is exactly 1 (TRL #6789)
            output.pop("old_per_token_logps", None)
        return output

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        try:
            rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)  # (B, rewards)
        except Exception as error:  # whatever the user's function raises
            frames = traceback.extract_tb(error.__traceback__)
            if any(frame.filename == operations.__file__ for frame in frames):
                raise  # while the processes exchange their rewards: another one is gone
            place = frames[-1]
            raise RunStopped(
                f"A reward function failed at step {self.state.global_step}, in {place.name} ({place.filename}, line "
                f"{place.lineno}): {type(error).__name__}: {error}"
            ) from error
        # Infinite rewards would make every advantage of the group NaN or infinite. NaN is TRL's "no reward"
        infinite = rewards.isinf()
        self._num_infinite = infinite.sum()  # read where the flow is
        return rewards.masked_fill(infinite, torch.nan)

    def _measure(self, output: dict[str, Any]) -> list[TokenFlow]:
        """Run one no-gradient pass over the rollout batch that TRL has just generated, and record it."""
        input_ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)  # (B, P+T)
        attention_mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)  # (B, P+T)
        # Images and token types, under the names that the batch and TRL's forward share
        accepted = inspect.signature(self._get_per_token_logps_and_entropies).parameters
        forward_kwargs = {name: value for name, value in output.items() if name in accepted}
        # Dropout must not draw from the generator that GRPO samples with
        devices = [self.accelerator.device] if self.accelerator.device.type == "cuda" else []
        with (
            torch.no_grad(),
            torch.random.fork_rng(devices),
            disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs),  # type: ignore[arg-type]
            self.flow_head.record(rows=input_ids.size(0)) as chunks,
        ):
            self._get_per_token_logps_and_entropies(
                self.model,
                input_ids,
                attention_mask,
                output["completion_ids"].size(1),
                batch_size=self.args.per_device_train_batch_size,
                **forward_kwargs,
            )
        return chunks

    # Balance: once the rollout batch is split, since some loss types weigh a token by its micro-batch
    def _prepare_inputs(self, generation_batch: dict[str, Any]) -> dict[str, Any]:
        inputs = super()._prepare_inputs(generation_batch)
        if "flow_sensitivities" in inputs and "flow_coefficient" not in inputs:
            coefficient = self._flow_coefficient(self._buffered_inputs)
            for micro_batch in self._buffered_inputs:
                micro_batch["flow_coefficient"] = coefficient
        return inputs

    def _flow_coefficient(self, micro_batches: list[dict[str, Any]]) -> torch.Tensor:
        """
        λ of one rollout batch, over all its micro-batches and all processes; logs the flow metrics.

        Raises:
            `RunStopped`: in all processes, if the loss of a token would not be finite.
        """
        sums = torch.stack([self._flow_sums(inputs) for inputs in micro_batches]).sum(0)  # (8,)
        # The scale that turns micro-batch weights into weights of the optimizer step's loss
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
        metrics = {
            "increase": increase,
            "decrease": decrease,
            "net": -balance_coefficient(increase, decrease),
            "coefficient": coefficient,
            "increase_share": num_increasing / num_trained.clamp(min=1.0),
            "skipped": num_skipped,
        }
        # One read by the host for all
        *values, lost, infinite = torch.stack([*metrics.values(), num_lost, self._num_infinite]).tolist()
        if lost:
            raise RunStopped(
                f"The policy's log-probability, the reference's or the sampler's ratio is NaN or infinite for "
                f"{lost:.0f} tokens at step {self.state.global_step}, and to train on them would make the weights "
                "NaN, too: go on from an earlier checkpoint (`resume_from_checkpoint`) with a lower `learning_rate`, "
                "and with `bf16` rather than `fp16`."
            )
        if infinite:
            logger.warning(
                f"A reward was infinite for {infinite:.0f} completions at step {self.state.global_step}; they count "
                "as not scored, as if it had been None."
            )
        for name, value in zip(metrics, values, strict=True):
            self._metrics["train"][f"entropy_flow/{name}"].append(value)
        if self.entropy_target is not None:
            self._metrics["train"]["entropy_flow/target"].append(self.entropy_target)
        return coefficient

    def _flow_sums(self, inputs: dict[str, Any]) -> torch.Tensor:
        """
        Of one micro-batch, shape `(8,)`: P, N, raising tokens, trained tokens, skipped tokens, summed entropy, tokens
        in it, and tokens, masked ones too, at which TRL's loss is not finite.
        """
        weights = self._token_weights(inputs)  # (B, T)
        mask = self._loss_mask(inputs).bool()  # (B, T)
        advantages, entropies = inputs["advantages"].unsqueeze(1), inputs["flow_entropies"]  # (B, 1), (B, T)
        flow = weights * advantages * inputs["flow_sensitivities"]  # (B, T)
        is_known = flow.isfinite() & entropies.isfinite()  # (B, T)
        flow = torch.where(is_known, flow, 0.0)
        is_counted = mask & entropies.isfinite()  # (B, T)
        in_loss = [inputs.get(name) for name in ("flow_logps", "ref_per_token_logps", "importance_sampling_ratio")]
        is_lost = ~torch.stack([x.isfinite().expand_as(mask) for x in in_loss if x is not None]).all(0)  # (B, T)
        return torch.stack(
            [
                flow.clamp(min=0).sum(),
                -flow.clamp(max=0).sum(),
                (flow > 0).float().sum(),
                (weights > 0).float().sum(),
                (mask & ~is_known).float().sum(),
                torch.where(is_counted, entropies, 0.0).sum(),
                is_counted.float().sum(),
                is_lost.float().sum(),
            ]
        )

    def _loss_mask(self, inputs: dict[str, Any]) -> torch.Tensor:
        mask = inputs["completion_mask"]
        return mask * inputs["tool_mask"] if "tool_mask" in inputs else mask  # (B, T)

    def _token_weights(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Weight of each token's policy gradient in TRL's loss over one micro-batch, at ratio 1, shape `(B, T)`."""
        mask = self._loss_mask(inputs)  # (B, T)
        num_micro_batches = self.args.steps_per_generation * self.accelerator.num_processes
        items_per_batch = inputs["num_items_in_batch"].clamp(min=1.0) / num_micro_batches
        weights = token_weights(
            mask,
            self.loss_type,
            items_per_batch,
            self.max_completion_length,  # type: ignore[arg-type]
        )  # (B, T)
        advantages = inputs["advantages"].unsqueeze(1)  # (B, 1)
        sampler_ratio = inputs.get("importance_sampling_ratio")  # (B, T) or (B, 1), vLLM only
        if self.loss_type == "cispo":
            weights = weights * min(1.0, self.epsilon_high)
        if self.loss_type == "vespo":
            weights = weights * self.get_gamma_weights(
                advantages=advantages,
                log_ratio_per_token=torch.zeros_like(weights),
                mask=mask,
                importance_sampling_ratio=sampler_ratio,
                k_pos=self.args.vespo_k_pos,
                lambda_pos=self.args.vespo_lambda_pos,
                k_neg=self.args.vespo_k_neg,
                lambda_neg=self.args.vespo_lambda_neg,
            )
        elif sampler_ratio is not None:
            weights = weights * sampler_ratio
        if self.off_policy_mask_threshold is not None:
            logps = inputs["flow_logps"]
            weights = weights * self.get_off_policy_mask(
                advantages=advantages,
                per_token_logps=logps,
                sampling_per_token_logps=inputs.get("sampling_per_token_logps", logps),
                mask=mask,
                off_policy_threshold=self.off_policy_mask_threshold,
            )
        if self.top_entropy_quantile < 1.0:
            weights = weights * self.get_high_entropy_mask(
                inputs["flow_entropies"], mask, 1 - self.top_entropy_quantile
            )
        return weights

    # Apply: TRL's loss takes advantages per token
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if "flow_coefficient" in inputs:
            advantages = balance_advantages(
                inputs["advantages"].unsqueeze(1), inputs["flow_sensitivities"], inputs["flow_coefficient"]
            )  # (B, T)
            inputs = {**inputs, "advantages": advantages}
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    # The order of the prompts, too, goes on where it stopped
    def _get_train_sampler(self, dataset=None):
        self._fast_forward.sampler = super()._get_train_sampler(dataset)
        return self._fast_forward.sampler

    def train(self, resume_from_checkpoint=None, *trl_args, **trl_kwargs):
        if resume_from_checkpoint is True:
            resume_from_checkpoint, passed_over = last_whole_checkpoint(str(self.args.output_dir))
            for sentence in passed_over:
                logger.warning(sentence)
            if resume_from_checkpoint is None:
                raise ValueError(
                    f"There is no whole checkpoint in {self.args.output_dir} to go on from: set "
                    "`resume_from_checkpoint=False` to start anew."
                )
        return super().train(resume_from_checkpoint, *trl_args, **trl_kwargs)

    def _save_checkpoint(self, model, trial):
        folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        try:
            if self.args.should_save:
                # Written last, it tells a whole checkpoint: one of an earlier run must not
                (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
            super()._save_checkpoint(model, trial)
        except Exception as error:  # each library has its own for a full disk
            raise RunStopped(
                f"Checkpoint {folder} could not be written ({error}): free some space, and start again; the run goes "
                "on from the checkpoint before."
            ) from error

    # Of all that a checkpoint holds, only the trainer's own state is written after this
    def _save_rng_state(self, output_dir):
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            # The entropy target that the first batch set is part of the run
            has_ratio = self.args.flow_entropy_target_ratio is not None
            write_state(Path(output_dir), {"entropy_target": self.entropy_target} if has_ratio else {})

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.args.flow_entropy_target_ratio is not None and checkpoint is not None:
            self.entropy_target = read_entropy_target(checkpoint)

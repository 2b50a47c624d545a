"""The unified model: content, instruction and noise in, the objective's prediction out; and generation.

Shape letters: B items of a batch, N items of one modality, S samples, T latent frames, L content units, C latent
channels, D content width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from unisono.errors import UserError
from unisono.models.autoencoder import Autoencoder
from unisono.models.backbone import BackboneConditions, DiffusionTransformer
from unisono.models.compatibility import check_parts
from unisono.models.content_adapter import ContentAdapter
from unisono.models.generation import Generated, GenerationSettings, KnownAudio, counted
from unisono.models.known import keep
from unisono.models.length_regulator import expand
from unisono.models.outputs import DurationPrediction, EncodedContent, TrainingOutput
from unisono.models.sampling import prepare
from unisono.models.unused import touch
from unisono.objectives import Branch, Objective, PredictBranches, guided
from unisono.objectives.noise import item_noise
from unisono.timing import frames_to_samples, frames_within, seconds_to_frames, unit_boundaries
from unisono.types import Alignment, Batch, Condition, ContentBatch, length_mask


class UnifiedAudioModel(nn.Module):
    """Encoders, adapter, fusion, backbone and a frozen autoencoder.

    Args:
        autoencoder: waveform to latent and back; never trained here, never in the checkpoint.
        instruction_encoder: a text encoder: what ``Batch.instruction`` holds to Condition.
        content_encoders: modality -> encoder.
        content_adapter: fuses content and instruction, predicts durations.
        backbone: the objective's prediction from noisy latent, frames and context.
        objective: how data is noised, what is predicted, how noise becomes data.
        cfg_drop_ratio: share of training items whose conditions are replaced by the null embeddings.
        instruction_drop_ratio: share of further ones that lose only their instruction, for guidance with a scale of its
            own for it (Brooks et al. 2023, section 3.2.1). Above 0 the model has one more weight, a null instruction.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        instruction_encoder: nn.Module,
        content_encoders: Mapping[str, nn.Module],
        content_adapter: ContentAdapter,
        backbone: DiffusionTransformer,
        objective: Objective,
        cfg_drop_ratio: float = 0.1,
        instruction_drop_ratio: float = 0.0,
    ) -> None:
        super().__init__()
        check_parts(autoencoder, instruction_encoder, content_encoders, content_adapter, backbone)
        if not (min(cfg_drop_ratio, instruction_drop_ratio) >= 0 and cfg_drop_ratio + instruction_drop_ratio < 1):
            raise ValueError(
                f"cfg_drop_ratio is {cfg_drop_ratio} and instruction_drop_ratio {instruction_drop_ratio}; neither may "
                "be negative, and their sum must be below 1: some items need all their conditions"
            )
        self.autoencoder = autoencoder.requires_grad_(False)
        self.instruction_encoder = instruction_encoder
        self.content_encoders = nn.ModuleDict(dict(content_encoders))
        self.content_adapter = content_adapter
        self.backbone = backbone
        self.objective = objective
        self.cfg_drop_ratio, self.instruction_drop_ratio = cfg_drop_ratio, instruction_drop_ratio
        self.null_frame = nn.Parameter(torch.randn(backbone.frames_dim) * 0.02)
        self.null_context = nn.Parameter(torch.randn(backbone.frames_dim) * 0.02)
        self.null_instruction = None
        if instruction_drop_ratio:
            self.null_instruction = nn.Parameter(torch.randn(content_adapter.instruction_dim) * 0.02)

    # -- conditions ---------------------------------------------------------------------------------------------

    def encode_content(self, batch: Batch, drop_instruction: Tensor | None = None) -> list[EncodedContent]:
        """Run the instruction encoder, every needed content encoder and the adapter, once each per modality.

        Args:
            drop_instruction: bool ``(B,)``, items that get the null instruction; the model must have one.
        """
        instruction: Condition = self.instruction_encoder(**batch.instruction)
        if drop_instruction is not None:
            instruction = self._drop_instruction(instruction, drop_instruction)
        encoded = []
        for modality, content in batch.contents.items():
            if modality not in self.content_encoders:
                known = ", ".join(self.content_encoders)
                raise UserError(
                    f"the model has no encoder for {modality!r} content; it has {known}: leave such items out, or "
                    f"train with one (model.content_encoders.{modality})"
                )
            encoder: Any = self.content_encoders[modality]
            condition = encoder(**self._encoder_inputs(content))
            own_instruction = Condition(instruction.tensor[content.index], instruction.mask[content.index])
            adapted = self.content_adapter(condition, own_instruction, encoder.alignment)
            encoded.append(EncodedContent(content.index, condition, adapted, encoder.alignment, content.durations_s))
        return encoded

    def _drop_instruction(self, instruction: Condition, drop: Tensor) -> Condition:
        """The null instruction, one vector long, in the rows where ``drop (B,)``."""
        assert self.null_instruction is not None, "a model without instruction_drop_ratio has no null instruction"
        null = self.null_instruction.to(instruction.tensor.dtype)
        only_first = torch.arange(instruction.mask.shape[1], device=drop.device) == 0
        return Condition(
            torch.where(drop[:, None, None], null, instruction.tensor),
            torch.where(drop[:, None], only_first, instruction.mask),
        )

    def _content_alone(self, encoded: Sequence[EncodedContent]) -> list[EncodedContent]:
        """The same content without its instruction, at the same durations: branches of guidance must not come apart."""
        alone = []
        for content in encoded:
            assert self.null_instruction is not None, "see settle"
            null = self.null_instruction.expand(len(content.index), 1, -1)
            only = Condition(null, torch.ones_like(null[..., 0]).bool())
            adapted = self.content_adapter(content.content, only, content.alignment)
            alone.append(replace(content, adapted=replace(content.adapted, content=adapted.content)))
        return alone

    def _encoder_inputs(self, content: ContentBatch) -> dict[str, Any]:
        if "waveform" in content.inputs:
            latent, lengths = self.autoencoder.encode(content.inputs["waveform"], content.inputs["lengths"])
        elif "latent_lengths" in content.inputs:  # from the feature cache
            latent, lengths = content.inputs["latent"], content.inputs["latent_lengths"]
        else:
            return content.inputs
        return {"latent": latent, "mask": length_mask(lengths, latent.shape[1])}

    def _unit_frames(self, content: EncodedContent, predict: bool) -> Tensor:
        """Duration ``(N, L)`` of each unit of a time-aligned content in frames, not rounded, zero at padding."""
        mask = content.adapted.content.mask
        if content.alignment is Alignment.FRAMES:
            return mask.double()
        predicted = self.content_adapter.from_log_duration(content.adapted.local_duration).double() * mask
        if predict or content.durations_s is None:
            return predicted
        given = content.durations_s.double() * self.autoencoder.latent_rate_hz
        return torch.where(given.sum(dim=1, keepdim=True) > 0, given, predicted)

    def _unit_ends(self, content: EncodedContent, lengths: Tensor, predict: bool) -> Tensor:
        """End frame ``(N, L)`` of each unit; units with durations are stretched to fill ``lengths (B,)`` exactly."""
        frames = self._unit_frames(content, predict)
        if content.alignment is Alignment.UNITS:
            frames = frames * (lengths[content.index] / frames.sum(dim=1).clamp_min(1e-6))[:, None]
        return unit_boundaries(frames, rate_hz=1.0)

    def fuse(
        self,
        encoded: Sequence[EncodedContent],
        lengths: Tensor,
        num_frames: int,
        drop: Tensor | None,
        predict: bool = False,
    ) -> tuple[Tensor, Condition]:
        """Frames ``(B, T, D)`` from time-aligned content and a context from the rest, null embeddings where absent.

        Args:
            lengths: int64 ``(B,)`` latent frames per item.
            num_frames: T, at least the longest of them.
            drop: bool ``(B,)``, items whose conditions are replaced by the null embeddings.
            predict: place units by predicted instead of given durations.
        """
        device, batch_size = self.null_frame.device, lengths.shape[0]
        kept = torch.ones(batch_size, dtype=torch.bool, device=device) if drop is None else ~drop
        dtype = encoded[0].adapted.content.tensor.dtype if encoded else self.null_frame.dtype
        frames = torch.zeros(batch_size, num_frames, self.backbone.frames_dim, device=device, dtype=dtype)
        has_frames = torch.zeros(batch_size, dtype=torch.bool, device=device)
        has_context = torch.zeros_like(has_frames)
        slots = [self.null_context.to(dtype).expand(batch_size, 1, -1)]
        masks = []
        for content in encoded:
            condition = content.adapted.content
            if content.alignment is Alignment.NONE:
                slot = condition.tensor.new_zeros(batch_size, *condition.tensor.shape[1:])
                mask = condition.mask.new_zeros(batch_size, condition.mask.shape[1])
                slots.append(slot.index_copy(0, content.index, condition.tensor).to(dtype))
                masks.append(mask.index_copy(0, content.index, condition.mask) & kept[:, None])
                has_context = has_context.index_fill(0, content.index, True)
            else:
                expanded = expand(condition.tensor, self._unit_ends(content, lengths, predict), num_frames)
                frames = frames.index_add(0, content.index, expanded.to(dtype))
                has_frames = has_frames.index_fill(0, content.index, True)
        frames = torch.where((has_frames & kept)[:, None, None], frames, self.null_frame.to(dtype))
        null_slot = ~(has_context & kept)[:, None]
        return frames, Condition(torch.cat(slots, dim=1), torch.cat([null_slot, *masks], dim=1))

    # -- training -----------------------------------------------------------------------------------------------

    def forward(
        self, batch: Batch, *, sigma: Tensor | None = None, noise: Tensor | None = None, drop: Tensor | None = None
    ) -> TrainingOutput:
        """Predict the objective's target at a noised latent of the batch's targets.

        Args:
            sigma, noise: fixed noise levels ``(B,)`` and noise ``(B, T, C)`` (validation); drawn when None.
            drop: items to make unconditional; drawn with ``cfg_drop_ratio`` in training mode when None, and those that
                lose only their instruction with ``instruction_drop_ratio``.
        """
        assert batch.waveform_lengths is not None, "training needs targets"
        x0, lengths = self._target_latent(batch)
        size, num_frames = x0.shape[:2]
        mask = length_mask(lengths, num_frames)
        drop_instruction = None
        if drop is None and self.training and self.cfg_drop_ratio + self.instruction_drop_ratio:
            drawn = torch.rand(size, device=x0.device)
            drop = drawn < self.cfg_drop_ratio
            if self.instruction_drop_ratio:
                drop_instruction = ~drop & (drawn < self.cfg_drop_ratio + self.instruction_drop_ratio)
        sigma = self.objective.sample_sigma(size, x0.device) if sigma is None else sigma
        noise = self.objective.couple(x0, torch.randn_like(x0), mask) if noise is None else noise
        encoded = self.encode_content(batch, drop_instruction)
        frames, context = self.fuse(encoded, lengths, num_frames, drop)
        conditions = self.backbone.precompute(frames, mask, context, batch.is_full)
        prediction = self.backbone(self.objective.interpolate(x0, noise, sigma), sigma, conditions)
        if self.training:
            prediction = self._touch_unused(prediction, batch)
        seconds = batch.waveform_lengths.float() / self.autoencoder.sample_rate
        target = self.objective.target(x0, noise, sigma)
        return TrainingOutput(prediction, target, mask, sigma, *self._durations(encoded, seconds), batch.task_index)

    def with_latents(self, batch: Batch) -> Batch:
        """The same batch with latents in place of waveforms, for whoever asks the network several times."""
        latent, lengths = self._target_latent(batch)
        contents = dict(batch.contents)
        for modality, content in batch.contents.items():
            if "waveform" in content.inputs:
                own, own_lengths = self.autoencoder.encode(content.inputs["waveform"], content.inputs["lengths"])
                contents[modality] = replace(content, inputs={"latent": own, "latent_lengths": own_lengths})
        return replace(batch, latent=latent, latent_lengths=lengths, contents=contents)

    def _target_latent(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """``x0 (B, T, C)`` and frames ``(B,)``, encoded or from the feature cache."""
        if batch.latent is not None:
            assert batch.latent_lengths is not None
            return batch.latent, batch.latent_lengths
        assert batch.waveform is not None and batch.waveform_lengths is not None, "training needs targets"
        return self.autoencoder.encode(batch.waveform, batch.waveform_lengths)

    def _durations(
        self, encoded: Sequence[EncodedContent], seconds: Tensor
    ) -> tuple[list[DurationPrediction], list[DurationPrediction]]:
        """Local predictions for units with durations, global ones for content that says nothing of time."""
        local, whole = [], []
        adapter = self.content_adapter
        for content in encoded:
            adapted, index = content.adapted, content.index
            if content.alignment is Alignment.NONE:
                assert adapted.global_duration is not None
                target = adapter.log_duration(seconds[index])
                counts = torch.ones_like(target).bool()
                whole.append(DurationPrediction(adapted.global_duration, target, counts, index))
            elif content.alignment is Alignment.UNITS and content.durations_s is not None:
                assert adapted.local_duration is not None
                target = adapter.log_duration(content.durations_s * self.autoencoder.latent_rate_hz)
                known = adapted.content.mask & (content.durations_s.sum(dim=1, keepdim=True) > 0)
                local.append(DurationPrediction(adapted.local_duration, target, known, index))
        return local, whole

    def _touch_unused(self, prediction: Tensor, batch: Batch) -> Tensor:
        """The same ``prediction``, with a gradient of zero for what this batch did not use."""
        encoders = [encoder for name, encoder in self.content_encoders.items() if name not in batch.contents]
        unused = [p for encoder in encoders for p in encoder.parameters()]
        nulls = [p for p in (self.null_frame, self.null_context, self.null_instruction) if p is not None]
        adapter = self.content_adapter
        predictors = [*adapter.global_predictor.parameters(), *adapter.local_predictor.parameters()]
        if not batch.contents:  # items of nothing but an instruction
            unused += [*self.instruction_encoder.parameters(), *adapter.parameters()]
        return touch(prediction, [*unused, *nulls, *predictors])

    # -- generation ---------------------------------------------------------------------------------------------

    def generated_lengths(
        self, encoded: Sequence[EncodedContent], batch_size: int, settings: GenerationSettings
    ) -> Tensor:
        """Latent lengths ``(B,)``: of frame-aligned content, else the sum of units, else the predicted whole."""
        rate_hz = self.autoencoder.latent_rate_hz
        lengths = torch.zeros(batch_size, dtype=torch.long, device=self.null_frame.device)
        order = {Alignment.NONE: 0, Alignment.UNITS: 1, Alignment.FRAMES: 2}
        for content in sorted(encoded, key=lambda c: order[c.alignment]):
            if content.alignment is Alignment.NONE:
                seconds = self.content_adapter.from_log_duration(content.adapted.global_duration)
                own = seconds_to_frames(seconds, rate_hz)
            else:
                frames = self._unit_frames(content, settings.predict_durations)
                if content.alignment is Alignment.UNITS:
                    frames = frames / settings.speed
                own = unit_boundaries(frames, rate_hz=1.0)[:, -1]
            if content.alignment is not Alignment.FRAMES:
                own = own.clamp(1, max(1, frames_within(settings.max_duration_s, rate_hz)))
            lengths = lengths.index_copy(0, content.index, own)
        return lengths

    def settle(self, settings: GenerationSettings) -> GenerationSettings:
        """The settings that ``generate`` uses where these leave it to the objective.

        Raises:
            UserError: a setting that this model or its objective does not have.
        """
        chosen = self.objective.settle(settings.num_steps, settings.solver, settings.sway, settings.shift)
        settings = replace(settings, **asdict(chosen))
        asked = settings.guidance.branches(settings.guidance_max_sigma)
        if Branch.NOTHING in asked and not self.cfg_drop_ratio:
            raise UserError(
                f"guidance_scale is {settings.guidance_scale}, but this model has cfg_drop_ratio 0 and never learned "
                "to go without conditions; set guidance_scale to 1, or train with model.cfg_drop_ratio=0.1"
            )
        if Branch.CONTENT in asked and self.null_instruction is None:
            raise UserError(
                f"instruction_guidance_scale is {settings.instruction_guidance_scale}, but this model was trained "
                "without instruction_drop_ratio and has never seen an item without its instruction; set "
                "instruction_guidance_scale to null, or train with model.instruction_drop_ratio=0.05"
            )
        return settings

    def noise_levels(self, settings: GenerationSettings) -> list[float]:
        """Where a generation with these settings asks the network, in order, once per evaluation."""
        settings = self.settle(settings)
        return self.objective.noise_levels(settings.num_steps, settings.solver, settings.sway, settings.shift)

    @torch.no_grad()
    def generate(
        self,
        batch: Batch,
        seeds: Sequence[int],
        settings: GenerationSettings,
        duration_s: Sequence[float | None] | None = None,
        callback: Callable[[int, int], None] | None = None,
        known: Sequence[KnownAudio | None] | None = None,
    ) -> Generated:
        """Generate one waveform per item; one longer than ``settings.window_s`` in windows (see ``windows.py``).

        Args:
            batch: content and instructions.
            seeds: one per item; an item's noise depends on its own seed only.
            settings: steps, guidance, solver.
            duration_s: wanted length per item, None to predict it. Ignored for frame-aligned content.
            callback: is told, after each answer of the network, how many there were and how many there will be; what
                it raises ends the generation.
            known: recordings, of parts that are kept while the rest is generated; None for items without.

        Raises:
            UserError: a setting that this model does not have, a clip that is too long, spans that cannot be kept.
        """
        settings = self.settle(settings)
        recordings: Sequence[KnownAudio | None] = known or [None] * len(batch)
        lengths_list, branches = prepare(self, batch, settings, duration_s or [None] * len(batch), recordings)
        device, num_frames = self.null_frame.device, max(lengths_list)
        noise = item_noise(seeds, lengths_list, num_frames, self.autoencoder.latent_dim).to(device)
        lengths = torch.tensor(lengths_list, device=device)
        mask = length_mask(lengths, num_frames)
        predict = guided(branches, settings.guidance, mask)
        how = (settings.num_steps, settings.solver, settings.sway, settings.shift)
        levels, start = self.noise_levels(settings), noise
        kept = keep(recordings, lengths_list, batch.audio_ids, self.autoencoder, device)
        if kept is not None:
            predict = kept.keeping(predict, self.objective, noise)
            start = kept.start(self.objective, noise, levels[0])
        if callback is not None:
            predict = counted(predict, len(levels), callback)
        latent = self.objective.generate(predict, start, *how) * mask[..., None]
        latent = latent if kept is None else kept.restored(latent)
        waveform = self.autoencoder.decode(latent, lengths)
        waveform = waveform if kept is None else kept.spliced(waveform, self.autoencoder.sample_rate)
        return Generated(waveform, frames_to_samples(lengths, self.autoencoder.hop_samples), latent, lengths)

    def _branches(
        self, encoded: Sequence[EncodedContent], lengths: Tensor, mask: Tensor, predict_durations: bool, is_full: bool
    ) -> PredictBranches:
        """The backbone with the conditions of each branch of guidance, which are computed when first asked for."""

        @cache
        def fused(branch: Branch) -> tuple[Tensor, Condition]:
            told = self._content_alone(encoded) if branch is Branch.CONTENT else encoded
            drop = torch.ones_like(lengths).bool() if branch is Branch.NOTHING else None
            return self.fuse(told, lengths, mask.shape[1], drop, predict_durations)

        @cache
        def conditions(branches: tuple[Branch, ...]) -> BackboneConditions:
            frames, contexts = zip(*map(fused, branches), strict=True)
            context = Condition(torch.cat([c.tensor for c in contexts]), torch.cat([c.mask for c in contexts]))
            return self.backbone.precompute(torch.cat(frames), torch.cat([mask] * len(branches)), context, is_full)

        def predict(branches: tuple[Branch, ...], x: Tensor, sigma: float) -> Tensor:
            return self.backbone(x, torch.full((len(x),), sigma, device=x.device), conditions(branches))

        return predict

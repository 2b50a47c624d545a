"""Diffusion (Ho et al. 2020) with the noise schedules and solvers of diffusers.

``x_t = alpha_t * x0 + sqrt(1 - alpha_t^2) * noise`` at the integer timesteps ``t = 0 … T - 1``. Noise level and
timestep are one thing in two units: ``t = round(sigma * (T - 1))``, ``sigma = t / (T - 1)``. Timestep 0 is nearly data.

Shape letters: B items, T frames, C channels; in formulas T is the number of timesteps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from unisono.errors import UserError
from unisono.objectives.base import Objective, Predict, SolverSettings, check_choice, stratified_uniform

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

PredictionType = Literal["v_prediction", "epsilon", "sample"]
BetaSchedule = Literal["squaredcos_cap_v2", "linear", "scaled_linear"]

# With more data than this in the last timestep, pure noise is no fair start of generation.
_MAX_TERMINAL_ALPHA = 0.1
# Data told by predicted noise are wrong by its error / alpha_t: 20 000 times it at the end of a cosine schedule.
# So generation from "epsilon" begins where alpha_t is at least that of Stable Diffusion's last timestep.
_MIN_ALPHA_OF_EPSILON = 0.068


class Diffusion(Objective):
    """Noise schedule, prediction and deterministic generation.

    Args:
        prediction_type: what the network predicts: "v_prediction", ``alpha_t * noise - sqrt(1 - alpha_t^2) * x0``
            (Salimans and Ho 2022); "sample", the data; or "epsilon", the noise, which needs a far better trained
            network: the first steps of generation multiply its error (up to 15 times).
        num_train_timesteps: T.
        beta_schedule: "squaredcos_cap_v2" is the cosine schedule of Nichol and Dhariwal 2021.
        beta_start, beta_end: of "linear" and "scaled_linear".
        rescale_betas_zero_snr: True leaves no data at all in the last timestep (Lin et al. 2024, algorithm 1), which is
            what generation starts from. None is True, except for "epsilon": where ``x_t`` is the noise, predicting it
            says nothing about the data.
    """

    tag = "diffusion"
    solvers = ("dpmpp_2m", "ddim")

    def __init__(
        self,
        prediction_type: PredictionType = "v_prediction",
        num_train_timesteps: int = 1000,
        beta_schedule: BetaSchedule = "squaredcos_cap_v2",
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        rescale_betas_zero_snr: bool | None = None,
    ) -> None:
        check_choice("prediction_type", prediction_type, get_args(PredictionType))
        check_choice("beta_schedule", beta_schedule, get_args(BetaSchedule))
        if num_train_timesteps < 2:
            raise ValueError(f"num_train_timesteps is {num_train_timesteps}; at least 2 are needed")
        if not 0 < beta_start <= beta_end < 1:
            raise ValueError(f"beta_start {beta_start} and beta_end {beta_end} must rise and lie between 0 and 1")
        if rescale_betas_zero_snr is None:
            rescale_betas_zero_snr = prediction_type != "epsilon"
        if rescale_betas_zero_snr and prediction_type == "epsilon":
            raise ValueError(
                "rescale_betas_zero_snr leaves only noise in the last timestep, where predicting it (prediction_type "
                "'epsilon') says nothing about the data; choose 'v_prediction' or 'sample', or set "
                "rescale_betas_zero_snr to false"
            )
        self.prediction_type, self.num_train_timesteps = prediction_type, num_train_timesteps
        self._schedule = {
            "num_train_timesteps": num_train_timesteps,
            "beta_schedule": beta_schedule,
            "beta_start": beta_start,
            "beta_end": beta_end,
            "rescale_betas_zero_snr": rescale_betas_zero_snr,
        }
        # Imported here because it takes two seconds, which flow matching need not spend.
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        self._noising = DDIMScheduler(**self._schedule)
        alpha = self._noising.alphas_cumprod.sqrt()
        terminal_alpha = float(alpha[-1])
        if terminal_alpha > _MAX_TERMINAL_ALPHA:
            raise ValueError(
                f"beta_schedule {beta_schedule!r} with num_train_timesteps {num_train_timesteps} leaves "
                f"{terminal_alpha:.2f} of the data in the last timestep, and generation starts from noise; at most "
                f"{_MAX_TERMINAL_ALPHA} may be left: raise beta_end or num_train_timesteps, or take 'squaredcos_cap_v2'"
            )
        lowest = _MIN_ALPHA_OF_EPSILON if prediction_type == "epsilon" else 0.0
        self._num_usable = int((alpha >= lowest).sum())

    def timestep(self, sigma: Tensor) -> Tensor:
        """Integer timesteps ``(B,)`` of ``sigma (B,)``."""
        return (sigma * (self.num_train_timesteps - 1)).round().long()

    def sample_sigma(self, batch_size: int, device: torch.device) -> Tensor:
        """Noise levels ``(B,)`` of uniform timesteps, stratified over the batch."""
        last = self.num_train_timesteps - 1
        timestep = (stratified_uniform(batch_size, device) * self.num_train_timesteps).floor()
        return timestep.clamp_max(last) / last

    def interpolate(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Noised data ``(B, T, C)`` at the timesteps of ``sigma (B,)``."""
        return self._noising.add_noise(x0, noise, self.timestep(sigma))

    def target(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Velocity (Salimans and Ho 2022, appendix D), noise or data, by ``prediction_type``."""
        if self.prediction_type == "v_prediction":
            return self._noising.get_velocity(x0, noise, self.timestep(sigma))
        return noise if self.prediction_type == "epsilon" else x0

    def timesteps(self, num_steps: int) -> list[int]:
        """Timesteps at which generation asks the network, spaced "trailing" (Lin et al. 2024, table 2).

        They end one spacing above data and begin at T - 1, or for "epsilon" where noise still tells the data. Made here
        because diffusers' own gives one step too many for some numbers (61 of 1000), the last one at -1.
        """
        if not 1 <= num_steps <= self._num_usable:
            raise UserError(f"num_steps is {num_steps}; diffusion takes 1 to {self._num_usable} (its usable timesteps)")
        return [round(self._num_usable * remaining / num_steps) - 1 for remaining in range(num_steps, 0, -1)]

    def generate(
        self,
        predict: Predict,
        noise: Tensor,
        num_steps: int,
        solver: str | None = None,
        sway: float | None = None,
        shift: float | None = None,
    ) -> Tensor:
        """Solve the probability-flow equation with "dpmpp_2m" (Lu et al. 2022) or "ddim" (Song et al. 2021, eta 0).

        Both ask the network once a step. The state is float32, whatever the precision of the prediction.
        """
        chosen = self.settle(num_steps, solver, sway, shift).solver
        scheduler = self._new_scheduler(chosen, timesteps := self.timesteps(num_steps))
        x = noise.float()
        for timestep in timesteps:
            prediction = predict(x, timestep / (self.num_train_timesteps - 1)).float()
            x = scheduler.step(prediction, timestep, x, return_dict=False)[0]
        return x

    def settle(
        self, num_steps: int, solver: str | None = None, sway: float | None = None, shift: float | None = None
    ) -> SolverSettings:
        for name, value in (("sway", sway), ("shift", shift)):
            if value is not None:
                raise UserError(
                    f"{name} is {value}, but diffusion has none (it belongs to flow matching); set {name} to null"
                )
        self.timesteps(num_steps)
        return SolverSettings(self.choose_solver(solver), None, None)

    def _new_scheduler(self, solver: str, timesteps: list[int]) -> DPMSolverMultistepScheduler:
        """A scheduler for one generation: it remembers predictions, so it cannot be shared.

        DDIM is DPM-Solver++ of first order (Lu et al. 2022, section 4). diffusers' DDIMScheduler is not used for it:
        its ``step`` goes down ``T // num_steps`` timesteps whatever the spacing, so unless that divides evenly a step
        ends above the timestep that the network is told next, and the last one above the data.
        """
        from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

        scheduler = DPMSolverMultistepScheduler(
            **self._schedule,
            prediction_type=self.prediction_type,
            algorithm_type="dpmsolver++",
            solver_order=2 if solver == "dpmpp_2m" else 1,
            final_sigmas_type="zero",
        )
        scheduler.set_timesteps(timesteps=timesteps)
        scheduler.set_begin_index(0)  # otherwise it searches for the first timestep
        return scheduler

"""Mathematics of the objectives and solvers, without networks."""

from unisono.objectives.base import Objective, Predict
from unisono.objectives.diffusion import Diffusion
from unisono.objectives.flow_matching import FlowMatching
from unisono.objectives.guidance import guided
from unisono.objectives.solvers import integrate, sigma_schedule

__all__ = ["Diffusion", "FlowMatching", "Objective", "Predict", "guided", "integrate", "sigma_schedule"]

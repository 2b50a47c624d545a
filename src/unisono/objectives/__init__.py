"""Mathematics of the objectives and solvers, without networks."""

from unisono.objectives.base import Objective, Predict, SolverSettings
from unisono.objectives.diffusion import Diffusion
from unisono.objectives.flow_matching import FlowMatching
from unisono.objectives.guidance import Branch, Guidance, PredictBranches, guided
from unisono.objectives.solvers import integrate, sigma_schedule

__all__ = [
    "Branch",
    "Diffusion",
    "FlowMatching",
    "Guidance",
    "Objective",
    "Predict",
    "PredictBranches",
    "SolverSettings",
    "guided",
    "integrate",
    "sigma_schedule",
]

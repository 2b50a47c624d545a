"""Mathematics of the objectives and solvers, without networks."""

from unisono.objectives.flow_matching import FlowMatching
from unisono.objectives.solvers import guided, integrate, sigma_schedule

__all__ = ["FlowMatching", "guided", "integrate", "sigma_schedule"]

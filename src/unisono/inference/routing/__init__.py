"""From an instruction in English, and the inputs that come with it, to a task: `route`."""

from unisono.inference.routing.router import Route, route

__all__ = ["Route", "route"]

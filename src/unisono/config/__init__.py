"""Configuration: the tree of YAML files, what Hydra makes of it, and what is checked before anything is built."""

from unisono.config.entry import hydra_entry, resolved, save_config
from unisono.config.resolvers import register_omegaconf_resolvers
from unisono.config.tree import compose, config_dir

__all__ = ["compose", "config_dir", "hydra_entry", "register_omegaconf_resolvers", "resolved", "save_config"]

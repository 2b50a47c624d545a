"""The portable form of a model: ``config.yaml``, ``model.safetensors``, a model card and the frozen parts.

docs/model_folder.md says what is in it, and what somebody else's cannot do.
"""

from unisono.inference.model_folder.config_file import FORMAT_VERSION
from unisono.inference.model_folder.defaults import checked_generation, checked_options, settings_for
from unisono.inference.model_folder.hub import local_folder
from unisono.inference.model_folder.inputs import InputSettings, input_settings
from unisono.inference.model_folder.loading import load_model_folder
from unisono.inference.model_folder.saving import save_model_folder

__all__ = [
    "FORMAT_VERSION",
    "InputSettings",
    "checked_generation",
    "checked_options",
    "input_settings",
    "load_model_folder",
    "local_folder",
    "save_model_folder",
    "settings_for",
]

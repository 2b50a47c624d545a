"""Recipes that build data sets on disk; ``RECIPES`` lists them without importing anything heavy."""

from unisono.data.prepare.recipes import RECIPES, Recipe

__all__ = ["RECIPES", "Recipe"]

"""Recipes for public corpora: a folder as its archive unpacks to, data sets in the documented format.

A recipe finds the items of its corpus and says what to do with each (``ljspeech.py`` is the simplest); ``engine.py``
does the rest: parallel, restartable work, splits, manifests, and the list of what was left out. docs/corpora.md is for
users.
"""

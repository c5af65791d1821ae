"""Importing this makes sentencepiece invisible to everything imported later, as where it is not installed."""

import importlib.machinery
import sys

find_spec = importlib.machinery.PathFinder.find_spec


class WithoutSentencePiece:
    """The finder of modules on the path, but for one."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.split(".")[0] == "sentencepiece" else find_spec(name, path, target)

    invalidate_caches = staticmethod(importlib.machinery.PathFinder.invalidate_caches)
    find_distributions = staticmethod(importlib.machinery.PathFinder.find_distributions)


sys.meta_path = [WithoutSentencePiece if f is importlib.machinery.PathFinder else f for f in sys.meta_path]

"""Before stage 1, where the old policy is not known: what was the old preference data teaching?"""

from realigner.discover.discovery import Discovery, FoundRule
from realigner.discover.run import discover, draw

__all__ = ["Discovery", "FoundRule", "discover", "draw"]

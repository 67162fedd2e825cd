"""What a predictor left out of the detections of an image: scores below the minimum, and those beyond the limit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Omitted:
    """A note on the detections of one image."""

    score: float
    """Minimum score of a detection (the lowest, where classes have their own); 0 if there is none."""
    below: int = 0
    """Number of detections below the minimum score, but not below half of it."""
    limit: int | None = None
    """Maximum number of detections, if it was reached, so that there may be more objects; else None."""

    def describe(self, summary: str) -> str:
        """Return a summary of the detections ("" if there are none) with a remark about what was left out."""
        if not summary:
            if not self.score:
                return "nothing"
            text = f"nothing at score >= {self.score:.3g}"
            plural = "" if self.below == 1 else "s"
            low = f"{self.score / 2:.3g} and {self.score:.3g}"
            return f"{text}; {self.below} detection{plural} between {low}" if self.below else text
        return summary if self.limit is None else f"{summary}; the limit of {self.limit} detections is reached"

    def __add__(self, other: Omitted) -> Omitted:
        """Return the sum of two notes, such as of two tiles."""
        return Omitted(self.score, self.below + other.below, self.limit or other.limit)

"""Tracks: which detections in the frames of a video are the same object, and which lines and zones it passes."""

from sais.tracking.counting import Line, PlaceCounter, Zone
from sais.tracking.drawing import TrackDrawer
from sais.tracking.follow import TrackedFrame, track
from sais.tracking.library_tracker import LibraryTracker
from sais.tracking.tracker import Tracker

__all__ = ["LibraryTracker", "Line", "PlaceCounter", "TrackDrawer", "TrackedFrame", "Tracker", "Zone", "track"]

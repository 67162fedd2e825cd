"""Tracks: which detections in the frames of a video are the same object, and which lines and zones it passes."""

"""The best and the worst images of a run's report: ground truth and detections, embedded in the page as JPEG."""

from __future__ import annotations

from dataclasses import dataclass

from sais.errors import SaisError
from sais.evaluation.error_analysis import CORRECT, ErrorAnalysis, ImageAnalysis
from sais.evaluation.visualize import detections_from_coco, draw_comparison, ground_truth_detections
from sais.reports.embedded_images import jpeg_url

COUNT = 6
"""Number of the best images, and of the worst."""
SIDE = 460
"""Longest side of each image of a pair, in pixels."""
QUALITY = 82
"""JPEG quality."""
MAX_CHARACTERS = 2_400_000
"""Maximum number of characters of all embedded images of a page; further images are omitted and counted."""

INTRO = (
    "Left: ground truth. Right: detections with a score of at least {score:.3g}. A class has the same color "
    "everywhere. The number is the quality of the image: the sum of the IoUs of its correct detections, divided by the "
    "mean of its numbers of objects and detections. 1 is perfect."
)


@dataclass(frozen=True)
class ExampleImage:
    """An image with its ground truth and its detections."""

    source: str
    """Data URL."""
    file_name: str
    quality: float
    caption: str


@dataclass(frozen=True)
class ExampleGroup:
    """The best, or the worst images."""

    title: str
    images: list[ExampleImage]


@dataclass(frozen=True)
class Examples:
    """The section of example images."""

    groups: list[ExampleGroup]
    unreadable: int = 0
    """Number of images that could not be read."""
    too_large: int = 0
    """Number of images omitted to keep the page small."""


def select_best_and_worst(
    analysis: ErrorAnalysis, count: int = COUNT
) -> tuple[list[ImageAnalysis], list[ImageAnalysis]]:
    """Select the best and the worst images; of equal ones those with more objects first. None is in both."""
    images = [image for image in analysis.images if image.quality is not None]
    images.sort(key=lambda image: (-(image.quality or 0.0), -len(image.objects), image.record.id))
    half = min(count, -(-len(images) // 2))
    best, others = images[:half], images[half:]
    return best, sorted(others, key=lambda image: (image.quality or 0.0, -len(image.objects), image.record.id))[:count]


def example_images(analysis: ErrorAnalysis) -> Examples:
    """Draw the worst and the best images with their quality and counts."""
    best, worst = select_best_and_worst(analysis)
    groups, budget, unreadable, too_large = [], MAX_CHARACTERS, 0, 0
    for title, selected in (("Worst", worst), ("Best", best)):
        images = []
        for image in selected:
            try:
                example = _example(image, analysis)
            except SaisError:
                unreadable += 1
                continue
            if len(example.source) > budget:
                too_large += 1
                continue
            budget -= len(example.source)
            images.append(example)
        if images:
            groups.append(ExampleGroup(title, images))
    return Examples(groups, unreadable, too_large)


def _example(image: ImageAnalysis, analysis: ErrorAnalysis) -> ExampleImage:
    record = image.record
    detections = detections_from_coco(image.results, record.size, analysis.split)
    objects = ground_truth_detections(record, analysis.split)
    pair = draw_comparison(record.read(), objects, detections, SIDE)
    correct, others = image.count(CORRECT), len(image.results) - image.count(CORRECT)
    caption = f"{correct} of {len(image.objects)} object{'s' if len(image.objects) != 1 else ''} found"
    if others:
        caption += f", {others} other detection{'s' if others != 1 else ''}"
    return ExampleImage(jpeg_url(pair, QUALITY), record.name, image.quality or 0.0, caption)

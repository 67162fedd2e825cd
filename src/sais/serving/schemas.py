"""Schemas of the HTTP interface: the query of a prediction, and what every response contains."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

Absent = SkipJsonSchema[None]
"""None for an option that is not given; a query cannot contain null."""

MAX_CLASSES = 1000
"""Maximum number of class names in a query."""


class PredictQuery(BaseModel):
    """Options of a prediction, in the query of the address."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[
        Annotated[str, Field(max_length=200)] | Absent, Field(description="Name of the model; default: the first.")
    ] = None
    score: Annotated[
        Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | Absent,
        Field(description="Minimum score; default: that of the model."),
    ] = None
    max_detections: Annotated[
        Annotated[int, Field(ge=1)] | Absent, Field(description="Maximum number of objects in an image.")
    ] = None
    classes: Annotated[
        list[Annotated[str, Field(max_length=500)]],
        Field(max_length=MAX_CLASSES, description="Names of the classes to detect; default: all."),
    ] = []
    masks: Annotated[
        Literal["rle", "polygons", "png", "none"],
        Field(description="Format of the masks: COCO RLE, rings along pixel edges, a PNG of the box, or none."),
    ] = "rle"
    tta_flip: Annotated[
        bool | Absent, Field(description="Also predict on the mirrored image: more accurate, in twice the time.")
    ] = None
    tile: Annotated[
        Annotated[int, Field(ge=32, le=16384)] | Literal["auto"] | Absent,
        Field(description="Side of overlapping tiles in pixels, for small objects in large images, or auto."),
    ] = None


class ModelEntry(BaseModel):
    """A model of the service."""

    name: str
    classes: list[str]
    input_size: Annotated[list[int] | None, Field(description="Height and width of a fixed input, else null.")]
    default: Annotated[bool, Field(description="Whether the model is used where a request names none.")]
    score: Annotated[float, Field(description="Minimum score where a request gives none.")]


class ModelList(BaseModel):
    """The models of the service."""

    models: list[ModelEntry]


class RleMask(BaseModel):
    """A mask as COCO run-length encoding."""

    model_config = ConfigDict(extra="forbid")
    size: Annotated[list[int], Field(min_length=2, max_length=2, description="Height and width of the image.")]
    counts: Annotated[str, Field(description="Compressed counts, as pycocotools reads them.")]


class PolygonMask(BaseModel):
    """A mask as rings of points x, y: outer rings clockwise as seen on the screen, holes counterclockwise."""

    model_config = ConfigDict(extra="forbid")
    polygons: list[list[Annotated[list[float], Field(min_length=2, max_length=2)]]]


class PngMask(BaseModel):
    """A mask as a PNG of one bit for each pixel of a box."""

    model_config = ConfigDict(extra="forbid")
    png: Annotated[str, Field(description="Base64 of a PNG file; empty if the box is empty.")]
    box: Annotated[list[int], Field(min_length=4, max_length=4, description="x1, y1, x2, y2 in pixels.")]


class DetectedObject(BaseModel):
    """An object in an image."""

    class_id: Annotated[int, Field(ge=0, description="Position of the class in the model's list.")]
    class_name: str
    score: Annotated[float, Field(ge=0, le=1)]
    box: Annotated[list[float], Field(min_length=4, max_length=4, description="x1, y1, x2, y2 in pixels.")]
    area: Annotated[int, Field(ge=0, description="Pixels of the mask; of the box if the model has no masks.")]
    mask: RleMask | PolygonMask | PngMask | None


class ImageResult(BaseModel):
    """The objects of an image, scores descending, in pixels of the upright image (EXIF orientation applied)."""

    name: Annotated[str | None, Field(description="Name of the file in a form.")]
    width: int
    height: int
    objects: list[DetectedObject]


class Timing(BaseModel):
    """Milliseconds of each stage; of several images the slowest."""

    decode: float
    queue: float
    predict: float
    encode: float


class Prediction(BaseModel):
    """The answer to a prediction."""

    model: str
    images: list[ImageResult]
    timing_ms: Timing


class ExampleEntry(BaseModel):
    """An example image."""

    name: str
    url: str
    thumbnail_url: str


class ExampleList(BaseModel):
    """The example images; empty if the service has none."""

    examples: list[ExampleEntry]


class Status(BaseModel):
    """State of the service."""

    status: str


class ErrorDetail(BaseModel):
    """What is wrong."""

    code: Annotated[str, Field(description="Name of the error for programs.")]
    message: Annotated[str, Field(description="What is wrong, and how to fix it.")]


class ErrorAnswer(BaseModel):
    """The answer to a request that failed."""

    error: ErrorDetail


_DESCRIPTIONS = {
    400: "The image or the request is malformed.",
    401: "The API key is missing or wrong.",
    404: "There is no such model, example or page.",
    408: "The upload took too long.",
    413: "The request or an image is too large.",
    415: "The body or an image is of an unsupported type.",
    422: "An option is unknown, out of range or not supported by the model, or a form has too many images.",
    503: "The service is at its capacity or not ready; the header Retry-After has a number of seconds.",
}


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of error responses by status."""
    responses: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        responses[status] = {"model": ErrorAnswer, "description": _DESCRIPTIONS[status]}
    if 503 in responses:
        header = {"description": "Seconds", "schema": {"type": "integer", "minimum": 1}}
        responses[503]["headers"] = {"Retry-After": header}
    return responses

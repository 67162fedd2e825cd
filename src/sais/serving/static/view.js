/**
 * The part of the image that is visible: pure functions of views.
 *
 * A view is {zoom, x, y}: zoom in screen pixels per image pixel, x and y the screen position of the image's upper left
 * corner. Sizes are [width, height].
 */

const MAX_ZOOM = 32;
const MARGIN = 16;
/** Screen pixels of the image that stay visible while panning. */
const VISIBLE = 60;

/** Return the view that shows the whole image, centered; small images are enlarged up to eightfold. */
export function fit(image, stage) {
  const room = stage.map((side) => Math.max(1, side - 2 * MARGIN));
  const zoom = Math.min(room[0] / image[0], room[1] / image[1], 8);
  return { zoom, x: (stage[0] - image[0] * zoom) / 2, y: (stage[1] - image[1] * zoom) / 2 };
}

/** Return the view after zooming to `zoom`; the image point under `point` (screen) stays where it is. */
export function zoomTo(view, zoom, point, image, stage) {
  const smallest = Math.min(fit(image, stage).zoom, 1) / 2;
  const limited = Math.min(MAX_ZOOM, Math.max(smallest, zoom));
  const factor = limited / view.zoom;
  const [x, y] = [point[0] - (point[0] - view.x) * factor, point[1] - (point[1] - view.y) * factor];
  return limit({ zoom: limited, x, y }, image, stage);
}

/** Return the view at a scale of 1, rounded to whole pixels so that image pixels are screen pixels. */
export function actualSize(view, image, stage, pixelRatio) {
  const zoomed = zoomTo(view, 1 / pixelRatio, [stage[0] / 2, stage[1] / 2], image, stage);
  const whole = (value) => Math.round(value * pixelRatio) / pixelRatio;
  return { zoom: zoomed.zoom, x: whole(zoomed.x), y: whole(zoomed.y) };
}

/** Return the view after moving the image by (dx, dy) screen pixels. */
export function pan(view, dx, dy, image, stage) {
  return limit({ ...view, x: view.x + dx, y: view.y + dy }, image, stage);
}

/** Return the view that shows a box [x1, y1, x2, y2] of the image with some space around it. */
export function focusOn(box, image, stage) {
  const [x1, y1, x2, y2] = box;
  const close = Math.min((0.6 * stage[0]) / Math.max(1, x2 - x1), (0.6 * stage[1]) / Math.max(1, y2 - y1), 8);
  const zoom = Math.max(close, fit(image, stage).zoom);
  const [x, y] = [stage[0] / 2 - ((x1 + x2) / 2) * zoom, stage[1] / 2 - ((y1 + y2) / 2) * zoom];
  return limit({ zoom, x, y }, image, stage);
}

/** Return the image position [x, y] of a screen point. */
export function toImage(view, [x, y]) {
  return [(x - view.x) / view.zoom, (y - view.y) / view.zoom];
}

/** Return the visible rectangle [x1, y1, x2, y2] of the image, in image pixels; empty if x1 >= x2 or y1 >= y2. */
export function visibleRectangle(view, image, stage) {
  const [x1, y1] = toImage(view, [0, 0]);
  const [x2, y2] = toImage(view, stage);
  return [Math.max(0, x1), Math.max(0, y1), Math.min(image[0], x2), Math.min(image[1], y2)];
}

function limit(view, image, stage) {
  const within = (position, length, room) => Math.min(room - VISIBLE, Math.max(VISIBLE - length, position));
  return {
    zoom: view.zoom,
    x: within(view.x, image[0] * view.zoom, stage[0]),
    y: within(view.y, image[1] * view.zoom, stage[1]),
  };
}

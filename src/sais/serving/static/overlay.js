/** Drawing of masks, outlines and labels on a canvas. */

import { outlineOf } from "./detections.js";
import { formatScore } from "./filter.js";
import { colorOf, css, inkOn } from "./palette.js";

/** Labels drawn at once; more would hide the image. */
const MAX_LABELS = 150;
/** Points of outlines above which a draft has thin lines: without a GPU, wide ones take ten times as long. */
const DRAFT_POINTS = 1500;
/** Canvas pixels; browsers draw lines of less than one pixel in a fast way. */
const HAIRLINE = 0.99;

/**
 * Draw objects.
 *
 * @param {CanvasRenderingContext2D} context canvas, which is cleared
 * @param {object[]} shown objects in the order in which they are drawn
 * @param {{zoom: number, x: number, y: number}} view in canvas pixels
 * @param {object} style opacity (0 to 1), outlinesOnly, labels, byObject (colors), hovered (index or null), isolated
 *   (whether the rest of the image is dimmed), draft (whether the drawing lasts for one frame of a movement), lineWidth
 *   and fontSize in canvas pixels
 * @param {{width: number, height: number}} image size of the image
 */
export function drawOverlay(context, shown, view, style, image) {
  const { canvas } = context;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.setTransform(view.zoom, 0, 0, view.zoom, view.x, view.y);
  const visible = shown.filter(({ bounds }) => isVisible(bounds, view, canvas));
  const outlines = visible.map((object) => outlineOf(object, view.zoom));
  const points = outlines.reduce((sum, outline) => sum + outline.points, 0);
  const lineWidth = (style.draft && points > DRAFT_POINTS ? HAIRLINE : style.lineWidth) / view.zoom;
  if (style.isolated) dimAround(context, outlines, image);
  context.lineJoin = "bevel";
  visible.forEach((object, i) => {
    const hovered = object.index === style.hovered && !style.isolated;
    drawObject(context, outlines[i].path, css(objectColor(object, style)), hovered, lineWidth, style);
  });
  context.globalAlpha = 1;
  context.setTransform(1, 0, 0, 1, 0, 0);
  if (style.labels) drawLabels(context, visible, view, style);
}

/** Return the color of an object: of its class, or its own. */
export function objectColor(object, { byObject }) {
  return colorOf(byObject ? object.index : object.classId);
}

function isVisible([x1, y1, x2, y2], { zoom, x, y }, { width, height }) {
  return x2 * zoom + x > 0 && y2 * zoom + y > 0 && x1 * zoom + x < width && y1 * zoom + y < height;
}

function dimAround(context, outlines, { width, height }) {
  const surroundings = new Path2D();
  surroundings.rect(0, 0, width, height);
  for (const { path } of outlines) surroundings.addPath(path);
  context.globalAlpha = 0.6;
  context.fillStyle = "rgb(0, 0, 0)";
  context.fill(surroundings, "evenodd");
}

function drawObject(context, path, color, hovered, lineWidth, { opacity, outlinesOnly }) {
  if (!outlinesOnly && opacity > 0) {
    context.globalAlpha = hovered ? Math.min(1, opacity + 0.2) : opacity;
    context.fillStyle = color;
    context.fill(path);
  }
  context.globalAlpha = outlinesOnly ? 1 : 0.9;
  if (hovered) {
    context.lineWidth = 3 * lineWidth;
    context.strokeStyle = "rgb(255, 255, 255)";
    context.stroke(path);
  }
  context.lineWidth = lineWidth;
  context.strokeStyle = color;
  context.stroke(path);
}

/** Write class and score above or below the left edge of each object, where no other label is. */
function drawLabels(context, visible, { zoom, x, y }, style) {
  const { fontSize } = style;
  const { width } = context.canvas;
  const [padding, height] = [0.4 * fontSize, 1.5 * fontSize];
  const placed = [];
  context.font = `500 ${fontSize}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  const byScore = [...visible].sort((first, second) => first.index - second.index);
  for (const object of byScore.slice(0, MAX_LABELS)) {
    const text = `${shorten(object.className)} ${formatScore(object.score)}`;
    const labelWidth = textWidth(context, text, fontSize) + 2 * padding;
    const left = Math.round(Math.max(0, Math.min(width - labelWidth, object.bounds[0] * zoom + x)));
    const tops = [Math.max(0, object.bounds[1] * zoom + y - height), object.bounds[3] * zoom + y].map(Math.round);
    const labelAt = (top) => [left, top, left + labelWidth, top + height];
    const top = tops.find((candidate) => !placed.some((other) => overlaps(labelAt(candidate), other)));
    if (top === undefined) continue;
    placed.push(labelAt(top));
    const color = objectColor(object, style);
    context.fillStyle = css(color);
    context.beginPath();
    context.roundRect(left, top, labelWidth, height, 0.25 * fontSize);
    context.fill();
    context.fillStyle = inkOn(color);
    context.fillText(text, left + padding, top + height / 2 + 0.04 * fontSize);
  }
}

const widths = new Map();

function textWidth(context, text, fontSize) {
  const key = `${fontSize} ${text}`;
  if (!widths.has(key)) {
    if (widths.size > 5000) widths.clear();
    widths.set(key, context.measureText(text).width);
  }
  return widths.get(key);
}

function shorten(name) {
  return name.length > 30 ? `${name.slice(0, 29)}…` : name;
}

function overlaps(first, second) {
  return first[0] < second[2] && second[0] < first[2] && first[1] < second[3] && second[1] < first[3];
}

/** The objects of an answer, as the page uses them: decoded masks, outlines, and which object is under a point. */

import { simplifyRing } from "./outlines.js";
import { isSet } from "./rle.js";
import { WorkerClient } from "./worker_client.js";

const worker = new WorkerClient("./mask_worker.js");

/**
 * Decode an answer of /v1/predict for one image.
 *
 * @param {{images: object[]}} answer the image has width, height and objects
 * @returns {Promise<object>} width, height, objects (index, classId, className, score, box, rle, area, bounds, rings,
 *   ends) by descending score
 * @throws {Error} if the answer is malformed
 */
export async function decodeDetections(answer) {
  const { width, height, objects } = answer?.images?.[0] ?? {};
  if (!Array.isArray(objects)) throw new Error("The answer of the server has no detections. Check its address.");
  const sorted = [...objects].sort((first, second) => second.score - first.score);
  const { masks } = await worker.call({ width, height, objects: sorted.map(({ mask, box }) => ({ mask, box })) });
  const decoded = sorted.map((object, index) => ({
    index,
    classId: object.class_id,
    className: object.class_name,
    score: object.score,
    box: object.box,
    rle: object.mask,
    levels: [masks[index].rings],
    outlines: [],
    ...masks[index],
  }));
  // Larger objects are drawn first, so that a small one in front of them is visible.
  const paintOrder = [...decoded].sort((first, second) => second.area - first.area);
  return { width, height, objects: decoded, paintOrder };
}

/** Return whether an object covers a position of the image. */
function covers(object, x, y, height) {
  const [x1, y1, x2, y2] = object.bounds;
  if (x < x1 || x >= x2 || y < y1 || y >= y2) return false;
  return object.ends ? isSet(object.ends, Math.floor(x) * height + Math.floor(y)) : true;
}

/** Return the smallest of some objects that covers a position [x, y] of the image, or null. */
export function objectAt(shown, [x, y], height) {
  let smallest = null;
  for (const object of shown) {
    if ((!smallest || object.area < smallest.area) && covers(object, x, y, height)) smallest = object;
  }
  return smallest;
}

/**
 * Return the outline of an object as a path in image pixels: exact at a zoom of 1 and above; below, with an error of
 * less than one screen pixel.
 *
 * @param {object} object object of `decodeDetections`
 * @param {number} zoom screen pixels per image pixel
 * @returns {{path: Path2D, points: number}} the path and its number of points
 */
export function outlineOf(object, zoom) {
  const level = Math.min(10, Math.max(0, Math.floor(Math.log2(1 / zoom) + 1e-9)));
  object.outlines[level] ??= buildOutline(ringsOf(object, level));
  return object.outlines[level];
}

function ringsOf(object, level) {
  object.levels[level] ??= ringsOf(object, level - 1).map((ring) => simplifyRing(ring, 0.375 * 2 ** level));
  return object.levels[level];
}

function buildOutline(rings) {
  const path = new Path2D();
  let points = 0;
  for (const ring of rings) {
    path.moveTo(ring[0], ring[1]);
    for (let i = 2; i < ring.length; i += 2) path.lineTo(ring[i], ring[i + 1]);
    path.closePath();
    points += ring.length / 2;
  }
  return { path, points };
}

/** Worker that decodes the masks of an answer, so that the page stays responsive meanwhile. */

import { traceRings } from "./outlines.js";
import { crop, extent, runEnds } from "./rle.js";

/** Return run ends, area, bounds and rings of an RLE. */
function decode({ counts }, width, height) {
  const ends = runEnds(counts, height * width);
  const { area, bounds } = extent(ends, height);
  const padded = crop(ends, height, bounds, 1);
  return { ends, area, bounds, rings: area ? traceRings(padded.bits, padded.width, bounds[0], bounds[1]) : [] };
}

/** Return what is drawn of an object without a mask: its box. */
function fromBox([x1, y1, x2, y2]) {
  const bounds = [Math.floor(x1), Math.floor(y1), Math.ceil(x2), Math.ceil(y2)];
  const ring = Float64Array.from([x1, y1, x2, y1, x2, y2, x1, y2]);
  return { ends: null, area: (x2 - x1) * (y2 - y1), bounds, rings: [ring] };
}

self.onmessage = ({ data }) => {
  try {
    const masks = data.objects.map(({ mask, box }) => (mask ? decode(mask, data.width, data.height) : fromBox(box)));
    const arrays = masks.flatMap(({ ends, rings }) => (ends ? [ends, ...rings] : rings));
    self.postMessage({ id: data.id, reply: { masks } }, arrays.map(({ buffer }) => buffer));
  } catch (error) {
    self.postMessage({ id: data.id, error: error.message });
  }
};

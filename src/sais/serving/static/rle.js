/**
 * COCO run-length encoding (RLE). A mask is held as the ends of its runs: little memory, and a test of one pixel is a
 * binary search.
 *
 * Runs go down the columns and alternate between 0 and 1, starting with 0. Pixel (x, y) of an image with H rows has the
 * index x * H + y.
 */

/**
 * Return the end (exclusive) of each run of a compressed RLE.
 *
 * @param {string} counts compressed counts
 * @param {number} pixels height times width of the image
 * @returns {Uint32Array} cumulative run lengths; the last is `pixels`
 * @throws {Error} if the counts do not add up to the pixels of the image
 */
export function runEnds(counts, pixels) {
  const lengths = [];
  let position = 0;
  while (position < counts.length) {
    let value = 0;
    let factor = 1;
    let group;
    do {
      group = counts.charCodeAt(position++) - 48;
      value += (group & 31) * factor;
      factor *= 32;
    } while (group & 32 && position < counts.length);
    if (group & 16) value -= factor; // negative difference
    if (lengths.length > 2) value += lengths[lengths.length - 2];
    lengths.push(value);
  }
  const ends = new Uint32Array(lengths.length);
  let end = 0;
  lengths.forEach((length, index) => {
    end += length;
    ends[index] = end;
  });
  if (end !== pixels || lengths.some((length) => !(length >= 0))) {
    throw new Error("The server sent a malformed mask. Report this to its operator.");
  }
  return ends;
}

/** Return whether the pixel with an index is set, by binary search of the run that contains it. */
export function isSet(ends, index) {
  let low = 0;
  let high = ends.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ends[middle] <= index) low = middle + 1;
    else high = middle;
  }
  return low % 2 === 1;
}

/**
 * Call a function with each vertical segment of set pixels.
 *
 * @param {Uint32Array} ends run ends
 * @param {number} height rows of the image
 * @param {(x: number, top: number, bottom: number) => void} visit column, first row and last row (exclusive)
 */
function eachSegment(ends, height, visit) {
  for (let run = 1; run < ends.length; run += 2) {
    let start = ends[run - 1];
    while (start < ends[run]) {
      const x = Math.floor(start / height);
      const end = Math.min(ends[run], (x + 1) * height);
      visit(x, start - x * height, end - x * height);
      start = end;
    }
  }
}

/** Return the number of set pixels and their bounds [x1, y1, x2, y2]; zeros for an empty mask. */
export function extent(ends, height) {
  let area = 0;
  let [left, top, right, bottom] = [Infinity, Infinity, 0, 0];
  eachSegment(ends, height, (x, first, last) => {
    area += last - first;
    left = Math.min(left, x);
    right = x + 1;
    top = Math.min(top, first);
    bottom = Math.max(bottom, last);
  });
  return area ? { area, bounds: [left, top, right, bottom] } : { area: 0, bounds: [0, 0, 0, 0] };
}

/**
 * Return the pixels of a mask inside its bounds, row by row, with an empty border.
 *
 * @param {Uint32Array} ends run ends
 * @param {number} height rows of the image
 * @param {number[]} bounds x1 y1 x2 y2 of the set pixels
 * @param {number} border width of the border in pixels
 * @returns {{bits: Uint8Array, width: number, height: number}} zeros and ones, with the border
 */
export function crop(ends, height, bounds, border = 0) {
  const [left, top, right, bottom] = bounds;
  const width = right - left + 2 * border;
  const rows = bottom - top + 2 * border;
  const bits = new Uint8Array(width * rows);
  eachSegment(ends, height, (x, first, last) => {
    let index = (first - top + border) * width + (x - left + border);
    for (let y = first; y < last; y++, index += width) bits[index] = 1;
  });
  return { bits, width, height: rows };
}

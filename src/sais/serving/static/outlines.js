/**
 * Outlines of masks: rings along pixel edges, and rings with fewer points.
 *
 * A ring is an array [x, y, x, y, ...] in pixels, closed implicitly. Outer rings run clockwise as seen on the screen,
 * holes counterclockwise, so that filling by the nonzero rule gives the pixels of the mask.
 */

/**
 * Return the rings of a mask, exactly along pixel edges.
 *
 * @param {Uint8Array} bits zeros and ones, row by row, with an empty border of one pixel; changed by this function
 * @param {number} width pixels of a row, with the border
 * @param {number} left column of the image at the first column inside the border
 * @param {number} top row of the image at the first row inside the border
 * @returns {Int32Array[]} corners of each ring
 */
export function traceRings(bits, width, left, top) {
  const rings = [];
  for (let index = width; index < bits.length - width; index++) {
    // Every ring has an upper edge. Those that a ring has passed are marked with 2.
    if (bits[index] === 1 && !(bits[index - width] & 1)) rings.push(traceRing(bits, width, index, left, top));
  }
  return rings;
}

/** Follow the pixel edges from the upper left corner of a pixel, with the mask on the right-hand side. */
function traceRing(bits, width, start, left, top) {
  const steps = [1, width, -1, -width]; // east, south, west, north
  const rightAhead = [0, -1, -width - 1, -width];
  const leftAhead = [-width, 0, -1, -width - 1];
  const points = [];
  let vertex = start;
  let direction = 0;
  let previous = 3;
  do {
    if (direction !== previous) {
      const row = Math.floor(vertex / width);
      points.push(vertex - row * width - 1 + left, row - 1 + top);
    }
    if (direction === 0) bits[vertex] |= 2;
    vertex += steps[direction];
    previous = direction;
    if (!(bits[vertex + rightAhead[direction]] & 1)) direction = (direction + 1) & 3;
    else if (bits[vertex + leftAhead[direction]] & 1) direction = (direction + 3) & 3;
  } while (vertex !== start || direction !== 0);
  return Int32Array.from(points);
}

/** Return the signed area of a ring: positive if it runs clockwise as seen on the screen. */
export function ringArea(ring) {
  let sum = 0;
  for (let i = 0, last = ring.length - 2; i < ring.length; last = i, i += 2) {
    sum += ring[last] * ring[i + 1] - ring[last + 1] * ring[i];
  }
  return sum / 2;
}

/**
 * Return a ring without the points that are at most `tolerance` pixels from the line between the remaining ones
 * (Ramer 1972; Douglas and Peucker 1973), or the ring itself if fewer than three points would remain.
 */
export function simplifyRing(ring, tolerance) {
  const count = ring.length / 2;
  if (count < 4) return ring;
  let first = 0;
  for (let i = 1; i < count; i++) {
    const dx = ring[2 * i] - ring[2 * first];
    if (dx < 0 || (dx === 0 && ring[2 * i + 1] < ring[2 * first + 1])) first = i;
  }
  const x = new Float64Array(count + 1);
  const y = new Float64Array(count + 1);
  let middle = 0;
  let longest = -1;
  for (let i = 0; i <= count; i++) {
    const source = 2 * ((first + i) % count);
    x[i] = ring[source];
    y[i] = ring[source + 1];
    const squared = (x[i] - x[0]) ** 2 + (y[i] - y[0]) ** 2;
    if (squared > longest) [longest, middle] = [squared, i];
  }
  const selected = new Uint8Array(count + 1);
  selected[0] = selected[middle] = 1;
  const ranges = [0, middle, middle, count];
  while (ranges.length) {
    const end = ranges.pop();
    const start = ranges.pop();
    const { index, distance } = farthestPoint(x, y, start, end);
    if (distance > tolerance) {
      selected[index] = 1;
      ranges.push(start, index, index, end);
    }
  }
  const points = [];
  for (let i = 0; i < count; i++) if (selected[i]) points.push(x[i], y[i]);
  return points.length > 4 && ringArea(points) ? Float64Array.from(points) : ring;
}

/** Return the point between two others that is farthest from the segment that joins them, and its distance. */
function farthestPoint(x, y, start, end) {
  const dx = x[end] - x[start];
  const dy = y[end] - y[start];
  const squared = dx * dx + dy * dy;
  let index = start;
  let largest = -1;
  for (let i = start + 1; i < end; i++) {
    const px = x[i] - x[start];
    const py = y[i] - y[start];
    const position = squared ? Math.min(1, Math.max(0, (px * dx + py * dy) / squared)) : 0;
    const distance = (px - position * dx) ** 2 + (py - position * dy) ** 2;
    if (distance > largest) [largest, index] = [distance, i];
  }
  return { index, distance: Math.sqrt(Math.max(0, largest)) };
}

/** Return the midpoints of the sides of a ring along pixel edges, and the corners of two long sides. */
export function withoutSteps(ring) {
  const long = 3; // pixels from which a side is not a step of a slanted or round outline
  const count = ring.length / 2;
  const side = (i) => {
    const [from, to] = [2 * ((i + count) % count), 2 * ((i + 1) % count)];
    return Math.abs(ring[to] - ring[from]) + Math.abs(ring[to + 1] - ring[from + 1]);
  };
  const points = [];
  for (let i = 0; i < count; i++) {
    const to = 2 * ((i + 1) % count);
    if (Math.min(side(i), side(i - 1)) >= long) points.push(ring[2 * i], ring[2 * i + 1]);
    points.push((ring[2 * i] + ring[to]) / 2, (ring[2 * i + 1] + ring[to + 1]) / 2);
  }
  return Float64Array.from(points);
}

/**
 * Worker that decodes images. The page shows a bitmap of limited size; the part that is visible at a higher zoom is cut
 * from the full image on request. The decoded image is held only if it is not large, otherwise decoded for each cut.
 */

/** Pixels of the bitmap that the page shows at low zoom. */
const DISPLAY_PIXELS = 4e6;
/** Pixels up to which the decoded image is held: 4 bytes each. */
const HELD_PIXELS = 24e6;

let source = null;
let queue = Promise.resolve();

/** Decode an image file; width and height are those of the upright image. */
async function open({ blob }) {
  const full = await decode(blob);
  source?.close?.();
  const { width, height } = full;
  const scale = Math.min(1, Math.sqrt(DISPLAY_PIXELS / (width * height)));
  if (scale === 1) {
    source = blob;
    return { width, height, bitmap: full };
  }
  const bitmap = resized(full, [0, 0, width, height], Math.round(width * scale), Math.round(height * scale));
  if (width * height <= HELD_PIXELS) source = full;
  else {
    full.close();
    source = blob;
  }
  return { width, height, bitmap };
}

/** Cut a rectangle [x, y, width, height] from the image and resize it. */
async function cut({ rectangle, width, height }) {
  if (source instanceof ImageBitmap) return { bitmap: resized(source, rectangle, width, height) };
  const whole = await decode(source);
  const bitmap = resized(whole, rectangle, width, height);
  whole.close();
  return { bitmap };
}

/** Return the whole image. */
async function full() {
  return { bitmap: await decode(source) };
}

/** Return the upright image of a file, or a copy of a bitmap. */
function decode(image) {
  return createImageBitmap(image, { imageOrientation: "from-image" });
}

/** Return a part of a bitmap in another size. */
function resized(bitmap, rectangle, width, height) {
  // By a canvas: createImageBitmap of Chromium cuts an image that a camera has rotated by 90 degrees at a wrong place.
  const canvas = new OffscreenCanvas(Math.max(1, width), Math.max(1, height));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "medium";
  context.drawImage(bitmap, ...rectangle, 0, 0, canvas.width, canvas.height);
  return canvas.transferToImageBitmap();
}

const ACTIONS = { open, cut, full };

async function answer({ action, id, ...parameters }) {
  try {
    const reply = await ACTIONS[action](parameters);
    self.postMessage({ id, reply }, [reply.bitmap]);
  } catch (error) {
    self.postMessage({ id, error: error.message });
  }
}

self.onmessage = ({ data }) => {
  queue = queue.then(() => answer(data)); // in order: a small image never overtakes a large one
};

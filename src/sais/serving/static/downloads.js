/** Downloads of what is shown: the image with its masks, and label files. */

import { toCoco, toLabelme } from "./label_files.js";
import { drawOverlay } from "./overlay.js";

/** Save a text or a blob as a file of the reader. */
function save(content, name, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // the browser may still be reading
}

function stem(name) {
  return name.replace(/\.[^.]*$/, "") || "image";
}

/** Save a COCO file of the objects shown. */
export function saveCoco(objects, image, model) {
  save(JSON.stringify(toCoco(objects, image, model)), `${stem(image.name)}.coco.json`, "application/json");
}

/** Save a LabelMe file of the objects shown; it has the name that LabelMe expects next to the image. */
export async function saveLabelme(objects, image) {
  const content = await toLabelme(objects, image);
  save(JSON.stringify(content, null, 2), `${stem(image.name)}.json`, "application/json");
}

/**
 * Save the image with the objects drawn, at full size where the browser has a canvas of that size.
 *
 * @param {import("./image_source.js").ImageSource} source the image
 * @param {object[]} shown objects in the order in which they are drawn
 * @param {object} style as for `drawOverlay`; line width and font size follow the size of the image
 * @param {object} image name, width and height
 * @returns {Promise<number>} scale of the file: 1 at full size
 */
export async function savePng(source, shown, style, image) {
  const bitmap = await source.full();
  try {
    for (const scale of [1, 0.5, 0.25]) {
      const blob = await drawnImage(bitmap, shown, style, image, scale);
      if (blob) {
        save(blob, `${stem(image.name)}-objects.png`, "image/png");
        return scale;
      }
    }
  } finally {
    bitmap.close();
  }
  throw new Error("The browser has too little memory for a drawing of this image. Download a label file instead.");
}

/** Return the drawing as a PNG, or null if the browser has no canvas of this size. */
async function drawnImage(bitmap, shown, style, image, scale) {
  const [width, height] = [Math.round(image.width * scale), Math.round(image.height * scale)];
  const [drawing, overlay] = [document.createElement("canvas"), document.createElement("canvas")];
  for (const canvas of [drawing, overlay]) Object.assign(canvas, { width, height });
  const context = drawing.getContext("2d");
  const side = Math.max(width, height);
  const sizes = { lineWidth: Math.max(1.5, side / 700), fontSize: Math.max(11, Math.round(side / 75)) };
  try {
    context.drawImage(bitmap, 0, 0, width, height);
    drawOverlay(overlay.getContext("2d"), shown, { zoom: scale, x: 0, y: 0 }, { ...style, ...sizes }, image);
    context.drawImage(overlay, 0, 0);
    return await new Promise((resolve) => drawing.toBlob(resolve, "image/png"));
  } catch {
    return null;
  } finally {
    drawing.width = overlay.width = 0; // frees the memory at once
  }
}

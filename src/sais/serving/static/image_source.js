/** The image that is shown: its bitmap of limited size, and the detail of the visible part at higher zoom. */

import { WorkerClient } from "./worker_client.js";

export class ImageSource {
  #worker = new WorkerClient("./image_worker.js");
  #image = null;
  #detail = null;
  #request = 0;

  /** Called when a detail has arrived. */
  onDetail = () => {};

  /**
   * Decode an image file.
   *
   * @param {Blob} blob content of the file
   * @returns {Promise<{width: number, height: number}>} size of the upright image
   * @throws {Error} if the browser cannot decode it
   */
  async open(blob) {
    const image = await this.#worker.call({ action: "open", blob });
    this.#clear();
    this.#image = image;
    return { width: image.width, height: image.height };
  }

  #clear() {
    this.#request++;
    this.#image?.bitmap.close();
    this.#detail?.bitmap.close();
    this.#image = this.#detail = null;
  }

  /** Draw the image; the view is in canvas pixels. */
  draw(context, { zoom, x, y }) {
    const { width, height, bitmap } = this.#image;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, context.canvas.width, context.canvas.height);
    context.setTransform(zoom, 0, 0, zoom, x, y);
    context.imageSmoothingEnabled = zoom < 3; // above, pixels are shown as squares
    context.imageSmoothingQuality = zoom < bitmap.width / width / 2 ? "medium" : "low";
    context.drawImage(bitmap, 0, 0, width, height);
    if (this.#detail) context.drawImage(this.#detail.bitmap, ...this.#detail.rectangle);
  }

  /**
   * Request the detail of a rectangle [x1, y1, x2, y2] if the bitmap has too few pixels for it.
   *
   * @param {number[]} visible visible part in image pixels
   * @param {number} zoom canvas pixels per image pixel
   */
  async requestDetail([x1, y1, x2, y2], zoom) {
    const image = this.#image;
    if (!image || x2 - x1 < 1 || y2 - y1 < 1) return;
    const scale = Math.min(1, zoom);
    if (scale <= (1.1 * image.bitmap.width) / image.width || this.#covers([x1, y1, x2, y2], scale)) return;
    const [left, top] = [Math.floor(x1), Math.floor(y1)];
    const [width, height] = [Math.ceil(x2) - left, Math.ceil(y2) - top];
    const rectangle = [left, top, width, height];
    const request = ++this.#request;
    const size = { width: Math.round(width * scale), height: Math.round(height * scale) };
    const { bitmap } = await this.#worker.call({ action: "cut", rectangle, ...size });
    if (request !== this.#request) {
      bitmap.close();
      return;
    }
    this.#detail?.bitmap.close();
    this.#detail = { bitmap, rectangle, scale };
    this.onDetail();
  }

  #covers([x1, y1, x2, y2], scale) {
    if (!this.#detail || this.#detail.scale < scale) return false;
    const [left, top, width, height] = this.#detail.rectangle;
    return x1 >= left && y1 >= top && x2 <= left + width && y2 <= top + height;
  }

  /** Return the whole image as a bitmap; the caller closes it. */
  async full() {
    return (await this.#worker.call({ action: "full" })).bitmap;
  }
}

/** The stage: the canvases of the image and of the masks, the view on them, and what is under the pointer. */

import { objectAt } from "./detections.js";
import { listenToGestures } from "./gestures.js";
import { ImageSource } from "./image_source.js";
import { drawOverlay } from "./overlay.js";
import { actualSize, fit, focusOn, pan, toImage, visibleRectangle, zoomTo } from "./view.js";

/** Milliseconds without movement after which the detail of the visible part is requested. */
const SETTLED_MS = 150;
/** Milliseconds between two drawings below which they are frames of a movement. */
const MOVEMENT_MS = 250;

export class Stage {
  source = new ImageSource();
  #element;
  #image;
  #overlay;
  #size = [1, 1];
  #imageSize = null;
  #view = { zoom: 1, x: 0, y: 0 };
  #fitted = true;
  #shown = [];
  #style = {};
  #dirty = { image: false, overlay: false, scheduled: false };
  #settled = 0;
  #drawn = { time: 0, timer: 0 };

  /** Called with the object under the pointer (or null) and the pointer's position on the stage. */
  onHover = () => {};
  /** Called with the object that was clicked (or null) and the pointer's position on the stage. */
  onPick = () => {};
  /** Called with the zoom in screen pixels per image pixel. */
  onZoom = () => {};

  /** @param {HTMLElement} element focusable element with the canvases .image-layer and .mask-layer */
  constructor(element) {
    this.#element = element;
    this.#image = element.querySelector(".image-layer").getContext("2d");
    this.#overlay = element.querySelector(".mask-layer").getContext("2d");
    new ResizeObserver(() => this.#resize()).observe(element);
    this.source.onDetail = () => this.#schedule("image");
    listenToGestures(element, {
      pan: (dx, dy) => this.#move((view) => pan(view, dx, dy, this.#imageSize, this.#size)),
      zoom: (factor, point) => this.zoomBy(factor, point),
      fit: () => this.fit(),
      actualSize: () => this.actualSize(),
      hover: (point) => this.onHover(point && this.#objectAt(point), point),
      click: (point) => this.onPick(this.#objectAt(point), point),
    });
  }

  /** Decode and show an image. */
  async open(blob) {
    const { width, height } = await this.source.open(blob);
    this.#imageSize = [width, height];
    this.show([], this.#style);
    this.fit();
    return { width, height };
  }

  /** Show objects, in the order in which they are drawn, with a style of `drawOverlay`. */
  show(objects, style) {
    this.#shown = objects;
    this.#style = style;
    this.#schedule("overlay");
  }

  /** Show the whole image. */
  fit() {
    this.#move(() => fit(this.#imageSize, this.#size), true);
  }

  /** Show one image pixel as one pixel of the screen. */
  actualSize() {
    this.#move((view) => actualSize(view, this.#imageSize, this.#size, devicePixelRatio));
  }

  /** Multiply the zoom; the image point under `point` stays where it is. */
  zoomBy(factor, point = [this.#size[0] / 2, this.#size[1] / 2]) {
    this.#move((view) => zoomTo(view, view.zoom * factor, point, this.#imageSize, this.#size));
  }

  /** Show a box of the image if it is not visible, or small. */
  reveal(box) {
    const [x1, y1, x2, y2] = visibleRectangle(this.#view, this.#imageSize, this.#size);
    const inside = box[0] >= x1 && box[1] >= y1 && box[2] <= x2 && box[3] <= y2;
    const side = Math.max(box[2] - box[0], box[3] - box[1]) * this.#view.zoom;
    if (!inside || side < 40) this.#move(() => focusOn(box, this.#imageSize, this.#size));
  }

  #objectAt(point) {
    return this.#imageSize ? objectAt(this.#shown, toImage(this.#view, point), this.#imageSize[1]) : null;
  }

  #move(change, fitted = false) {
    if (!this.#imageSize) return;
    this.#fitted = fitted;
    this.#view = change(this.#view);
    this.onZoom(this.#view.zoom);
    this.#schedule("image");
    this.#schedule("overlay");
    clearTimeout(this.#settled);
    this.#settled = setTimeout(() => {
      const visible = visibleRectangle(this.#view, this.#imageSize, this.#size);
      this.source.requestDetail(visible, this.#view.zoom * devicePixelRatio);
    }, SETTLED_MS);
  }

  #resize() {
    const { clientWidth, clientHeight } = this.#element;
    this.#size = [clientWidth, clientHeight];
    for (const { canvas } of [this.#image, this.#overlay]) {
      canvas.width = Math.round(clientWidth * devicePixelRatio);
      canvas.height = Math.round(clientHeight * devicePixelRatio);
    }
    this.#move((view) => (this.#fitted ? fit(this.#imageSize, this.#size) : view), this.#fitted);
    if (this.#imageSize) this.#draw(); // in this frame: resizing has cleared the canvases
  }

  #schedule(layer) {
    this.#dirty[layer] = true;
    if (this.#dirty.scheduled) return;
    this.#dirty.scheduled = true;
    requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    const dirty = this.#dirty;
    this.#dirty = { image: false, overlay: false, scheduled: false };
    if (!this.#imageSize) return;
    const ratio = devicePixelRatio;
    const view = { zoom: this.#view.zoom * ratio, x: this.#view.x * ratio, y: this.#view.y * ratio };
    if (dirty.image) this.source.draw(this.#image, view);
    if (dirty.overlay) {
      const style = { ...this.#style, draft: this.#isMoving(), lineWidth: 1.5 * ratio, fontSize: 12 * ratio };
      drawOverlay(this.#overlay, this.#shown, view, style, { width: this.#imageSize[0], height: this.#imageSize[1] });
    }
  }

  /** Return whether this drawing follows another immediately; if so, there will be another one after the movement. */
  #isMoving() {
    const now = performance.now();
    const moving = now - this.#drawn.time < MOVEMENT_MS;
    this.#drawn.time = now;
    clearTimeout(this.#drawn.timer);
    if (moving) this.#drawn.timer = setTimeout(() => this.#schedule("overlay"), MOVEMENT_MS);
    return moving;
  }
}

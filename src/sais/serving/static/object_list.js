/**
 * The list of objects: a button for each, of which Tab reaches one and the arrow keys the others. Only the rows in view
 * exist, so that a list of thousands follows a slider.
 */

import { createSpan, createSwatch, find, setText } from "./elements.js";
import { formatScore } from "./filter.js";
import { objectColor } from "./overlay.js";
import { css } from "./palette.js";

/** Rows before and after those in view. */
const MARGIN = 6;

export class ObjectList {
  #scroller = find("objects-scroll");
  #list = find("objects");
  #rows = [];
  #first = 0; // position of the first row that exists
  #listed = [];
  #isolated = null;
  #hovered = null;
  #style = {};
  #current = 0; // position that Tab reaches
  #top = 0;
  #height = 300;
  #rowHeight = 34;

  /**
   * @param {(index: number | null) => void} onHover called with the object under the pointer or in focus
   * @param {(index: number) => void} onPick called with the object that was clicked
   */
  constructor(onHover, onPick) {
    const rowOf = ({ target }) => this.#rows.find(({ button }) => button.contains(target));
    this.#list.addEventListener("click", (event) => rowOf(event) && onPick(rowOf(event).object.index));
    this.#list.addEventListener("pointerover", (event) => onHover(rowOf(event)?.object.index ?? null));
    this.#list.addEventListener("pointerleave", () => onHover(null));
    this.#list.addEventListener("focusin", (event) => {
      const row = rowOf(event);
      this.#current = this.#first + this.#rows.indexOf(row);
      this.#writeTabStops();
      if (event.target.matches(":focus-visible")) onHover(row.object.index); // after a click, the pointer decides
    });
    this.#list.addEventListener("focusout", () => onHover(null));
    this.#list.addEventListener("keydown", (event) => this.#moveFocus(event));
    this.#scroller.addEventListener("scroll", () => {
      this.#top = this.#scroller.scrollTop;
      this.#render();
    });
    new ResizeObserver(() => {
      this.#height = this.#scroller.clientHeight;
      this.#rowHeight = this.#rows[0]?.item.offsetHeight || this.#rowHeight;
      this.#render();
    }).observe(this.#scroller);
  }

  /** Begin with the objects of another image. */
  reset() {
    this.#current = this.#top = this.#scroller.scrollTop = 0;
  }

  /** List objects, and mark the one that is shown alone (its index, or null). */
  update(listed, isolated, style) {
    this.#listed = listed;
    this.#isolated = isolated;
    this.#style = style;
    this.#current = Math.max(0, Math.min(this.#current, listed.length - 1));
    this.#render();
  }

  /** Mark the row of the object that is highlighted on the image. */
  highlight(index) {
    this.#hovered = index;
    for (const { item, object } of this.#rows) item.classList.toggle("hovered", object.index === index);
  }

  /** Scroll to the row of an object. */
  reveal(index) {
    const position = this.#listed.findIndex((object) => object.index === index);
    if (position >= 0) this.#scrollTo(position);
  }

  #render() {
    const count = this.#listed.length;
    const top = Math.min(this.#top, Math.max(0, count * this.#rowHeight - this.#height));
    const first = Math.max(0, Math.floor(top / this.#rowHeight) - MARGIN);
    const last = Math.min(count, Math.ceil((top + this.#height) / this.#rowHeight) + MARGIN);
    const focused = first !== this.#first && this.#list.contains(document.activeElement);
    this.#first = first;
    while (this.#rows.length > last - first) this.#rows.pop().item.remove();
    while (this.#rows.length < last - first) this.#rows.push(createRow(this.#list));
    this.#list.style.paddingTop = `${first * this.#rowHeight}px`;
    this.#list.style.paddingBottom = `${(count - last) * this.#rowHeight}px`;
    this.#rows.forEach((row, i) => this.#write(row, first + i));
    this.#writeTabStops();
    // The rows have moved on to other objects: the focus stays with its own.
    if (focused) this.#rows[this.#current - first]?.button.focus({ preventScroll: true });
  }

  #write(row, position) {
    const object = this.#listed[position];
    if (row.object !== object) {
      row.object = object;
      setText(row.name, object.className);
      setText(row.area, `${Math.round(object.area).toLocaleString("en-US")} px`);
      setText(row.number, formatScore(object.score));
      row.item.ariaPosInSet = position + 1;
      row.item.classList.toggle("hovered", object.index === this.#hovered);
    }
    const changes = { setSize: this.#listed.length, pressed: object.index === this.#isolated };
    if (changes.setSize !== row.setSize) row.item.ariaSetSize = row.setSize = changes.setSize;
    if (changes.pressed !== row.pressed) row.button.ariaPressed = row.pressed = changes.pressed;
    const color = css(objectColor(object, this.#style));
    if (color !== row.color) row.swatch.style.backgroundColor = row.color = color;
  }

  #writeTabStops() {
    this.#rows.forEach(({ button }, i) => {
      const tabIndex = this.#first + i === this.#current ? 0 : -1;
      if (button.tabIndex !== tabIndex) button.tabIndex = tabIndex;
    });
  }

  #scrollTo(position) {
    const [top, bottom] = [position * this.#rowHeight, (position + 1) * this.#rowHeight];
    // scrollIntoView would scroll the page as well, away from the image on a phone.
    if (top < this.#top) this.#scroller.scrollTop = top;
    else if (bottom > this.#top + this.#height) this.#scroller.scrollTop = bottom - this.#height;
    this.#top = this.#scroller.scrollTop;
    this.#render();
  }

  #moveFocus(event) {
    const last = this.#listed.length - 1;
    const targets = { ArrowDown: this.#current + 1, ArrowUp: this.#current - 1, Home: 0, End: last };
    const target = targets[event.key];
    if (target === undefined) return;
    event.preventDefault();
    this.#current = Math.max(0, Math.min(target, last));
    this.#scrollTo(this.#current);
    this.#rows[this.#current - this.#first].button.focus({ preventScroll: true });
  }
}

function createRow(list) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  Object.assign(button, { type: "button", tabIndex: -1 });
  const row = { item, button, object: null, color: "", pressed: null, setSize: 0 };
  const [name, area, number] = ["name", "area", "number"].map((className) => createSpan(className));
  const swatch = createSwatch("transparent");
  button.append(swatch, name, area, number);
  item.append(button);
  list.append(item);
  return Object.assign(row, { name, area, number, swatch });
}

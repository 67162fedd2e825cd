/** The list of objects: one button each, of which Tab reaches one and the arrow keys the others. */

import { createSpan, createSwatch } from "./controls.js";
import { formatScore } from "./filter.js";
import { objectColor } from "./overlay.js";
import { css } from "./palette.js";

/** Rows of the list; further objects have none. */
const MAX_ROWS = 3000;

export class ObjectList {
  #list = document.getElementById("objects");
  #rows = [];
  #hovered = null;

  /**
   * @param {(index: number | null) => void} onHover called with the object under the pointer or in focus
   * @param {(index: number) => void} onPick called with the object that was clicked
   */
  constructor(onHover, onPick) {
    const indexOf = ({ target }) => {
      const row = target.closest("button");
      return row ? Number(row.dataset.index) : null;
    };
    this.#list.addEventListener("click", (event) => indexOf(event) !== null && onPick(indexOf(event)));
    this.#list.addEventListener("pointerover", (event) => onHover(indexOf(event)));
    this.#list.addEventListener("pointerleave", () => onHover(null));
    this.#list.addEventListener("focusin", (event) => {
      const index = indexOf(event);
      this.#makeTabStop(index);
      // A click focuses as well; after it, the pointer decides.
      if (event.target.matches(":focus-visible")) onHover(index);
    });
    this.#list.addEventListener("focusout", () => onHover(null));
    this.#list.addEventListener("keydown", (event) => this.#moveFocus(event));
  }

  /** List objects; `image` is the width and height that areas are compared with. */
  fill(objects, { width, height }) {
    this.#hovered = null;
    this.#rows = objects.slice(0, MAX_ROWS).map((object) => {
      const part = (100 * object.area) / (width * height);
      const area = part >= 0.1 ? `${part.toFixed(1)} %` : `${Math.round(object.area).toLocaleString("en-US")} px`;
      const button = document.createElement("button");
      Object.assign(button, { type: "button", tabIndex: -1 });
      button.dataset.index = object.index;
      const swatch = createSwatch("transparent");
      const [name, size] = [createSpan("name", object.className), createSpan("area", area)];
      button.append(swatch, name, size, createSpan("number", formatScore(object.score)));
      const item = document.createElement("li");
      item.append(button);
      return { object, item, button, swatch, shown: true };
    });
    this.#list.replaceChildren(...this.#rows.map(({ item }) => item));
    document.getElementById("objects-more").hidden = objects.length <= MAX_ROWS;
    this.#list.scrollTop = 0;
  }

  /** List only some objects, and mark the one that is shown alone (its index, or null). */
  update(listed, isolated, style) {
    const indices = new Set(listed.map(({ index }) => index));
    let first = null;
    for (const row of this.#rows) {
      const { index } = row.object;
      const visible = indices.has(index);
      if (visible !== row.shown) row.item.hidden = !(row.shown = visible);
      if (visible) first ??= row;
      const pressed = String(index === isolated);
      if (row.button.ariaPressed !== pressed) row.button.ariaPressed = pressed;
      const color = css(objectColor(row.object, style));
      if (row.color !== color) row.swatch.style.backgroundColor = row.color = color;
    }
    if (first && !this.#rows.some(({ button, shown: visible }) => visible && button.tabIndex === 0)) {
      this.#makeTabStop(first.object.index);
    }
  }

  /** Mark the row of the object that is highlighted on the image. */
  highlight(index) {
    this.#rows[this.#hovered]?.item.classList.remove("hovered");
    this.#hovered = index;
    this.#rows[index]?.item.classList.add("hovered");
  }

  /** Scroll to the row of an object. */
  reveal(index) {
    const item = this.#rows[index]?.item;
    if (!item) return;
    // scrollIntoView would scroll the page as well, away from the image on a phone.
    const top = item.offsetTop - this.#list.offsetTop;
    const { scrollTop, clientHeight } = this.#list;
    const visible = top >= scrollTop && top + item.offsetHeight <= scrollTop + clientHeight;
    if (!visible) this.#list.scrollTop = top - clientHeight / 2;
  }

  #makeTabStop(index) {
    for (const { button, object } of this.#rows) {
      const tabIndex = object.index === index ? 0 : -1;
      if (button.tabIndex !== tabIndex) button.tabIndex = tabIndex;
    }
  }

  #moveFocus(event) {
    const visible = this.#rows.filter(({ shown }) => shown).map(({ button }) => button);
    const current = visible.indexOf(document.activeElement);
    const last = visible.length - 1;
    const targets = { ArrowDown: Math.min(last, current + 1), ArrowUp: Math.max(0, current - 1), Home: 0, End: last };
    const target = visible[targets[event.key]];
    if (!target) return;
    event.preventDefault();
    target.focus();
  }
}

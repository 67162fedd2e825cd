/** The controls of the panel: minimum score, classes, and appearance. They change a state and report each change. */

import { createSpan, createSwatch, find, setText } from "./elements.js";
import { countClasses } from "./filter.js";
import { colorOf, css } from "./palette.js";

/**
 * Connect the sliders and switches with a state.
 *
 * @param {{score: number, hiddenClasses: Set<number>, isolated: number | null}} choice which objects are shown
 * @param {{opacity: number, outlinesOnly: boolean, labels: boolean, byObject: boolean}} style how they are drawn
 * @param {() => void} onChange called after each change
 */
export function connectControls(choice, style, onChange) {
  find("score").addEventListener("input", ({ target }) => {
    choice.score = Number(target.value);
    choice.isolated = null;
    writeScore(choice.score);
    onChange();
  });
  find("opacity").addEventListener("input", ({ target }) => {
    style.opacity = Number(target.value) / 100;
    find("opacity-value").textContent = `${target.value} %`;
    onChange();
  });
  for (const [id, name] of [["outlines", "outlinesOnly"], ["labels", "labels"], ["by-object", "byObject"]]) {
    find(id).addEventListener("change", ({ target }) => {
      style[name] = target.checked;
      find("opacity").disabled = style.outlinesOnly;
      onChange();
    });
  }
}

/** Move the slider of the minimum score. */
export function writeScore(score) {
  find("score").value = score;
  find("score-value").textContent = score.toFixed(2);
}

/** The list of classes, with a checkbox and a number for each class that has objects. */
export class ClassList {
  #list = find("classes");
  #rows = new Map();
  #choice;

  /**
   * @param {{hiddenClasses: Set<number>, isolated: number | null}} choice changed by the checkboxes
   * @param {() => void} onChange called after each change
   */
  constructor(choice, onChange) {
    this.#choice = choice;
    this.#list.addEventListener("change", ({ target }) => {
      this.#switch([Number(target.value)], target.checked);
      onChange();
    });
    find("classes-all").addEventListener("click", () => {
      const anyHidden = [...this.#rows.keys()].some((id) => choice.hiddenClasses.has(id));
      this.#switch([...this.#rows.keys()], anyHidden);
      onChange();
    });
  }

  #switch(ids, shown) {
    this.#choice.isolated = null;
    for (const id of ids) {
      if (shown) this.#choice.hiddenClasses.delete(id);
      else this.#choice.hiddenClasses.add(id);
      this.#rows.get(id).input.checked = shown;
    }
    const anyHidden = [...this.#rows.keys()].some((id) => this.#choice.hiddenClasses.has(id));
    find("classes-all").textContent = anyHidden ? "Show all" : "Hide all";
  }

  /** List the classes of objects, those with most objects of the minimum score first. */
  fill(objects, { score }) {
    const shown = countClasses(objects, score);
    const order = (first, second) => (shown.get(second[0]) ?? 0) - (shown.get(first[0]) ?? 0) || second[1] - first[1];
    const counts = [...countClasses(objects, 0)].sort(order);
    const names = new Map(objects.map(({ classId, className }) => [classId, className]));
    this.#rows = new Map(counts.map(([id]) => [id, classRow(id, names.get(id), !this.#choice.hiddenClasses.has(id))]));
    this.#list.replaceChildren(...[...this.#rows.values()].map(({ item }) => item));
    this.#switch([], true);
  }

  /** Write the number of objects of each class with the minimum score. */
  count(objects, { score }, { byObject }) {
    const counts = countClasses(objects, score);
    for (const [id, { item, number, swatch }] of this.#rows) {
      const count = counts.get(id) ?? 0;
      setText(number, count.toLocaleString("en-US"));
      item.classList.toggle("empty", count === 0);
      swatch.hidden = byObject; // the colors are not those of classes
    }
  }
}

function classRow(id, name, shown) {
  const item = document.createElement("li");
  const label = document.createElement("label");
  const input = document.createElement("input");
  Object.assign(input, { type: "checkbox", value: id, checked: shown });
  const swatch = createSwatch(css(colorOf(id)));
  const text = createSpan("name", name);
  const number = createSpan("number");
  label.append(input, swatch, text, number);
  item.append(label);
  return { item, input, swatch, number };
}

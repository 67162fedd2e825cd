/** Elements of the page: finding, creating and writing them. */

/** Return the element with an id. */
export function find(id) {
  return document.getElementById(id);
}

/** Return a span with a class and a text. */
export function createSpan(className, text = "") {
  const span = document.createElement("span");
  span.className = className;
  span.textContent = text;
  return span;
}

/** Return a small field of a color. */
export function createSwatch(color) {
  const swatch = createSpan("swatch");
  swatch.style.backgroundColor = color;
  return swatch;
}

/** Write a text if it is another: an equal one would cost a new layout of the page as well. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

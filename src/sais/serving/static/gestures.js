/** Mouse, touch, pen, wheel and keyboard on the stage, as calls to pan, zoom, hover and click. */

/** Screen pixels up to which a press is a click and not a drag. */
const CLICK_DISTANCE = 5;
const KEY_STEP = 60;
const KEY_FACTOR = 1.25;

/**
 * Listen to the events of an element.
 *
 * @param {HTMLElement} element
 * @param {object} actions pan(dx, dy), zoom(factor, point), fit(), actualSize(), hover(point or null), click(point);
 *   points are [x, y] in screen pixels from the element's upper left corner
 */
export function listenToGestures(element, actions) {
  const pointOf = (event) => {
    const { left, top } = element.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  };
  listenToPointers(element, actions, pointOf);
  element.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const pixels = event.deltaY * (event.deltaMode === 1 ? 33 : event.deltaMode === 2 ? 400 : 1);
      const speed = event.ctrlKey ? 0.01 : 0.0015; // browsers report a pinch on a touch pad as a wheel with Ctrl
      actions.zoom(Math.exp(-Math.max(-200, Math.min(200, pixels)) * speed), pointOf(event));
    },
    { passive: false },
  );
  element.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target !== element) return;
    const action = keyActions(actions)[event.key];
    if (action) {
      event.preventDefault();
      action();
    }
  });
}

function keyActions({ pan, zoom, fit, actualSize }) {
  return {
    ArrowLeft: () => pan(KEY_STEP, 0),
    ArrowRight: () => pan(-KEY_STEP, 0),
    ArrowUp: () => pan(0, KEY_STEP),
    ArrowDown: () => pan(0, -KEY_STEP),
    "+": () => zoom(KEY_FACTOR),
    "=": () => zoom(KEY_FACTOR),
    "-": () => zoom(1 / KEY_FACTOR),
    0: fit,
    1: actualSize,
  };
}

function listenToPointers(element, actions, pointOf) {
  const pointers = new Map();
  let traveled = 0;
  element.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    element.setPointerCapture(event.pointerId);
    if (pointers.size === 0) traveled = 0;
    pointers.set(event.pointerId, pointOf(event));
    if (pointers.size > 1) traveled = Infinity;
  });
  element.addEventListener("pointermove", (event) => {
    const point = pointOf(event);
    const previous = pointers.get(event.pointerId);
    if (!previous) {
      if (event.pointerType !== "touch") actions.hover(point);
      return;
    }
    const [dx, dy] = [point[0] - previous[0], point[1] - previous[1]];
    traveled += Math.hypot(dx, dy);
    if (pointers.size === 1) {
      if (traveled > CLICK_DISTANCE) actions.pan(dx, dy);
    } else if (pointers.size === 2) {
      const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
      const distance = (first, second) => Math.hypot(first[0] - second[0], first[1] - second[1]);
      actions.pan(dx / 2, dy / 2);
      actions.zoom(distance(point, other) / Math.max(1, distance(previous, other)), [
        (point[0] + other[0]) / 2,
        (point[1] + other[1]) / 2,
      ]);
    }
    pointers.set(event.pointerId, point);
  });
  const release = (event) => {
    if (pointers.delete(event.pointerId) && event.type === "pointerup" && traveled <= CLICK_DISTANCE) {
      actions.click(pointOf(event));
    }
  };
  element.addEventListener("pointerup", release);
  element.addEventListener("pointercancel", release);
  element.addEventListener("pointerleave", () => actions.hover(null));
}

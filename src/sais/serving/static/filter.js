/** Which objects are shown: pure functions of the objects of an answer and the reader's choice. */

/** Rounding of scores: 0.7 in 32 bits is less than 0.7 in 64. */
const ROUNDING = 1e-6;

/** Return whether an object has at least a score. */
function reaches(object, score) {
  return object.score + ROUNDING >= score;
}

/**
 * Return the objects that are shown.
 *
 * @param {object[]} objects objects of an answer
 * @param {{score: number, hiddenClasses: Set<number>, isolated: number | null}} choice minimum score, ids of the
 *   classes that are off, index of the only object shown
 */
export function shownObjects(objects, { score, hiddenClasses, isolated }) {
  if (isolated !== null) return objects.filter(({ index }) => index === isolated);
  return objects.filter((object) => reaches(object, score) && !hiddenClasses.has(object.classId));
}

/** Return the number of objects of each class with at least a score, as a map of class ids. */
export function countClasses(objects, score) {
  const counts = new Map();
  for (const object of objects) {
    if (reaches(object, score)) counts.set(object.classId, (counts.get(object.classId) ?? 0) + 1);
  }
  return counts;
}

/** Describe the objects that are shown: "5 objects: 3 fox, 2 deer". */
export function describe(shown) {
  const names = new Map();
  for (const { className } of shown) names.set(className, (names.get(className) ?? 0) + 1);
  const parts = [...names].sort((first, second) => second[1] - first[1]).map(([name, count]) => `${count} ${name}`);
  const listed = parts.length > 5 ? [...parts.slice(0, 5), `${parts.length - 5} more classes`] : parts;
  return shown.length ? `${plural(shown.length, "object")}: ${listed.join(", ")}` : "No objects";
}

/** Return a number and a noun: "1 object", "2,000 objects". */
export function plural(count, noun) {
  return `${count.toLocaleString("en-US")} ${noun}${count === 1 ? "" : "s"}`;
}

/** Return a score with two digits, rounded down: it never reads as more than the threshold that hides it. */
export function formatScore(score) {
  return (Math.floor((score + ROUNDING) * 100) / 100).toFixed(2);
}

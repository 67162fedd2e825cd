/** The colors of classes: those of every other drawing of this package (`sais.results.palette`). */

export const PALETTE = [
  [255, 153, 20], [56, 170, 245], [0, 205, 150], [212, 52, 98], [250, 228, 90], [30, 100, 255], [255, 120, 190],
  [209, 94, 52], [90, 235, 250], [209, 52, 178], [150, 225, 50], [8, 145, 120], [209, 186, 120], [150, 75, 225],
  [255, 175, 150], [175, 175, 250],
];

/** Return the color of a class or object, by its index. */
export function colorOf(index) {
  return PALETTE[index % PALETTE.length];
}

/** Return a color as CSS. */
export function css([red, green, blue]) {
  return `rgb(${red}, ${green}, ${blue})`;
}

/** Return the color of readable text on a background. */
export function inkOn(color) {
  const [red, green, blue] = color.map((value) => (value / 255) ** 2.2);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.19 ? "rgb(16, 18, 22)" : "rgb(255, 255, 255)";
}

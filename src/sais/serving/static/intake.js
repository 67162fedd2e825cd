/** The ways an image reaches the page: dropped, pasted, chosen, or taken with a camera. */

const IMAGE_NAME = /\.(jpe?g|png|webp|avif|gif|bmp|tiff?|heic|heif)$/i;

/**
 * Listen for images.
 *
 * @param {(file: File) => void} onImage called with an image file
 * @param {(message: string) => void} onError called with a sentence
 * @param {(message: string) => void} onNotice called with a sentence that is not an error
 */
export function listenForImages(onImage, onError, onNotice) {
  const take = (files, source) => {
    const images = [...files].filter(isImage);
    if (images.length) onImage(images[0]);
    if (images.length > 1) onNotice(`This is the first of ${images.length} images. Open the others one at a time.`);
    if (images.length) return;
    if (files.length) onError(`“${files[0].name}” is not an image. Use a JPEG, PNG or WebP file.`);
    else onError(`The ${source} contains no file. Save the image as a file first, then choose it.`);
  };
  listenToDrops(take);
  document.addEventListener("paste", (event) => {
    if (event.target.matches("input[type=password], input[type=text]")) return;
    const { files } = event.clipboardData;
    if (files.length) take(files, "clipboard");
    else onError("The clipboard contains no image. Copy an image first, then paste it.");
  });
  for (const input of document.querySelectorAll("input[type=file]")) {
    input.addEventListener("change", () => {
      if (input.files.length) take(input.files, "selection");
      input.value = ""; // so that the same file can be chosen again
    });
  }
  connect("choose", "file-input");
  connect("welcome-choose", "file-input");
  connect("camera", "camera-input");
  // Elsewhere, the browser would open the file chooser instead of a camera.
  document.getElementById("camera").hidden = !matchMedia("(pointer: coarse)").matches;
}

function isImage(file) {
  return file.type.startsWith("image/") || IMAGE_NAME.test(file.name);
}

function connect(buttonId, inputId) {
  document.getElementById(buttonId).addEventListener("click", () => document.getElementById(inputId).click());
}

function listenToDrops(take) {
  const { classList } = document.body;
  let depth = 0; // entered elements: leaving a child is no end of the drag
  document.addEventListener("dragenter", (event) => {
    event.preventDefault();
    if (!event.dataTransfer.types.includes("Files")) return; // a selected text
    depth++;
    classList.add("dragging");
  });
  document.addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    if (depth === 0) classList.remove("dragging");
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    classList.remove("dragging");
    take(event.dataTransfer.files, "drop");
  });
}

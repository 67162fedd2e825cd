/** The strip of example images. Thumbnails are loaded when they become visible, with the API key if there is one. */

import { fetchBlob, fetchExamples } from "./api.js";

/**
 * Show the examples of the server, if it has any.
 *
 * @param {(file: File) => void} onImage called with the image that was clicked
 * @param {(error: Error) => void} onError called if it cannot be loaded
 */
export async function showGallery(onImage, onError) {
  const examples = await fetchExamples();
  const list = document.getElementById("examples");
  list.replaceChildren(...examples.map((example) => exampleItem(example, onImage, onError)));
  document.getElementById("gallery").hidden = examples.length === 0;
}

function exampleItem({ name, url, thumbnail_url: thumbnail }, onImage, onError) {
  const image = document.createElement("img");
  Object.assign(image, { alt: "", draggable: false });
  const button = document.createElement("button");
  button.type = "button";
  button.title = name;
  button.setAttribute("aria-label", `Example ${name}`);
  button.append(image);
  button.addEventListener("click", async () => {
    try {
      const blob = await fetchBlob(url);
      onImage(new File([blob], name, { type: blob.type }));
    } catch (error) {
      onError(error);
    }
  });
  new IntersectionObserver(async (entries, observer) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    try {
      image.src = URL.createObjectURL(await fetchBlob(thumbnail ?? url));
      image.onload = () => URL.revokeObjectURL(image.src);
    } catch {
      button.textContent = name; // still can be clicked
    }
  }).observe(button);
  const item = document.createElement("li");
  item.append(button);
  return item;
}

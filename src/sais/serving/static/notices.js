/** What the page reports: progress, errors, announcements for screen readers, and the dialog for the API key. */

import { find } from "./elements.js";

/** Show progress: a text, the part that is done (0 to 1; null: unknown), and what the button "Cancel" does, if any. */
export function showProgress(text, part, cancel) {
  find("progress").hidden = false;
  find("progress-text").textContent = text;
  const bar = find("progress-bar");
  if (part === null) bar.removeAttribute("value");
  else bar.value = part;
  find("progress-cancel").hidden = !cancel;
  find("progress-cancel").onclick = cancel;
  announce(text.replace(/\d+ %/, "the image")); // not each percentage
}

/** Hide the progress. */
export function hideProgress() {
  find("progress").hidden = true;
}

/** Show an error; with `retry`, a button that tries again. */
export function showError(message, retry = null) {
  showNotice(message, retry);
  find("error").classList.add("error");
}

/** Show a message that is not an error. */
export function showNotice(message, retry = null) {
  find("error").classList.remove("error");
  find("error-text").textContent = message;
  find("error").hidden = false;
  find("error-retry").hidden = !retry;
  find("error-retry").onclick = () => {
    hideError();
    retry();
  };
  find("error-close").onclick = hideError;
}

/** Hide the message. */
export function hideError() {
  find("error").hidden = true;
}

let announcement = 0;

/** Have screen readers read a text, once changes have ended for half a second. */
export function announce(text) {
  clearTimeout(announcement);
  announcement = setTimeout(() => {
    find("status").textContent = text;
  }, 500);
}

let keyEntered = false;

/** Ask for the API key; null if the reader cancels. */
export function askForKey() {
  const dialog = find("key-dialog");
  find("key-message").textContent = keyEntered
    ? "The server does not accept this key. Enter another one."
    : "The server requires an API key.";
  find("key").value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    find("key-form").onsubmit = (event) => {
      event.preventDefault();
      keyEntered = true;
      dialog.onclose = null;
      dialog.close();
      resolve(find("key").value);
    };
    find("key-cancel").onclick = () => dialog.close();
    dialog.onclose = () => resolve(null);
  });
}

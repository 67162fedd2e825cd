/** Requests to the server. Paths are relative to the page, so that it works behind a proxy with a path prefix. */

let apiKey = "";

/** An error whose message is a sentence for the reader. */
export class ApiError extends Error {
  /**
   * @param {string} message what happened, and what to do
   * @param {number} status HTTP status; 0 without an answer
   * @param {string} code name of the error for programs; "" without an answer of the service itself
   * @param {number} retryAfter seconds after which to try again; 0 if the server states none
   */
  constructor(message, status = 0, code = "", retryAfter = 0) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

/** Hold the API key in memory, until the page is closed. */
export function setApiKey(key) {
  apiKey = key.trim();
}

/** Return the models of the server: name, classes, default score, and whether it is the default. */
export async function fetchModels() {
  return (await (await get("v1/models")).json()).models;
}

/** Return the example images of the server: name, url and thumbnail_url. */
export async function fetchExamples() {
  return (await (await get("v1/examples")).json()).examples;
}

/** Return the content of a path of the server. */
export async function fetchBlob(path) {
  return (await get(path.replace(/^\//, ""))).blob();
}

/** Wait until the models of the server are loaded; look every `seconds`. */
export async function waitUntilReady(seconds, signal) {
  let status;
  do {
    await new Promise((resolve) => setTimeout(resolve, 1000 * Math.max(0.5, seconds)));
    try {
      ({ status } = await fetch("readyz", { signal }));
    } catch {
      throw unreachable();
    }
  } while (status === 503);
}

async function get(path) {
  let response;
  try {
    response = await fetch(path, { headers: keyHeader() });
  } catch {
    throw unreachable();
  }
  if (response.ok) return response;
  throw errorOf(response.status, await response.text(), response.headers.get("Retry-After"));
}

/**
 * Predict on an image.
 *
 * @param {Blob} blob content of the image file
 * @param {object} options query parameters, such as model and score; null is left out
 * @param {(sent: number | null) => void} onProgress called with the part of the upload that is done, 0 to 1, and with
 *   null when the server computes
 * @param {AbortSignal} signal cancels the request
 * @returns {Promise<object>} the answer
 * @throws {ApiError} if there is no answer or it is an error
 */
export function predict(blob, options, onProgress, signal) {
  const query = new URLSearchParams(Object.entries(options).filter(([, value]) => value !== null));
  // fetch reports no progress of an upload.
  const request = new XMLHttpRequest();
  request.open("POST", `v1/predict?${query}`);
  request.setRequestHeader("Content-Type", blob.type.startsWith("image/") ? blob.type : "application/octet-stream");
  request.setRequestHeader("Accept", "application/json");
  for (const [name, value] of Object.entries(keyHeader())) request.setRequestHeader(name, value);
  return new Promise((resolve, reject) => {
    request.upload.onprogress = ({ loaded, total }) => onProgress(total && loaded < total ? loaded / total : null);
    request.upload.onload = () => onProgress(null);
    request.onload = () => {
      const retryAfter = request.getResponseHeader("Retry-After");
      if (request.status !== 200) reject(errorOf(request.status, request.responseText, retryAfter));
      else {
        try {
          resolve(JSON.parse(request.responseText));
        } catch {
          reject(new ApiError("The answer of the server is not JSON. Check the address and try again."));
        }
      }
    };
    request.onerror = () => reject(unreachable());
    request.onabort = () => reject(new DOMException("canceled", "AbortError"));
    signal.addEventListener("abort", () => request.abort());
    request.send(blob);
  });
}

function keyHeader() {
  return apiKey ? { "X-API-Key": apiKey } : {};
}

function unreachable() {
  return new ApiError("The server cannot be reached. Check that it is running and try again.");
}

const MESSAGES = {
  401: "The server requires an API key.",
  408: "The upload took too long. Try again, or use a smaller file.",
  413: "The image is too large for the server. Use a smaller one.",
  415: "The server does not read files of this type. Use a JPEG or PNG file.",
  429: "The server is busy.",
  503: "The server is busy.",
};

/** Return the error of an answer: the server's sentences, or ours for its status. */
function errorOf(status, body, retryAfter) {
  let message, code;
  try {
    const error = JSON.parse(body).error;
    message = error.message[0].toUpperCase() + error.message.slice(1);
    code = error.code;
  } catch {
    message = MESSAGES[status] ?? `The server answered with status ${status}. Try again.`;
  }
  const seconds = Number.parseInt(retryAfter, 10);
  if (seconds > 0 && !/try again/i.test(message)) message += ` Try again in ${seconds} s.`;
  return new ApiError(message, status, code, seconds > 0 ? seconds : 0);
}

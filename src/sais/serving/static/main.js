/** The page: an image comes in, the server predicts, and the reader explores the objects without further requests. */

import { fetchModels, predict, setApiKey, waitUntilReady } from "./api.js";
import { ClassList, connectControls, writeScore } from "./controls.js";
import { decodeDetections } from "./detections.js";
import { saveCoco, saveLabelme, savePng } from "./downloads.js";
import { find, setText } from "./elements.js";
import { describe, formatScore, plural, shownObjects } from "./filter.js";
import { showGallery } from "./gallery.js";
import { listenForImages } from "./intake.js";
import { announce, askForKey, hideError, hideProgress, showError, showNotice, showProgress } from "./notices.js";
import { ObjectList } from "./object_list.js";
import { Stage } from "./stage.js";

/** Minimum score of the request: the slider filters here, down to this score. */
const REQUEST_SCORE = 0.05;
/** Side of an image in pixels from which tiles are suggested if no object is detected. */
const LARGE_SIDE = 2000;
/** Objects up to which their labels are drawn at first. */
const FEW_OBJECTS = 25;

const choice = { score: 0.3, hiddenClasses: new Set(), isolated: null };
const style = { opacity: 0.45, outlinesOnly: false, labels: true, byObject: false, hovered: null };
let models = [];
let file = null; // the image
let imageSize = null; // its width and height
let detections = null; // its objects
let task = new AbortController(); // what is in progress

const stage = new Stage(find("view"));
const classList = new ClassList(choice, update);
const objectList = new ObjectList((index) => highlight(index), isolate);

/** Return the objects that are shown, in the order in which they are drawn. */
function shown() {
  return detections ? shownObjects(detections.paintOrder, choice) : [];
}

/** Bring the stage and the panel up to date with the choice. */
function update() {
  if (!detections) return;
  const objects = shown();
  stage.show(objects, { ...style, isolated: choice.isolated !== null });
  // By score; while one object is shown alone, the list has the others as well, to change to them.
  const listed = shownObjects(detections.objects, { ...choice, isolated: null });
  objectList.update(listed, choice.isolated, style);
  classList.count(detections.objects, choice, style);
  find("show-all").hidden = choice.isolated === null;
  const text = describe(objects);
  setText(find("summary"), plural(objects.length, "object"));
  find("view").querySelector(".mask-layer").setAttribute("aria-label", `${file.name}. ${text}.`);
  find("none").hidden = objects.length > 0;
  setText(find("none"), noObjects());
  for (const id of ["save-coco", "save-labelme"]) find(id).disabled = objects.length === 0;
  announce(`${text}.`);
}

function noObjects() {
  const others = detections.objects.length;
  const text = others
    ? `No object is shown. ${plural(others, "detection")} with a lower score or of a hidden class.`
    : "The model detects nothing in this image.";
  const isLarge = Math.max(detections.width, detections.height) >= LARGE_SIDE;
  return isLarge && !find("tile").checked ? `${text} Inference options: tiles detect small objects.` : text;
}

/** Highlight an object; at a point of the stage, with its class, score and area. */
function highlight(index, point = null) {
  const tip = find("tip");
  tip.hidden = index === null || !point;
  if (!tip.hidden) {
    const { className, score, area } = detections.objects[index];
    const part = (100 * area) / (detections.width * detections.height);
    find("tip-name").textContent = `${className} ${formatScore(score)}`;
    find("tip-area").textContent = `${plural(Math.round(area), "pixel")}, ${part.toPrecision(2)} %`;
    const { clientWidth, clientHeight } = find("view");
    const left = Math.min(point[0] + 14, clientWidth - tip.offsetWidth - 4);
    const top = point[1] + 18 + tip.offsetHeight > clientHeight ? point[1] - tip.offsetHeight - 10 : point[1] + 18;
    tip.style.transform = `translate(${Math.max(4, left)}px, ${top}px)`;
  }
  if (style.hovered === index || !detections) return;
  style.hovered = index;
  find("view").classList.toggle("over-object", index !== null);
  objectList.highlight(index);
  stage.show(shown(), { ...style, isolated: choice.isolated !== null });
}

/** Show one object only, or all again if it is the one shown. */
function isolate(index) {
  choice.isolated = choice.isolated === index ? null : index;
  if (choice.isolated !== null) stage.reveal(detections.objects[index].bounds);
  update();
}

/** Show an image and predict on it. */
async function openImage(image) {
  hideError();
  task.abort();
  const { signal } = (task = new AbortController());
  const size = await attempt(signal, () => openImage(image), async () => {
    showProgress("Reading the image", null, null);
    return readImage(image);
  });
  if (!size) return;
  [file, imageSize, detections] = [image, size, null];
  document.body.classList.add("has-image");
  find("welcome").hidden = true;
  find("panel").hidden = true;
  find("zoom").hidden = false;
  find("tip").hidden = true;
  document.title = `${image.name} - sais`;
  if (!signal.aborted) await predictImage(); // else another image has been opened meanwhile
}

async function readImage(image) {
  try {
    return await stage.open(image);
  } catch {
    throw new Error(`The browser cannot show “${image.name}”. Use a JPEG, PNG or WebP file.`);
  }
}

/** Predict on the current image. */
async function predictImage() {
  task.abort();
  const { signal } = (task = new AbortController());
  await attempt(signal, predictImage, async () => {
    const answer = await predictWhenReady(signal);
    showProgress("Decoding the masks", null, cancel);
    const decoded = await decodeDetections(answer);
    if (signal.aborted) return;
    if (decoded.width !== imageSize.width || decoded.height !== imageSize.height) {
      const [theirs, ours] = [decoded, imageSize].map(({ width, height }) => `${width} × ${height}`);
      throw new Error(`The server reads this image as ${theirs} pixels, the browser as ${ours}. Save it as PNG first.`);
    }
    showDetections(decoded, answer);
  });
}

/** Predict; while the server loads its models, wait for them. */
async function predictWhenReady(signal) {
  for (;;) {
    try {
      return await predict(file, requestOptions(), reportUpload, signal);
    } catch (error) {
      if (error.code !== "not_ready") throw error;
      showProgress("The server is loading its models", null, cancel);
      await waitUntilReady(error.retryAfter, signal);
    }
  }
}

function requestOptions() {
  const model = currentModel();
  return {
    model: model.name,
    score: Math.min(REQUEST_SCORE, model.score ?? REQUEST_SCORE),
    masks: "rle",
    tta_flip: find("tta-flip").checked || null,
    tile: find("tile").checked ? "auto" : null,
  };
}

function reportUpload(sent) {
  const text = sent === null ? "Predicting" : `Uploading ${Math.round(100 * sent)} %`;
  showProgress(text, sent, cancel);
}

function cancel() {
  task.abort();
  showNotice("The prediction is canceled.", predictImage);
}

/** Do something; show its error, ask for the API key if it is missing. Returns undefined after an error. */
async function attempt(signal, retry, action) {
  try {
    return await action();
  } catch (error) {
    if (signal.aborted) return undefined;
    if (error.status === 401) {
      hideProgress();
      const key = await askForKey();
      if (key !== null) {
        setApiKey(key);
        setTimeout(retry);
        return undefined;
      }
    }
    showError(error.message, retry);
    return undefined;
  } finally {
    if (signal === task.signal) hideProgress();
  }
}

function showDetections(decoded, { model, timing_ms: timing }) {
  const { width, height } = decoded;
  detections = decoded;
  choice.isolated = null;
  style.hovered = null;
  const few = shownObjects(decoded.objects, choice).length <= FEW_OBJECTS;
  style.labels = find("labels").checked = few;
  classList.fill(decoded.objects, choice);
  objectList.reset();
  find("panel").hidden = false;
  const side = (pixels) => pixels.toLocaleString("en-US");
  const duration = timing?.predict === undefined ? "" : ` · ${Math.round(timing.predict)} ms`;
  find("details").textContent = `${side(width)} × ${side(height)} pixels · ${model}${duration}`;
  update();
}

function currentModel() {
  return models.find(({ name }) => name === find("model").value) ?? models[0];
}

/** Use the default score of the model that is chosen. */
function useModel() {
  choice.score = Math.max(REQUEST_SCORE, currentModel().score ?? 0.3); // exact; the slider moves in steps of 0.01
  choice.hiddenClasses.clear(); // its classes are others
  writeScore(choice.score);
}

/** Load models and examples. */
async function start() {
  await attempt(task.signal, start, async () => {
    models = await fetchModels();
    const options = models.map(({ name, default: selected }) => new Option(name, name, selected, selected));
    find("model").replaceChildren(...options);
    find("model-field").hidden = models.length < 2;
    useModel();
    await showGallery(openImage, (error) => showError(error.message));
    document.body.classList.add("ready");
  });
}

async function download(action) {
  try {
    await action({ name: file.name, width: detections.width, height: detections.height });
  } catch (error) {
    showError(error.message);
  }
}

function connectButtons() {
  for (const id of ["model", "tta-flip", "tile"]) {
    find(id).addEventListener("change", () => {
      if (id === "model") useModel();
      hideError();
      if (file) predictImage();
    });
  }
  find("show-all").addEventListener("click", () => isolate(choice.isolated));
  find("zoom-in").addEventListener("click", () => stage.zoomBy(1.5));
  find("zoom-out").addEventListener("click", () => stage.zoomBy(1 / 1.5));
  find("zoom-fit").addEventListener("click", () => stage.fit());
  find("zoom-value").addEventListener("click", () => stage.actualSize());
  const byScore = () => [...shown()].sort((first, second) => first.index - second.index);
  find("save-coco").addEventListener("click", () => download((image) => saveCoco(byScore(), image, currentModel())));
  find("save-labelme").addEventListener("click", () => download((image) => saveLabelme(byScore(), image)));
  find("save-png").addEventListener("click", () =>
    download((image) => {
      const drawn = { ...style, hovered: null, isolated: choice.isolated !== null };
      return savePng(stage.source, shown(), drawn, image);
    }),
  );
  document.addEventListener("keydown", ({ key }) => {
    if (key === "Escape" && choice.isolated !== null && !find("key-dialog").open) isolate(choice.isolated);
  });
}

stage.onHover = (object, point) => highlight(object?.index ?? null, point);
stage.onPick = (object, point) => {
  if (object && choice.isolated === null) {
    isolate(object.index);
    objectList.reveal(object.index);
    highlight(object.index, point); // a finger does not hover
  } else if (choice.isolated !== null) {
    isolate(choice.isolated);
    highlight(null);
  }
};
stage.onZoom = (zoom) => {
  find("zoom-value").textContent = `${Math.round(100 * zoom * devicePixelRatio)} %`;
};
connectControls(choice, style, update);
connectButtons();
listenForImages(openImage, showError, showNotice);
start();

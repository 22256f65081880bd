/** The page: takes an image, shows what the model says of it, how fast, and where its attention lies. */

import { figures } from "./attention.mjs";
import { UnreadableImage, decode, fit, part } from "./image.mjs";
import { measure } from "./latency.mjs";
import { KINDS, gpu, open, openLiteRt } from "./runtimes.mjs";

const TOP = 5;
const VIEW = 448; // pixels of the picture's longer side on the page

const at = (id) => document.getElementById(id);
const state = { manifest: null, page: null, model: null, attention: null, pixels: null, view: null, turn: 0 };

/** Does one thing after the other; of several images that wait, the last counts. */
let line = Promise.resolve();
function queue(work) {
  const turn = ++state.turn;
  line = line.then(async () => {
    if (turn !== state.turn) return;
    document.body.setAttribute("aria-busy", "true");
    try {
      await work(() => turn === state.turn);
    } catch (error) {
      say(error instanceof UnreadableImage ? error.message : `This did not work: ${error.message}`, true);
      if (!(error instanceof UnreadableImage)) console.error(error);
    } finally {
      document.body.setAttribute("aria-busy", "false");
    }
  });
  return line;
}

function say(text, wrong = false) {
  at("status").textContent = text;
  at("status").classList.toggle("wrong", wrong);
}

async function json(name) {
  const answer = await fetch(new URL(name, document.baseURI));
  if (!answer.ok) throw new Error(`${name} is missing beside the page`);
  return answer.json();
}

async function start() {
  say("Loading the model…");
  [state.manifest, state.page] = await Promise.all([json("../manifest.json"), json("page.json")]);
  const { name, image, version } = state.manifest;
  document.title = name;
  at("name").textContent = name;
  at("about").textContent = `${version ? `Version ${version}. ` : ""}Sees ${image.width} x ${image.height} pixels. The image stays in this browser.`;
  showSamples();
  await chooseRuntimes();
  if (state.page.gates.length) {
    state.attention = await openLiteRt(new URL(state.page.attention, document.baseURI).href, "wasm");
  } else {
    at("attention-note").textContent = "This network has no attention.";
  }
  say("Ready: choose an image.");
}

function showSamples() {
  state.page.samples.forEach(({ file, label }, index) => {
    const picture = document.createElement("img");
    picture.src = file;
    picture.alt = label ? `Sample ${index + 1}: ${label}` : `Sample ${index + 1}`;
    const button = document.createElement("button");
    button.type = "button";
    button.append(picture);
    button.addEventListener("click", async () => queue(async (wanted) => show(await (await fetch(file)).blob(), wanted)));
    const entry = document.createElement("li");
    entry.append(button);
    at("samples").append(entry);
  });
  at("samples-title").hidden = state.page.samples.length === 0;
}

/** Fills the list of runtimes and opens the one that ?runtime= names, or the first. */
async function chooseRuntimes() {
  const adapter = await gpu();
  at("runtime-note").textContent = adapter ? `WebGPU: ${adapter}.` : "This browser has no WebGPU: models run in WASM, on the CPU.";
  for (const [kind, { text }] of Object.entries(KINDS)) {
    if (kind === "mediapipe" && state.manifest.task !== "classification") continue;
    const option = new Option(text, kind);
    option.disabled = kind === "webgpu" && !adapter;
    at("runtime").add(option);
  }
  const wanted = new URLSearchParams(location.search).get("runtime");
  const usable = [...at("runtime").options].some((option) => option.value === wanted && !option.disabled);
  at("runtime").value = usable ? wanted : "litert";
  await openChosen();
  at("runtime").disabled = false;
  at("runtime").addEventListener("change", () =>
    queue(async (still) => {
      await openChosen();
      if (state.pixels) await classify(still);
      else say("Ready: choose an image.");
    }),
  );
}

async function openChosen() {
  const kind = at("runtime").value;
  state.model?.close();
  state.model = null;
  try {
    state.model = await open(kind, state.manifest);
  } catch (error) {
    if (kind !== "webgpu") throw error;
    at("runtime").value = "litert";
    at("runtime-note").textContent = `WebGPU failed (${error.message}): the model runs in WASM, on the CPU.`;
    state.model = await open("litert", state.manifest);
  }
}

/** @param {Blob} file */
async function show(file, wanted) {
  say("Reading the image…");
  const image = await decode(file);
  const target = state.manifest.image;
  state.pixels = fit(image, target);
  state.view = await picture(image, part(image.width, image.height, target));
  at("picture").replaceChildren(state.view);
  await classify(wanted);
}

/** What the network sees, in the image's own sharpness. */
async function picture(image, [left, top, right, bottom]) {
  const { width, height, resize } = state.manifest.image;
  const [w, h] = resize === "crop" ? [width, height] : [image.width, image.height];
  const canvas = document.createElement("canvas");
  const scale = VIEW / Math.max(w, h);
  [canvas.width, canvas.height] = [Math.max(1, Math.round(w * scale)), Math.max(1, Math.round(h * scale))];
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = right - left > canvas.width / 4;
  context.imageSmoothingQuality = "high";
  const whole = await createImageBitmap(image);
  context.drawImage(whole, left, top, right - left, bottom - top, 0, 0, canvas.width, canvas.height);
  whole.close();
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "The part of the image that the model sees");
  return canvas;
}

async function classify(wanted) {
  at("latency").textContent = "";
  const { model, pixels } = state;
  const values = await model.run(pixels);
  const { task, classes } = state.manifest;
  say(task === "classification" ? showClasses(values, classes) : showValues(values, classes));
  if (state.attention) {
    const raw = await state.attention.run(pixels);
    const gates = state.page.gates;
    const levels = raw.slice(-gates.length).map((one, index) => Array.from(one, (value) => (value - gates[index].zero_point) * gates[index].scale));
    at("attention").replaceChildren(...figures(gates, levels, state.view));
  }
  const told = await measure(() => model.run(pixels), wanted);
  if (!told) return;
  const digits = told.median < 10 ? 2 : 1;
  const [median, low, high] = [told.median, told.low, told.high].map((one) => one.toFixed(digits));
  at("latency").textContent =
    `${median} ms a run: median of ${told.batches} batches of ${told.runs}, quartiles ${low} and ${high} ms. ` +
    `${KINDS[at("runtime").value].text.replace(/:.*/, "")}, one thread; without reading and fitting the image.`;
}

function showClasses(values, classes) {
  const order = values.map((_, index) => index).sort((a, b) => values[b] - values[a] || a - b);
  const percent = (value) => `${(100 * value).toFixed(1)} %`;
  at("classes").replaceChildren(...order.slice(0, TOP).map((index) => row(classes[index], percent(values[index]), values[index])));
  return `${classes[order[0]]}, ${percent(values[order[0]])}`;
}

function showValues(values, classes) {
  const { target_mean: mean, target_std: std } = state.manifest;
  const told = values.map((value, index) => (value * (std[index] ?? 1) + (mean[index] ?? 0)).toPrecision(4));
  at("classes").replaceChildren(...classes.map((name, index) => row(name, told[index], null)));
  return classes.map((name, index) => `${name}: ${told[index]}`).join(", ");
}

function row(name, text, share) {
  const entry = document.createElement("li");
  const label = document.createElement("span");
  label.className = "label";
  label.dir = "auto";
  label.textContent = name;
  const value = document.createElement("span");
  value.className = "value";
  value.textContent = text;
  entry.append(label, value);
  if (share !== null) {
    const bar = document.createElement("progress"); // whose length a style sheet may set without inline styles
    bar.max = 1;
    bar.value = share;
    bar.setAttribute("aria-hidden", "true"); // the number says it
    entry.append(bar);
  }
  return entry;
}

function takeImages() {
  const take = (file) => file && queue((wanted) => show(file, wanted));
  at("file").addEventListener("change", (event) => {
    take(event.target.files[0]);
    event.target.value = ""; // so that the same file can be chosen again
  });
  const drop = document.documentElement;
  for (const name of ["dragenter", "dragover"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      at("drop").classList.add("over");
    });
  }
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => at("drop").classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    const { files } = event.dataTransfer;
    if (files.length) take(files[0]);
    else say("What was dropped is no file: save the image first, then drop it.", true);
  });
  document.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
}

takeImages();
queue(start).then(() => document.body.setAttribute("data-ready", "true"));

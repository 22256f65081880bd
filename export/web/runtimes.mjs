/** The ways to run a model in a browser. Each opens a file of the bundle and turns pixels into real outputs. */

const MODULES = "node_modules";

export const KINDS = {
  litert: { file: "model_uint8.tflite", text: "LiteRT.js in WASM, on the CPU: int8", accelerator: "wasm" },
  webgpu: { file: "model_fp16.tflite", text: "LiteRT.js in WebGPU, on the GPU: float", accelerator: "webgpu" },
  mediapipe: { file: "model_uint8.tflite", text: "MediaPipe in WASM, on the CPU: int8" },
};

/** The runtimes write all they have to say to stderr; only what they call an error is one to the browser. */
function quietly() {
  self.Module = { print: console.debug, printErr: (line) => (/^(E\d|ERROR|FATAL|Abort)/.test(line) ? console.error : console.debug)(line) };
}

let litert;

async function loadLiteRt() {
  litert ??= (async () => {
    const module = await import("@litertjs/core");
    quietly();
    await module.loadLiteRt(new URL(`${MODULES}/@litertjs/core/wasm/`, document.baseURI).href, { threads: false });
    return module;
  })();
  return litert;
}

/** What the GPU is called, "" where there is none that WebGPU could use. */
export async function gpu() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  if (!adapter) return "";
  const { vendor, architecture, isFallbackAdapter } = adapter.info;
  return [vendor, architecture].filter(Boolean).join(" ") + (isFallbackAdapter ? ", emulated in software" : "");
}

/**
 * A .tflite file in LiteRT.js.
 * @param {string} url
 * @param {"wasm" | "webgpu"} accelerator
 */
export async function openLiteRt(url, accelerator) {
  const { Tensor, loadAndCompile } = await loadLiteRt();
  const model = await loadAndCompile(url, { accelerator });
  if (accelerator === "webgpu" && !model.isFullyAccelerated) {
    model.delete();
    throw new Error("WebGPU does not take all of the model");
  }
  const shape = [...model.getInputDetails()[0].shape];
  return {
    /** @return {Promise<ArrayLike<number>[]>} all outputs, integers or floats as they are */
    async run(input) {
      const tensor = new Tensor(input, shape);
      const outputs = await model.run(tensor);
      const values = [];
      for (const output of outputs) {
        values.push((await output.data()).slice());
        if (!output.deleted) output.delete();
      }
      if (!tensor.deleted) tensor.delete();
      return values;
    },
    close: () => model.delete(),
  };
}

/** Pixels [h, w, 3] as a file of the bundle takes them; see its manifest. */
export function fed(pixels, file) {
  if (file.input.dtype === "uint8") return pixels;
  return Float32Array.from(pixels, (pixel) => Math.fround(pixel - file.mean) / file.std);
}

/** Raw outputs as real numbers. */
export function real(values, { scale, zero_point: zero }) {
  return Array.from(values, (value) => (scale === null ? value : (value - zero) * scale));
}

/**
 * Opens a model for pixels.
 * @param {keyof KINDS} kind
 * @param {object} manifest of the bundle
 * @return {Promise<{run: (pixels: Uint8Array) => Promise<number[]>, close: () => void}>} real outputs of each class
 */
export async function open(kind, manifest) {
  const { file: name, accelerator } = KINDS[kind];
  const url = new URL(`../${name}`, document.baseURI).href;
  if (kind === "mediapipe") return openMediaPipe(url, manifest);
  const file = manifest.files[name];
  const session = await openLiteRt(url, accelerator);
  return {
    run: async (pixels) => real((await session.run(fed(pixels, file)))[0], file.output),
    close: session.close,
  };
}

/**
 * MediaPipe reports figures of its use to Google, unasked (privacy notice of @mediapipe/tasks-vision). The page's policy
 * forbids that; here it is not even tried.
 */
function stayHere() {
  const own = self.fetch;
  self.fetch = (resource, options) => {
    const { origin } = new URL(resource instanceof Request ? resource.url : resource, document.baseURI);
    return origin === location.origin ? own(resource, options) : Promise.reject(new TypeError(`${origin} is not this page's`));
  };
}
stayHere();

async function openMediaPipe(url, manifest) {
  const { FilesetResolver, ImageClassifier } = await import("@mediapipe/tasks-vision");
  const files = await FilesetResolver.forVisionTasks(new URL(`${MODULES}/@mediapipe/tasks-vision/wasm`, document.baseURI).href);
  quietly();
  const classifier = await ImageClassifier.createFromOptions(files, {
    baseOptions: { modelAssetPath: url, delegate: "CPU" },
    runningMode: "IMAGE",
    maxResults: -1,
  });
  const { width, height } = manifest.image;
  return {
    async run(pixels) {
      const image = new ImageData(width, height);
      for (let from = 0, to = 0; from < pixels.length; from += 3, to += 4) {
        image.data.set(pixels.subarray(from, from + 3), to);
        image.data[to + 3] = 255;
      }
      const values = new Array(manifest.classes.length).fill(0);
      for (const { index, score } of classifier.classify(image).classifications[0].categories) values[index] = score;
      return values;
    },
    close: () => classifier.close(),
  };
}

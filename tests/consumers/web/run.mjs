// node run.mjs PACKAGES MODEL INPUTS OUTPUTS
//
// Runs a model of one float32 input and one float32 output under ONNX Runtime's WebAssembly backend, image by image.
// PACKAGES is the folder that holds node_modules; INPUTS and OUTPUTS are files of raw little-endian float32. A free
// dimension of the input is taken as 1. Prints one line of JSON: versions and names.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const [packages, model, inputs, outputs] = process.argv.slice(2);
const ort = createRequire(resolve(packages, "package.json"))("onnxruntime-web");
ort.env.wasm.numThreads = 1;

const session = await ort.InferenceSession.create(readFileSync(model), { executionProviders: ["wasm"] });
const [input] = session.inputMetadata;
const shape = input.shape.map((size) => (typeof size === "number" && size > 0 ? size : 1));
const count = shape.reduce((a, b) => a * b, 1);
const raw = readFileSync(inputs);
const images = new Float32Array(raw.buffer, raw.byteOffset, raw.byteLength / 4);
if (images.length % count) throw new Error(`${images.length} values are no images of ${shape}`);

const results = [];
for (let start = 0; start < images.length; start += count) {
  const tensor = new ort.Tensor("float32", images.slice(start, start + count), shape);
  const answer = await session.run({ [input.name]: tensor });
  results.push(Buffer.from(Float32Array.from(answer[session.outputNames[0]].data).buffer));
}
writeFileSync(outputs, Buffer.concat(results));
console.log(JSON.stringify({ node: process.version, ort: ort.env.versions.web, input: input.name, output: session.outputNames[0] }));

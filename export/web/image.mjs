/**
 * Image file -> pixels for a network, as edgecbam prepares them in training: upright, on white, the largest centred
 * rectangle of the network's shape (or the whole image), bilinear with averaging where it shrinks.
 *
 * resample() gives Pillow's BILINEAR bit for bit: two passes over 8-bit values with weights of 22 binary places.
 */

const PLACES = 22;
const MAX_PIXELS = 89_478_485; // of one image, as in edgecbam

/** An image file that cannot be used; the message says why. */
export class UnreadableImage extends Error {}

/**
 * Decodes an image file, upright and on white.
 * @param {Blob} file
 * @return {Promise<ImageData>} RGBA, alpha 255 everywhere
 */
export async function decode(file) {
  const name = file.name ? `“${file.name}”` : "the image";
  if (file.size === 0) throw new UnreadableImage(`${name} is empty (0 bytes): choose an intact image, such as JPEG or PNG.`);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    throw new UnreadableImage(`${name} is no image that this browser can read, or a damaged one: choose a JPEG or PNG.`);
  }
  const { width, height } = bitmap;
  try {
    if (width * height > MAX_PIXELS) {
      throw new UnreadableImage(`${name} has ${width} x ${height} pixels, which is too many: choose a smaller one.`);
    }
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, 0, 0);
    return context.getImageData(0, 0, width, height);
  } catch (error) {
    if (error instanceof UnreadableImage) throw error;
    throw new UnreadableImage(`${name} (${width} x ${height} pixels) is too large for this browser: choose a smaller one.`);
  } finally {
    bitmap.close();
  }
}

/**
 * The part of an image that the network sees.
 * @param {number} width of the image
 * @param {number} height of the image
 * @param {{width: number, height: number, resize: string}} target
 * @return {[number, number, number, number]} left, top, right, bottom
 */
export function part(width, height, target) {
  if (target.resize !== "crop") return [0, 0, width, height];
  const wanted = target.width / target.height;
  const [w, h] = [Math.min(width, wanted * height), Math.min(height, width / wanted)];
  const [left, top] = [(width - w) * 0.5, (height - h) * 0.5];
  return [left, top, left + w, top + h];
}

/**
 * @param {ImageData} image
 * @param {{width: number, height: number, resize: string}} target
 * @return {Uint8Array} [height, width, 3]
 */
export function fit(image, target) {
  const box = part(image.width, image.height, target);
  const { width, height } = target;
  if (image.width === width && image.height === height) return rgb(image.data);
  return resample(image, box, width, height);
}

function rgb(rgba) {
  const out = new Uint8Array((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    out[to++] = rgba[from];
    out[to++] = rgba[from + 1];
    out[to++] = rgba[from + 2];
  }
  return out;
}

/**
 * @param {ImageData} image RGBA
 * @param {number[]} box left, top, right, bottom of what is scaled
 * @param {number} width of the result
 * @param {number} height of the result
 * @return {Uint8Array} [height, width, 3]
 */
export function resample(image, box, width, height) {
  const [left, top, right, bottom] = box.map(Math.fround);
  const across = weights(image.width, left, right, width);
  const down = weights(image.height, top, bottom, height);
  const first = down[0].start;
  const rows = Math.max(...down.map((one) => one.start + one.factors.length)) - first;
  const half = 2 ** (PLACES - 1);
  const narrow = new Uint8ClampedArray(rows * width * 3); // all rows that are needed, each of the final width
  for (let row = 0, to = 0; row < rows; row++) {
    const line = (first + row) * image.width;
    for (const { start, factors } of across) {
      let [red, green, blue] = [half, half, half];
      for (let k = 0, from = (line + start) * 4; k < factors.length; k++, from += 4) {
        red += image.data[from] * factors[k];
        green += image.data[from + 1] * factors[k];
        blue += image.data[from + 2] * factors[k];
      }
      narrow[to++] = red >> PLACES;
      narrow[to++] = green >> PLACES;
      narrow[to++] = blue >> PLACES;
    }
  }
  const out = new Uint8ClampedArray(width * height * 3);
  let to = 0;
  for (const { start, factors } of down) {
    for (let column = 0; column < width * 3; column++) {
      let sum = half;
      for (let k = 0; k < factors.length; k++) sum += narrow[(start - first + k) * width * 3 + column] * factors[k];
      out[to++] = sum >> PLACES;
    }
  }
  return new Uint8Array(out.buffer);
}

/** For each of `count` output pixels the source pixels from `start` and their integer factors. */
function weights(size, from, to, count) {
  const scale = Math.fround(to - from) / count;
  const reach = Math.max(scale, 1); // of the triangle; where the image grows, two neighbours are mixed
  const all = [];
  for (let index = 0; index < count; index++) {
    const centre = from + (index + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - reach + 0.5));
    const end = Math.min(size, Math.trunc(centre + reach + 0.5));
    const real = [];
    for (let x = start; x < end; x++) real.push(Math.max(0, 1 - Math.abs((x - centre + 0.5) * (1 / reach))));
    const sum = real.reduce((a, b) => a + b, 0);
    all.push({ start, factors: Int32Array.from(real, (one) => Math.trunc(0.5 + (one / sum) * 2 ** PLACES)) });
  }
  return all;
}

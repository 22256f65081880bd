/** The gates of attention as pictures: spatial ones over the image, those of channels as bars. */

// Viridis, by Nathaniel Smith, Stéfan van der Walt and Eric Firing (CC0): eleven of its colours, mixed in between.
const COLOURS = [
  [68, 1, 84], [72, 36, 117], [65, 68, 135], [53, 95, 141], [42, 120, 142], [33, 145, 140],
  [34, 168, 132], [68, 191, 112], [122, 209, 81], [189, 223, 38], [253, 231, 37],
];
const OPACITY = 0.7;
const SIDE = 320;
const SVG = "http://www.w3.org/2000/svg";

/**
 * A list entry for each block.
 * @param {{block: string, kind: string, shape: number[]}[]} gates
 * @param {number[][]} values of each gate, 0…1
 * @param {CanvasImageSource & {width: number, height: number}} picture what the network saw
 * @return {HTMLElement[]}
 */
export function figures(gates, values, picture) {
  const blocks = new Map();
  gates.forEach((gate, index) => blocks.set(gate.block, [...(blocks.get(gate.block) ?? []), { ...gate, values: values[index] }]));
  return [...blocks].map(([block, kinds]) => {
    const figure = element("figure");
    const name = title(block);
    kinds.sort((a, b) => (a.kind === "spatial" ? 0 : 1) - (b.kind === "spatial" ? 0 : 1));
    for (const gate of kinds) figure.append(gate.kind === "spatial" ? map(gate, picture, name) : bars(gate, name));
    const caption = element("figcaption");
    caption.append(element("strong", name), ...kinds.map((gate) => element("span", describe(gate))));
    figure.append(caption);
    return figure;
  });
}

function title(block) {
  const found = /^stage(\d+)_block(\d+)/.exec(block);
  return found ? `Stage ${found[1]}, block ${found[2]}` : block.replace(/_attention$/, "").replaceAll("_", " ");
}

function range(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
  return [low, high];
}

function describe({ kind, shape, values }) {
  const [low, high] = range(values);
  const what = kind === "spatial" ? `spatial, ${shape[1]} x ${shape[2]}` : `${shape[3]} channels`;
  return `${what}: ${low.toFixed(2)} to ${high.toFixed(2)}`;
}

function map({ shape: [, height, width], values }, picture, name) {
  const [low, high] = range(values);
  const heat = new ImageData(width, height);
  values.forEach((value, index) => {
    const place = (high > low ? (value - low) / (high - low) : 0) * (COLOURS.length - 1);
    const below = Math.min(Math.floor(place), COLOURS.length - 2);
    for (let c = 0; c < 3; c++) {
      heat.data[4 * index + c] = COLOURS[below][c] + (place - below) * (COLOURS[below + 1][c] - COLOURS[below][c]);
    }
    heat.data[4 * index + 3] = 255;
  });
  const small = new OffscreenCanvas(width, height);
  small.getContext("2d").putImageData(heat, 0, 0);
  const canvas = element("canvas");
  canvas.width = SIDE;
  canvas.height = Math.round((SIDE * picture.height) / picture.width);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = picture.width >= SIDE;
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = true;
  context.globalAlpha = OPACITY;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  const most = values.indexOf(high);
  labelled(canvas, `Spatial attention of ${name}, drawn over the image: strongest in row ${Math.floor(most / width) + 1} of ${height}, column ${(most % width) + 1} of ${width}`);
  return canvas;
}

function bars({ values }, name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${values.length} 1`);
  svg.setAttribute("preserveAspectRatio", "none");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", values.map((value, index) => `M${index} 1V${(1 - value).toFixed(4)}h1V1z`).join(""));
  svg.append(path);
  const most = values.indexOf(range(values)[1]);
  labelled(svg, `Channel attention of ${name}, a bar for each channel from 0 to 1: largest in channel ${most + 1} of ${values.length}`);
  return svg;
}

function labelled(node, text) {
  node.setAttribute("role", "img");
  node.setAttribute("aria-label", text);
}

function element(name, text = "") {
  const node = document.createElement(name);
  node.textContent = text;
  return node;
}

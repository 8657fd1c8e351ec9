// Load data and build elements. Every file of data is a script that calls explorerData(key, text): gzip in base64.
"use strict";

const arrivals = new Map(); // key -> what to do with the text
const loads = new Map(); // key -> promise of the content

function explorerData(key, text) {
  arrivals.get(key)(text);
}

function load(key, decode = asJson) {
  if (!loads.has(key)) {
    const loading = script(key).then(unpack).then(decode);
    loading.catch(() => loads.delete(key)); // asked for again, it is tried again
    loads.set(key, loading);
  }
  return loads.get(key);
}

function script(key) {
  return new Promise((resolve, reject) => {
    const element = document.createElement("script");
    arrivals.set(key, resolve);
    element.addEventListener("load", () => element.remove());
    element.addEventListener("error", () => reject(new Error(`data/${key}.js is missing; build the explorer again.`)));
    element.src = `data/${key}.js`;
    document.head.append(element);
  });
}

function unpack(text) {
  const characters = atob(text);
  const packed = new Uint8Array(characters.length);
  for (let place = 0; place < packed.length; place++) packed[place] = characters.charCodeAt(place);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

const asJson = (buffer) => JSON.parse(new TextDecoder().decode(buffer));

// An element with attributes and children. Children are elements or text; text is never read as markup.
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

// Three digits, as the rest of the atlas writes numbers.
function number(value) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}

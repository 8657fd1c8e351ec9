// How a latent formed: its best match in every earlier snapshot and in the neighbouring layers, and where that was highest.
"use strict";

const AROUND = 16; // tokens on either side of a peak, as far as they fit into a line

// matches: of every place [match, cosine]; formed: of every place the peaks of that match, if they were looked for.
function evolution(where, matches, formed, inBlock) {
  const { columns, layer, latent } = where;
  if (!columns.places.length || !matches) return element("p", {}, "Not traced.");
  const own = firstContext(where.block, inBlock);
  const rows = columns.places.flatMap(([axis, place], number) => {
    if (!matches[number]) return [];
    const [match, cosine] = matches[number];
    const snapshot = axis === "snapshot";
    const link = reference(where, snapshot ? layer : Number(place), match, snapshot && match === latent ? "itself" : null);
    const row = other(snapshot ? `at ${place} tokens` : `in layer ${place}`, link, cosine);
    row.append(formed ? peaks(where, formed[number], own) : "");
    return [row];
  });
  const note = "Best match by decoder direction. A latent of an earlier snapshot leads to what it has become.";
  return element("div", {}, element("ul", { class: "others" }, ...rows), element("p", { class: "note" }, note));
}

// A line for each place in the text, the tokens at the peaks below each other. A negative place is a context of the latent
// itself: -1 for the first; own: where they begin in the block.
function peaks(where, places, own) {
  if (!places.length) return element("p", { class: "note" }, "silent on this text");
  const { block, atlas } = where;
  const lines = places.map((place) => {
    const at = own - 1 - place;
    return line(where, place >= 0 ? place : block.row[at] * atlas.context + block.start[at] + block.peak[at]);
  });
  return element("ol", { class: "peaked" }, ...lines);
}

function line({ text, tokens, atlas }, at) {
  const begin = at - (at % atlas.context);
  const before = text.subarray(Math.max(begin, at - AROUND), at);
  const after = text.subarray(at + 1, Math.min(begin + atlas.context, at + 1 + AROUND));
  const document = before.lastIndexOf(atlas.start) + 1; // what stands before its start is another text
  const next = after.indexOf(atlas.start);
  const words = (ids) => Array.from(ids, (id) => visible(tokens[id])).join("");
  const word = visible(tokens[text[at]]);
  const bare = word.trimStart() || word;
  const space = word.slice(0, word.length - bare.length); // the space before a word is not shaded
  return element(
    "li",
    {},
    element("span", { class: "before" }, element("span", {}, words(before.subarray(document)) + space)),
    element("mark", { class: "peak" }, bare),
    element("span", { class: "after" }, words(next < 0 ? after : after.subarray(0, next))),
  );
}

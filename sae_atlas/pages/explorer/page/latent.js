// The page of one latent.
"use strict";

const BANDS = {
  top: "Highest activations",
  q75: "Around the 75th percentile of its activations",
  q50: "Around its median activation",
  q25: "Around the 25th percentile",
};

// where: { atlas, layers, layer, latent, columns, block, text, tokens, hrefOf }; the name of another latent comes by `nameOf`.
function latentPage(where) {
  const { columns, latent, layer } = where;
  const inBlock = latent % columns.block;
  const own = (name) => where.block[name]?.[inBlock] ?? null;
  const head = [
    element("p", { class: "where" }, `layer ${layer}, latent ${latent}`),
    element("h1", {}, columns.name?.[latent] || titleOf(columns, latent, where.tokens)),
  ];
  if (!columns.alive[latent]) {
    return [...head, element("p", {}, `Dead: silent on all ${number(columns.tokens_seen)} ${unit(where.atlas)} looked at.`)];
  }
  return [
    ...head,
    facts(columns, latent, where.atlas),
    element(
      "div",
      { class: "panels three" },
      panel("Activations", histogram(own("histogram"), columns.edges, unit(where.atlas))),
      ...(ofRows(where.atlas) ? [] : promoted(columns, latent, own)),
    ),
    ...contexts(where, inBlock),
    panel("How it formed", evolution(where, own("matches"), own("formed"), inBlock)),
    panel("Nearest in this layer", nearest(where, own("neighbours"), own("cosines"))),
  ];
}

// Of saved activations the rows of their arrays stand where a text has tokens, and no direction leads to logits.
const unit = (atlas) => atlas.unit ?? "tokens";
const ofRows = (atlas) => unit(atlas) === "rows";

const promoted = (columns, latent, own) => [
  panel("Promotes", lens([...columns.promotes[latent], ...own("promoted")], own("promoted_logits"))),
  panel("Suppresses", lens(own("suppressed"), own("suppressed_logits"))),
];

const panel = (title, ...content) => element("section", {}, element("h2", {}, title), ...content);

function facts(columns, latent, atlas) {
  const of = (name) => columns[name]?.[latent] ?? null;
  const topic = topicOf(columns, latent);
  const rows = [
    ["fires on", `${number(100 * of("density"))}% of ${unit(atlas)}`, `of ${number(columns.tokens_seen)} looked at`],
    ["importance", number(of("importance")), "mean square of what it writes"],
    ["highest", number(of("highest")), "activation"],
  ];
  if (columns.selectivity) {
    const chance = `AUROC ${number(of("selectivity"))}, by chance up to ${number(of("chance"))}`;
    rows.push(["topic", topic ?? "–", topic && chance]);
  } else if (!ofRows(atlas)) rows.push(["topic", "not scored", null]);
  if (columns.entropy) rows.push(["tokens", `${number(of("entropy"))} bits`, "entropy of the tokens at its peaks"]);
  if (columns.position_bias) rows.push(["position bias", number(of("position_bias")), "-1 early, 1 late in a context"]);
  if (of("name")) {
    rows.push(["name", `confidence ${number(of("confidence"))}`, of("source") && `by ${of("source")}`]);
    rows.push(["detection", number(of("detection")), "balanced accuracy of the name"]);
    if (columns.fuzzing) rows.push(["fuzzing", number(of("fuzzing")), "the same at marked tokens"]);
    if (columns.intruder) rows.push(["intruder", number(of("intruder")), "found among five windows, 0.2 by chance"]);
  } else rows.push(["name", "not named", null]);
  return element(
    "dl",
    { class: "facts" },
    ...rows.map(([term, value, note]) =>
      element("div", {}, element("dt", {}, term), element("dd", {}, value, note ? element("small", {}, note) : null)),
    ),
  );
}

function histogram(counts, edges, what) {
  const svg = (name, attributes, ...children) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const highest = Math.max(...counts);
  const bars = counts.map((count, bin) => {
    const height = count ? Math.max(1, (60 * count) / highest) : 0;
    const bar = svg("rect", { x: bin * 10 + 1, y: 62 - height, width: 8, height });
    bar.append(svg("title", {}, `${number(edges[bin])} to ${number(edges[bin + 1])}: ${number(count)} ${what}`));
    return bar;
  });
  const width = counts.length * 10;
  const ticks = [0, counts.length / 2, counts.length].map((bin, place) =>
    svg("text", { x: bin * 10, y: 76, "text-anchor": ["start", "middle", "end"][place] }, number(edges[Math.round(bin)])),
  );
  const total = counts.reduce((sum, count) => sum + count, 0);
  const label = `${number(total)} ${total === 1 ? what.slice(0, -1) : what} by activation, log scale`;
  const drawing = svg("svg", { viewBox: `0 0 ${width} 80`, role: "img", "aria-label": label, class: "histogram" });
  drawing.append(svg("line", { x1: 0, x2: width, y1: 62.5, y2: 62.5 }), ...bars, ...ticks);
  return element("figure", {}, drawing, element("figcaption", {}, label));
}

function lens(tokens, logits) {
  if (!tokens.length) return element("p", { class: "note" }, "not known: this site does not write to the stream");
  const largest = Math.max(...logits.map(Math.abs));
  const rows = tokens.map((token, place) => {
    const bar = element("span", { class: "bar" });
    bar.style.width = `${(100 * Math.abs(logits[place])) / largest}%`;
    return element("li", {}, chip(token), element("span", { class: "track" }, bar), element("span", {}, number(logits[place])));
  });
  return element("ol", { class: "lens" }, ...rows);
}

// --- contexts ------------------------------------------------------------------------------------------------------

function contexts(where, inBlock) {
  const { block, atlas } = where;
  let place = firstContext(block, inBlock);
  return atlas.bands.flatMap((band, number) => {
    const count = block.counts[inBlock][number];
    if (!count) return [];
    const items = Array.from({ length: count }, (_, rank) => context(where, place + rank));
    place += count;
    return [panel(BANDS[band] ?? band, element("ol", { class: "contexts" }, ...items))];
  });
}

const firstContext = (block, inBlock) => block.counts.slice(0, inBlock).flat().reduce((sum, count) => sum + count, 0);

function context(where, at) {
  const { block, columns, atlas } = where;
  const whole = element("button", { type: "button", "aria-expanded": "false", title: "show the whole context" }, "⋯");
  const words = element("p", { class: "words" }, ...shaded(where, at, false));
  whole.addEventListener("click", () => {
    const open = whole.getAttribute("aria-expanded") === "false";
    whole.setAttribute("aria-expanded", String(open));
    words.replaceChildren(...shaded(where, at, open));
  });
  const topic = block.context_topic[at] < 0 ? "" : columns.topics[block.context_topic[at]];
  const more = block.length[at] < atlas.context ? whole : null;
  const about = element("p", { class: "about" }, element("b", {}, number(block.activation[at])), topic, more);
  return element("li", {}, about, words);
}

// Tokens of the window, those with activation shaded by it; all of the context if `whole`. Quiet tokens are one text.
function shaded({ block, columns, latent, text, tokens, atlas }, at, whole) {
  const row = block.row[at] * atlas.context;
  const [start, length, peak] = [block.start[at], block.length[at], block.peak[at]];
  const [first, last] = whole ? [0, atlas.context] : [start, start + length];
  const parts = [];
  let quiet = "";
  const flush = () => {
    if (quiet) parts.push(document.createTextNode(quiet));
    quiet = "";
  };
  for (let place = first; place < last; place++) {
    const id = text[row + place];
    const level = parseInt(block.shade[at][place - start] ?? "0", 36);
    const word = id === atlas.start ? (place ? " ¶ " : "") : visible(tokens[id]);
    if (!level && place !== start + peak) {
      quiet += word;
      continue;
    }
    const bare = word.trimStart() || word;
    quiet += word.slice(0, word.length - bare.length); // the space before a word is not shaded
    flush();
    const share = level / 35;
    const mark = element("mark", { class: place === start + peak ? "peak" : null }, bare);
    mark.style.setProperty("--share", share.toFixed(2));
    mark.title = `activation ${place === start + peak ? "" : "about "}${number(
      place === start + peak ? block.activation[at] : share * columns.highest[latent],
    )}`;
    parts.push(mark);
  }
  flush();
  if (!whole && first > 0) parts.unshift("…");
  if (!whole && last < atlas.context) parts.push("…");
  return parts;
}

// --- elsewhere -----------------------------------------------------------------------------------------------------

function nearest(where, latents, cosines) {
  const rows = latents.map((latent, place) => other("", reference(where, where.layer, latent), cosines[place]));
  return element("ul", { class: "others" }, ...rows);
}

const other = (label, link, cosine) =>
  element(
    "li",
    {},
    label ? element("span", { class: "label" }, label) : null,
    link,
    element("span", { class: "cosine", title: "cosine of the decoder rows" }, cosine.toFixed(2)),
  );

// A link to a latent; its name is filled in when the layer's columns are there. Of a layer that is not shown its number alone.
function reference(where, layer, latent, label = null) {
  const number = label ?? `${layer}/${latent}`;
  if (!where.layers.includes(layer)) return element("span", { class: "unseen", title: "a layer that is not shown" }, number);
  const link = element("a", { href: where.hrefOf(layer, latent) }, number);
  if (!label) {
    where.nameOf(layer, latent).then(
      (name) => link.append(" ", element("span", { class: "title" }, name)),
      () => {}, // the number leads there all the same
    );
  }
  return link;
}

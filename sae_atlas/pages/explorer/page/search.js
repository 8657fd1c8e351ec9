// Which latents are shown, in which order.
"use strict";

// Column of a layer -> what the list calls it, and the end that comes first.
const SORTS = {
  match: { label: "best match" },
  selectivity: { label: "selectivity", title: "AUROC of its topic", descending: true },
  importance: { label: "importance", title: "mean square of what it writes", descending: true },
  density: { label: "density", title: "share of tokens it fires on", descending: true },
  highest: { label: "highest activation", descending: true },
  confidence: { label: "confidence of the name", descending: true },
  detection: { label: "detection by the name", descending: true },
  entropy: { label: "entropy of its tokens", descending: false },
  latent: { label: "number", descending: false },
};

const sortsOf = (layer) => Object.keys(SORTS).filter((name) => name === "match" || name === "latent" || layer[name]);

function defaultSort(layer, query) {
  if (query.trim()) return "match";
  return layer.selectivity ? "selectivity" : "importance";
}

// What is searched, in small letters, a line for each thing; made when it is first asked for.
function haystacks(layer, tokens) {
  layer.haystacks ??= layer.alive.map((_, latent) => {
    const name = layer.name?.[latent] ?? "";
    const topic = topicOf(layer, latent) ?? "";
    const peaks = layer.peaks[latent].map((token) => tokens[token].trim());
    const promotes = layer.promotes[latent].map((token) => token.trim());
    const parts = { name: [name], topic: [topic], token: peaks, promotes };
    for (const part of Object.keys(parts)) parts[part] = parts[part].map((text) => text.toLowerCase());
    return { ...parts, all: Object.values(parts).flat().join("\n") };
  });
  return layer.haystacks;
}

const topicOf = (layer, latent) => (layer.topic && layer.topic[latent] >= 0 ? layer.topics[layer.topic[latent]] : null);

// `token:ship topic:war 123`: every term must be found. A term of digits also finds the latent of that number.
function termsOf(query) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  return words.map((word) => {
    const [, part, text] = /^(name|topic|token):(.+)$/.exec(word) ?? [null, null, word];
    return { part, text, number: /^#?\d+$/.test(word) ? Number(word.replace("#", "")) : null };
  });
}

// How well a term fits: 0 best, null not at all. A token at the highest peak before the name, the name before other peaks.
function fit(term, hay, latent) {
  if (term.number === latent) return 0;
  if (!hay.all.includes(term.text)) return null;
  const within = (text) => text.includes(term.text);
  const peak = hay.token.indexOf(term.text);
  const fits = {
    token: peak >= 0 ? 1 + peak : hay.token.some(within) ? 4 : null,
    name: hay.name.some((text) => text.split(/[^\p{L}\p{N}]+/u).includes(term.text)) ? 1.5 : hay.name.some(within) ? 3 : null,
    topic: hay.topic.some(within) ? 5 : null,
    promotes: hay.promotes.some(within) ? 6 : null,
  };
  const parts = term.part === "token" ? ["token", "promotes"] : term.part ? [term.part] : Object.keys(fits);
  const found = parts.map((part) => fits[part]).filter((each) => each !== null);
  return found.length ? Math.min(...found) : null;
}

// Alive latents of `layers` (number -> columns) that fit, in order: [{ layer, latent, fit }]. A dead one is found by number.
function search(layers, tokens, { query, topic, sort, descending }) {
  const terms = termsOf(query);
  const found = [];
  for (const [layer, columns] of layers) {
    const hays = terms.length ? haystacks(columns, tokens) : null;
    for (let latent = 0; latent < columns.latents; latent++) {
      if (topic && topicOf(columns, latent) !== topic) continue;
      if (!columns.alive[latent] && !terms.some((term) => term.number === latent)) continue;
      const fits = terms.map((term) => fit(term, hays[latent], latent));
      if (fits.includes(null)) continue;
      found.push({ layer, latent, columns, fit: Math.max(0, ...fits) });
    }
  }
  const sign = descending ? -1 : 1;
  const values = { match: (each) => each.fit, latent: (each) => each.latent };
  const value = values[sort] ?? ((each) => each.columns[sort]?.[each.latent] ?? null);
  const further = (each) => each.columns.selectivity?.[each.latent] ?? each.columns.importance[each.latent] ?? 0;
  const keys = new Map(found.map((each) => [each, [value(each), further(each)]]));
  // What has no value comes last in either direction; equals by selectivity, then by place.
  return found.sort((one, other) => {
    const [[a, more], [b, less]] = [keys.get(one), keys.get(other)];
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (a - b) || (sort === "match" ? less - more : 0) || one.layer - other.layer || one.latent - other.latent;
  });
}

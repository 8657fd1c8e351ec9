// The list of latents: rows are made as they come into view.
"use strict";

const AT_ONCE = 100;
const list = { results: [], shown: 0, sort: null, tokens: null };
const results = document.getElementById("results");
const more = new IntersectionObserver((entries) => entries.some((each) => each.isIntersecting) && extend());

function fill(found, sort, tokens, hrefOf) {
  Object.assign(list, { results: found, shown: 0, sort, tokens, hrefOf });
  more.disconnect();
  results.replaceChildren();
  results.scrollTop = 0;
  extend();
}

function extend(upTo = list.shown + AT_ONCE) {
  const last = Math.min(Math.max(upTo, list.shown), list.results.length);
  more.disconnect();
  results.append(...list.results.slice(list.shown, last).map(row));
  list.shown = last;
  if (last < list.results.length) more.observe(results.lastElementChild);
}

function row({ layer, latent, columns }) {
  const value = list.sort === "match" || list.sort === "latent" ? null : columns[list.sort]?.[latent];
  const title = titleOf(columns, latent, list.tokens);
  const peaks = columns.name?.[latent] ? columns.peaks[latent].slice(0, 3).map((token) => chip(list.tokens[token].trim())) : [];
  return element(
    "li",
    {},
    element(
      "a",
      { href: list.hrefOf(layer, latent), "data-layer": layer, "data-latent": latent },
      element("span", { class: "title" }, title),
      element("span", { class: "value" }, value === null ? "" : number(value)),
      element("span", { class: "peaks" }, ...peaks),
      element("span", { class: "where" }, `${layer}/${latent}`),
    ),
  );
}

// The name, or without names the tokens at its peaks.
function titleOf(columns, latent, tokens) {
  if (!columns.alive[latent]) return "dead";
  if (columns.name?.[latent]) return columns.name[latent];
  return columns.peaks[latent].map((token) => shortened(visible(tokens[token].trim()))).join(" · ") || "–";
}

const placeOf = (layer, latent) => list.results.findIndex((each) => each.layer === layer && each.latent === latent);

// Mark the row of the open latent and keep it in view; rows up to it are made if need be.
function mark(layer, latent) {
  for (const old of results.querySelectorAll("[aria-current]")) old.removeAttribute("aria-current");
  const place = latent === null ? -1 : placeOf(layer, latent);
  if (place < 0) return;
  if (place >= list.shown) extend(place + AT_ONCE);
  const link = results.children[place].firstElementChild;
  link.setAttribute("aria-current", "page");
  link.scrollIntoView({ block: "nearest" });
}

const shortened = (text) => (text.length > 60 ? `${text.slice(0, 59)}…` : text); // texts of rows may be long
const visible = (text) => text.replaceAll("\n", "↵").replaceAll("\t", "⇥");
const chip = (text) => element("span", { class: "chip" }, visible(text) || "∅");

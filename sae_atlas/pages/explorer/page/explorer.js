// Where the reader is, as the hash of the address: #/recipe/layer/latent?q=...&topic=...&sort=...&order=...&all=1
"use strict";

const byId = (id) => document.getElementById(id);
const [main, found] = [byId("latent"), byId("found")];
const controls = { recipe: byId("recipe"), layer: byId("layer"), topic: byId("topic"), sort: byId("sort") };
let atlas = null;
let at = null; // what is shown
let listed = null; // what the list was made for
let turns = 0; // a slow answer to an earlier question is dropped

// --- addresses -----------------------------------------------------------------------------------------------------

function parse(hash) {
  const [path, parameters] = hash.replace(/^#/, "").split("?");
  const [, recipe, layer, latent] = path.split("/").map(decoded);
  const asked = new URLSearchParams(parameters ?? "");
  const one = atlas.recipes.find((each) => each.name === recipe) ?? atlas.recipes[0];
  return {
    recipe: one.name,
    layer: one.layers.includes(whole(layer)) ? whole(layer) : one.layers[Math.floor(one.layers.length / 2)],
    latent: whole(latent),
    query: asked.get("q") ?? "",
    topic: asked.get("topic") ?? "",
    sort: asked.get("sort"),
    order: asked.get("order"),
    everywhere: asked.get("all") === "1",
  };
}

const whole = (text) => (/^\d+$/.test(text ?? "") ? Number(text) : null);

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function address(place) {
  const asked = new URLSearchParams();
  const parts = { q: place.query, topic: place.topic, sort: place.sort, order: place.order, all: place.everywhere && "1" };
  for (const [key, value] of Object.entries(parts)) if (value) asked.set(key, value);
  const path = [place.recipe, place.layer, place.latent].filter((part) => part !== null).map(encodeURIComponent);
  return `#/${path.join("/")}${asked.size ? `?${asked}` : ""}`;
}

// Go there. Steps through the list and letters of a search are not steps of the reader's history.
function go(changes, replace = false) {
  const hash = address({ ...at, ...changes });
  if (replace) history.replaceState(null, "", hash);
  else history.pushState(null, "", hash);
  show();
}

// --- the page ------------------------------------------------------------------------------------------------------

const numberOf = (recipe) => atlas.recipes.findIndex((each) => each.name === recipe);
const key = (layer) => `${numberOf(at.recipe)}/layer${String(layer).padStart(2, "0")}`;
const layersOf = (recipe) => atlas.recipes[numberOf(recipe)].layers;
const hrefOf = (layer, latent) => address({ ...at, layer, latent });

async function show() {
  const turn = ++turns;
  at = parse(location.hash);
  document.body.className = at.latent === null ? "choosing" : "reading";
  byId("back").href = address({ ...at, latent: null });
  controls.recipe.value = at.recipe;
  options(controls.layer, layersOf(at.recipe), at.layer);
  try {
    const [tokens, columns] = await Promise.all([load("tokens"), load(key(at.layer))]);
    if (turn !== turns) return;
    const layers = at.everywhere ? await everyLayer(turn) : [[at.layer, columns]];
    if (turn !== turns) return;
    relist(layers, columns, tokens);
    const page = at.latent === null ? overview(columns) : await latentOf(columns, tokens);
    if (turn === turns) open(page, columns, tokens);
  } catch (error) {
    if (turn === turns) main.replaceChildren(element("p", { class: "notice", role: "alert" }, error.message));
  }
}

// The columns of all layers of the recipe; how far it has come is told.
async function everyLayer(turn) {
  const layers = layersOf(at.recipe);
  let count = 0;
  const loading = layers.map(async (layer) => {
    const columns = await load(key(layer));
    count += 1;
    if (turn === turns) found.textContent = `reading layer ${count} of ${layers.length}`;
    return [layer, columns];
  });
  return Promise.all(loading);
}

// Make the list if another is asked for than there is.
function relist(layers, columns, tokens) {
  const sort = at.sort in SORTS && (at.sort !== "match" || at.query.trim()) ? at.sort : defaultSort(columns, at.query);
  const descending = at.order ? at.order === "down" : Boolean(SORTS[sort].descending);
  const topics = [...new Set(layers.flatMap(([, each]) => each.topics))].sort();
  options(controls.topic, ["", ...topics], at.topic, (topic) => topic || "all");
  controls.topic.parentElement.hidden = !topics.length && !at.topic;
  options(controls.sort, sortsOf(columns).filter((name) => name !== "match" || at.query.trim()), sort, (name) => SORTS[name].label);
  controls.sort.title = SORTS[sort].title ?? "";
  byId("order").hidden = sort === "match";
  byId("order").textContent = descending ? "↓" : "↑";
  byId("order").dataset.next = descending ? "up" : "down";
  if (document.activeElement !== byId("query")) byId("query").value = at.query;
  byId("everywhere").checked = at.everywhere;
  const asked = JSON.stringify([at.recipe, at.everywhere || at.layer, at.query, at.topic, sort, descending]);
  if (asked === listed) {
    for (const link of results.querySelectorAll("a")) link.hash = hrefOf(Number(link.dataset.layer), Number(link.dataset.latent));
    return;
  }
  listed = asked;
  const fitting = search(layers, tokens, { query: at.query, topic: at.topic, sort, descending });
  const dead = layers.reduce((sum, [, each]) => sum + each.alive.filter((alive) => !alive).length, 0);
  const asleep = at.query || at.topic || !dead ? "" : `; ${number(dead)} dead ones are left out`;
  found.textContent = `${number(fitting.length)} ${fitting.length === 1 ? "latent" : "latents"}${asleep}`;
  fill(fitting, sort, tokens, hrefOf);
}

async function latentOf(columns, tokens) {
  const { layer, latent } = at;
  if (latent >= columns.latents) return [element("p", { class: "notice" }, `Layer ${layer} has latents 0 to ${columns.latents - 1}.`)];
  const block = load(`${key(layer)}_${Math.floor(latent / columns.block)}`);
  const text = load("text", asIds);
  const nameOf = async (other, number) => titleOf(await load(key(other)), number, tokens);
  return latentPage({ atlas, layers: layersOf(at.recipe), layer, latent, columns, tokens, hrefOf, nameOf, block: await block, text: await text });
}

const asIds = (buffer) => new { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array }[atlas.text_bytes](buffer);

function open(page, columns, tokens) {
  const opened = JSON.stringify([at.recipe, at.layer, at.latent]);
  if (main.dataset.opened !== opened) {
    main.dataset.opened = opened;
    main.replaceChildren(...page);
    main.scrollTop = 0;
    if (at.latent !== null) scrollTo(0, 0);
  }
  const title = at.latent === null || at.latent >= columns.latents ? "" : `${titleOf(columns, at.latent, tokens)}, `;
  document.title = `${title}layer ${at.layer}: ${atlas.base}`;
  mark(at.layer, at.latent);
}

// What stands in place of a latent before one is chosen: the layer, its topics, the keys.
function overview(columns) {
  const alive = columns.alive.reduce((sum, each) => sum + each, 0);
  const counts = new Map();
  columns.alive.forEach((alive, latent) => {
    const topic = topicOf(columns, latent);
    if (alive && topic && columns.selectivity[latent] > columns.chance[latent]) counts.set(topic, (counts.get(topic) ?? 0) + 1);
  });
  const topics = [...counts].sort((one, other) => other[1] - one[1]).map(([topic, count]) => {
    const link = element("a", { class: "pill", href: address({ ...at, topic }) }, topic, element("small", {}, number(count)));
    return element("li", {}, link);
  });
  return [
    element("p", { class: "where" }, at.recipe),
    element("h1", {}, `Layer ${at.layer}`),
    element("p", {}, `${number(alive)} of ${number(columns.latents)} latents are alive: they fire on at least one of ${number(columns.tokens_seen)} ${unit(atlas)}.`),
    topics.length ? panel("Latents that tell a topic", element("ul", { class: "pills" }, ...topics)) : "",
    panel("Keys", element("dl", { class: "keys" }, ...KEYS.flatMap(([keys, what]) => [
      element("dt", {}, ...keys.map((each) => element("kbd", {}, each))),
      element("dd", {}, what),
    ]))),
  ];
}

function options(select, values, chosen, labelOf = String) {
  const wanted = values.map(String);
  if (select.length !== wanted.length || wanted.some((value, place) => select.options[place].value !== value)) {
    select.replaceChildren(...values.map((value) => element("option", { value }, labelOf(value))));
  }
  select.value = String(chosen);
}

// --- what the reader does --------------------------------------------------------------------------------------------

const KEYS = [
  [["j", "↓"], "next latent of the list"],
  [["k", "↑"], "the one before"],
  [["["], "layer before"],
  [["]"], "layer after"],
  [["/"], "search"],
  [["Esc"], "back to the list"],
];

// To the next layer, if there is one; a latent of another layer is another latent, so none is open there.
function turnLayer(step) {
  const layers = layersOf(at.recipe);
  const next = layers[layers.indexOf(at.layer) + step];
  if (next !== undefined) go({ layer: next, latent: null });
}

function step(by) {
  const place = at.latent === null ? -1 : placeOf(at.layer, at.latent);
  const next = list.results[place < 0 ? 0 : place + by];
  if (next) go({ layer: next.layer, latent: next.latent }, at.latent !== null);
}

function leave() {
  if (document.activeElement === byId("query")) byId("query").blur();
  else if (at.latent !== null) go({ latent: null });
}

const ACTIONS = {
  j: () => step(1),
  ArrowDown: () => step(1),
  k: () => step(-1),
  ArrowUp: () => step(-1),
  "[": () => turnLayer(-1),
  "]": () => turnLayer(1),
  "/": () => byId("query").focus(),
  Escape: leave,
};

function press(event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const typing = event.target instanceof Element && event.target.matches("input[type=search], select");
  const leaving = event.key === "Escape" || (event.target === byId("query") && ["ArrowDown", "Enter"].includes(event.key));
  if (typing && !leaving) return;
  const action = event.key === "Enter" && typing ? ACTIONS.j : ACTIONS[event.key];
  if (!action) return;
  event.preventDefault();
  if (typing) byId("query").blur();
  action();
}

function listen() {
  addEventListener("hashchange", show);
  addEventListener("popstate", show);
  addEventListener("keydown", press);
  controls.recipe.addEventListener("change", () => go({ recipe: controls.recipe.value, latent: null }));
  controls.layer.addEventListener("change", () => go({ layer: Number(controls.layer.value), latent: null }));
  controls.topic.addEventListener("change", () => go({ topic: controls.topic.value }));
  controls.sort.addEventListener("change", () => go({ sort: controls.sort.value, order: null }));
  byId("before").addEventListener("click", () => turnLayer(-1));
  byId("after").addEventListener("click", () => turnLayer(1));
  byId("order").addEventListener("click", () => go({ order: byId("order").dataset.next }));
  byId("everywhere").addEventListener("change", () => go({ everywhere: byId("everywhere").checked }));
  byId("query").addEventListener("input", () => go({ query: byId("query").value, sort: null, order: null }, true));
  document.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
}

load("atlas").then((loaded) => {
  atlas = loaded;
  byId("site").textContent = atlas.site;
  options(controls.recipe, atlas.recipes.map((each) => each.name), "");
  controls.recipe.parentElement.hidden = atlas.recipes.length < 2;
  if (ofRows(atlas)) byId("query").placeholder = "text of a row, name or number";
  listen();
  show();
}, (error) => main.replaceChildren(element("p", { class: "notice", role: "alert" }, error.message)));

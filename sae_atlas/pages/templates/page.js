// Sort and filter the metrics table. Without this script the table is whole, in the order of recipe, layer, snapshot.
"use strict";

const table = document.getElementById("metrics");
const body = table.tBodies[0];
const heads = Array.from(table.tHead.rows[0].cells);
const filters = Array.from(document.querySelectorAll(".filters select"));
const shown = document.getElementById("shown");

const key = (row, column) => row.cells[column].dataset.sort;

// A row without a value comes last in either direction; equal values keep their order.
function compare(one, other, column, numeric, sign) {
  const [a, b] = [key(one, column), key(other, column)];
  if (a === "" || b === "") return (a === "") - (b === "");
  return sign * (numeric ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true }));
}

function sort(head) {
  const column = heads.indexOf(head);
  const descending = head.getAttribute("aria-sort") === "ascending";
  for (const each of heads) each.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const rows = Array.from(body.rows);
  rows.sort((a, b) => compare(a, b, column, head.dataset.numeric === "yes", descending ? -1 : 1));
  body.append(...rows);
}

function filter() {
  let count = 0;
  for (const row of body.rows) {
    row.hidden = filters.some((select) => select.value !== "" && row.dataset[select.name] !== select.value);
    count += row.hidden ? 0 : 1;
  }
  shown.textContent = `${count} of ${body.rows.length} rows`;
}

for (const head of heads) head.querySelector("button").addEventListener("click", () => sort(head));
for (const select of filters) select.addEventListener("change", filter);
document.querySelector(".filters").hidden = false;
filter();

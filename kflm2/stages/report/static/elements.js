"use strict";
// What all of the page is made of. Text from the data enters by textContent alone, so that none of it can be markup.

function put(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child.nodeType ? child : document.createTextNode(String(child)));
  }
  return node;
}
const el = (tag, attributes, ...children) => put(document.createElement(tag), attributes, children);
const shape = (tag, attributes, ...children) =>
  put(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

const MISSING = "-";
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const fixed = (value, digits = 3) => (isNumber(value) ? value.toFixed(digits).replace("-", "\u2212") : MISSING);
const short = (value) => (isNumber(value) ? String(Number(value.toPrecision(4))).replace("-", "\u2212") : MISSING);
const count = (value) => String(value).replace(/\B(?=(\d{3})+$)/g, ",");

function select(label, options, value, change) {
  const box = el("select", { onchange: () => change(Number(box.value)) },
    options.map((text, index) => el("option", { value: index, selected: index === value }, text)));
  return el("label", {}, label, box);
}

function pairs(list) {
  return el("dl", {}, list.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

/** A table that is sorted by the buttons in its head.
 *  columns: {label, number, long, cell, text(row), value(row), node(row)}; the first one names the row; cell is a class.
 *  sorted: [column, whether downwards] to begin with. Returns the table and a hint that is shown where it is too wide. */
function table(label, columns, rows, { tall = false, on = () => false, sorted = null } = {}) {
  const body = el("tbody");
  const heads = columns.map((column, index) =>
    el("th", { scope: "col", class: column.number ? "number" : null, "aria-sort": "none" },
      el("button", { type: "button", onclick: () => sort(index) }, column.label)));
  const lines = rows.map((row) => el("tr", { class: on(row) ? "on" : null }, columns.map((column, index) => {
    const inside = column.node ? column.node(row) : column.text(row);
    if (index === 0) return el("th", { scope: "row" }, inside);
    return el("td", { class: column.number ? "number" : column.long ? "long" : column.cell || null }, inside);
  })));
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
  function sort(index, way) {
    const before = heads[index].getAttribute("aria-sort");
    const down = way ?? before === "ascending";
    const values = rows.map((row) => (columns[index].value || columns[index].text)(row));
    const order = rows.map((_, place) => place).sort((a, b) => {
      // what is missing goes to the end, whichever way
      const [none, other] = [values[a], values[b]].map((value) => value === null || value === undefined);
      if (none || other) return none - other || a - b;
      return (down ? -1 : 1) * compare(values[a], values[b]) || a - b;
    });
    heads.forEach((head, place) => head.setAttribute("aria-sort", place === index ? (down ? "descending" : "ascending") : "none"));
    body.replaceChildren(...order.map((place) => lines[place]));
  }
  body.append(...lines);
  if (sorted) sort(...sorted);
  const box = el("div", { class: tall ? "scroll tall" : "scroll", tabindex: 0, role: "region", "aria-label": label },
    el("table", { "aria-label": label }, el("thead", {}, el("tr", {}, heads)), body));
  // a cut column looks like the last one: say that there is more
  const hint = el("p", { class: "hint", hidden: true }, "Scroll the table sideways for more columns \u2192");
  new ResizeObserver(() => { hint.hidden = box.scrollWidth <= box.clientWidth; }).observe(box);
  return [hint, box];
}

/** A molecule from the paths that the program drew; an image of SVG can run no script, whatever it holds. */
function drawing(paths, size, scale, smiles, loading = "eager") {
  if (!paths) return null;
  const box = size.map((side) => side * scale).join(" ");
  const text = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${box}" width="${size[0]}" height="${size[1]}" fill-rule="evenodd">${paths}</svg>`;
  return el("img", { class: "mol", loading, alt: `structure of ${smiles}`, src: `data:image/svg+xml,${encodeURIComponent(text)}` });
}

"use strict";
// The page: a question, its answers as a table, and the explanation of one of them. It keeps nothing.

const part = (id) => document.getElementById(id);
const EXAMPLE = "CC(=O)Oc1ccccc1C(=O)O aspirin\nCn1cnc2c1c(=O)n(C)c(=O)n2C caffeine\nCCO ethanol\nc1ccccc1 benzene\n";
const FORMATS = { csv: "csv", tsv: "csv", txt: "csv", smi: "smi", smiles: "smi", sdf: "sdf", sd: "sdf" };
const NAMES = ["name", "id", "compound", "title", "molecule"];
let model = null;
let file = null;
let csv = "";

/** An answer of the program. Throws an Error whose message is a sentence for people. */
async function ask(address, question) {
  let answer;
  try {
    answer = await fetch(address, question && {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(question),
    });
  } catch {
    throw new Error("kflm2 serve does not answer; is it still running?");
  }
  const value = await answer.json().catch(() => ({ error: `an answer that cannot be read (${answer.status})` }));
  if (!answer.ok) throw new Error(value.error);
  return value;
}

function fail(error) {
  part("error").textContent = error ? error.message[0].toUpperCase() + error.message.slice(1) : "";
  part("error").hidden = !error;
}

// the model

const unitOf = (target) => (target.unit ? ` (${target.unit})` : "");

/** Where the model comes from and its first metric, as the rest of a sentence. */
function summary() {
  const trained = model.facts.find(([name]) => name === "trained on"), tested = model.metrics.find((one) => one.part === "test");
  const [name, value, unit] = tested ? tested.values[0] : [];
  return (trained ? `, trained on ${trained[1]}` : "") + (isNumber(value) ? `; ${name} on its test part ${fixed(value)}${unit ? ` ${unit}` : ""}` : "");
}

function showModel() {
  const what = model.quantity || model.targets.map((target) => target.name).slice(0, 4).join(", ") + (model.targets.length > 4 ? ", ..." : "");
  const unit = model.targets[0].unit;
  document.title = `KFLM2: ${what}`;
  const targets = model.targets.map((target) => target.name + unitOf(target)).join(", ");
  const parts = model.metrics.map((one) => one.part), names = model.metrics.length ? model.metrics[0].values : [];
  const rows = names.map(([name, , unit], i) => el("tr", {}, el("th", { scope: "row" }, name + (unit ? ` (${unit})` : "")),
    model.metrics.map((one) => el("td", { class: "number" }, fixed(one.values[i][1])))));
  part("model").replaceChildren(
    el("h1", {}, `Predict ${what}`),
    el("p", {}, `${model.task === "regression" ? "A number" : "A probability"}${unit ? ` in ${unit}` : ""} for each molecule, by the model `, el("code", {}, model.name), `${summary()}.`),
    ...(model.features.length ? [el("p", {}, `It reads more than the structure: give a .csv with the columns ${model.features.join(", ")} beside the SMILES.`)] : []),
    el("details", {}, el("summary", {}, "About the model: what it was trained on, and how well it predicts"),
      pairs([[model.targets.length > 1 ? "targets" : "target", targets], ["task", model.task], ...model.facts]),
      rows.length ? el("table", { class: "metrics" }, el("thead", {}, el("tr", {}, el("td"), parts.map((name) => el("th", { scope: "col", class: "number" }, name)))), el("tbody", {}, rows)) : null,
      el("p", { class: "soft" }, model.worth)));
  part("target").replaceChildren(...model.targets.map((target) => el("option", { value: target.name }, target.name)));
  part("explained").hidden = model.targets.length < 2;
  part("example").hidden = model.features.length > 0;
  part("foot").replaceChildren(`KFLM2 ${model.version}. At most ${count(model.limits.molecules)} molecules at once. Nothing leaves the machine that runs kflm2 serve. For programs: `,
    el("a", { href: "/api" }, "the JSON interface"), ".");
}

// the question

/** Text of a file: UTF-16 with its mark, UTF-8, or else Windows' Latin-1, as kflm2 predict reads it. */
function decoded(bytes) {
  const [first, second] = bytes;
  if (first === 0xff && second === 0xfe) return new TextDecoder("utf-16le").decode(bytes);
  if (first === 0xfe && second === 0xff) return new TextDecoder("utf-16be").decode(bytes);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return new TextDecoder("windows-1252").decode(bytes);
  }
}

async function take(chosen) {
  fail(null);
  const format = FORMATS[chosen.name.split(".").pop().toLowerCase()];
  if (!format) throw new Error("this file is not read; choose a .csv, .smi or .sdf file");
  if (chosen.size > model.limits.bytes) throw new Error(`this file is larger than ${model.limits.bytes / 1e6} MB; use kflm2 predict for it`);
  file = { name: chosen.name, format, text: decoded(new Uint8Array(await chosen.arrayBuffer())) };
  if (format === "csv") guessColumns();
  showSource();
  part("state").textContent = `${chosen.name} is predicted instead of the text above.`;
}

/** Cells of a line of a table; a delimiter inside quotes is none. */
function cellsOf(line, mark) {
  const cells = [""];
  let quoted = false;
  for (const sign of line) {
    if (sign === '"') quoted = !quoted;
    else if (sign === mark && !quoted) cells.push("");
    else cells[cells.length - 1] += sign;
  }
  return cells.map((cell) => cell.trim());
}

function guessColumns() {
  const line = file.text.split(/\r\n|\r|\n/).find((text) => text.trim()) || "";
  const cells = [",", ";", "\t", "|"].map((mark) => cellsOf(line, mark)).sort((a, b) => b.length - a.length)[0];
  const find = (names) => cells.find((cell) => names.includes(cell.toLowerCase()));
  part("header").replaceChildren(...cells.map((cell) => el("option", { value: cell })));
  // as kflm2 predict takes it; an empty field leaves it to the server
  part("smiles-column").value = [model.smiles_column, "smiles"].find((name) => cells.includes(name)) || find(["smiles"]) || "";
  part("name-column").value = find(NAMES) || "";
}

function forget() {
  file = null;
  part("file").value = "";
  part("state").textContent = "";
  showSource();
}

function showSource() {
  part("molecules").disabled = Boolean(file);
  part("remove").hidden = !file;
  part("columns").hidden = !file || file.format !== "csv";
}

function question() {
  if (!file) return { text: part("molecules").value, format: "smi", drawings: true };
  const columns = file.format === "csv" ? { smiles_column: part("smiles-column").value || null, name_column: part("name-column").value || null } : {};
  return { text: file.text, format: file.format, drawings: true, ...columns };
}

async function predict() {
  fail(null);
  part("predict").disabled = true;
  part("state").textContent = "Predicting ...";
  const start = performance.now();
  try {
    const answer = await ask("/api/predict", question());
    const good = answer.rows.filter((row) => row.status === "ok").length;
    showAnswers(answer);
    part("state").textContent = `${count(good)} of ${count(answer.rows.length)} molecules predicted in ${((performance.now() - start) / 1000).toFixed(1)} s.`;
  } catch (error) {
    part("state").textContent = "";
    fail(error);
  } finally {
    part("predict").disabled = false;
  }
}

// the answers

const bound = (value) => (value === "inf" ? "\u221e" : value === "-inf" ? "\u2212\u221e" : short(value));

function columnsOf(target) {
  const { column } = target, several = model.targets.length > 1 ? `${target.name}: ` : "";
  const value = { label: target.name + unitOf(target), number: true, value: (row) => row[column], text: (row) => short(row[column]),
    node: (row) => el("span", { class: "predicted" }, short(row[column])) };
  if (model.task === "regression") {
    return [value, { label: `${several}${100 * model.confidence} % interval`, number: true, value: (row) => row[`${column}_low`],
      text: (row) => (row[`${column}_low`] === null ? MISSING : `${bound(row[`${column}_low`])} to ${bound(row[`${column}_high`])}`) }];
  }
  const possible = (row) => row[`${column}_possible`] || MISSING;
  return [{ ...value, label: `${target.name}, probability${target.class_1 ? ` of ${target.class_1}` : ""}` },
    { label: `${several}class`, number: true, value: (row) => row[`${column}_class`], text: (row) => row[`${column}_class`] ?? MISSING },
    { label: `${several}not ruled out`, text: possible }];
}

const wrapped = (name, label, text, node, value) => ({ label, text, value, node, cell: name });
const domain = (row) => ({ yes: "inside", no: "outside" })[row.in_domain] || MISSING;
const beyond = (row) => (model.features.length && row.features && row.features !== "ok" ? `; do not trust it: ${row.features}` : "");
const note = (row) => row.status + beyond(row) + (row.xtb && row.xtb !== "ok" ? `; no xTB values: ${row.xtb}` : "");

function showAnswers(answer) {
  csv = answer.csv;
  const { size, scale } = model.drawing;
  const columns = [
    { label: "row", number: true, text: (row) => row.row, value: (row) => row.row },
    wrapped("molecule", "molecule", (row) => row.name || row.smiles, (row) => [
      drawing(row.drawing, size, scale, row.smiles, "lazy"), row.name ? el("bdi", {}, row.name) : null, el("code", {}, row.smiles)]),
    ...model.features.map((name) => ({ label: name, text: (row) => row.given[name] || MISSING })),
    ...model.targets.flatMap(columnsOf),
    wrapped("domain", "domain", domain, (row) => el("span", { class: row.in_domain === "no" ? "alarm" : null }, domain(row))),
    wrapped("nearest", "nearest in training", (row) => row.nearest, (row) => (row.similarity === null ? MISSING : [row.nearest ? el("code", {}, row.nearest) : null, `similarity ${fixed(row.similarity, 2)}`]), (row) => row.similarity),
    wrapped("status", "status", note, (row) => el("span", { class: row.status === "ok" && !beyond(row) ? null : "alarm" }, note(row))),
    wrapped("more", "explanation", (row) => row.status, (row) => (row.status === "ok"
      ? el("button", { type: "button", onclick: () => explain(row), "aria-label": `Explain row ${row.row}` }, "Explain") : MISSING)),
  ];
  part("table").replaceChildren(...table("Predictions", columns, answer.rows));
  part("answers").hidden = false;
  part("legend").textContent = `Domain: outside means that the molecule is less like what the model learnt from than 95 % of the molecules it was checked on; do not trust its value. ${
    model.task === "regression" ? `The interval should hold the true value in ${100 * model.confidence} % of the cases, for molecules inside the domain.` : "Not ruled out: the classes that remain possible."}`;
}

async function explain(row) {
  part("explanation-state").textContent = "Computing ...";
  part("picture").replaceChildren();
  part("explanation").showModal();
  try {
    const answer = await ask("/api/explain", { smiles: row.smiles, name: (row.name || "").slice(0, 1000), features: row.given, target: part("target").value });
    const source = `data:image/svg+xml,${encodeURIComponent(answer.svg)}`;
    const shares = Object.entries(answer.shares).map(([view, value]) => `${view} ${short(value)}`).join(", ");
    part("explanation-state").textContent = "";
    part("picture").replaceChildren(el("img", { src: source, alt: `${answer.title}. What each view adds: ${shares}` }),
      el("p", {}, el("a", { href: source, download: `explained-${row.row}.svg` }, "Download the picture (SVG)")));
  } catch (error) {
    part("explanation-state").textContent = `No explanation: ${error.message}`;
  }
}

function download() {
  const link = el("a", { href: URL.createObjectURL(new Blob([csv], { type: "text/csv" })), download: "predicted.csv" });
  link.click();
  URL.revokeObjectURL(link.href);
}

// events

part("question").addEventListener("submit", (event) => { event.preventDefault(); predict(); });
part("example").addEventListener("click", () => { forget(); part("molecules").value = EXAMPLE; });
part("file").addEventListener("change", (event) => { if (event.target.files[0]) take(event.target.files[0]).catch(fail); });
part("remove").addEventListener("click", () => { forget(); part("molecules").focus(); });
part("download").addEventListener("click", download);
part("close").addEventListener("click", () => part("explanation").close());
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault(); // a file that is dropped beside the field must not replace the page
    part("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) take(event.dataTransfer.files[0]).catch(fail);
  });
}
ask("/api/model").then((about) => { model = about; showModel(); }).catch(fail);

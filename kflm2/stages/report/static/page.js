// The page: what a dataset's data become.

const data = JSON.parse(document.getElementById("data").textContent);
const state = { dataset: 0, method: 0, target: 0, part: 0, mean: 0, flat: "pca" };
const css = (name) => `var(--${name})`;
const TESTS = ["test", "test-2", "class-1", "class-0"];

function colorOf(part, parts) {
  if (!part.startsWith("test")) return css(part);
  return css(TESTS[Math.max(0, parts.filter((one) => one.startsWith("test")).indexOf(part)) % TESTS.length]);
}
const unitOf = (set) => (set.unit ? ` ${set.unit}` : "");
const inUnit = (set) => (set.unit ? ` (${set.unit})` : "");
const cell = ([mean, sd]) => (isNumber(mean) ? fixed(mean) + (isNumber(sd) ? ` ± ${fixed(sd)}` : "") : MISSING);
const average = (values) => {
  const known = values.filter(isNumber);
  return known.length ? known.reduce((sum, one) => sum + one, 0) / known.length : null;
};
function spread(values) {
  const known = values.filter(isNumber), mean = average(known);
  return known.length > 1 ? Math.sqrt(known.reduce((sum, one) => sum + (one - mean) ** 2, 0) / (known.length - 1)) : null;
}
const percent = (value) => (isNumber(value) ? 100 * value : null);
const label = (set, method) => (set.methods.filter((one) => one.name === method.name).length > 1 ? `${method.name} · ${method.split}` : method.name);

/** What a dot tells of its molecule. */
function told(set, own, i, extra = []) {
  const [true_, pred] = [own.true[state.target][i], own.pred[state.target][i]];
  return {
    mol: own.mol[i], row: own.row[i],
    lines: [["measured", short(true_) + (isNumber(true_) ? unitOf(set) : "")],
      [set.kind === "regression" ? "predicted" : "probability", short(pred) + unitOf(set)],
      ...extra, ["part", own.part[i]], ["row", count(own.row[i])]],
  };
}

function facts(set) {
  const names = Object.keys(set.methods[0].about).filter((name) => set.methods.some((method) => method.about[name] !== MISSING));
  const long = ["what it is", "settings of its own"];
  const columns = [{ label: "method", text: (method) => method.name },
    ...names.map((name) => ({ label: name, long: long.includes(name), text: (method) => method.about[name] }))];
  return el("section", {}, el("h2", {}, "What was run"), pairs(set.facts),
    el("details", {}, el("summary", {}, "Method by method: pipeline, LLM, adapter, settings, commit"), table("What was run, method by method", columns, set.methods)));
}

/** Runs that are not on the page, and why. */
function leftOut() {
  if (!data.left_out.length) return null;
  return el("section", {}, el("h2", {}, "Left out"),
    el("p", {}, el("span", { class: "alarm" }, "Look: "), `${data.left_out.length} run${data.left_out.length === 1 ? " does" : "s do"} not fit, and nothing of this page is of ${data.left_out.length === 1 ? "it" : "them"}.`),
    el("ul", { class: "words" }, data.left_out.map(([folder, why]) => el("li", {}, el("code", {}, folder), `: ${why}`))));
}

function metrics(set) {
  const part = set.parts[state.part], tested = part === "test";
  // of several targets the mean, or one of them with metrics in its unit
  const several = set.targets.length > 1, one = several && state.mean > 0 ? state.mean - 1 : null;
  const names = one === null ? set.metrics : set.target_metrics, main = one === null ? set.main : set.target_metrics.find((name) => !several || !name.startsWith("scaled"));
  const means = (method) => (one === null ? method.means : method.target_means[one]);
  const held = `${100 * set.methods[0].coverage.confidence}\u00a0% held`;
  const shares = (method) => method.runs.map((run) => percent(run.coverage));
  const own = (name) => ({ label: name, number: true, text: (method) => cell(means(method)[part][name]), value: (method) => means(method)[part][name][0] });
  const columns = [
    { label: "method", text: (method) => method.name, value: (method) => method.name,
      node: (method) => el("button", { type: "button", class: "plain", title: "show this method below",
        onclick: () => { state.method = set.methods.indexOf(method); render(); document.getElementById("closely").scrollIntoView(); } }, method.name) },
    ...(set.methods.some((method) => method.reads) ? [{ label: "reads", text: (method) => method.reads || MISSING }] : []),
    { label: "runs", number: true, text: (method) => method.runs.length, value: (method) => method.runs.length },
    ...names.map(own),
    ...(tested ? [{ label: held, number: true, value: (method) => average(shares(method)),
      text: (method) => (average(shares(method)) === null ? MISSING : fixed(average(shares(method)), 1) + (spread(shares(method)) === null ? "" : ` ± ${fixed(spread(shares(method)), 1)}`)) }] : []),
    ...(part === "valid" ? [] : [{ label: `valid ${main}`, number: true, text: (method) => cell((means(method).valid || {})[main] || [null]),
      value: (method) => ((means(method).valid || {})[main] || [null])[0] }]),
  ];
  const runs = set.methods.flatMap((method) => method.runs.map((run) => ({ method, run })));
  const number = (name, get, digits) => ({ label: name, number: true, text: (row) => fixed(get(row), digits), value: get });
  const each = [
    { label: "method", text: ({ method }) => method.name },
    { label: "split", text: ({ method }) => method.split },
    number("seed", ({ run }) => run.seed, 0),
    number("molecules", ({ run }) => run.sizes[part] ?? null, 0),
    ...set.metrics.map((name) => number(name, ({ run }) => (run.metrics[part] || {})[name] ?? null)),
    ...(tested ? [number(held, ({ run }) => percent(run.coverage), 1)] : []),
    { label: "best epoch", number: true, text: ({ run }) => run.best.join(", ") || MISSING, value: ({ run }) => run.best[0] ?? null },
    number("training s", ({ run }) => run.seconds, 1),
  ];
  const sorted = [columns.findIndex((column) => column.label === main), !set.smaller.includes(main)];
  const chosen = set.methods[state.method], scaled = names.includes("scaled RMSE");
  const smaller = set.smaller.filter((name) => names.includes(name));
  return el("section", {}, el("h2", {}, `Metrics on ${part}`),
    el("p", { class: "soft" }, `Mean ± standard deviation over the runs${!several ? "" : one === null ? " of the mean over the targets" : ` of ${set.targets[one]}`}`
      + `${set.kind === "regression" && set.unit && names.includes("RMSE") ? `; RMSE and MAE in ${set.unit}` : ""}. Every run is counted. The best is first. ${smaller.join(" and ")}: smaller is better.`
      + (scaled ? " Scaled RMSE: over the standard deviation of the target in train and valid; RMSE and MAE are in the target's unit, and each target has its own." : "")
      + (set.methods.some((method) => /\bLLM\b/.test(method.reads)) ? " Taught: the LLM with an adapter of stage 1; untaught: without; random: with random weights." : "")
      + (set.methods.length > 1 ? " Which differences can be believed, kflm2 compare tells." : "")),
    set.groups.length > 1 ? el("p", {}, el("span", { class: "alarm" }, "Look: "), "methods of different tables were tested on other molecules, or by another kind of split. Compare within a table.") : null,
    el("form", {},
      set.parts.length > 1 ? select("part", set.parts, state.part, (value) => { state.part = value; render(); }) : null,
      several ? select("of", ["mean of the targets", ...set.targets], state.mean, (value) => { state.mean = value; render(); }) : null),
    set.groups.map((group) => [el("h3", { class: "over" }, group.title),
      table(`Methods on ${group.title}, metrics on ${part}`, columns, group.methods.map((index) => set.methods[index]), { tall: group.methods.length > 12, on: (method) => method === chosen, sorted })]),
    tested ? development(set) : null,
    el("details", { open: runs.length <= 12 }, el("summary", {}, `Each of the ${runs.length} runs`), table(`Runs, metrics on ${part}`, each, runs, { tall: true })));
}

/** How many labels of the chosen target a part has, and how many of them are drawn. */
const sizes = (shown, part) => {
  const drawn = shown.part.filter((one, i) => one === part && isNumber(shown.true[state.target][i])).length, all = shown.sizes[part][state.target];
  return drawn < all ? `${count(drawn)} of ${count(all)} drawn` : count(drawn);
};

function dotsOf(set, method, get, wanted = () => true, extra = () => []) {
  const { shown } = method, parts = Object.keys(shown.sizes);
  const order = [...parts].sort((a, b) => (b === "train") - (a === "train") || (b === "valid") - (a === "valid"));
  return order.filter(wanted).flatMap((part) => shown.part.flatMap((own, i) => {
    if (own !== part) return [];
    const [x, y] = get(i);
    return [{ x, y, color: colorOf(part, parts), ...told(set, shown, i, extra(i)) }];
  }));
}

/** Which methods' test metrics are of molecules that a search saw. */
function development(set) {
  return set.methods.filter((method) => method.development).map((method) => el("p", {}, `${method.name} (${method.split}): ${method.development}.`));
}

function parity(set, method) {
  const { shown } = method, [true_, pred] = [shown.true[state.target], shown.pred[state.target]];
  const of = extent([...true_, ...pred]), axis = { of, ticks: ticks(of) };
  const frame = new Frame("Parity: predicted against measured", { ...axis, label: `measured${inUnit(set)}` }, { ...axis, label: `predicted${inUnit(set)}` }, { height: 380 });
  frame.node.append(shape("line", { class: "guide", x1: frame.scaleX(of[0]), y1: frame.scaleY(of[0]), x2: frame.scaleX(of[1]), y2: frame.scaleY(of[1]) }));
  const many = shown.mol.length > 1200;
  frame.add(dotsOf(set, method, (i) => [true_[i], pred[i]], () => true, (i) => [["error", short(pred[i] - true_[i])]]), many ? { r: 2.6, opacity: 0.6 } : {});
  const parts = Object.keys(shown.sizes), order = [...parts.filter((part) => !part.startsWith("test")), ...parts.filter((part) => part.startsWith("test"))];
  const first = method.runs[0].metrics;
  return figure("Predicted against measured", frame.live(), order.map((part) => [colorOf(part, parts),
    `${part} (${sizes(shown, part)})${set.targets.length === 1 && first[part] ? `, RMSE ${fixed(first[part].RMSE, 2)}` : ""}`]), `Run of seed ${shown.seed}.`);
}

function curve(set, method, kind) {
  const own = method.curves[state.target], { parts, others } = own[kind], roc = kind === "roc";
  const title = roc ? "ROC: active ones found against false alarms" : "Precision against recall";
  const frame = new Frame(title, { of: [0, 1], label: roc ? "false positive rate" : "recall" }, { of: [0, 1], label: roc ? "true positive rate" : "precision" }, { height: 380 });
  if (roc) frame.line([0, 1], [0, 1], { class: "guide" });
  else if (isNumber(own.active)) frame.line([0, 1], [own.active, own.active], { class: "guide" });
  for (const [xs, ys] of others) frame.line(xs, ys, { stroke: css("test"), "stroke-width": 1, opacity: 0.35 });
  for (const part of ["train", "valid", "test"]) if (parts[part]) frame.line(...parts[part].curve, { stroke: css(part), "stroke-width": 2 });
  const legend = ["train", "valid", "test"].filter((part) => parts[part]).map((part) => [css(part), `${part} (${count(parts[part].n)}), area ${fixed(parts[part].area, 2)}`, true]);
  const none = parts.test ? "" : " Its test part has one class only.";
  return figure(title, frame.node, legend, `Run of seed ${method.shown.seed}${others.length ? "; thin: the test part of other runs" : ""}.${none}${roc ? "" : " Dashed: share of active ones in test."}`);
}

function calibration(set, method) {
  const own = method.reliability[state.target];
  // rare classes live in a corner of 0..1
  const most = 1.1 * Math.max(0.05, ...[...own.raw, ...own.scaled].flatMap(([x, y]) => [x, y])), high = most > 0.7 ? 1 : most;
  const frame = new Frame("Calibration: share that is active against predicted probability", { of: [0, high], label: "predicted probability" }, { of: [0, high], label: "share that is active" }, { height: 380 });
  frame.line([0, high], [0, high], { class: "guide" });
  for (const [name, color] of [["raw", "train"], ["scaled", "test"]]) {
    frame.line(own[name].map(([x]) => x), own[name].map(([, y]) => y), { stroke: css(color) });
    frame.add(own[name].map(([x, y, n]) => ({ x, y, color: css(color), lines: [["mean probability", fixed(x)], ["are active", fixed(y)], ["labels", count(n)]] })), { opacity: 1 });
  }
  return figure("Calibration", frame.live(), [[css("train"), "as the model says", true], [css("test"), "scaled by temperature, as kflm2 predict says", true]],
    "Test parts of all runs, in tenths from the least to the most probable. On the dashed line probabilities are what they say.");
}

function learning(set, method) {
  const history = method.history;
  if (!history.length) {
    return figure("Learning curves", el("p", {}, method.baseline ? "A baseline has no epochs." : "These runs are older than this: they kept their losses only as a picture, learning_curve.png in each run's folder."));
  }
  const values = history.flatMap((one) => [...one.train, ...one.valid]).filter((value) => value > 0);
  const longest = Math.max(...history.map((one) => one.train.length));
  const [low, high] = extent(values.map(Math.log10), 0.06).map((power) => 10 ** power);
  const frame = new Frame("Learning curves: loss after each epoch", { of: [Math.min(1, longest - 1), longest], label: "epoch", ticks: ticks([1, longest]).filter(Number.isInteger) },
    { of: [low, high], log: true, label: set.kind === "regression" ? "squared error, scaled target" : "cross-entropy" }, { height: 380 });
  const first = history[0].seed, own = history.filter((one) => one.seed === first).length;
  const epochs = (losses) => losses.map((_, i) => i + 1);
  for (const one of [...history].reverse()) {
    const thin = one.seed === first ? {} : { "stroke-width": 1, opacity: 0.4 };
    for (const part of ["train", "valid"]) frame.line(epochs(one[part]), one[part], { stroke: css(part), ...thin });
  }
  frame.add(history.map((one) => ({ x: one.best, y: one.valid[one.best - 1], color: css("test"), lines: [["kept", `epoch ${one.best}`], ["validation loss", short(one.valid[one.best - 1])], ["seed", one.seed]] })), { r: 4.5, opacity: 1 });
  return figure("Learning curves", frame.live(), [[css("train"), "train", true], [css("valid"), "valid", true], [css("test"), "kept"]],
    `Seed ${first}${own > 1 ? `, ${own} models` : ""}${history.length > own ? `; thin: ${history.length - own} of other seeds` : ""}. Training losses are with dropout.`);
}

function distance(set, method) {
  const { shown } = method, regression = set.kind === "regression";
  const error = (i) => (isNumber(shown.true[state.target][i]) ? Math.abs(shown.pred[state.target][i] - shown.true[state.target][i]) : null);
  const dots = dotsOf(set, method, (i) => [shown.near[i], error(i)], (part) => part.startsWith("test"), (i) => [["error", short(error(i))], ["similarity", fixed(shown.near[i], 2)]]);
  const trend = method.trend[state.target];
  const high = Math.max(...dots.map((dot) => dot.y || 0), ...trend.map((bin) => bin[3]), 1e-9) * 1.05;
  const frame = new Frame("Error against similarity to the nearest training molecule", { of: [0, 1], label: "Tanimoto similarity to the nearest in train" },
    { of: [0, high], label: regression ? `absolute error${inUnit(set)}` : "error of the probability" }, { height: 380 });
  frame.add(dots);
  for (const [from, to, , mean] of trend) frame.line([from, to], [mean, mean], { stroke: css("class-1"), "stroke-width": 3 });
  return figure("Error against distance from training", frame.live(), [[css("test"), `test molecules, seed ${shown.seed}`], [css("class-1"), "mean of all runs' tests", true]],
    "Left: unlike anything in train. A mean is drawn where at least five were tested.");
}

function coverage(set, method) {
  const promise = method.promise, confidence = method.coverage.confidence;
  const rows = set.methods.map((own) => ({ own, shares: own.runs.map((run) => run.coverage).filter(isNumber) })).filter(({ shares }) => shares.length);
  const scaffolds = rows.map(({ own }) => own.split.startsWith("scaffold"));
  const low = Math.min(0.7, ...rows.flatMap(({ shares }) => shares)) - 0.02;
  const longest = Math.max(...rows.map(({ own }) => label(set, own).length), 1), left = Math.min(200, 20 + 7.8 * longest);
  const step = 26, height = rows.length * step + 52;
  const frame = new Frame(`Share held by ${100 * confidence} % ${set.kind === "regression" ? "intervals" : "sets"}, method by method`, { of: [low, 1.005], ticks: ticks([low, 1], 4), label: "share held on test" },
    { of: [rows.length, 0], label: "", ticks: [] }, { height, left });
  frame.line([confidence, confidence], [0, rows.length], { class: "guide" });
  rows.forEach(({ own, shares }, i) => {
    const color = css(scaffolds[i] ? "class-1" : "test"), name = label(set, own), most = Math.floor((left - 14) / 7.8);
    frame.text(left - 8, frame.scaleY(i + 0.5) + 4, name.length > most ? `${name.slice(0, most - 1)}…` : name, { "text-anchor": "end", class: own === method ? "strong" : null });
    frame.add(own.runs.map((run) => ({ x: run.coverage, y: i + 0.5, color, lines: [["method", name], ["seed", run.seed], ["held", `${fixed(100 * run.coverage, 1)} %`]] })), { r: 3, opacity: 0.4 });
    frame.add([{ x: average(shares), y: i + 0.5, color, lines: [["method", name], ["mean held", `${fixed(100 * average(shares), 1)} %`], ["runs", shares.length]] }], { r: 5.5, opacity: 1 });
  });
  const what = set.kind === "regression" ? "Do the intervals keep their promise?" : "Do the sets of classes keep their promise?";
  const node = figure(what, frame.live(), scaffolds.some(Boolean) ? [[css("test"), "other splits"], [css("class-1"), "scaffold splits"]] : [], `Large: mean. Dashed: the ${100 * confidence} % promised.`);
  node.append(...promise.sentences.map((text) => el("p", {}, text)));
  if (promise.command) node.append(el("p", {}, el("code", {}, promise.command)));
  if (method.coverage.now) node.append(el("p", { class: "soft" }, "These runs did not say; it was found now from predictions.csv, with intervals that are equally wide."));
  return node;
}

const VIEWS = { states: "LLM branch", graph: "graph branch", descriptors: "descriptors branch", covariates: "feature columns branch", fused: "fused" };

function maps(set, method) {
  const own = method.map, head = el("h2", {}, "Map of the hidden states");
  if (!own) {
    return el("section", {}, head, el("p", {}, method.baseline ? `${method.name} is a baseline, and has no hidden states.` : `The runs of ${method.name} are older than this: they kept no hidden states.`));
  }
  const values = own.true[state.target], classes = set.kind === "classification";
  const sorted = values.filter(isNumber).sort((a, b) => a - b), at = (share) => sorted[Math.round(share * (sorted.length - 1))] ?? 0;
  const of = [at(0.02), at(0.98)];
  const color = (value) => (!isNumber(value) ? css("grid") : classes ? css(`class-${value ? 1 : 0}`) : viridis((value - of[0]) / (of[1] - of[0] || 1)));
  const names = [...Object.keys(VIEWS), ...Object.keys(own.views)].filter((name, i, all) => own.views[name] && all.indexOf(name) === i);
  const kinds = [["pca", "PCA"], ["tsne", "t-SNE"]].filter(([kind]) => own.views[names[0]][kind]);
  if (!kinds.some(([kind]) => kind === state.flat)) state.flat = "pca";
  const plotsHere = names.map((name) => {
    const [xs, ys] = own.views[name][state.flat] || own.views[name].pca;
    const frame = new Frame(`Map, ${VIEWS[name] || name}`, { of: [-0.02, 1.02] }, { of: [-0.02, 1.02] }, { width: 300, height: 300, bare: true });
    frame.add(xs.map((x, i) => ({ x, y: ys[i], color: color(values[i]), ...told(set, own, i) })), { r: 3, opacity: 0.9 });
    const share = own.share[name];
    return figure(VIEWS[name] || name, frame.live(), [], state.flat === "pca" && isNumber(share) ? `${fixed(100 * share, 0)} % of the variance` : null);
  });
  const buttons = el("span", { class: "choice", role: "group", "aria-label": "How the map is flattened" }, kinds.map(([kind, name]) =>
    el("button", { type: "button", id: `flat-${kind}`, "aria-pressed": String(kind === state.flat), onclick: () => { state.flat = kind; again(`flat-${kind}`); } }, name)));
  const colors = classes
    ? el("ul", { class: "legend" }, [["class-0", "class 0"], ["class-1", "class 1"], ...(values.some((value) => !isNumber(value)) ? [["grid", "no label"]] : [])].map(([name, text]) => {
      const sign = el("i");
      sign.style.background = css(name);
      return el("li", {}, sign, text);
    }))
    : ramp(of, set.unit);
  return el("section", {}, head,
    el("p", { class: "soft" }, `What the model makes of ${own.mol.length < own.of ? `${count(own.mol.length)} of ` : ""}${count(own.of)} molecules, run of seed ${own.seed}${names.includes("fused") ? ": each branch by itself, and all fused" : ""}. `
      + `Colour: measured ${set.targets.length > 1 ? set.targets[state.target] : (set.facts[0] || [])[1]}${inUnit(set)}. Neighbours in t-SNE are alike; distances and sizes of clusters say nothing.`),
    el("p", {}, buttons), el("p", {}, colors), el("div", { class: "plots maps" }, plotsHere));
}

function worst(set, method) {
  const regression = set.kind === "regression", list = method.worst[state.target];
  return el("section", {}, el("h2", {}, `The ${list.length} test molecules that ${method.name} predicts worst`),
    el("p", { class: "soft" }, `By ${regression ? `absolute error${inUnit(set)}` : "the error of the probability"}, mean over the runs in which a molecule was tested. Similarity: Tanimoto, to the nearest in train.`),
    el("ol", { class: "worst" }, list.map((one) => el("li", {}, picture(one.mol) || el("div", { class: "none" }, "not drawn"),
      el("code", { title: molecules.smiles[one.mol] }, molecules.smiles[one.mol]),
      pairs([["measured", short(one.true)], [regression ? "predicted" : "probability", short(one.pred)], ["error", short(one.error)],
        ["similarity", fixed(one.near, 2)], ["tested in", `${one.runs} run${one.runs === 1 ? "" : "s"}`]])))));
}

function doubts(set) {
  const { rejected } = set;
  return [el("section", {}, el("h2", {}, "The audit of the data"),
    set.audits.map((audit) => [el("h3", {}, audit.folder), el("ul", { class: "words" }, audit.found.map((line) => el("li", {}, line.doubt ? el("span", { class: "alarm" }, "Look: ") : null, line.text)))]),
    set.audits.length ? null : [el("p", {}, "There is no audit beside these results. This makes one, of duplicates, leakage, and how far test is from train:"), el("code", { class: "command" }, set.audit_command)]),
  el("section", {}, el("h2", {}, "Rejected rows"),
    rejected.count === 0 ? el("p", {}, "No row was rejected.") : [
      el("p", {}, `${count(rejected.count)} row${rejected.count === 1 ? "" : "s"} cannot be used. ${rejected.rows.length < rejected.count ? `The first ${rejected.rows.length}; all are in rejected.csv of each run.` : ""}`),
      rejected.count > rejected.rows.length ? el("ul", { class: "words" }, rejected.reasons.map(([reason, n]) => el("li", {}, `${count(n)}: ${reason}`)), rejected.kinds > rejected.reasons.length ? el("li", {}, `and ${rejected.kinds - rejected.reasons.length} more reasons`) : null) : null,
      table("Rejected rows", [{ label: "row", text: (row) => row[0] }, { label: "SMILES", long: true, node: (row) => el("code", {}, row[1]), text: (row) => row[1] }, { label: "reason", long: true, text: (row) => row[2] }], rejected.rows)])];
}

function render() {
  const set = data.datasets[state.dataset], method = set.methods[state.method];
  molecules = set.molecules;
  plots = [];
  card.hide();
  document.title = `${set.name} - KFLM2 report`;
  document.getElementById("choice").replaceChildren(...(data.datasets.length > 1
    ? [select("dataset", data.datasets.map((one) => one.name), state.dataset, (value) => { start(value); render(); })] : []));
  const bar = el("div", { class: "bar" },
    select("method", set.methods.map((one) => label(set, one)), state.method, (value) => { state.method = value; again("method"); }),
    set.targets.length > 1 ? select("target", set.targets, state.target, (value) => { state.target = value; again("target"); }) : null);
  bar.querySelectorAll("select").forEach((box, i) => { box.id = ["method", "target"][i]; });
  const pictures = set.kind === "regression" ? [parity(set, method)] : [curve(set, method, "roc"), curve(set, method, "pr"), calibration(set, method)];
  document.getElementById("main").replaceChildren(
    el("h1", {}, set.name),
    el("p", { class: "soft" }, `${set.facts[0][1]}${set.unit ? `, ${set.unit}` : ""}; ${set.facts.find(([name]) => name === "runs")[1]}`),
    ...[leftOut()].filter(Boolean), facts(set), metrics(set),
    // in one box, within which the bar stays in sight
    el("div", { id: "closely" }, el("h2", {}, "One method closely"), bar,
      state.method === set.first ? el("p", { class: "soft" }, set.why) : null,
      el("div", { class: "plots" }, pictures, learning(set, method), distance(set, method), coverage(set, method)),
      maps(set, method), worst(set, method)),
    ...doubts(set));
  const line = document.querySelector("tr.on"), box = line.closest(".scroll");
  box.scrollTop = line.offsetTop - box.clientHeight / 2;
}

/** Draws again, and stays where the reader is: the focus on the same control, the page at the same height. */
function again(id) {
  const height = window.scrollY;
  render();
  window.scrollTo(0, height);
  const node = document.getElementById(id);
  if (node) node.focus({ preventScroll: true });
}

function start(dataset) {
  Object.assign(state, { dataset, method: data.datasets[dataset].first, target: 0, part: 0, mean: 0 });
}

document.getElementById("foot").textContent = `Made by kflm2 ${data.version} from files of the runs; the same files give the same page.`;
start(0);
render();
dark.addEventListener("change", render);

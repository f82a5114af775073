// Pictures: frames with axes, dots that tell what they are, lines.

const WIDTH = 420, HEIGHT = 330;

function extent(values, margin = 0.04) {
  let low = Infinity, high = -Infinity;
  for (const value of values) if (isNumber(value)) { low = Math.min(low, value); high = Math.max(high, value); }
  if (low > high) return [0, 1];
  const more = (high - low || Math.abs(high) || 1) * margin;
  return [low - more, high + more];
}

function ticks([low, high], most = 6) {
  const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough) || power;
  const out = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) out.push(Number((n * step).toPrecision(10)));
  return out;
}

function logTicks([low, high]) {
  const out = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
    for (const one of [1, 2, 5]) if (one * 10 ** power >= low && one * 10 ** power <= high) out.push(Number((one * 10 ** power).toPrecision(3)));
  if (out.length < 3) return ticks([low, high], 4);
  return out.length > 8 ? out.filter((value) => Number.isInteger(Math.round(Math.log10(value) * 1e9) / 1e9)) : out;
}

/** Axes within an SVG; x and y are {of: [low, high], label, log, ticks}. */
class Frame {
  constructor(label, x, y, { width = WIDTH, height = HEIGHT, left = 54, bottom = 44, top = 8, right = 12, bare = false } = {}) {
    Object.assign(this, { label, left: bare ? 6 : left, bottom: bare ? 6 : bottom, top: bare ? 6 : top, right: bare ? 6 : right, width, height });
    this.scaleX = this.scale(x, this.left, width - this.right);
    this.scaleY = this.scale(y, height - this.bottom, this.top);
    this.node = shape("svg", { class: "plot", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
    this.dots = [];
    if (!bare) this.axes(x, y);
  }
  scale(axis, from, to) {
    const f = axis.log ? Math.log10 : (value) => value;
    const [low, high] = axis.of.map(f);
    return (value) => from + ((f(value) - low) / (high - low || 1)) * (to - from);
  }
  axes(x, y) {
    const { node, left, right, top, bottom, width, height } = this;
    for (const value of x.ticks || ticks(x.of)) {
      const at = this.scaleX(value);
      node.append(shape("line", { class: "grid", x1: at, x2: at, y1: top, y2: height - bottom }),
        shape("text", { x: at, y: height - bottom + 17, "text-anchor": "middle" }, short(value)));
    }
    for (const value of y.ticks || (y.log ? logTicks(y.of) : ticks(y.of))) {
      const at = this.scaleY(value);
      node.append(shape("line", { class: "grid", x1: left, x2: width - right, y1: at, y2: at }),
        shape("text", { x: left - 7, y: at + 4, "text-anchor": "end" }, short(value)));
    }
    node.append(shape("path", { class: "axis", fill: "none", d: `M${left} ${top}V${height - bottom}H${width - right}` }),
      shape("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, x.label),
      shape("text", { transform: `translate(13 ${(top + height - bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, y.label));
  }
  line(xs, ys, attributes) {
    const d = xs.map((x, i) => `${i ? "L" : "M"}${this.scaleX(x).toFixed(1)} ${this.scaleY(ys[i]).toFixed(1)}`).join("");
    this.node.append(shape("path", { fill: "none", "stroke-width": 1.8, "stroke-linejoin": "round", ...attributes, d }));
  }
  text(x, y, words, attributes) {
    this.node.append(shape("text", { x, y, ...attributes }, words));
  }
  /** Dots, each {x, y, color, mol, row, lines}; those without a place are left out. */
  add(dots, { r = 3.4, opacity = 0.8 } = {}) {
    for (const dot of dots) {
      if (!isNumber(dot.x) || !isNumber(dot.y)) continue;
      const [cx, cy] = [this.scaleX(dot.x), this.scaleY(dot.y)];
      this.dots.push({ ...dot, cx, cy });
      this.node.append(shape("circle", { class: "dot", cx: cx.toFixed(1), cy: cy.toFixed(1), r, fill: dot.color, "fill-opacity": opacity }));
    }
    return this;
  }
  /** Lets pointer, finger and arrow keys reach the dots; one stop for Tab, whatever their number. */
  live() {
    if (!this.dots.length) return this.node;
    const { node } = this;
    this.ring = shape("circle", { class: "mark", r: 6.5, visibility: "hidden" });
    node.append(this.ring);
    this.byRow = new Map(this.dots.filter((dot) => dot.row !== undefined).map((dot) => [dot.row, dot]));
    node.setAttribute("tabindex", 0);
    node.setAttribute("role", "application");
    node.setAttribute("aria-label", `${this.label}. ${this.dots.length} dots; arrow keys go from one to the next, Escape closes.`);
    const byX = [...this.dots].sort((a, b) => a.cx - b.cx), byY = [...this.dots].sort((a, b) => a.cy - b.cy);
    let now = null;
    const show = (dot, byKey = false) => {
      now = dot;
      const at = new DOMPoint(dot.cx, dot.cy).matrixTransform(node.getScreenCTM());
      card.show(dot, at.x, at.y, byKey ? () => show(dot, true) : null);
    };
    const near = (event) => {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(node.getScreenCTM().inverse());
      let best = null, least = (event.pointerType === "touch" ? 22 : 12) ** 2;
      for (const dot of this.dots) {
        const distance = (dot.cx - at.x) ** 2 + (dot.cy - at.y) ** 2;
        if (distance <= least) [best, least] = [dot, distance];
      }
      return best;
    };
    node.addEventListener("pointermove", (event) => {
      if (card.pinned || event.pointerType === "touch") return;
      const dot = near(event);
      if (dot) { if (dot !== now || card.node.hidden) show(dot); } else card.hide();
    });
    node.addEventListener("pointerleave", () => { if (!card.pinned) card.hide(); });
    node.addEventListener("click", (event) => {
      const dot = near(event);
      if (!dot) return card.hide();
      show(dot);
      card.pin(true);
    });
    node.addEventListener("focus", () => { if (node.matches(":focus-visible")) show(now || byX[0], true); });
    node.addEventListener("blur", () => card.hide());
    node.addEventListener("keydown", (event) => {
      const move = { ArrowRight: [byX, 1], ArrowLeft: [byX, -1], ArrowDown: [byY, 1], ArrowUp: [byY, -1] }[event.key];
      if (move) {
        const place = move[0].indexOf(now) + move[1];
        show(move[0][Math.max(0, Math.min(place, move[0].length - 1))], true);
      } else if (event.key === "Home") show(byX[0], true);
      else if (event.key === "End") show(byX[byX.length - 1], true);
      else return;
      event.preventDefault();
    });
    plots.push(this);
    return node;
  }
  mark(dot) {
    const own = dot && (this.dots.includes(dot) ? dot : this.byRow.get(dot.row));
    this.ring.setAttribute("visibility", own ? "visible" : "hidden");
    if (own) { this.ring.setAttribute("cx", own.cx); this.ring.setAttribute("cy", own.cy); }
  }
}

function figure(title, node, legend = [], note = null) {
  return el("figure", {}, el("figcaption", {}, el("h3", {}, title),
    legend.length ? el("ul", { class: "legend" }, legend.map(([color, text, stroke]) => {
      const sign = el("i", { class: stroke ? "stroke" : null });
      sign.style.background = color;
      return el("li", {}, sign, text);
    })) : null), node, note ? el("p", { class: "soft" }, note) : null);
}

// viridis (S. van der Walt, N. Smith), nine colours of it
const VIRIDIS = ["440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725"].map((hex) =>
  [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));
const dark = window.matchMedia("(prefers-color-scheme: dark)");
function viridis(share) {
  // its ends are as dark as a dark page, and nearly as light as a light one
  const [from, to] = dark.matches ? [0.2, 1] : [0, 0.96];
  const at = (from + Math.max(0, Math.min(1, share)) * (to - from)) * (VIRIDIS.length - 1), i = Math.min(Math.floor(at), VIRIDIS.length - 2);
  return `rgb(${VIRIDIS[i].map((low, k) => Math.round(low + (at - i) * (VIRIDIS[i + 1][k] - low))).join(",")})`;
}

function ramp([low, high], label) {
  const node = shape("svg", { class: "ramp", viewBox: "0 0 340 34", role: "img", "aria-label": `colours from ${short(low)} to ${short(high)} ${label}` });
  for (let i = 0; i < 68; i++) node.append(shape("rect", { x: i * 5, y: 0, width: 5.5, height: 12, fill: viridis(i / 67) }));
  for (const [x, value, anchor] of [[0, low, "start"], [170, (low + high) / 2, "middle"], [340, high, "end"]])
    node.append(shape("text", { x, y: 28, "text-anchor": anchor }, short(value)));
  return node;
}

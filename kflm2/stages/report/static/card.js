// The molecules of the dataset that is shown.
let molecules = { smiles: [], svg: {}, size: [1, 1], scale: 1 };
function picture(mol) {
  return drawing(molecules.svg[mol], molecules.size, molecules.scale, molecules.smiles[mol]);
}

// One card for all dots of all plots.
const card = {
  node: document.getElementById("card"),
  pinned: false,
  // shows the dot again where it is now: Tab brings a plot into view, and the page hears of that only later
  follow: null,
  show(dot, x, y, follow = null) {
    this.follow = follow;
    this.node.replaceChildren(...[
      dot.mol === undefined ? null : picture(dot.mol),
      dot.mol === undefined ? null : el("code", {}, molecules.smiles[dot.mol]),
      pairs(dot.lines),
    ].filter(Boolean));
    this.node.hidden = false;
    const { offsetWidth: width, offsetHeight: height } = this.node;
    const [wide, high] = [document.documentElement.clientWidth, window.innerHeight];
    const left = x + 16 + width > wide ? x - 16 - width : x + 16;
    this.node.style.left = `${Math.max(8, Math.min(left, wide - width - 8))}px`;
    // on a phone there is no room beside a finger: above it, or else below
    const narrow = wide < 560;
    const top = narrow ? (y - height - 22 > 8 ? y - height - 22 : y + 22) : y - height / 2;
    this.node.style.top = `${Math.max(8, Math.min(top, high - height - 8))}px`;
    for (const plot of plots) plot.mark(dot);
  },
  pin(on) {
    this.pinned = on;
    this.node.classList.toggle("pinned", on);
  },
  hide() {
    this.pin(false);
    this.node.hidden = true;
    for (const plot of plots) plot.mark(null);
  },
};
/** Plots with dots that are on the page; a molecule that is pointed at in one is marked in all. */
let plots = [];
document.addEventListener("keydown", (event) => { if (event.key === "Escape") card.hide(); });
document.addEventListener("pointerdown", (event) => {
  if (!event.target.closest("svg.plot, #card")) card.hide();
});
document.addEventListener("scroll", () => {
  if (card.pinned) return;
  if (card.follow) card.follow();
  else card.hide();
}, { passive: true });

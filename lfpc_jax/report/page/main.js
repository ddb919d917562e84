// The bar, the views behind it, and the keyboard.

const EVALUATED = INDEX.compared.length > 0 || INDEX.runs.some((run) => run.sheets.length);
const TABS = {
  ...(EVALUATED && { results: ["Results", resultsView] }),
  ...((INDEX.figures.length || !EVALUATED) && { curves: ["Curves", curvesView] }),
  episodes: ["Episodes", browserView], compare: ["Compare", compareView], notes: ["Notes", notesView],
};
const NAMES = Object.keys(TABS);
const KEYS = [
  [NAMES.map((name, at) => at + 1).join(" "), NAMES.join(", ")],
  ["j k", "next and previous episode or question (also ↓ ↑)"],
  ["[ ]", "previous and next rollout of the same question"],
  ["o", "the original, or the image as the model saw it"],
  ["b t", "crop boxes and target boxes on and off"],
  ["/", "search"],
  ["?", "these keys"],
];
const view = document.getElementById("view");
let current = null, tab = "";

function notesView() {
  const problems = INDEX.problems.map((problem) => {
    const cut = problem.indexOf(": ");
    return h("li", {}, h("b", {}, readable(problem.slice(0, cut))), readable(problem.slice(cut + 2)));
  });
  const settings = INDEX.runs.map((run, number) => h("details", { open: INDEX.runs.length === 1 },
    h("summary", { style: { "--run": runColour(number) } }, h("i", { class: "dot" }), run.name),
    h("p", {}, readable(run.folder)), h("pre", {}, run.config === null ? "no config.json" : readable(JSON.stringify(run.config, null, 2)))));
  return h("div", { class: "notes" }, h("h2", {}, "Left out of this report"),
    problems.length ? h("ul", { class: "problems" }, problems) : h("p", {}, "Nothing: everything could be read."),
    INDEX.unlisted > 0 && h("p", {}, `And ${INDEX.unlisted} more like these.`), h("h2", {}, "Settings"), settings);
}

function show(name) {
  if (!(name in TABS)) name = "results" in TABS ? "results" : INDEX.figures.length ? "curves" : "episodes";
  hideTip();
  tab = name;
  for (const link of document.querySelectorAll("#tabs a")) {
    if (link.dataset.tab === name) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  current = TABS[name][1]();
  view.replaceChildren(current);
  if (current.shown) current.shown();
  window.scrollTo(0, 0);
}

function follow_hash() {
  const [name, number] = location.hash.slice(1).split("/");
  if (name === "episodes" && number in INDEX.episodes) chosen.episode = Number(number);
  show(name);
}

// A page that is written again shows the newest, at the same place, but takes no episode from its reader.
function refresh() {
  if (tab === "episodes" || tab === "compare" || document.querySelector("dialog[open]")) return;
  history.replaceState({ top: window.scrollY }, "");
  location.reload();
}

function redrawStages(change) {
  change();
  document.querySelectorAll(".stage").forEach((one) => one.redraw());
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input, select, textarea");
  if (event.key === "Escape") { hideTip(); event.target.blur(); return; }
  if (typing || document.querySelector("dialog[open]")) return;
  const by = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 }[event.key];
  if (by && current.move) current.move(by);
  else if ("[]".includes(event.key) && current.rollout) current.rollout(event.key === "]" ? 1 : -1);
  else if (Number(event.key) >= 1 && Number(event.key) <= NAMES.length) location.hash = "#" + NAMES[Number(event.key) - 1];
  else if (event.key === "o") redrawStages(() => { look.view = look.view === "original" ? "shown" : "original"; });
  else if (event.key === "b") redrawStages(() => { look.boxes = !look.boxes; });
  else if (event.key === "t") redrawStages(() => { look.targets = !look.targets; });
  else if (event.key === "/" && document.querySelector("[data-filter=text]")) document.querySelector("[data-filter=text]").focus();
  else if (event.key === "?") document.getElementById("keys").showModal();
  else return;
  event.preventDefault();
});

function start() {
  const names = INDEX.runs.map((run) => run.name);
  document.title = (names.join(", ") || "A comparison") + " – lfpc_jax report";
  document.getElementById("name").append(names.length > 2 ? names.length + " runs" : names.join(" and ") || "A comparison", h("span", {}, INDEX.refresh ? `lfpc_jax, every ${INDEX.refresh} s` : "lfpc_jax"));
  for (const [name, [text]] of Object.entries(TABS)) {
    document.getElementById("tabs").append(h("a", { href: "#" + name, "data-tab": name }, text, name === "notes" && INDEX.problems.length > 0 ? ` (${INDEX.problems.length + INDEX.unlisted})` : ""));
  }
  const keys = document.getElementById("keys");
  keys.append(h("table", {}, KEYS.map(([key, what]) => h("tr", {}, h("td", {}, key.split(" ").map((one) => [h("kbd", {}, one), " "])), h("td", {}, what)))));
  keys.addEventListener("click", () => keys.close());
  document.getElementById("help").addEventListener("click", () => keys.showModal());
  window.addEventListener("hashchange", follow_hash);
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth !== width && current.shown) current.shown();
    width = window.innerWidth;
  });
  follow_hash();
  if (history.state) window.scrollTo(0, history.state.top);
  if (INDEX.refresh) setInterval(refresh, 1000 * INDEX.refresh);
}

start();

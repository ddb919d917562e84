// What comparisons and evaluations came to: pictures, and the tables that the terminal had.

function resultsView() {
  const runs = INDEX.runs.map((run, number) => run.sheets.length > 0 && h("section", {},
    INDEX.runs.length > 1 && h("h2", { style: { "--run": runColour(number) } }, h("i", { class: "dot" }), " ", run.name),
    run.sheets.map((one) => sheet(one, "h3"))));
  const compared = INDEX.compared.map(comparedView);
  const view = h("div", { class: "results" }, INDEX.about.map((text) => h("p", { class: "about" }, readable(text))), compared, runs);
  view.shown = () => compared.forEach((section) => section.redraw());
  return view;
}

function sheet(one, heading) {
  const cells = (row, tag) => row.map((cell, at) => h(tag, { class: at >= one.texts.length ? "number" : "" }, readable(String(cell))));
  const rows = one.parts.map((part) => h("tbody", {}, part.map((row) => h("tr", {}, cells(row, "td")))));
  return h("article", { class: "sheet" }, h(heading, {}, readable(one.title)),
    h("div", { class: "wide" }, h("table", {}, h("thead", {}, h("tr", {}, cells([...one.texts, ...one.numbers], "th"))), rows)),
    one.warnings.map((line) => h("p", { class: "warning" }, readable(line))),
    one.meaning && h("p", {}, readable(one.meaning)));
}

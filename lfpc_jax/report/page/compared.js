// A comparison of arms as pictures: a panel for each measure, a bar for each arm, with its interval.

const ROW = 24, UNDER = 34;

function comparedView(compared) {
  const bars = compared.measures.map(([name, meaning]) => barPanel(compared, name, meaning));
  const [measured, ...others] = compared.sheets.map((one, at) => sheet(one, at ? "h3" : "h2"));
  const view = h("section", { class: "compared" }, measured,
    h("p", { class: "note" }, "Bars are means over questions and seeds, thin lines their 95 % intervals", compared.arms.some(hasSeeds) && ", and dots single seeds", "."),
    h("div", { class: "panels bars" }, bars), others);
  view.redraw = () => bars.forEach((panel) => panel.redraw());
  return view;
}

function hasSeeds(arm) {
  return Object.values(arm.values).some((value) => value.seeds.length > 1);
}

function barPanel(compared, name, meaning) {
  const arms = compared.arms.filter((arm) => arm.values[name]);
  const svg = s("svg", { role: "img", "aria-label": meaning, style: { height: ROW * arms.length + UNDER + "px" } });
  const panel = h("article", { class: "panel", "data-measure": name },
    h("h3", {}, h("span", {}, meaning[0].toUpperCase() + meaning.slice(1)), h("span", { class: "now" }, name)), svg);
  panel.redraw = () => barsInto(svg, arms, name);
  return panel;
}

function barsInto(svg, arms, name) {
  const width = svg.clientWidth || 380, height = ROW * arms.length + UNDER;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  const told = arms.map((arm) => arm.values[name].told.replaceAll("-", "−"));
  const left = 8 + 6.6 * Math.max(...arms.map((arm) => arm.name.length)), right = 12 + 6 * Math.max(...told.map((text) => text.length));
  const [low, high] = extent(arms.flatMap((arm) => [0, arm.values[name].estimate.low, arm.values[name].estimate.high, ...arm.values[name].seeds]));
  const ticks = niceTicks(100 * low, Math.max(100 * high, 100 * low + 1), 4);
  const begin = Math.min(100 * low, ticks[0]), end = ticks.at(-1);
  const x = (share) => left + ((100 * share - begin) / (end - begin)) * (width - left - right);
  for (const tick of ticks.filter((value) => value >= begin)) {
    svg.append(s("line", { class: tick === 0 ? "grid zero" : "grid", x1: x(tick / 100), x2: x(tick / 100), y1: 0, y2: ROW * arms.length }),
      s("text", { x: x(tick / 100), y: ROW * arms.length + 13, "text-anchor": "middle" }, format(tick)));
  }
  svg.append(s("text", { class: "axis", x: (left + width - right) / 2, y: height - 5, "text-anchor": "middle" }, "%"));
  arms.forEach((arm, at) => {
    const { estimate, seeds } = arm.values[name], style = { "--run": arm.colour }, middle = ROW * at + ROW / 2;
    svg.append(s("text", { class: "arm", x: left - 8, y: middle + 4, "text-anchor": "end" }, arm.name),
      s("rect", { x: Math.min(x(0), x(estimate.value)), y: middle - 7, width: Math.abs(x(estimate.value) - x(0)), height: 14, style }),
      s("line", { class: "interval", x1: x(estimate.low), x2: x(estimate.high), y1: middle, y2: middle }));
    if (seeds.length > 1) for (const seed of seeds) svg.append(s("circle", { class: "seed", cx: x(seed), cy: middle, r: 2 }));
    svg.append(s("text", { class: "told", x: width - right + 10, y: middle + 4 }, told[at]));
  });
}

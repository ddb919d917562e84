// Training curves: small multiples, runs laid over one another.

const curves = { smooth: 0, hidden: new Set() };
const EDGE = { right: 8, top: 8, bottom: 34 };
const HEIGHT = 176;

function curvesView() {
  if (!INDEX.figures.length) return h("p", { class: "empty" }, "No metrics in " + (INDEX.runs.length > 1 ? "these runs" : "this run") + ". See Notes.");
  const body = h("div");
  const draw = () => {
    body.replaceChildren(...INDEX.figures.map(drawFigure));
    for (const svg of body.querySelectorAll("svg")) svg.redraw();
  };
  const shown = h("output", {}, "0");
  const slider = h("input", { type: "range", min: 0, max: 0.95, step: 0.05, value: curves.smooth, "aria-label": "Smoothing",
    oninput: (event) => { curves.smooth = Number(event.target.value); shown.textContent = format(curves.smooth); draw(); } });
  shown.textContent = format(curves.smooth);
  const runs = INDEX.runs.map((run, number) => run.curves.length > 0 && pressed(run.name, !curves.hidden.has(number), (event) => {
    const button = event.currentTarget;
    if (curves.hidden.delete(number) === false) curves.hidden.add(number);
    button.setAttribute("aria-pressed", String(!curves.hidden.has(number)));
    draw();
  }, { style: { "--run": runColour(number) } }));
  const view = h("div", { class: "curves" }, h("div", { class: "bar" }, runs.filter(Boolean).length > 1 && runs, h("label", {}, "Smoothing", slider, shown)), body);
  view.shown = draw;
  return view;
}

function drawFigure(figure) {
  return h("section", { class: "figure" },
    h("header", {}, h("h2", {}, figure.title), figure.note && h("p", {}, figure.note)),
    h("div", { class: "panels" }, figure.panels.map(drawPanel)),
    figure.lines.map((line) => h("p", { class: "steady" }, readable(line))));
}

function drawPanel(panel) {
  const own = [];
  INDEX.runs.forEach((run, number) => {
    if (curves.hidden.has(number)) return;
    for (const curve of run.curves) if (curve.name === panel.name) own.push({ ...curve, run: number });
  });
  const now = INDEX.runs.map((run, number) => own.find((curve) => curve.run === number)).filter(Boolean).slice(0, 3);
  const svg = s("svg", { role: "img", "aria-label": panel.title });
  svg.redraw = () => plotInto(svg, own, panel);
  const meaning = panel.meaning.map(([heading, text]) => [h("dt", {}, heading), h("dd", {}, readable(text))]);
  return h("article", { class: "panel", "data-name": panel.name },
    h("h3", {}, h("span", {}, readable(panel.title)), now.length > 0 && h("span", { class: "now", title: "at the last step" }, now.map((curve) => h("span", { style: { "--run": runColour(curve.run) } }, format(curve.values.at(-1)))))),
    svg, h("details", {}, h("summary", {}, "What it means"), h("dl", {}, h("dt", {}, "name"), h("dd", {}, readable(panel.name)), meaning.length ? meaning : [h("dt", {}, "meaning"), h("dd", {}, "not a metric of this project")])));
}

function plotInto(svg, own, panel) {
  const width = svg.clientWidth || 300;
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  svg.replaceChildren();
  if (!own.length) return;
  const steps = own.flatMap((curve) => curve.steps), values = own.flatMap((curve) => curve.values);
  let [low, high] = extent(values);
  const [first, last] = extent(steps);
  if (low === high) { const pad = Math.abs(low) * 0.1 || 0.5; low -= pad; high += pad; }
  const ticks = niceTicks(low, high, 4);
  low = Math.min(low, ticks[0]); high = Math.max(high, ticks.at(-1));
  const left = 28 + 6.6 * Math.max(...ticks.map((tick) => format(tick).length));  // room for the longest label
  const x = (step) => left + (last === first ? 0.5 : (step - first) / (last - first)) * (width - left - EDGE.right);
  const y = (value) => HEIGHT - EDGE.bottom - ((value - low) / (high - low)) * (HEIGHT - EDGE.top - EDGE.bottom);
  for (const tick of ticks) {
    svg.append(s("line", { class: "grid", x1: left, x2: width - EDGE.right, y1: y(tick), y2: y(tick) }),
      s("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, format(tick)));
  }
  const marks = last === first ? [first] : niceTicks(first, last, Math.max(2, Math.floor(width / 60))).filter((tick) => Number.isInteger(tick) && tick >= first && tick <= last);
  for (const tick of marks) {
    const anchor = x(tick) > width - 22 ? "end" : "middle";
    svg.append(s("text", { x: anchor === "end" ? width - EDGE.right : x(tick), y: HEIGHT - 18, "text-anchor": anchor }, String(tick)));
  }
  const middle = (HEIGHT + EDGE.top - EDGE.bottom) / 2;
  svg.append(s("text", { class: "axis", x: (left + width - EDGE.right) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, "step"),
    s("text", { class: "axis", x: 10, y: middle, "text-anchor": "middle", transform: `rotate(-90 10 ${middle})` }, panel.unit));
  for (const curve of own) svg.append(...line(curve, x, y));
  follow(svg, own, x, first, last, left, width, panel);
}

function line(curve, x, y) {
  const style = { "--run": runColour(curve.run) };
  const begins = new Set(curve.starts);  // nothing is drawn across steps without a value
  const path = (values) => curve.steps.map((step, i) => (begins.has(i) ? "M" : "L") + x(step).toFixed(2) + " " + y(values[i]).toFixed(2)).join("");
  const apart = curve.kind !== "train";
  const smooth = curves.smooth > 0 && curve.values.length > 2 && !apart;
  const parts = [];
  if (smooth) parts.push(s("path", { class: "raw", d: path(curve.values), style }));
  parts.push(s("path", { class: apart ? "apart" : "", d: path(smooth ? smoothed(curve.values) : curve.values), style }));
  curve.steps.forEach((step, i) => {
    const alone = begins.has(i) && (i + 1 === curve.steps.length || begins.has(i + 1));
    if (apart || alone) parts.push(s("circle", { cx: x(step), cy: y(curve.values[i]), r: 2.6, style }));
  });
  return parts;
}

// An exponential mean that starts without bias towards 0.
function smoothed(values) {
  let sum = 0, weight = 0;
  return values.map((value) => {
    sum = curves.smooth * sum + (1 - curves.smooth) * value;
    weight = curves.smooth * weight + (1 - curves.smooth);
    return sum / weight;
  });
}

function follow(svg, own, x, first, last, left, width, panel) {
  const cursor = s("line", { class: "cursor", y1: EDGE.top, y2: HEIGHT - EDGE.bottom, visibility: "hidden" });
  svg.append(cursor);
  svg.onpointermove = (event) => {
    const place = event.clientX - svg.getBoundingClientRect().left;
    const wanted = first + ((place - left) / (width - left - EDGE.right)) * (last - first);
    const found = own.map((curve) => ({ curve, at: nearest(curve.steps, wanted) }));
    const best = found.reduce((a, b) => Math.abs(a.curve.steps[a.at] - wanted) <= Math.abs(b.curve.steps[b.at] - wanted) ? a : b);
    const step = best.curve.steps[best.at];
    cursor.setAttribute("x1", x(step)); cursor.setAttribute("x2", x(step)); cursor.setAttribute("visibility", "visible");
    const rows = found.filter(({ curve, at }) => curve.steps[at] === step).map(({ curve, at }) =>
      h("div", { style: { "--run": runColour(curve.run) } }, h("i", { class: "dot" }), INDEX.runs[curve.run].name + (curve.kind === "train" ? "" : ", " + curve.kind), h("b", { class: "much" }, format(curve.values[at]))));
    showTip(event.clientX, event.clientY, h("div", {}, panel.title + ", step " + step), ...rows);
  };
  svg.onpointerleave = () => { cursor.setAttribute("visibility", "hidden"); hideTip(); };
}

function nearest(steps, wanted) {
  let low = 0, high = steps.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (steps[middle] <= wanted) low = middle; else high = middle;
  }
  return Math.abs(steps[high] - wanted) < Math.abs(steps[low] - wanted) ? high : low;
}

function extent(values) {
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
}

function niceTicks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const unit = [1, 2, 2.5, 5, 10].find((n) => n * power >= rough * 0.999) * power;
  const ticks = [];
  for (let n = Math.floor(low / unit + 1e-9); n * unit <= high + unit * 0.999 && ticks.length < 12; n++) ticks.push(Number((n * unit).toPrecision(12)));
  while (ticks.length > 2 && ticks.at(-2) >= high) ticks.pop();
  return ticks;
}

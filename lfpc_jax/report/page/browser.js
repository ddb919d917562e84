// The list of episodes with its filters, and two runs side by side.

const wanted = { text: "", run: "", part: "", verdict: "", tool: "", end: "", low: 0, high: 1, order: "recorded" };
const chosen = { episode: 0, left: "", right: "", record: null };

const TOOL = {
  none: (line) => line.crops === 0 && !Object.keys(line.faults).length,
  cropped: (line) => line.crops > 0,
  several: (line) => line.crops > 1,
  refused: (line) => Object.keys(line.faults).length > 0,
};
const ORDER = {
  recorded: () => 0,
  "reward, highest": (a, b) => order(b.total, a.total),
  "reward, lowest": (a, b) => order(a.total, b.total),
  "IoU, highest": (a, b) => order(b.iou, a.iou),
  "IoU, lowest": (a, b) => order(a.iou, b.iou),
  longest: (a, b) => b.sampled - a.sampled,
};

function order(a, b) {
  if (a === null || b === null) return (a === null) - (b === null);
  return a - b;
}

const haystacks = [];
function haystack(number) {
  if (haystacks[number] === undefined) {
    const line = INDEX.episodes[number], record = INDEX.records[line.record];
    haystacks[number] = [record.question, record.id, record.category, record.answer, line.answer || "", ...record.options, ...(record.references || [])].join("\n").toLowerCase();
  }
  return haystacks[number];
}

function matching() {
  const text = wanted.text.trim().toLowerCase();
  const narrowed = wanted.low > 0 || wanted.high < 1;
  const found = [];
  INDEX.episodes.forEach((line, number) => {
    if (wanted.run !== "" && line.run !== Number(wanted.run)) return;
    if (wanted.part && line.part !== wanted.part) return;
    if (wanted.verdict && verdictOf(line) !== wanted.verdict) return;
    if (wanted.tool && !TOOL[wanted.tool](line)) return;
    if (wanted.end && line.end !== wanted.end) return;
    if (narrowed && (line.iou === null || line.iou < wanted.low - 1e-9 || line.iou > wanted.high + 1e-9)) return;
    if (text && !haystack(number).includes(text)) return;
    found.push(number);
  });
  const compare = ORDER[wanted.order];
  return wanted.order === "recorded" ? found : found.sort((a, b) => compare(INDEX.episodes[a], INDEX.episodes[b]) || a - b);
}

function select(label, key, entries, changed, more) {
  const options = entries.map(([value, text]) => h("option", { value, selected: String(wanted[key]) === value }, text));
  return h("select", { "aria-label": label, "data-filter": key, onchange: (event) => { wanted[key] = event.target.value; changed(); }, ...more }, options);
}

function distinct(name) {
  return [...new Set(INDEX.episodes.map((line) => line[name]))].sort();
}

function filters(changed) {
  const runs = INDEX.runs.map((run, number) => [String(number), run.name]);
  const iou = INDEX.episodes.some((line) => line.iou !== null);
  const partly = INDEX.episodes.some((line) => verdictOf(line) === "partly");
  const said = h("output", {});
  const say = () => { said.textContent = `IoU ${wanted.low.toFixed(2)} – ${wanted.high.toFixed(2)}`; };
  const end = (key, label) => h("input", { type: "range", min: 0, max: 1, step: 0.05, value: wanted[key], "aria-label": label, "data-filter": key,
    oninput: (event) => { wanted[key] = Number(event.target.value); if (wanted.low > wanted.high) wanted[key] = key === "low" ? wanted.high : wanted.low; event.target.value = wanted[key]; say(); changed(); } });
  say();
  return h("form", { class: "filters", onsubmit: (event) => event.preventDefault() },
    h("input", { type: "search", class: "wide", placeholder: "Search questions and answers", "aria-label": "Search", "data-filter": "text", value: wanted.text, oninput: (event) => { wanted.text = event.target.value; changed(); } }),
    INDEX.runs.length > 1 && select("Run", "run", [["", "All runs"], ...runs], changed),
    select("Part", "part", [["", "All parts"], ...distinct("part").map((part) => [part, part])], changed, INDEX.runs.length > 1 ? {} : { class: "wide" }),
    select("Verdict", "verdict", [["", "Right or wrong"], ["right", "✓ Right"], partly && ["partly", "◐ Partly right"], ["wrong", "✗ Wrong"], ["open", "○ Not scored"]].filter(Boolean), changed),
    select("Tool use", "tool", [["", "Any tool use"], ["none", "No call"], ["cropped", "With a crop"], ["several", "Several crops"], ["refused", "A refused call"]], changed),
    select("End", "end", [["", "Any end"], ...distinct("end").map((end) => [end, end.replaceAll("_", " ")])], changed),
    select("Order", "order", Object.keys(ORDER).map((name) => [name, name === "recorded" ? "As recorded" : name[0].toUpperCase() + name.slice(1)]), changed),
    iou && h("div", { class: "range wide" }, end("low", "Least IoU"), end("high", "Most IoU"), said));
}

function row(number, pick) {
  const line = INDEX.episodes[number], record = INDEX.records[line.record];
  const said = line.answer === null ? "no answer" : "“" + plain(line.answer).slice(0, 40) + "”";
  const facts = ["#" + line.rollout, said, line.crops ? line.crops + (line.crops > 1 ? " crops" : " crop") : "no crop",
    line.crops > 0 && line.iou !== null && "IoU " + line.iou.toFixed(2), line.part].filter(Boolean);
  const dot = INDEX.runs.length > 1 && h("i", { class: "dot", style: { "--run": runColour(line.run) }, title: INDEX.runs[line.run].name });
  return h("button", { type: "button", class: "row", "data-episode": number, "aria-current": number === chosen.episode ? "true" : null, onclick: () => pick(number) },
    markOf(line), h("span", { class: "said" }, plain(record.question)), h("span", { class: "meta" }, dot, facts.join(" · ")));
}

function browserView() {
  if (!INDEX.episodes.length) return h("p", { class: "empty" }, "No episodes here. See Notes.");
  const rows = h("div", { class: "rows" }), detail = h("section", { class: "detail", tabindex: "-1" }), count = h("span", { class: "number", role: "status" });
  const root = h("div", { class: "browser" });
  let list = [];
  const pick = (number) => {
    chosen.episode = number;
    root.classList.remove("listing");
    history.replaceState(null, "", "#episodes/" + number);
    for (const one of rows.querySelectorAll("[aria-current]")) one.removeAttribute("aria-current");
    const current = rows.querySelector(`[data-episode="${number}"]`);
    if (current) { current.setAttribute("aria-current", "true"); current.scrollIntoView({ block: "nearest" }); }
    detail.replaceChildren(episodeView(number, pick));
    detail.scrollTop = 0;
    const at = list.indexOf(number);
    place.textContent = at < 0 ? "List" : `${at + 1} of ${list.length}`;
  };
  const changed = () => {
    list = matching();
    rows.replaceChildren(...list.map((number) => row(number, pick)));
    count.textContent = list.length === INDEX.episodes.length ? `${list.length} episodes` : `${list.length} of ${INDEX.episodes.length} episodes`;
    const listing = root.classList.contains("listing");  // on a phone the list stays while it is filtered
    if (!list.length) detail.replaceChildren(h("p", { class: "empty" }, "No episode fits these filters."));
    else if (!list.includes(chosen.episode)) pick(list[0]);
    else if (!detail.querySelector(".episode")) pick(chosen.episode);
    root.classList.toggle("listing", listing);
  };
  const place = h("button", { type: "button", onclick: () => { root.classList.toggle("listing"); window.scrollTo(0, 0); } }, "List");
  const move = (by) => {
    const at = list.indexOf(chosen.episode);
    const next = list[Math.min(Math.max(at + by, 0), list.length - 1)];
    if (next !== undefined) { pick(next); window.scrollTo(0, 0); }
  };
  const form = h("div", {});
  const reset = () => {
    Object.assign(wanted, { text: "", run: "", part: "", verdict: "", tool: "", end: "", low: 0, high: 1, order: "recorded" });
    form.replaceChildren(filters(changed));
    changed();
  };
  form.append(filters(changed));
  root.append(h("aside", { class: "side" }, form, h("div", { class: "count" }, count, h("button", { type: "button", onclick: reset }, "Reset")), rows), detail,
    h("div", { class: "step" }, h("button", { type: "button", onclick: () => move(-1), "aria-label": "Previous" }, "←"), place, h("button", { type: "button", onclick: () => move(1), "aria-label": "Next" }, "→")));
  root.shown = changed;
  root.move = move;
  root.rollout = (by) => {
    const group = groupOf(INDEX.episodes[chosen.episode]);
    pick(group[(group.indexOf(chosen.episode) + by + group.length) % group.length]);
  };
  return root;
}

// Two sources, each a part of a run, at the records that both have.

function sources() {
  const found = new Map();
  INDEX.episodes.forEach((line, number) => {
    const key = line.run + "|" + line.part;
    if (!found.has(key)) found.set(key, { name: (INDEX.runs.length > 1 ? INDEX.runs[line.run].name + ", " : "") + line.part, run: line.run, part: line.part, records: new Map() });
    const records = found.get(key).records;
    if (!records.has(line.record)) records.set(line.record, []);
    records.get(line.record).push(number);
  });
  return found;
}

function shared(a, b) {
  return [...a.records.keys()].filter((record) => b.records.has(record));
}

// The pair with most in common, of different runs where there are several; the later parts first.
function firstPair(all) {
  const keys = [...all.keys()];
  let best = null;
  for (const a of keys) for (const b of keys) {
    const left = all.get(a), right = all.get(b);
    const apart = INDEX.runs.length > 1 ? left.run < right.run : left.part < right.part;
    if (!apart) continue;
    const score = [shared(left, right).length, Number(left.part === right.part), right.part];
    if (!best || score[0] > best.score[0] || (score[0] === best.score[0] && (score[1] > best.score[1] || (score[1] === best.score[1] && score[2] > best.score[2])))) best = { a, b, score };
  }
  return best ? [best.a, best.b] : [keys[0], keys[0]];
}

function compareView() {
  const all = sources();
  if (!all.size) return h("p", { class: "empty" }, "No episodes here. See Notes.");
  if (!all.has(chosen.left) || !all.has(chosen.right)) [chosen.left, chosen.right] = firstPair(all);
  const root = h("div", { class: "compare" });
  let questions = [];
  const draw = () => {
    const sides = [all.get(chosen.left), all.get(chosen.right)];
    questions = shared(...sides);
    if (!questions.includes(chosen.record)) chosen.record = questions[0];
    const at = questions.indexOf(chosen.record);
    const pickRecord = h("select", { "aria-label": "Question", onchange: (event) => { chosen.record = Number(event.target.value); draw(); } },
      questions.map((record) => h("option", { value: record, selected: record === chosen.record }, plain(INDEX.records[record].question).slice(0, 90))));
    root.replaceChildren(); put(root, {}, [
      h("div", { class: "bar" }, h("span", { class: "segments" }, h("button", { type: "button", "aria-label": "Previous question", onclick: () => root.move(-1) }, "←"), h("button", { type: "button", "aria-label": "Next question", onclick: () => root.move(1) }, "→")),
        pickRecord, h("span", { class: "number meta" }, questions.length ? `question ${at + 1} of ${questions.length} that both have` : "no question that both have")),
      questions.length > 0 && h("header", { class: "ask" }, question(INDEX.records[chosen.record])),
      h("div", { class: "pair" }, side("left", sides[0]), side("right", sides[1]))]);
  };
  const side = (which, source) => {
    const body = h("div");
    const numbers = (questions.length && source.records.get(chosen.record)) || [];
    const show = (number) => body.replaceChildren(episodeView(number, show, true));
    const choice = h("select", { "aria-label": which === "left" ? "Left side" : "Right side", onchange: (event) => { chosen[which] = event.target.value; draw(); } },
      [...all].map(([key, one]) => h("option", { value: key, selected: key === chosen[which] }, one.name)));
    if (numbers.length) show(numbers[0]);
    else body.append(h("p", { class: "empty" }, "Choose parts with a question in common."));
    return h("section", { "data-side": which }, h("div", { class: "source", style: { "--run": runColour(source.run) } }, INDEX.runs.length > 1 && h("i", { class: "dot" }), choice), body);
  };
  root.move = (by) => {
    const at = questions.indexOf(chosen.record) + by;
    if (at >= 0 && at < questions.length) { chosen.record = questions[at]; draw(); window.scrollTo(0, 0); }
  };
  root.shown = draw;
  return root;
}

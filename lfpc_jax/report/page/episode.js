// One episode, whole: what was asked, where the model looked, what was said, what it earned.

const REWARDS = { total: "Total", accuracy: "Accuracy", format: "Format", tool: "Tool", likelihood: "Log-likelihood", valid: "Valid box", overlap: "Overlap", iou: "IoU", r_iou: "Conditional IoU", r_l1: "Corners", r_geo: "Grounding" };
const ENDS = { answered: "it answered", proposed: "it proposed a box", no_action: "a turn with neither call nor answer", max_turns: "no turns left", max_tokens: "cut off at its limit of tokens", context_full: "no room in the context" };
const REPLACED = { noise: "noise in place of what was cut", blank: "a blank in place of what was cut", other: "the same part of another picture", downsampled: "cut from the shown image", truth: "the true box in its place" };
const reading = { shade: true };

const MARKS = { right: "✓", partly: "◐", wrong: "✗", open: "○" };

// An answer that is partly right has its score, between 0 and 1.
function verdictOf(line) {
  return line.right === null ? "open" : line.right === true ? "right" : line.right === false ? "wrong" : "partly";
}
function markOf(line) {
  const verdict = verdictOf(line);
  const title = { right: "right", partly: `partly right: ${line.right}`, wrong: "wrong", open: "not scored" }[verdict];
  return h("span", { class: "mark " + verdict, title }, MARKS[verdict]);
}

// `go` is called with the rollout that is chosen instead; `bare` leaves out the question.
function episodeView(number, go, bare) {
  const line = INDEX.episodes[number], record = INDEX.records[line.record], detail = detailOf(number);
  const root = h("article", { class: "episode", "data-episode": number });
  root.append(h("header", { class: "ask" }, bare ? [] : question(record), came(line, record, bare)), siblings(number, line, go) || "",
    h("div", { class: "columns" },
      h("div", { class: "looked" }, stage(detail, record), crops(detail, root), rewards(detail)),
      conversation(detail, line)));
  return root;
}

function letter(i) {
  return String.fromCharCode(65 + i);
}

function question(record) {
  const key = record.answer.trim().replace(/[().\s]/g, "").toUpperCase();
  const options = record.options.map((text, i) => h("li", { class: letter(i) === key ? "key" : "" }, letter(i) + ". ", readable(text)));
  return [h("h2", { dir: "auto" }, readable(record.question)), options.length > 0 && h("ol", { class: "options" }, options)];
}

// Each reference once, with how many gave it.
function counted(references) {
  const counts = new Map();
  references.forEach((text) => counts.set(text, (counts.get(text) || 0) + 1));
  return [...counts].map(([text, count]) => (count > 1 ? `${text} ×${count}` : text)).join(", ");
}

// What came of it, and which episode this is.
function came(line, record, bare) {
  const fact = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));
  const where = [INDEX.runs.length > 1 && INDEX.runs[line.run].name, line.part, record.dataset, record.category, record.id].filter(Boolean);
  return [
    h("dl", { class: "verdict" },
      fact("Answer", [markOf(line), " ", line.answer === null ? (line.end === "proposed" ? "none by a target" : "none") : h("bdi", {}, readable(line.answer.slice(0, 300)))]),
      fact("Right answer", h("bdi", {}, readable(record.answer))),
      record.references && fact("References, by " + record.metric, h("bdi", {}, readable(counted(record.references)))),
      line.total !== null && fact("Reward", format(line.total)),
      line.iou !== null && fact("IoU", format(line.iou)),
      fact("Ended because", ENDS[line.end] || readable(line.end))),
    !bare && h("p", { class: "where" }, where.map((text, i) => [i > 0 && " · ", readable(text)]))];
}

function groupOf(line) {
  const found = [];
  INDEX.episodes.forEach((other, at) => {
    if (other.run === line.run && other.part === line.part && other.record === line.record) found.push(at);
  });
  return found;
}

function siblings(number, line, go) {
  const group = groupOf(line);
  if (group.length < 2) return null;
  return h("nav", { class: "group", "aria-label": "Rollouts of this question" }, "Rollouts", group.map((at) => {
    const other = INDEX.episodes[at];
    return h("a", { href: "#episodes/" + at, class: verdictOf(other), "aria-current": at === number ? "true" : null, title: `rollout ${other.rollout}: ${verdictOf(other)}, ${other.crops} crops`,
      onclick: (event) => { event.preventDefault(); go(at); } }, h("span", {}, other.rollout + " " + MARKS[verdictOf(other)]));
  }));
}

function crops(detail, root) {
  const cards = detail.turns.map((turn, at) => {
    if (!turn.crop) return null;
    const crop = turn.crop, [x1, y1, x2, y2] = crop.pixels;
    const seen = detail.target ? "shown to the target" : crop.seen ? "seen as " + times(crop.seen) + ", " + crop.tokens + " tokens" : "the size it was seen at is not known";
    const by = crop.by && h("dd", { class: "by" }, REPLACED[crop.by] || "altered: " + readable(crop.by));
    return h("div", { class: "crop", style: { "--box": boxColour(at) }, "data-turn": at, onpointerenter: () => light(root, at, true), onpointerleave: () => light(root, at, false) },
      crop.image !== null && h("img", { src: pictureOf(crop.image), alt: "crop " + cropNumber(detail, at) }),
      h("dl", {}, h("dt", {}, "Crop " + cropNumber(detail, at)), by, h("dd", {}, numbers(crop.box) + " of the original"), h("dd", {}, "written as " + numbers(crop.written)), h("dd", {}, "cut at " + times([x2 - x1, y2 - y1]) + ", " + seen)));
  });
  return cards.some(Boolean) && h("div", { class: "crops" }, cards);
}

function rewards(detail) {
  const names = Object.keys(detail.rewards);
  if (!names.length) return null;
  const order = [...Object.keys(REWARDS).filter((name) => names.includes(name)), ...names.filter((name) => !(name in REWARDS))];
  const row = (name) => h("tr", { class: name }, h("td", {}, REWARDS[name] || readable(name)), h("td", {}, detail.rewards[name] === null ? "not known" : format(detail.rewards[name])));
  return h("table", { class: "rewards", "aria-label": "Parts of the reward" }, h("tbody", {}, order.map(row)));
}

function conversation(detail, line) {
  const list = h("section", { class: reading.shade ? "talk" : "talk plain", "aria-label": "Conversation" });
  const shade = pressed("Shade unlikely tokens", reading.shade, (event) => {
    reading.shade = !reading.shade;
    event.currentTarget.setAttribute("aria-pressed", String(reading.shade));
    document.querySelectorAll(".talk").forEach((talk) => talk.classList.toggle("plain", !reading.shade));
  });
  const scored = detail.blocks.some((block) => block.sampled && block.tokens.some((token) => token[1].length));
  list.append(h("div", { class: "tools" }, scored && shade));
  for (const block of detail.blocks) {
    list.append(block.sampled ? sampledBlock(block, detail) : givenBlock(block, detail));
    if (block.sampled && !scored) list.append(replyNote(block.turn, detail) || "");
  }
  if (detail.target) list.append(targetBlock(detail.target, detail.turns.some((turn) => turn.crop), line));
  list.append(h("p", { class: "ended" }, `Ended after ${line.turns} ${line.turns === 1 ? "turn" : "turns"} and ${line.sampled.toLocaleString("en")} sampled tokens: ${ENDS[line.end] || line.end}.`));
  return list;
}

// What the target model saw and made of the box: its answer, the right answer's likelihood, or why neither is there.
function targetBlock(target, boxed, line) {
  const seen = (target.seen || []).map((one) => [h("img", { class: "inline", src: pictureOf(one.image), alt: one.name + " as the target saw it" }), h("span", { class: "chip" }, one.name + ", " + times(one.size))]);
  const asked = target.answer !== null || target.likelihood !== null;
  const said = [asked && h("p", {}, boxed ? "saw the box" : "saw no box"), !asked && !target.unanswered && h("p", {}, "was not asked"),
    target.answer !== null && h("p", {}, "answered ", h("bdi", {}, readable(target.answer)), " ", markOf(line)),
    target.likelihood !== null && h("p", {}, "log-likelihood of the right answer " + format(target.likelihood)),
    target.unanswered && h("p", {}, "could not be asked: ", h("bdi", {}, readable(target.unanswered)))];
  return h("div", { class: "block given target" }, h("header", {}, h("b", {}, "Target model")), h("div", { class: "said-by", dir: "auto" }, seen, said));
}

function sampledBlock(block, detail) {
  const turn = detail.turns[block.turn] || { crop: null, fault: "" };
  const tokens = block.tokens.map((token) => {
    if (!token[1].length) return readable(token[0]);
    const unlikely = token[1].reduce((sum, one) => sum - (one[1] === null ? 0 : one[1]), 0);
    const span = h("span", { class: "tok" }, readable(token[0]));
    if (unlikely > 0.05) span.style.setProperty("--s", Math.min(unlikely / 4, 1).toFixed(3));
    span.token = token;
    return span;
  });
  return h("div", { class: "block sampled" + (turn.crop ? " cropped" : ""), style: { "--box": boxColour(block.turn) } },
    h("header", {}, h("b", {}, "Model"), "turn " + (block.turn + 1), turn.crop && h("span", {}, "crop " + cropNumber(detail, block.turn)), turn.fault && h("span", { class: "chip refused" }, "refused: " + turn.fault.replaceAll("_", " "))),
    h("div", { class: "said-by", dir: "auto" }, tokens, block.tail && h("span", { class: "special" }, readable(block.tail.trimEnd()))));
}

function givenBlock(block, detail) {
  const parts = block.parts.map((part) => (typeof part === "string" ? readable(part) : imagePart(part, detail)));
  const name = { system: "System", user: block.turn < 0 ? "Question" : "Tool's reply" }[block.role] || block.role || "Given";
  const body = h("div", { class: "said-by", dir: "auto" }, parts);
  if (block.role === "system") return h("div", { class: "block given" }, h("details", {}, h("summary", {}, h("b", {}, name), detail.target ? "the template's own" : "the tools and how to call them"), body));
  return h("div", { class: "block given" }, h("header", {}, h("b", {}, name)), body);
}

function imagePart(part, detail) {
  const chip = (text) => h("span", { class: "chip" }, text + ", " + part.image + " tokens");
  if (part.number === 0) return chip("image, " + times(detail.shown));
  const at = detail.turns.map((turn, i) => (turn.crop ? i : -1)).filter((i) => i >= 0)[part.number - 1];
  const crop = at === undefined ? null : detail.turns[at].crop;
  if (!crop || crop.image === null) return chip("crop " + part.number);
  return [h("img", { class: "inline", src: pictureOf(crop.image), alt: "crop " + part.number, style: { "--box": boxColour(at) } }), chip("crop " + part.number + (crop.seen ? ", " + times(crop.seen) : ""))];
}

// Without a tokenizer the replies are known only by what they were.
function replyNote(at, detail) {
  const turn = detail.turns[at];
  if (!turn || !turn.crop || detail.target) return null;
  const picture = turn.crop.image !== null && h("img", { class: "inline", src: pictureOf(turn.crop.image), alt: "crop", style: { "--box": boxColour(at) } });
  return h("div", { class: "block given" }, h("header", {}, h("b", {}, "Tool's reply")), h("div", { class: "said-by" }, picture || "a crop"));
}

function tokenTip(span) {
  const rows = [];
  for (const [id, logprob, policy] of span.token[1]) {
    const chance = logprob === null ? "–" : (100 * Math.exp(logprob)).toPrecision(3) + " %";
    rows.push(h("div", {}, h("b", {}, chance), h("span", { class: "far" }, "log-prob " + (logprob === null ? "–" : logprob.toFixed(4).replace("-", "−"))), h("span", { class: "much far" }, "id " + id)));
    if (policy !== undefined) rows.push(h("div", { class: "far" }, "in the policy itself " + (policy === null ? "–" : policy.toFixed(4).replace("-", "−"))));
  }
  return rows;
}

document.addEventListener("pointerover", (event) => {
  const span = event.target.closest && event.target.closest(".tok");
  if (span && span.token) showTip(event.clientX, event.clientY, ...tokenTip(span));
  else if (event.target.closest && !event.target.closest(".panel svg")) hideTip();
});
document.addEventListener("scroll", hideTip, { capture: true, passive: true });

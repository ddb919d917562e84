// Ask a picture and watch: the text as it comes, each box on the original as it is called, each crop, the answer.
// Pictures are kept as they were chosen and are sent to this server alone.

const SENT = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"];
const ENDS = { answered: "", no_action: "", max_turns: "It used all of its turns.", max_tokens: "It was cut off at its limit of tokens.", context_full: "Its context was full." };
const LEAST = 28;

const now = { image: null, size: [0, 0], view: "original", side: 0, temperature: 0, example: -1, right: null, shown: null, boxes: [], asking: null };

const picture = h("figure", { class: "stage" });
const talk = h("section", { class: "talk plain", "aria-label": "Conversation", "aria-live": "polite" });
const spent = h("span", { class: "spent" });
const question = h("textarea", { id: "question", rows: 3, "aria-label": "Question", placeholder: "What do you want to know about the picture?", oninput: () => { now.right = null; ready(); },
  onkeydown: (event) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); ask(); } } });
const go = h("button", { type: "submit", class: "go", id: "go" }, "Ask");
const file = h("input", { type: "file", class: "file", id: "file", accept: "image/*", "aria-label": "Choose a picture", onchange: () => take(file.files[0]) });
const side = h("input", { type: "range", id: "side", min: 0, max: 100, value: 100, oninput: () => { now.view = "shown"; sized(); draw(); } });
const sideIs = h("output", { for: "side" });
const warmth = h("input", { type: "range", id: "temperature", min: 0, max: 1.5, step: 0.1, value: 0, oninput: () => { now.temperature = Number(warmth.value); warmthIs.value = warmth.value; } });
const warmthIs = h("output", { for: "temperature" }, "0");

document.getElementById("name").append("Ask a picture", h("span", {}, INDEX.model));
document.getElementById("view").append(h("div", { class: "try" },
  h("section", { class: "looked", "aria-label": "Picture" }, picture,
    h("div", { class: "sliders" }, h("label", { for: "side" }, "Shown size"), side, sideIs, h("label", { for: "temperature" }, "Temperature"), warmth, warmthIs),
    h("figcaption", {}, "The model first sees the picture at this size; its crops are cut from the original. Hide what is asked about, and see whether it looks.")),
  h("section", { "aria-label": "Question and answer" },
    h("form", { class: "ask-form", onsubmit: (event) => { event.preventDefault(); now.asking ? now.asking.abort() : ask(); } }, question,
      h("div", { class: "row-of" }, go, h("button", { type: "button", class: "plain-button", id: "example", onclick: example }, "Example"),
        h("button", { type: "button", class: "plain-button", onclick: () => file.click() }, "Picture …"), spent)),
    talk)));

// ------------------------------------------------------------------ the picture

function draw() {
  if (!now.image) {
    picture.replaceChildren(file, h("label", { class: "drop", for: "file" }, h("b", {}, "Drop a picture here"), "or choose or paste one"));
    return;
  }
  const [width, height] = now.size, seen = now.view === "shown";
  const place = h("div", { class: "frame", style: { "aspect-ratio": width + " / " + height, "max-width": `calc(62vh * ${width / height})` } });
  place.append(h("img", { src: now.image, alt: "the picture", class: Math.max(width, height) < 700 ? "poor" : "", draggable: "false" }));
  if (seen) place.append(downsampled());
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  place.append(svg);
  now.boxes.forEach(([x1, y1, x2, y2], at) => {
    for (const kind of ["halo", "box"]) svg.append(s("rect", { class: kind, x: x1, y: y1, width: x2 - x1, height: y2 - y1, "data-turn": at, style: { "--box": boxColour(at) } }));
    const top = Math.min(Math.max(y1 / height, 0), 0.97);
    place.append(h("b", { class: top < 0.06 ? "inside" : "", style: { left: (100 * x1) / width + "%", top: 100 * top + "%", "--box": boxColour(at) } }, String(at + 1)));
  });
  const choice = (view, text) => h("button", { type: "button", "aria-pressed": String(now.view === view), onclick: () => { now.view = view; draw(); } }, text);
  const shown = now.shown ? "; shown to the model at " + times(now.shown) : "";
  picture.replaceChildren(file, h("div", { class: "tools" }, h("span", { class: "segments" }, choice("original", "Original"), choice("shown", "As the model first sees it"))),
    place, h("figcaption", {}, "Original " + times(now.size) + shown + "."));
}

// About what the model is shown: the server says the exact size once it is asked.
function downsampled() {
  const scale = Math.min(1, now.side / Math.max(...now.size));
  const canvas = h("canvas", { width: Math.max(1, Math.round(now.size[0] * scale)), height: Math.max(1, Math.round(now.size[1] * scale)) });
  const image = new Image();
  image.onload = () => {
    const brush = canvas.getContext("2d");
    brush.imageSmoothingQuality = "high";
    brush.drawImage(image, 0, 0, canvas.width, canvas.height);
  };
  image.src = now.image;
  return canvas;
}

// The slider's hundred steps are ratios, from the smallest size to the original's. The model is shown multiples of the smallest.
function sized() {
  const longest = Math.max(...now.size, LEAST);
  now.side = Math.min(longest, LEAST * Math.round(Math.pow(longest / LEAST, side.value / 100)));
  sideIs.value = Number(side.value) === 100 ? "all of it" : now.side + " pixels";
}

async function take(blob) {
  if (!blob) return;
  forget();
  try {
    const url = await read(blob);
    const image = new Image();
    image.src = url;
    await image.decode();
    show(SENT.includes(blob.type) ? url : painted(image), [image.naturalWidth, image.naturalHeight]);
    now.right = null;
    question.focus();
  } catch {
    fail("This file is not a picture that the browser can open.");
  }
}

function read(blob) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = failed;
    reader.readAsDataURL(blob);
  });
}

// A format that the server does not read, as one that it does.
function painted(image) {
  const canvas = h("canvas", { width: image.naturalWidth, height: image.naturalHeight });
  canvas.getContext("2d").drawImage(image, 0, 0);
  return canvas.toDataURL("image/png");
}

function show(url, size) {
  Object.assign(now, { image: url, size, view: "original" });
  sized();
  draw();
  ready();
}

async function example() {
  now.example = (now.example + 1) % INDEX.examples;
  forget();
  const reply = await fetch("examples/" + now.example);
  if (!reply.ok) return fail(await reason(reply));
  const told = await reply.json(), image = new Image();
  image.src = told.image;
  await image.decode();
  question.value = told.question;
  show(told.image, [image.naturalWidth, image.naturalHeight]);
  now.right = told.answer;
}

// ------------------------------------------------------------------ asking

function ready() {
  go.disabled = !now.asking && !(question.value.trim() && now.image);
  go.textContent = now.asking ? "Stop" : "Ask";
}

function forget() {
  if (now.asking) now.asking.abort();
  now.asking = null;
  Object.assign(now, { boxes: [], shown: null });
  talk.replaceChildren();
  spent.textContent = "";
}

async function reason(reply) {
  try {
    return (await reply.json()).error.message;
  } catch {
    return "The server answered " + reply.status + ".";
  }
}

function fail(message) {
  talk.append(h("p", { class: "failed", role: "alert" }, readable(message)));
}

async function ask() {
  if (go.disabled || now.asking) return;
  forget();
  const asking = (now.asking = new AbortController()), begun = performance.now();
  const turn = new Turns(asking, begun);
  ready();
  draw();
  const parts = [{ type: "image_url", image_url: { url: now.image } }, { type: "text", text: question.value }];
  const body = { model: INDEX.model, stream: true, temperature: now.temperature, messages: [{ role: "user", content: parts }] };
  if (Number(side.value) < 100) body.longest_side = now.side;
  try {
    const reply = await fetch("v1/chat/completions", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal: asking.signal });
    if (!reply.ok) throw new Error(await reason(reply));
    for await (const chunk of events(reply.body)) {
      if (chunk.error) throw new Error(chunk.error.message);
      if (chunk.choices.length) turn.add(chunk.choices[0].delta);
    }
    turn.over();
  } catch (error) {
    turn.over();
    if (now.asking === asking) asking.signal.aborted ? talk.append(h("p", { class: "ended" }, "Stopped.")) : fail(error instanceof TypeError ? "The server is not there." : error.message);
  }
  if (now.asking === asking) now.asking = null;
  ready();
}

async function* events(stream) {
  const reader = stream.getReader(), decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const pieces = (text + decoder.decode(value, { stream: true })).split("\n\n");
    text = pieces.pop();
    for (const piece of pieces) {
      const data = piece.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

// What the model says, a block a turn. Blocks of an asking that was stopped are not added to.
class Turns {
  constructor(asking, begun) {
    Object.assign(this, { asking, begun, turn: 0, block: null, text: "", first: null });
  }
  add(delta) {
    if (now.asking !== this.asking) return;
    const told = delta.lfpc;
    if (delta.reasoning_content) this.say(delta.reasoning_content);
    if (told && told.event === "begin") { now.shown = told.shown; draw(); }
    if (told && told.event === "crop") this.crop(told);
    if (told && told.event === "refused") this.close(h("span", { class: "chip refused" }, "refused: " + told.cause.replaceAll("_", " ")));
    if (told && told.event === "end") this.end(told);
  }
  say(text) {
    if (this.first === null) {
      this.first = performance.now() - this.begun;
      talk.dataset.first = this.first.toFixed(1);
    }
    if (!this.block) {
      this.turn += 1;
      this.head = h("header", {}, h("b", {}, "Model"), "turn " + this.turn);
      this.body = h("div", { class: "said-by comes", dir: "auto" });
      this.block = h("div", { class: "block sampled" }, this.head, this.body);
      this.text = "";
      talk.append(this.block);
    }
    this.text += text;
    this.body.replaceChildren(...readable(this.text));
  }
  close(note) {
    if (!this.block) return;
    this.body.classList.remove("comes");
    if (note) this.head.append(note);
    this.block = null;
  }
  crop(told) {
    const at = now.boxes.length, colour = { "--box": boxColour(at) };
    if (this.block) {
      this.block.classList.add("cropped");
      this.block.style.setProperty("--box", boxColour(at));
    }
    this.close(h("span", {}, "crop " + (at + 1)));
    now.boxes.push(told.box);
    now.view = "original";
    draw();
    const lit = (on) => picture.querySelectorAll(`.box[data-turn="${at}"]`).forEach((box) => box.classList.toggle("lit", on));
    talk.append(h("div", { class: "crop", style: colour, onpointerenter: () => lit(true), onpointerleave: () => lit(false) }, h("img", { src: told.image, alt: "crop " + (at + 1) }),
      h("dl", {}, h("dt", {}, "Crop " + (at + 1)), h("dd", {}, numbers(told.box) + " of the original"), h("dd", {}, "written as " + numbers(told.written)), h("dd", {}, "seen as " + times(told.size)))));
  }
  end(told) {
    this.close();
    const none = told.answer === null;
    const looked = now.boxes.length === 0 ? "without looking closer" : "after " + now.boxes.length + (now.boxes.length === 1 ? " crop" : " crops");
    talk.append(h("div", { class: none ? "answer none" : "answer", role: "status" }, h("b", {}, none ? "No answer" : "Answer, " + looked), h("p", { dir: "auto" }, none ? ENDS[told.end] || "It said nothing that is an answer." : readable(told.answer)),
      now.right !== null && h("p", { class: "right-one" }, "The right one: ", h("bdi", {}, now.right))));
  }
  over() {
    this.close();
    const seconds = (time) => (time / 1000).toFixed(time < 10000 ? 2 : 0) + " s";
    if (this.first !== null && now.asking === this.asking) spent.textContent = `first words after ${seconds(this.first)}, all after ${seconds(performance.now() - this.begun)}`;
  }
}

// ------------------------------------------------------------------ dropping, pasting, keys

const holds = (event) => [...event.dataTransfer.types].includes("Files");
addEventListener("dragover", (event) => { if (holds(event)) { event.preventDefault(); document.body.classList.add("over"); } });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
addEventListener("drop", (event) => {
  document.body.classList.remove("over");
  if (holds(event)) { event.preventDefault(); take(event.dataTransfer.files[0]); }
});
addEventListener("paste", (event) => {
  const found = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
  if (found) { event.preventDefault(); take(found); }
});

const KEYS = [["Enter", "ask"], ["Shift Enter", "a new line"], ["Escape", "stop"], ["e", "the next example"], ["o", "choose a picture"], ["v", "original or as first seen"], ["q", "to the question"], ["?", "these keys"]];
const keys = document.getElementById("keys");
keys.append(h("table", {}, h("tbody", {}, KEYS.map(([key, what]) => h("tr", {}, h("td", {}, key.split(" ").map((one) => [h("kbd", {}, one), " "])), h("td", {}, what))))));
document.getElementById("help").addEventListener("click", () => keys.showModal());
keys.addEventListener("click", () => keys.close());

addEventListener("keydown", (event) => {
  if (event.key === "Escape" && now.asking && !keys.open) return now.asking.abort();
  if (event.ctrlKey || event.metaKey || event.altKey || keys.open || event.target === question) return;
  const does = { e: example, o: () => file.click(), q: () => question.focus(), "?": () => keys.showModal(), v: () => { now.view = now.view === "shown" ? "original" : "shown"; draw(); } }[event.key];
  if (does) { event.preventDefault(); does(); }
});

draw();
ready();

// The picture with every box where its record says. Boxes are drawn in the frame of the picture that
// is seen, pixels of the original or of the shown image, and the drawing is scaled as a whole.

const look = { view: "original", boxes: true, targets: true };

function stage(detail, record) {
  const holder = h("figure", { class: "stage" });
  const draw = () => holder.replaceChildren(controls(detail, record, draw), frame(detail, record), caption(detail));
  holder.redraw = draw;
  draw();
  return holder;
}

function controls(detail, record, draw) {
  const all = () => document.querySelectorAll(".stage").forEach((one) => one.redraw());
  const choice = (view, text, title) => h("button", { type: "button", title, "aria-pressed": String(look.view === view), onclick: () => { look.view = view; all(); } }, text);
  const boxes = detail.turns.some((turn) => turn.crop);
  return h("div", { class: "tools" },
    h("span", { class: "segments" }, choice("original", "Original", "what crops are cut from"), choice("shown", "As shown to the model", "after the information gap and the resize")),
    boxes && pressed("Crops", look.boxes, () => { look.boxes = !look.boxes; all(); }),
    record.targets.length > 0 && pressed("Targets", look.targets, () => { look.targets = !look.targets; all(); }));
}

function frame(detail, record) {
  const seen = look.view === "shown";
  const [width, height] = seen ? detail.shown : detail.original;
  if (!width) return h("p", { class: "empty" }, "This record has no picture.");
  const number = seen ? detail.view : detail.image;
  const place = h("div", { class: "frame", style: { "aspect-ratio": width + " / " + height, "max-width": `calc(70vh * ${width / height})` } });
  if (number === null) place.append(h("p", { class: "gone" }, "The picture could not be opened; see Notes."));
  else place.append(h("img", { src: pictureOf(number), alt: seen ? "the image as the model saw it" : "the original image", class: INDEX.sizes[number][0] < 700 ? "poor" : "", draggable: "false" }));
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  place.append(svg);
  const scale = [width / detail.original[0], height / detail.original[1]];
  if (look.targets) for (const box of record.targets.flat()) drawBox(svg, box.map((edge, i) => edge * scale[i % 2]), ["under", "target"]);
  const tags = [];
  if (look.boxes) detail.turns.forEach((turn, at) => {
    if (!turn.crop) return;
    const box = seen ? turn.crop.shown : turn.crop.box;
    drawBox(svg, box, ["halo", "box"], at);
    place.append(tag(box, width, height, detail, at, tags));
  });
  return place;
}

function drawBox(svg, [x1, y1, x2, y2], kinds, turn) {
  for (const kind of kinds) {
    svg.append(s("rect", { class: kind, x: x1, y: y1, width: Math.max(x2 - x1, 0), height: Math.max(y2 - y1, 0), "data-turn": turn, style: turn === undefined ? {} : { "--box": boxColour(turn) } }));
  }
}

// The number of a crop at its corner, moved aside where another one stands already.
function tag([x1, y1], width, height, detail, turn, tags) {
  const left = Math.min(Math.max(x1 / width, 0), 0.97), top = Math.min(Math.max(y1 / height, 0), 0.97);
  const aside = tags.filter(([x, y]) => Math.abs(x - left) < 0.035 && Math.abs(y - top) < 0.05).length;
  tags.push([left, top]);
  return h("b", { class: top < 0.06 ? "inside" : "", "data-turn": turn, style: { left: left * 100 + "%", top: top * 100 + "%", "margin-left": aside * 20 + "px", "--box": boxColour(turn) } }, String(cropNumber(detail, turn)));
}

function cropNumber(detail, turn) {
  return detail.turns.slice(0, turn + 1).filter((one) => one.crop).length;
}

function caption(detail) {
  if (!detail.original[0]) return null;
  const parts = ["Original " + times(detail.original)];
  if (detail.image !== null && INDEX.sizes[detail.image][0] < detail.original[0]) parts.push("on this page at " + times(INDEX.sizes[detail.image]));
  const gap = detail.longest_side === null ? "" : ", longest side cut to " + detail.longest_side;
  parts.push("shown to the model at " + times(detail.shown) + gap + (detail.tokens.length ? ", " + detail.tokens[0] + " tokens" : ""));
  return h("figcaption", {}, parts.join("; ") + ".");
}

function light(root, turn, on) {
  for (const box of root.querySelectorAll(`.box[data-turn="${turn}"]`)) box.classList.toggle("lit", on);
}

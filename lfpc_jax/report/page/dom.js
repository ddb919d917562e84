// Elements and data. Texts only ever become text nodes: what a model wrote is never markup.

const INDEX = JSON.parse(document.getElementById("index").textContent);
const SVG = "http://www.w3.org/2000/svg";

function put(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, v] of Object.entries(value)) element.style.setProperty(key, v);
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

function h(tag, attributes, ...children) {
  return put(document.createElement(tag), attributes, children);
}

function s(tag, attributes, ...children) {
  return put(document.createElementNS(SVG, tag), attributes, children);
}

const details = new Map();
function detailOf(number) {
  if (!details.has(number)) {
    if (details.size > 60) details.delete(details.keys().next().value);
    details.set(number, JSON.parse(document.getElementById("episode-" + number).textContent));
  }
  return details.get(number);
}

function pictureOf(number) {
  return document.getElementById("picture-" + number).textContent;
}

// Text with what cannot be seen, or would turn the reading direction, made visible; special tokens faint.
const ODD = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|<\|[A-Za-z_]{1,40}\|>/g;
function readable(text) {
  const pieces = [];
  let end = 0;
  for (const found of text.matchAll(ODD)) {
    pieces.push(text.slice(end, found.index));
    end = found.index + found[0].length;
    if (found[0].length > 1) pieces.push(h("span", { class: "special" }, found[0]));
    else {
      const code = "U+" + found[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
      pieces.push(h("span", { class: "ctl", title: "an invisible character" }, code));
    }
  }
  pieces.push(text.slice(end));
  return pieces;
}

function plain(text) {
  return readable(text).map((piece) => (typeof piece === "string" ? piece : piece.textContent)).join("");
}

function format(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) return value.toExponential(1).replace(".0", "").replace("e+", "e").replaceAll("-", "−");
  const digits = size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3;
  return String(Number(value.toFixed(digits))).replace("-", "−");
}

function times([width, height]) {
  return width + " × " + height;
}

function numbers(box) {
  return "(" + box.map((value) => String(Math.round(value * 10) / 10).replace("-", "−")).join(", ") + ")";
}

function runColour(run) {
  return INDEX.colours.runs[run % INDEX.colours.runs.length];
}

function boxColour(number) {
  return INDEX.colours.boxes[number % INDEX.colours.boxes.length];
}

function pressed(text, on, click, more) {
  return h("button", { type: "button", class: "toggle", "aria-pressed": String(on), onclick: click, ...more }, h("i"), text);
}

const tip = document.getElementById("tip");
function showTip(x, y, ...content) {
  tip.replaceChildren(...content);
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = Math.min(Math.max(8, x + 14), window.innerWidth - width - 8);
  const top = y + 18 + height > window.innerHeight ? y - height - 12 : y + 18;
  tip.style.left = left + "px";
  tip.style.top = Math.max(8, top) + "px";
}
function hideTip() {
  tip.hidden = true;
}

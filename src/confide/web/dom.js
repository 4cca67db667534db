// Building elements. Text is always text: nothing in this page parses markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element with properties and children. `on` has listeners; null and false children are left out. */
export function h(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) set(element, key, value);
  element.append(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

function set(element, key, value) {
  if (value === undefined || value === null) return;
  if (key === "on") {
    for (const [type, listener] of Object.entries(value)) element.addEventListener(type, listener);
  } else if (key === "data") {
    Object.assign(element.dataset, value);
  } else if (key in element && !key.startsWith("aria")) {
    if (key === "list" || key === "form") element.setAttribute(key, value);
    else element[key] = value;
  } else if (value === true) {
    element.setAttribute(key, "");
  } else if (value !== false || key.startsWith("aria")) {
    element.setAttribute(key, String(value));
  }
}

const PATHS = {
  arrow: "M12 19V5m0 0-6 6m6-6 6 6",
  stop: "M7 7h10v10H7z",
  plus: "M12 5v14M5 12h14",
  sliders: "M4 8h9m5 0h2M4 16h3m5 0h8M13 5.5v5M7 13.5v5",
  image: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.5 9.5h.01",
  lock: "M6 11h12v9H6zM9 11V8a3 3 0 0 1 6 0v3",
  unlock: "M6 11h12v9H6zM9 11V8a3 3 0 0 1 5.8-1",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2v2m0 16v2M4.9 4.9l1.4 1.4m11.4 11.4 1.4 1.4M2 12h2m16 0h2M4.9 19.1l1.4-1.4M17.7 6.3l1.4-1.4",
  moon: "M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5z",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  check: "m5 12.5 4.5 4.5L19 7.5",
  cross: "M6 6l12 12M18 6 6 18",
  dash: "M6 12h12",
  again: "M20 12a8 8 0 1 1-2.5-5.8M20 4v5h-5",
  edit: "M4 20h4L19 9l-4-4L4 16zM13.5 6.5l4 4",
  down: "M12 4v12m0 0-5-5m5 5 5-5M5 20h14",
  receipt: "M6 3h12v18l-3-2-3 2-3-2-3 2zM9.5 8h5M9.5 12h5",
  alert: "M12 4 2.5 20h19zM12 10v4.5m0 2.5v.01",
  chevron: "m9 6 6 6-6 6",
  tool: "M14.5 6.5a4 4 0 0 0 3.5 5.4L9.5 20.5a2 2 0 0 1-3-3L15 9M14.5 6.5 18 3a4 4 0 0 1 3 3.5",
};

/** A line icon of 24 by 24 units, hidden from screen readers: what bears it has a name of its own. */
export function icon(name, size = 18) {
  const picture = document.createElementNS(SVG, "svg");
  const attributes = { viewBox: "0 0 24 24", width: size, height: size, fill: "none", "aria-hidden": "true" };
  for (const [key, value] of Object.entries(attributes)) picture.setAttribute(key, value);
  picture.classList.add("icon");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  picture.append(path);
  return picture;
}

/** The element with this id, which the page has. */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no element ${id}`);
  return found;
}

/** Say something to screen readers, without moving anything. */
export function say(text) {
  byId("said").textContent = text;
}

/** A button with an icon; `label` is its name, and its tooltip. */
export function iconButton(name, label, click, properties = {}) {
  return h(
    "button",
    { type: "button", className: "tool", title: label, "aria-label": label, on: { click }, ...properties },
    icon(name, 16),
  );
}

/** A button that copies what `text` gives when it is pressed, and says for a moment that it has. It is hidden where the
 * browser gives this page no clipboard. */
export function copyButton(text, label = "Copy") {
  const button = iconButton("copy", label, async () => {
    await navigator.clipboard.writeText(text());
    button.replaceChildren(icon("check", 16));
    say("Copied");
    setTimeout(() => button.replaceChildren(icon("copy", 16)), 1500);
  });
  button.hidden = !navigator.clipboard;
  return button;
}

/** Whole bytes with thin spaces: 12 345. */
export function count(number) {
  return String(number).replace(/\B(?=(\d{3})+$)/g, "\u2009");
}

/** The first and the last of a digest. */
export function short(digest) {
  const bare = String(digest ?? "").replace(/^sha256:/, "");
  return bare.length > 24 ? `${bare.slice(0, 10)}…${bare.slice(-6)}` : bare || "none";
}

/** Hand a file to the person. */
export function download(bytes, name, type = "application/json") {
  const address = URL.createObjectURL(new Blob([bytes], { type }));
  const link = h("a", { href: address, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

// Markdown as models write it, drawn while it comes. A block that another one follows is drawn once and left alone;
// only the last one is drawn anew. Long code, lists and paragraphs are settled piece by piece, so that a frame's work
// doesn't grow with the answer.

import { parsed } from "./blocks.js";
import { copyButton, h } from "./dom.js";
import { inline } from "./inline.js";
import { highlighted } from "./jsonview.js";

const SETTLE_TEXT = 600;
const SETTLE_ITEMS = 4;

/** Draws one text, which grows, into an element. */
export class MarkdownView {
  #root;
  #tail = "";
  #live = [];
  #fence = null;
  #paragraph = null;
  #list = null;

  constructor(root) {
    this.#root = root;
  }

  /** More of the text. Nothing is drawn before {@link draw}. */
  push(text) {
    this.#tail += text;
  }

  /** Draw what is there. */
  draw(ended = false) {
    for (const node of this.#live) node.remove();
    this.#live = [];
    while (this.#fence) if (!this.#code(ended)) return;
    if (!this.#tail) return;
    const blocks = parsed(this.#tail.split("\n"), this.#paragraph !== null);
    for (const [at, block] of blocks.entries()) {
      const last = at === blocks.length - 1;
      if (last && block.kind === "code" && !block.closed && (block.isNamed || ended)) {
        this.#openFence(block);
        return this.draw(ended);
      }
      if (last && !ended && !block.closed) return this.#lastBlock(block);
      this.#settled(block);
    }
    this.#tail = "";
  }

  /** The text is complete. */
  end() {
    this.draw(true);
  }

  // Code -------------------------------------------------------------------------------------------------------------

  #openFence(block) {
    this.#tail = block.rest;
    this.#closeOthers();
    const view = codeBlock("", block.language);
    this.#root.append(view.element);
    this.#fence = { marker: block.marker, view, atLineStart: true };
  }

  /** Take lines of the open code; whether its end was found. What may become the closing fence waits. */
  #code(ended) {
    const { marker, view, atLineStart } = this.#fence;
    const closing = new RegExp(
      `(${atLineStart ? "^|" : ""}\\n) {0,3}${marker[0]}{${marker.length},}[ \\t]*(\\n|$)`,
    ).exec(this.#tail);
    if (closing && (closing[2] || ended)) {
      view.add(this.#tail.slice(0, closing.index + closing[1].length));
      this.#tail = this.#tail.slice(closing.index + closing[0].length);
      view.finish();
      this.#fence = null;
      return true;
    }
    const line = this.#tail.lastIndexOf("\n") + 1;
    const mayClose = !ended && (line > 0 || atLineStart) && /^ {0,3}[`~]*[ \t]*$/.test(this.#tail.slice(line));
    const waits = mayClose ? line : this.#tail.length;
    if (waits > 0) this.#fence.atLineStart = this.#tail[waits - 1] === "\n";
    view.add(this.#tail.slice(0, waits));
    this.#tail = this.#tail.slice(waits);
    if (ended) {
      view.finish();
      this.#fence = null;
    }
    return ended;
  }

  // Other blocks -----------------------------------------------------------------------------------------------------

  #closeOthers() {
    this.#paragraph = null;
    this.#list = null;
  }

  #settled(block) {
    const open = this.#takeOpen(block);
    if (!open) this.#root.append(drawn(block));
    this.#closeOthers();
  }

  /** A block that goes on one that was begun: its content is added there. */
  #takeOpen(block) {
    if (this.#paragraph && block.kind === "paragraph") {
      this.#paragraph.append(...inline(block.text.trimEnd()).nodes);
      return true;
    }
    if (this.#list && block.kind === "list") {
      this.#list.append(...items(block));
      return true;
    }
    return false;
  }

  #lastBlock(block) {
    if (block.kind === "paragraph") return this.#lastParagraph(block);
    if (block.kind === "list") return this.#lastList(block);
    this.#closeOthers();
    this.#tail = block.source;
    if (block.kind === "code") return; // a fence whose first line isn't complete
    const node = drawn(block);
    this.#root.append(node);
    this.#live = [node];
  }

  #lastParagraph({ text, source }) {
    this.#list = null;
    let rest = text;
    const { nodes: all, spans, open } = inline(rest);
    let nodes = all;
    const cut = settledUntil(rest, open, spans);
    if (cut > 0) {
      this.#paragraph ??= this.#root.appendChild(h("p"));
      this.#paragraph.append(...inline(rest.slice(0, cut)).nodes);
      rest = rest.slice(cut);
      nodes = inline(rest).nodes;
    }
    this.#tail = source.slice(cut);
    if (this.#paragraph) {
      this.#paragraph.append(...nodes);
      this.#live = nodes;
    } else {
      this.#live = [this.#root.appendChild(h("p", {}, nodes))];
    }
  }

  #lastList(block) {
    this.#paragraph = null;
    if (!this.#list && block.items.length > SETTLE_ITEMS) {
      this.#list = this.#root.appendChild(listElement(block));
    }
    if (!this.#list) {
      this.#tail = block.source;
      this.#live = [this.#root.appendChild(drawn(block))];
      return;
    }
    const ready = items(block);
    this.#list.append(...ready);
    this.#live = ready.slice(-1);
    this.#tail = block.items[block.items.length - 1].source;
  }
}

/** How much of a growing paragraph can't change any more: whole words, well before the end and the first open mark. */
function settledUntil(text, open, spans) {
  let cut = Math.min(open, text.length - SETTLE_TEXT / 2) + 1;
  if (text.length < SETTLE_TEXT) return 0;
  const within = () => spans.findLast(([start, end]) => start < cut && cut < end);
  do {
    cut = text.lastIndexOf(" ", cut - 2) + 1;
    cut = within()?.[0] ?? cut;
  } while (cut > 0 && (text[cut - 1] !== " " || /\s/.test(text[cut])));
  return cut;
}

// Drawing -------------------------------------------------------------------------------------------------------------

const DRAWN = {
  paragraph: ({ text }) => h("p", {}, inline(text.trimEnd()).nodes),
  heading: ({ level, text }) => h(`h${Math.min(level + 2, 6)}`, {}, inline(text).nodes),
  rule: () => h("hr"),
  quote: ({ blocks }) => h("blockquote", {}, blocks.map(drawn)),
  list: (block) => {
    const element = listElement(block);
    element.append(...items(block));
    return element;
  },
  table: drawnTable,
  code: ({ text, language }) => {
    const view = codeBlock(text, language);
    view.finish();
    return view.element;
  },
};

function drawn(block) {
  return DRAWN[block.kind](block);
}

function listElement({ ordered, start }) {
  return ordered ? h("ol", { start }) : h("ul");
}

function items({ items: found }) {
  return found.map(({ blocks }) => {
    const tight =
      blocks.length > 0 &&
      blocks[0].kind === "paragraph" &&
      blocks.filter((one) => one.kind === "paragraph").length === 1;
    return h(
      "li",
      {},
      blocks.map((one) => (tight && one.kind === "paragraph" ? inline(one.text.trimEnd()).nodes : drawn(one))),
    );
  });
}

function drawnTable({ head, aligns, rows }) {
  const cell = (name, properties) => (text, at) =>
    h(name, { ...properties, className: `to-${aligns[at] ?? "start"}` }, inline(text).nodes);
  const body = rows.map((row) =>
    h(
      "tr",
      {},
      head.map((_, at) => cell("td", {})(row[at] ?? "", at)),
    ),
  );
  const made = h(
    "table",
    {},
    h("thead", {}, h("tr", {}, head.map(cell("th", { scope: "col" })))),
    h("tbody", {}, body),
  );
  return h("div", { className: "scroll", tabIndex: 0, role: "group", "aria-label": "Table" }, made);
}

/** A block of code, to which text can be added. */
export function codeBlock(text, language) {
  const content = document.createTextNode(text);
  const code = h("code", {}, content);
  const pre = h("pre", { tabIndex: 0, role: "group", "aria-label": language ? `Code, ${language}` : "Code" }, code);
  const head = h(
    "div",
    { className: "code-head" },
    h("span", {}, language || "text"),
    copyButton(() => code.textContent, "Copy code"),
  );
  return {
    element: h("div", { className: "code" }, head, pre),
    add: (more) => more && content.appendData(more),
    finish: () => language === "json" && code.replaceChildren(highlighted(code.textContent)),
  };
}

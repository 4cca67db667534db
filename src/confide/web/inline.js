// Markdown inside of a paragraph: code, emphasis, links. Text becomes text nodes, and nothing else.

import { h } from "./dom.js";

const MOST_DEPTH = 8;
const MOST_LINK = 4096;
const SPECIAL = /[\\`*_~[!<\n]|https?:\/\//g;
const MARKS = { "**": "strong", __: "strong", "~~": "del", "*": "em", _: "em" };

/**
 * The nodes of a text. `open` is where its first mark stands that nothing closes (yet), or the text's length: what is
 * before it stays as it is, whatever follows. `spans` are the places where something else than plain text was found.
 */
export function inline(text, depth = 0) {
  const state = { text, nodes: [], spans: [], plain: "", open: text.length, dead: new Set(), depth };
  let at = 0;
  while (at < text.length) {
    SPECIAL.lastIndex = at;
    const found = SPECIAL.exec(text);
    if (!found) break;
    state.plain += text.slice(at, found.index);
    at = found.index;
    const end = taken(state, at);
    if (end === at) {
      const length = found[0].length > 1 ? 1 : found[0].length;
      state.plain += text.slice(at, at + length);
      at += length;
    } else {
      state.spans.push([at, end]);
      at = end;
    }
  }
  state.plain += text.slice(at);
  flush(state);
  return { nodes: state.nodes, spans: state.spans, open: state.open };
}

function flush(state) {
  if (state.plain) state.nodes.push(document.createTextNode(state.plain));
  state.plain = "";
}

/** Take what begins at `at`, and say where it ends: at `at`, where nothing does. */
function taken(state, at) {
  const { text } = state;
  switch (text[at]) {
    case "\\":
      return escaped(state, at);
    case "`":
      return code(state, at);
    case "[":
      return link(state, at);
    case "!":
      return text[at + 1] === "[" ? link(state, at + 1, at) : at;
    case "<":
      return bracketed(state, at);
    case "h":
      return bare(state, at);
    case "\n":
      return lineBreak(state, at);
    default:
      return marked(state, at);
  }
}

function unclosed(state, at) {
  state.open = Math.min(state.open, at);
  return at;
}

function add(state, node, end) {
  flush(state);
  state.nodes.push(node);
  return end;
}

function escaped(state, at) {
  const next = state.text[at + 1];
  if (next === undefined) return unclosed(state, at);
  if (!/[!-/:-@[-`{-~]/.test(next)) return at;
  state.plain += next;
  return at + 2;
}

function code(state, at) {
  const ticks = /^`+/.exec(state.text.slice(at, at + 64))[0];
  const key = `code${ticks.length}`;
  const end = state.dead.has(key) ? -1 : closingTicks(state.text, at + ticks.length, ticks.length);
  if (end < 0) {
    state.dead.add(key);
    state.plain += ticks;
    unclosed(state, at);
    return at + ticks.length;
  }
  let inside = state.text.slice(at + ticks.length, end);
  if (/^ .*[^ ].* $/s.test(inside)) inside = inside.slice(1, -1);
  return add(state, h("code", {}, inside), end + ticks.length);
}

function closingTicks(text, from, length) {
  const runs = /`+/g;
  runs.lastIndex = from;
  for (let run = runs.exec(text); run; run = runs.exec(text)) {
    if (run[0].length === length) return run.index;
  }
  return -1;
}

function marked(state, at) {
  const { text } = state;
  const double = text.slice(at, at + 2);
  const mark = MARKS[double] ? double : MARKS[text[at]] ? text[at] : null;
  if (!mark || state.depth >= MOST_DEPTH) return at;
  const after = text[at + mark.length];
  if (after === undefined) return unclosed(state, at);
  if (/\s/.test(after) || (mark[0] === "_" && /\w/.test(text[at - 1] ?? " "))) return skip(state, at, mark.length);
  const end = state.dead.has(mark) ? -1 : closing(text, at + mark.length, mark);
  if (end < 0) {
    state.dead.add(mark);
    unclosed(state, at);
    return skip(state, at, mark.length);
  }
  const inside = inline(text.slice(at + mark.length, end), state.depth + 1).nodes;
  return add(state, h(MARKS[mark], {}, inside), end + mark.length);
}

function skip(state, at, length) {
  state.plain += state.text.slice(at, at + length);
  return at + length;
}

/** Where this mark is closed: after something that is no blank, outside of code. */
function closing(text, from, mark) {
  let at = from;
  while (at < text.length) {
    const next = text.indexOf(mark[0], at);
    if (next < 0) return -1;
    const tick = text.indexOf("`", at);
    if (tick >= 0 && tick < next) {
      const length = /^`+/.exec(text.slice(tick, tick + 64))[0].length;
      const end = closingTicks(text, tick + length, length);
      at = end < 0 ? tick + length : end + length;
      continue;
    }
    let run = 1;
    while (text[next + run] === mark[0]) run++;
    const fits = mark.length === 2 ? run >= 2 : run !== 2;
    const wordGoesOn = mark[0] === "_" && /\w/.test(text[next + run] ?? " ");
    if (
      fits &&
      next > from - 1 &&
      !/\s/.test(text[next - 1]) &&
      text[next - 1] !== "\\" &&
      !wordGoesOn &&
      next > from
    ) {
      return next + run - mark.length;
    }
    at = next + run;
  }
  return -1;
}

function link(state, at, from = at) {
  const { text } = state;
  const window = text.slice(at, at + MOST_LINK);
  const found =
    /^\[((?:[^[\]\\]|\\.|\[[^[\]]*\])*)\]\(\s*<?([^\s<>()]*(?:\([^\s<>()]*\)[^\s<>()]*)*)>?(?:\s+["'(][^"')]*["')])?\s*\)/s.exec(
      window,
    );
  if (!found) {
    if (!/^\[[^\]]*\][^(]/s.test(window)) unclosed(state, from);
    return from;
  }
  const [whole, label, address] = found;
  const href = safe(address);
  const inside = state.depth < MOST_DEPTH ? inline(label, state.depth + 1).nodes : [label];
  const end = at + whole.length;
  if (!href) return add(state, h("span", {}, inside, ` (${address})`), end);
  return add(state, anchor(href, inside.length ? inside : [address]), end);
}

function bracketed(state, at) {
  const found = /^<(https?:\/\/[^\s<>]{1,2000}|mailto:[^\s<>]{1,300})>/.exec(state.text.slice(at, at + 2100));
  const href = found && safe(found[1]);
  return href ? add(state, anchor(href, [found[1]]), at + found[0].length) : at;
}

function bare(state, at) {
  const [found] = /^https?:\/\/[^\s<>"'`\])}]*/.exec(state.text.slice(at, at + 2100));
  if (at + found.length === state.text.length) unclosed(state, at);
  const address = found.replace(/[.,;:!?*_~]+$/, "");
  const href = safe(address);
  return href ? add(state, anchor(href, [address]), at + address.length) : at;
}

function lineBreak(state, at) {
  state.plain = state.plain.replace(/ +$|\\$/, "");
  return add(state, h("br"), at + 1);
}

/** An address that may be followed, or null: the model's text decides where a link leads, never what it does. */
function safe(address) {
  try {
    const url = new URL(address);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

function anchor(href, inside) {
  return h("a", { href, target: "_blank", rel: "noopener noreferrer nofollow", title: href }, inside);
}

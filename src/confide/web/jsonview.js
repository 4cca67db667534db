// JSON for people: indented and coloured, every name and number spelt as it came.

import { h } from "./dom.js";

const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null|[{}[\],:]|\s+|[^]/g;
const MOST = 200_000;

/** Whether a text is JSON. */
export function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** A JSON text with line breaks and indentation; as it is, where it is no JSON. */
export function indented(text) {
  if (text.length > MOST || !isJson(text)) return text;
  let out = "";
  let depth = 0;
  const tokens = text.match(TOKEN).filter((token) => token.trim());
  for (const [at, token] of tokens.entries()) {
    const empty = (token === "{" && tokens[at + 1] === "}") || (token === "[" && tokens[at + 1] === "]");
    const closesEmpty = (token === "}" && tokens[at - 1] === "{") || (token === "]" && tokens[at - 1] === "[");
    if ((token === "{" || token === "[") && !empty) out += token + line(++depth);
    else if ((token === "}" || token === "]") && !closesEmpty) out += line(--depth) + token;
    else if (token === ",") out += token + line(depth);
    else out += token === ":" ? ": " : token;
  }
  return out;
}

const line = (depth) => `\n${"  ".repeat(depth)}`;

/** The text with its tokens coloured. */
export function highlighted(text) {
  const out = document.createDocumentFragment();
  if (text.length > MOST) {
    out.append(text);
    return out;
  }
  const tokens = text.match(TOKEN) ?? [];
  for (const [at, token] of tokens.entries()) {
    const kind = kindOf(token, tokens, at);
    out.append(kind ? h("span", { className: `j-${kind}` }, token) : token);
  }
  return out;
}

function kindOf(token, tokens, at) {
  if (token[0] === '"' && token.length > 1) {
    const next = tokens[at + 1]?.trim() ? tokens[at + 1] : tokens[at + 2];
    return next === ":" ? "name" : "text";
  }
  if (/^[-\d]/.test(token)) return "number";
  return token === "true" || token === "false" || token === "null" ? "word" : null;
}

/** A block that shows a JSON text. */
export function jsonBlock(text, label) {
  return h(
    "pre",
    { className: "json", tabIndex: 0, role: "group", "aria-label": label },
    h("code", {}, highlighted(indented(text))),
  );
}

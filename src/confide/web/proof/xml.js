/**
 * XML as NVIDIA's manifests use it: elements with attributes and text, and their canonical form. A page has a parser of its own,
 * and Node has none; this one reads what signed documents need and refuses everything else.
 *
 * Source: W3C XML 1.0 (fifth edition), Namespaces in XML 1.0, Canonical XML 1.0, which is Canonical XML 1.1 where nothing has an
 * attribute of the xml namespace. There is no DTD, comment, CDATA section or processing instruction, so that every `<` begins a
 * tag, and what is read is exactly what is digested.
 */

import { CheckFailed } from "./bytes.js";

/**
 * @typedef {object} Element
 * @property {string} qname  as written, with its prefix
 * @property {string} name  the namespace in braces, and the local name; without braces where it is in none
 * @property {Attribute[]} attributes  declarations of namespaces are none
 * @property {Map<string, string>} scope  namespaces by prefix, "" for the default
 * @property {(Element | string)[]} children
 */
/** @typedef {{qname: string, name: string, value: string}} Attribute */

const MOST_TAGS = 8192;
const LONGEST_TAG = 16 * 1024;
const MOST_DEPTH = 256;
const MOST_ATTRIBUTES = 160;
const MOST_NAMESPACES = 16;
const XML = "http://www.w3.org/XML/1998/namespace";
const XMLNS = "http://www.w3.org/2000/xmlns/";
const IN_URI = "(?:[A-Za-z0-9\\-._~:/?@!$&'()*+,;=]|%[0-9A-Fa-f]{2})*";
const ABSOLUTE_URI = new RegExp(`^[A-Za-z][A-Za-z0-9+.\\-]*:${IN_URI}(?:#${IN_URI})?$`);
const DECLARATION =
  /^<\?xml version=["']1\.0["']( encoding=["'][uU][tT][fF]-8["'])?( standalone="no")?[ \t\n\r\f\v]*\?>/;
const NO_CHARACTER = /[^\t\n\r\u{20}-\u{d7ff}\u{e000}-\u{fffd}\u{10000}-\u{10ffff}]/u;
const START =
  "A-Z_a-z\\u{c0}-\\u{d6}\\u{d8}-\\u{f6}\\u{f8}-\\u{2ff}\\u{370}-\\u{37d}\\u{37f}-\\u{1fff}\\u{200c}\\u{200d}" +
  "\\u{2070}-\\u{218f}\\u{2c00}-\\u{2fef}\\u{3001}-\\u{d7ff}\\u{f900}-\\u{fdcf}\\u{fdf0}-\\u{fffd}\\u{10000}-\\u{effff}";
const NAME = `[${START}][${START}\\-.0-9\\u{b7}\\u{300}-\\u{36f}\\u{203f}\\u{2040}]*`;
const QNAME = `${NAME}(?::${NAME})?`;
/** A name and a quoted value, in groups that begin like this. @param {"(" | "(?:"} group */
const pair = (group) => `[ \\t\\n]+${group}${QNAME})[ \\t\\n]*=[ \\t\\n]*${group}"[^<"]*"|'[^<']*')`;
const TAG = new RegExp(`<(/?)(${QNAME})((?:${pair("(?:")})*)[ \\t\\n]*(/?)>`, "uy");
const PAIR = new RegExp(pair("("), "uy");
const REFERENCE = /&(?:#x([0-9a-fA-F]+)|#([0-9]+)|(amp|lt|gt|quot|apos));|&/g;
/** @type {Record<string, string>} */
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'" };
/** @type {Record<string, string>} */
const IN_TEXT = { "&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#xD;" };
/** @type {Record<string, string>} */
const IN_VALUE = { "&": "&amp;", "<": "&lt;", '"': "&quot;", "\t": "&#x9;", "\n": "&#xA;", "\r": "&#xD;" };

// Reading --------------------------------------------------------------------------------------------------------------

/**
 * The root of a document.
 * @param {string} document @returns {Element}
 */
export function parseXml(document) {
  const text = document.replace(DECLARATION, "");
  if (text.includes("<!") || text.includes("<?")) {
    throw new CheckFailed("it has a DTD, a comment, a CDATA section or a processing instruction");
  }
  const tags = text.split("<");
  if (tags.length > MOST_TAGS || tags.some((one) => one.length > LONGEST_TAG && [...one].length > LONGEST_TAG)) {
    throw new CheckFailed(`it has more than ${MOST_TAGS} tags, or one longer than ${LONGEST_TAG} characters`);
  }
  if (NO_CHARACTER.test(text)) throw new CheckFailed("not XML (a character that it can't have)");
  return tree(text.replace(/^\ufeff/, "").replace(/\r\n?/g, "\n"));
}

/** @param {string} text @returns {Element} */
function tree(text) {
  /** @type {Element} */
  const top = { qname: "", name: "", attributes: [], scope: new Map([["xml", XML]]), children: [] };
  const open = [top];
  for (let at = 0; at < text.length; ) {
    const inside = open[open.length - 1];
    if (text[at] !== "<") {
      const end = text.indexOf("<", at);
      const piece = text.slice(at, end < 0 ? text.length : end);
      if (inside !== top) inside.children.push(unescaped(piece));
      else if (/[^ \t\n]/.test(piece)) throw malformed("text beside the root");
      at += piece.length;
      continue;
    }
    TAG.lastIndex = at;
    const match = TAG.exec(text);
    if (!match) throw malformed("a malformed tag");
    at = TAG.lastIndex;
    const [, isEnd, qname, pairs, isEmpty] = match;
    if (isEnd) {
      if (qname !== inside.qname || pairs || isEmpty) throw malformed(`an end of ${qname} that is none`);
      open.pop();
      continue;
    }
    if (inside === top && top.children.length) throw malformed("a second root");
    const element = elementOf(qname, pairs, inside.scope);
    inside.children.push(element);
    if (open.length > MOST_DEPTH) throw malformed("elements that are nested too deep");
    if (!isEmpty) open.push(element);
  }
  const [root] = top.children;
  if (open.length > 1 || typeof root !== "object") throw malformed("it ends within an element");
  return root;
}

/** @param {string} qname @param {string} pairs @param {Map<string, string>} outer @returns {Element} */
function elementOf(qname, pairs, outer) {
  const scope = new Map(outer);
  /** @type {Map<string, string>} */
  const written = new Map();
  PAIR.lastIndex = 0;
  for (let match = PAIR.exec(pairs); match; match = PAIR.exec(pairs)) {
    const [, name, quoted] = match;
    if (written.has(name)) throw malformed(`two attributes ${name}`);
    written.set(name, unescaped(quoted.slice(1, -1).replace(/[\t\n]/g, " "), true));
  }
  /** @type {[string, string][]} */
  const plain = [];
  for (const [name, value] of written) {
    if (name === "xmlns") declare(scope, "", value);
    else if (name.startsWith("xmlns:")) declare(scope, name.slice("xmlns:".length), value);
    else plain.push([name, value]);
  }
  const attributes = plain.map(([name, value]) => ({ qname: name, name: expanded(name, scope, false), value }));
  if (new Set(attributes.map(({ name }) => name)).size !== attributes.length) throw malformed("an attribute twice");
  if (attributes.length > MOST_ATTRIBUTES || scope.size - 1 > MOST_NAMESPACES) {
    throw new CheckFailed("an element has too many attributes or namespaces");
  }
  // xml:base and its like are where Canonical XML 1.1 differs from 1.0
  if (attributes.some(({ name }) => name.startsWith(`{${XML}}`))) {
    throw new CheckFailed("it has an attribute of the xml namespace");
  }
  return { qname, name: expanded(qname, scope, true), attributes, scope, children: [] };
}

/** @param {Map<string, string>} scope @param {string} prefix @param {string} value */
function declare(scope, prefix, value) {
  const isReserved = (prefix === "xml") !== (value === XML) || prefix === "xmlns" || value === XMLNS;
  if (isReserved || (prefix && !value)) throw malformed(`a namespace that ${prefix || "the default"} can't be`);
  // a relative one has no canonical form
  if (value && !ABSOLUTE_URI.test(value)) throw malformed("a namespace that is no absolute URI");
  scope.set(prefix, value);
}

/** @param {string} qname @param {Map<string, string>} scope @param {boolean} isElement  which the default is for */
function expanded(qname, scope, isElement) {
  const at = qname.indexOf(":");
  const local = qname.slice(at + 1);
  if (at < 0) return isElement && scope.get("") ? `{${scope.get("")}}${local}` : local;
  const namespace = scope.get(qname.slice(0, at));
  if (!namespace) throw malformed(`${qname} is in no namespace`);
  return `{${namespace}}${local}`;
}

/** @param {string} text @param {boolean} [isValue]  of an attribute */
function unescaped(text, isValue = false) {
  if (!isValue && text.includes("]]>")) throw malformed("an end of a CDATA section");
  return text.replace(REFERENCE, (_, hexadecimal, decimal, entity) => {
    if (entity) return ENTITIES[entity];
    const code = hexadecimal ? parseInt(hexadecimal, 16) : parseInt(decimal, 10);
    const one = code <= 0x10ffff ? String.fromCodePoint(code) : "\0"; // NaN, of a bare &, is none either
    if (NO_CHARACTER.test(one)) throw malformed("a reference to no character");
    return one;
  });
}

/** @param {string} reason */
function malformed(reason) {
  return new CheckFailed(`not XML (${reason})`);
}

// Using ----------------------------------------------------------------------------------------------------------------

/** The elements right below one. @param {Element} element @returns {Element[]} */
export function childrenOf({ children }) {
  return /** @type {Element[]} */ (children.filter((one) => typeof one === "object"));
}

/** An element and all below it. @param {Element} element @returns {Generator<Element>} */
export function* descendants(element) {
  yield element;
  for (const one of childrenOf(element)) yield* descendants(one);
}

/** The text before the first element inside. @param {Element} element */
export function leadingText({ children }) {
  return typeof children[0] === "string" ? children[0] : "";
}

/** @param {Element} element @param {string} name @returns {string | undefined} */
export function attribute({ attributes }, name) {
  return attributes.find((one) => one.name === name)?.value;
}

/**
 * The canonical form of an element, to which all namespaces belong that are in scope where it is.
 * @param {Element} element @param {Map<string, string>} [outer]  namespaces that are written already @returns {string}
 */
export function canonicalXml({ qname, attributes, scope, children }, outer = new Map([["xml", XML]])) {
  const declared = [...scope]
    .filter(([prefix, value]) => (outer.get(prefix) ?? "") !== value)
    .sort(([one], [other]) => order(one, other))
    .map(([prefix, value]) => ` xmlns${prefix && ":"}${prefix}="${escaped(value, IN_VALUE)}"`);
  const written = attributes
    .map(({ name, ...rest }) => ({ ...rest, key: /** @type {[string, string]} */ (keyOf(name)) }))
    .sort(({ key: [one, a] }, { key: [other, b] }) => order(one, other) || order(a, b))
    .map(({ qname: name, value }) => ` ${name}="${escaped(value, IN_VALUE)}"`);
  const inside = children.map((one) => (typeof one === "string" ? escaped(one, IN_TEXT) : canonicalXml(one, scope)));
  return [`<${qname}`, ...declared, ...written, ">", ...inside, `</${qname}>`].join("");
}

/** Namespace and local name, by which attributes are in order. @param {string} name */
function keyOf(name) {
  const at = name.indexOf("}");
  return [name.slice(0, at + 1), name.slice(at + 1)];
}

/** By code points, as UTF-8 sorts. @param {string} one @param {string} other */
function order(one, other) {
  const [left, right] = [[...one], [...other]];
  const at = left.findIndex((character, place) => character !== right[place]);
  if (at < 0) return left.length - right.length;
  return (left[at].codePointAt(0) ?? 0) - (right[at]?.codePointAt(0) ?? -1);
}

/** @param {string} text @param {Record<string, string>} marks */
function escaped(text, marks) {
  return text.replace(/[&<>"\t\n\r]/g, (one) => marks[one] ?? one);
}

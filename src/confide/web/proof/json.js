/**
 * JSON as the service writes it again after opening a request's fields: compact, members in their order, numbers as they were.
 */

import { CheckFailed, utf8 } from "./bytes.js";
import { Numeral, parseExactly } from "./jcs.js";

/** @typedef {Map<string, any>} Members */

/** An object's members. @param {Uint8Array} text @returns {Members} */
export function readObject(text) {
  const value = parseExactly(text);
  if (!(value instanceof Map)) throw new CheckFailed("not a JSON object");
  return value;
}

/** @param {any} value @returns {string} */
export function write(value) {
  if (value instanceof Numeral) return number(value);
  if (value instanceof Map)
    return `{${[...value].map(([name, member]) => `${JSON.stringify(name)}:${write(member)}`).join(",")}}`;
  if (Array.isArray(value)) return `[${value.map(write).join(",")}]`;
  return JSON.stringify(value);
}

/** @param {any} value @returns {Uint8Array<ArrayBuffer>} */
export function encode(value) {
  return utf8(write(value));
}

/**
 * A number as Python's msgspec writes it, which the service does: the shortest digits of a double, with an exponent from
 * 1e16 on and below 1e-5, and with a fraction. Receipts hash these bytes.
 * @param {Numeral} numeral
 */
function number({ token, value, isInteger }) {
  if (isInteger) return token === "-0" ? "0" : token;
  const sign = value < 0 || Object.is(value, -0) ? "-" : "";
  const [mantissa, power] = Math.abs(value).toExponential().split("e");
  const digits = mantissa.replace(".", "");
  const exponent = Number(power);
  if (exponent < -5 || exponent >= 16) return `${sign}${mantissa}e${exponent}`;
  if (exponent < 0) return `${sign}0.${"0".repeat(-exponent - 1)}${digits}`;
  const padded = digits.padEnd(exponent + 1, "0");
  return `${sign}${padded.slice(0, exponent + 1)}.${padded.slice(exponent + 1) || "0"}`;
}

/** The array that a text is the JSON of, or null for any other text. @param {string} text @returns {any[] | null} */
export function arrayIn(text) {
  if (!/^[ \t\r\n]*\[/.test(text)) return null;
  try {
    const value = parseExactly(utf8(text));
    return Array.isArray(value) ? value : null;
  } catch (wrong) {
    if (wrong instanceof CheckFailed) return null;
    throw wrong;
  }
}

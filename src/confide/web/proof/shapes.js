/**
 * Shapes of JSON values, read strictly: nothing missing, nothing of another type, and where a record is closed nothing more.
 */

import { CheckFailed } from "./bytes.js";
import { Numeral } from "./jcs.js";

/** @typedef {(value: any, where: string) => void} Shape  throws CheckFailed where a value isn't of it */

/** @param {unknown} value @returns {value is Record<string, any>} */
export function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Numeral);
}

/** @param {boolean} good @param {string} where @param {string} expected */
function demand(good, where, expected) {
  if (!good) throw new CheckFailed(`${where}: expected ${expected}`);
}

/** A string, by its number of characters. @param {number} [most] @param {number} [least] @returns {Shape} */
export const string =
  (most = Infinity, least = 0) =>
  (value, where) => {
    demand(typeof value === "string", where, "a string");
    const size = value.length <= most ? value.length : [...value].length;
    demand(size >= least && size <= most, where, `${least} to ${most} characters`);
  };

/** @param {RegExp} pattern @returns {Shape} */
export const matching = (pattern) => (value, where) =>
  demand(typeof value === "string" && pattern.test(value), where, `a string like ${pattern}`);

/** @param {number} [least] @param {number} [most] @returns {Shape} */
export const integer =
  (least = 0, most = Number.MAX_SAFE_INTEGER) =>
  (value, where) =>
    demand(
      typeof value === "number" && value >= least && value <= most,
      where,
      `a whole number from ${least} to ${most}`,
    );

/** @type {Shape} */
export const boolean = (value, where) => demand(typeof value === "boolean", where, "true or false");

/** @type {Shape} */
export const anything = () => {};

/** @type {Shape} */
export const object = (value, where) => demand(isObject(value), where, "an object");

/** @param {...unknown} values @returns {Shape} */
export const oneOf =
  (...values) =>
  (value, where) =>
    demand(values.includes(value), where, values.join(" or "));

/** @param {Shape} shape @returns {Shape} */
export const nullable = (shape) => (value, where) => {
  if (value !== null) shape(value, where);
};

/** A list. @param {Shape} shape  of each entry @param {number} [most] @returns {Shape} */
export const listOf =
  (shape, most = Infinity) =>
  (value, where) => {
    demand(Array.isArray(value) && value.length <= most, where, `a list of at most ${most}`);
    value.forEach((/** @type {unknown} */ entry, /** @type {number} */ at) => shape(entry, `${where}[${at}]`));
  };

/**
 * An object with these members.
 * @param {Record<string, Shape>} required @param {Record<string, Shape>} [optional] @param {{closed?: boolean}} [how] @returns {Shape}
 */
export const record =
  (required, optional = {}, { closed = true } = {}) =>
  (value, where) => {
    object(value, where);
    for (const [name, shape] of Object.entries(required)) {
      demand(Object.hasOwn(value, name), where, `a member ${name}`);
      shape(value[name], `${where}.${name}`);
    }
    for (const [name, shape] of Object.entries(optional)) {
      if (Object.hasOwn(value, name)) shape(value[name], `${where}.${name}`);
    }
    const strange = Object.keys(value).find((name) => !Object.hasOwn(required, name) && !Object.hasOwn(optional, name));
    demand(!closed || strange === undefined, where, `no member ${strange}`);
  };

// What the documents of aci/1 have in common ----------------------------------------------------------------------------

export const hex32 = matching(/^[0-9a-f]{64}$/);
export const digest = matching(/^sha256:[0-9a-f]{64}$/);
export const name = string(256, 1);
export const words = string(4096);
export const seconds = integer();
export const version = oneOf("aci/1");

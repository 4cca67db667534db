/**
 * node node.mjs PROOF WHAT FILE [ALGORITHM]: what the modules make of a file of cases, or of a service, as JSON on stdout;
 * in a browser without an algorithm, if one is named, or without Web Crypto ("all").
 */

import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";
import { outcomes } from "./judging.mjs";
import { talk } from "./talking.mjs";

const [proof, what, file, missing] = process.argv.slice(2);
if (missing === "all") {
  Object.defineProperty(crypto, "subtle", { value: undefined });
} else if (missing) {
  const { importKey } = SubtleCrypto.prototype;
  SubtleCrypto.prototype.importKey = function (format, data, algorithm, ...rest) {
    if (algorithm.name === missing) throw new DOMException("Unrecognized name.", "NotSupportedError");
    return importKey.call(this, format, data, algorithm, ...rest);
  };
}
const given = JSON.parse(await readFile(file, "utf8"));
const made = { outcomes, talk }[what];
process.stdout.write(JSON.stringify(await made(given, pathToFileURL(proof).href)));

/** node node.mjs PROOF WHAT FILE: what the modules make of a file of cases, or of a service, as JSON on stdout. */

import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";
import { outcomes } from "./judging.mjs";
import { talk } from "./talking.mjs";

const [proof, what, file] = process.argv.slice(2);
const given = JSON.parse(await readFile(file, "utf8"));
const made = { outcomes, talk }[what];
process.stdout.write(JSON.stringify(await made(given, pathToFileURL(proof).href)));

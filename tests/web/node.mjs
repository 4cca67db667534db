/** node node.mjs PROOF CASES: the outcomes of the cases in a file, as JSON on stdout. */

import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";
import { outcomes } from "./judging.mjs";

const [proof, file] = process.argv.slice(2);
const cases = JSON.parse(await readFile(file, "utf8"));
process.stdout.write(JSON.stringify(await outcomes(cases, pathToFileURL(proof).href)));

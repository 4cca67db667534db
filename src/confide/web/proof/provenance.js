/**
 * Where the code is said to come from, and what of that a measurement backs.
 *
 * Source: Attested Confidential Inference, `aci/1`, sections 4.1 and 9.1 (check 4): no quote binds the claim itself, so it counts
 * only where measured evidence corroborates it: the compose file that dstack measured must run images by digest, and a person
 * must have accepted what it runs.
 */

import { CheckFailed } from "./bytes.js";
import { demands } from "./policy.js";
import { isObject } from "./shapes.js";
import { NotChecked } from "./verdict.js";

const MOST_IMAGES = 64;
const IMAGE = /(?<![\p{L}\p{N}_.-])image["']?[ \t]*:[ \t]*["']?([^\s"',}#]*)/gu;
/** What would let a compose file run something that its `image` members don't name. */
const HIDING = /^[ \t-]*\?|(?<![\p{L}\p{N}_./-])(?:build|extends|include)(?:["'][ \t]*:|[ \t]*:(?=\s|$))|\\[xuU]/mu;
const PINNED = /^[^\s@]+@(sha256:[0-9a-f]{64})$/;
/** @type {[string, string][]} */
const MEMBERS = [
  ["repo_url", "repositories"],
  ["repo_commit", "commits"],
  ["image_digest", "images"],
];

/**
 * Check the claim where the policy names any provenance.
 * @param {any} said @param {import("./dstack.js").Facts | null} dstack @param {import("./types.js").Policy} policy
 */
export function checkProvenance(said, dstack, policy) {
  const { provenance: wanted } = policy;
  if (!demands(policy, "provenance")) throw new NotChecked("the policy demands no provenance", false);
  const wrong = MEMBERS.filter(([name, list]) => wanted[list].length && !wanted[list].includes(said[name] ?? null));
  if (wrong.length) {
    throw new CheckFailed(
      wrong
        .map(([name, list]) => `found ${name} '${said[name]}', expected ${wanted[list].slice(0, 8).join(", ")}`)
        .join("; "),
    );
  }
  const compose = dstack?.app_compose ?? null; // whose hash is the measured one
  if (compose === null) throw new NotChecked("no measured compose file is at hand to back it");
  const running = imagesIn(compose);
  const unknown = running.filter((image) => wanted.images.length && !wanted.images.includes(image));
  if (unknown.length) {
    throw new CheckFailed(`the measured compose file runs ${unknown.join(", ")}, which the policy does not accept`);
  }
  const shown = running.slice(0, 8).join(", ");
  if ((said.image_digest ?? null) !== null && !running.includes(said.image_digest)) {
    throw new CheckFailed(`image_digest is ${said.image_digest}, and the measured compose file runs ${shown}`);
  }
  if (!wanted.images.length && !policy.dstack.compose_hashes.includes(dstack?.compose_hash)) {
    throw new NotChecked("no accepted image digest or compose hash stands behind the repository");
  }
  return `the measured compose file runs ${shown}`;
}

/**
 * The digests of the images that an app-compose document runs, each once.
 * @param {string} compose @returns {string[]}
 */
function imagesIn(compose) {
  const text = composeFile(compose);
  const hiding = HIDING.exec(text);
  if (hiding)
    throw new CheckFailed(`the measured compose file has '${hiding[0].trim()}', so that its images can't be told`);
  const found = [...text.matchAll(IMAGE)].map((match) => match[1]);
  if (found.length < 1 || found.length > MOST_IMAGES) {
    throw new CheckFailed(`the measured compose file names ${found.length} images; 1 to ${MOST_IMAGES} are read`);
  }
  const digests = found.map((reference) => {
    const pinned = PINNED.exec(reference);
    if (!pinned)
      throw new CheckFailed(`the measured compose file runs '${reference}', which is not pinned by a digest`);
    return pinned[1];
  });
  return [...new Set(digests)];
}

/** The text for Docker inside the document, or the document where it has none. @param {string} compose */
function composeFile(compose) {
  let value;
  try {
    value = JSON.parse(compose);
  } catch {
    return compose;
  }
  return isObject(value) && typeof value.docker_compose_file === "string" ? value.docker_compose_file : compose;
}

/**
 * What `confide verify` verifies in Python, verified in a browser (or in Node 20): reports of `aci/1` with the TDX quote or
 * SEV-SNP report, NVIDIA's devices and dstack's event log inside, receipts, sessions, key custody, end-to-end encryption, and
 * the signatures of the older surface. No build step, nothing fetched but from the service that is checked.
 *
 *     import { attest, Exchange, bundle } from "/proof/index.js";
 *
 *     const attested = await attest(location.origin, { developmentRoot: pem });   // a nonce, a report, a verdict
 *     attested.verdict.findings.forEach(show);                                    // every step, as `confide verify` has it
 *
 *     const exchange = await Exchange.open(attested, "/v1/chat/completions", body, { headers: { Authorization } });
 *     const response = await fetch(exchange.url, exchange.init);                  // exchange.init.body is sealed where it can be
 *     exchange.answered(response);
 *     for await (const piece of response.body) show(await exchange.feed(piece));  // opened bytes, as they can be shown
 *     const answer = await exchange.finish();                                     // the receipt, fetched and checked
 *     answer.ok; answer.findings; answer.receipt; answer.kept;
 *
 *     download(bundle(attested, [answer.kept]));                                  // what `confide audit FILE` reads
 *
 * Nothing here is shown as passed that was not made: a step ends as "pass", "fail" or "not checked" with a reason, an
 * exception inside of one is a failure, and `ok` is never true over a development root.
 */

/** @typedef {import("./types.js").Outcome} Outcome */
/** @typedef {import("./types.js").Finding} Finding */
/** @typedef {import("./types.js").Verdict} Verdict */
/** @typedef {import("./types.js").Attested} Attested */
/** @typedef {import("./types.js").Answer} Answer */
/** @typedef {import("./types.js").Kept} Kept */
/** @typedef {import("./types.js").Policy} Policy */

export { STEPS, stepOf } from "./catalogue.js";
export { Sha256 } from "./sha256.js";
export { Unreachable, attest, verifySaved } from "./attest.js";
export { checkAnswer, Exchange, ProofFailed } from "./exchange.js";
export { Sealer, Opener, SealError } from "./seal.js";
export { bundle } from "./bundle.js";
export { checkSignature, parseAddress, reportData } from "./legacy.js";
export { firstUsePolicy, policyFrom, PolicyError } from "./policy.js";
export { advice, sentence, OUTCOME_WORDS } from "./verdict.js";
export { support } from "./crypto.js";

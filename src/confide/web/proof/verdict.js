/**
 * What a verification found: numbered steps, each passed, failed or not checked, and one verdict over all of them.
 *
 * The same as `confide/verify/verdict.py`, in its words. A check returns or throws; what it throws is recorded by the
 * ledger, and anything else that is thrown inside of one is a failure as well. A step that nobody recorded is recorded as
 * not checked, so nothing is skipped in silence.
 */

import { CheckFailed, Named } from "./bytes.js";
import { STEPS } from "./catalogue.js";

/** @typedef {import("./types.js").Finding} Finding */
/** @typedef {import("./types.js").Verdict} Verdict */
/** @typedef {import("./types.js").Policy} Policy */
/** @typedef {{name: string, use: string, vendor: string, development: boolean, der: Uint8Array}} Root */

const LONGEST_DETAIL = 600;

/** How the outcomes are shown. */
export const OUTCOME_WORDS = { pass: "pass", fail: "FAIL", "not checked": "not checked" };

/** A check could not be made, and this is why. It counts as missing where the policy needs it. */
export class NotChecked extends Named {
  /** @param {string} reason @param {boolean} [required] */
  constructor(reason, required = true) {
    super(reason);
    this.required = required;
  }
}

/** A step that others need did not pass; the group ends here. */
class Ended extends Error {}

/** The steps of one group while they are made. */
export class Checks {
  #open;
  #subject;
  #findings;
  /** @type {Finding | null} */
  #endedBy = null;
  /** Whether a step of this group failed, or was required and could not be made. */
  failed = false;

  /**
   * @param {{name: string, steps: {id: string, title: string}[]}} steps @param {string} subject
   * @param {Finding[]} findings
   */
  constructor(steps, subject, findings) {
    this.#open = new Map(steps.steps.map((step, at) => [at + 1, step]));
    this.#subject = subject;
    this.#findings = findings;
  }

  /**
   * Make a step that all later ones need, and give its value; if it does not pass, the group ends.
   * @template T
   * @param {number} number @param {() => T | Promise<T>} call @param {(value: T) => string} [said] @returns {Promise<T>}
   */
  async need(number, call, said = () => "") {
    let value, text;
    try {
      value = await call();
      text = said(value);
    } catch (wrong) {
      this.#problem(number, wrong);
      this.#endedBy = this.#findings[this.#findings.length - 1];
      throw new Ended();
    }
    this.#record(number, "pass", text);
    return value;
  }

  /**
   * Make a step that stands for itself; `call` may return what to say about it. Whether it passed.
   * @param {number} number @param {() => unknown} call @returns {Promise<boolean>}
   */
  async check(number, call) {
    let said;
    try {
      said = await call();
    } catch (wrong) {
      this.#problem(number, wrong);
      return false;
    }
    this.#record(number, "pass", typeof said === "string" ? said : "");
    return true;
  }

  /**
   * Say that a step is not made, and why.
   * @param {number} number @param {string} reason @param {boolean} [required]
   */
  skip(number, reason, required = true) {
    this.#record(number, "not checked", reason, required);
  }

  /** Record what was not reached: as required, unless the step that ended the group was not. */
  close() {
    const because = this.#endedBy ? `needs step ${this.#endedBy.step}` : "not reached";
    for (const number of [...this.#open.keys()]) {
      this.#record(number, "not checked", because, this.#endedBy?.required ?? true);
    }
  }

  /** @param {number} number @param {unknown} wrong */
  #problem(number, wrong) {
    if (wrong instanceof NotChecked) this.#record(number, "not checked", wrong.message, wrong.required);
    else if (wrong instanceof CheckFailed) this.#record(number, "fail", wrong.message);
    else this.#record(number, "fail", `this check broke off: ${wrong}`); // fail closed
  }

  /**
   * @param {number} number @param {import("./types.js").Outcome} outcome @param {string} detail
   * @param {boolean} [required]
   */
  #record(number, outcome, detail, required = true) {
    const step = this.#open.get(number);
    if (!step) throw new TypeError(`step ${number} is made twice, or there is none`);
    this.#open.delete(number);
    this.failed ||= outcome !== "pass" && required;
    const { id, title } = step;
    this.#findings.push({ step: id, title, outcome, detail: bounded(detail), subject: this.#subject, required });
  }
}

/** Collects the findings of one verification, the trust anchors it ended at, and facts worth showing. */
export class Ledger {
  /** @type {Finding[]} */
  findings = [];
  /** @type {Root[]} */
  anchors = [];
  /** @type {Record<string, any>} */
  facts = {};

  /**
   * Make the steps of one kind. All of them are recorded in the end, whatever happens in between.
   * @param {string} name @param {(checks: Checks) => unknown} make @param {string} [subject] @returns {Promise<Checks>}
   */
  async group(name, make, subject = "") {
    /** @type {Finding[]} */
    const own = [];
    const checks = new Checks(STEPS[name], subject, own);
    try {
      await make(checks);
    } catch (wrong) {
      if (!(wrong instanceof Ended)) throw wrong;
    } finally {
      checks.close();
      this.findings.push(...own);
    }
    return checks;
  }

  /** A signature chain was found good up to this root. @param {Root} root */
  trusted(root) {
    if (!this.anchors.includes(root)) this.anchors.push(root);
  }
}

/**
 * A detail as it may be shown: one line, no control characters, not long, because evidence may be quoted in it.
 * @param {string} text @returns {string}
 */
export function bounded(text) {
  const clean = [...text].map((one) => (/[\p{C}\p{Z}]/u.test(one) ? " " : one));
  return clean.length <= LONGEST_DETAIL ? clean.join("") : `${clean.slice(0, LONGEST_DETAIL - 1).join("")}…`;
}

/**
 * Pass where every step that counts passed, and one at least; else throw.
 * @param {Finding[]} findings @param {string} what @param {boolean} [required]
 */
export function stands(findings, what, required = true) {
  const failed = findings.filter((one) => one.outcome === "fail");
  if (failed.length) throw new CheckFailed(`${what}: ${named(failed)} failed`);
  const unmade = findings.filter((one) => one.outcome === "not checked" && one.required);
  if (unmade.length) throw new NotChecked(`${what}: ${named(unmade)} could not be made`, required);
  if (!findings.some((one) => one.outcome === "pass")) {
    throw new NotChecked(`${what}: ${findings.find((one) => one.detail)?.detail ?? "nothing to check"}`, required);
  }
}

/** @param {Finding[]} findings @param {number} [most] */
function named(findings, most = 6) {
  const steps = [...new Set(findings.map((one) => one.step))];
  const more = steps.length > most ? ` and ${steps.length - most} more` : "";
  return steps.slice(0, most).join(", ") + more;
}

// The verdict ----------------------------------------------------------------------------------------------------------

/** @type {Record<number, Verdict["verdict"]>} */
const WORDS = {
  0: "verified",
  1: "failed",
  2: "no policy",
  3: "consistent, development root",
  5: "not enough evidence",
};
/** @type {Record<number, string>} */
const SENTENCES = {
  0: "Verified: everything that the policy needs was checked and passed.",
  1: "FAILED: do not send anything to this service, and believe nothing that it said.",
  2: "No verdict: nothing failed, and nothing says what is accepted.",
  3: "Consistent, but it rests on a development root: no hardware protects anything here.",
  5: "Not enough evidence: nothing failed, but the policy needs more.",
};
const FIRST_USE = "The policy was written on first use and not reviewed: it accepts what this service showed then.";
const NO_POLICY =
  "No policy was given, so nothing says which workload is accepted. Write down what the service shows now with " +
  "`confide policy init URL -o policy.toml`, read it, and give it with --policy.";
const WHERE_FROM =
  "What vendors publish (collateral, certificates, RIMs) can come from --cache FOLDER, from --collateral FILE, " +
  "or with --network from the vendors; otherwise the policy asks for more than this service shows.";

/**
 * The verdict over everything in a ledger. Without a CPU's evidence that ends at a root there is not enough, and without
 * a policy nothing is good enough.
 * @param {Ledger} ledger
 * @param {{subject: string, at: number, policy: Policy | null, digest: string, claims: Verdict["claims"]}} about
 * @returns {Verdict}
 */
export function judge(ledger, { subject, at, policy, digest, claims }) {
  const { findings, anchors } = ledger;
  const development = anchors.some((root) => root.development);
  const hasCpu = anchors.some((root) => root.use === "tdx" || root.use === "snp");
  const needed = findings.filter((one) => one.required).map((one) => one.outcome);
  /** @type {Verdict["exit_code"]} */
  let code = development ? 3 : 0;
  if (findings.some((one) => one.outcome === "fail")) code = 1;
  else if (needed.includes("not checked") || !needed.includes("pass") || !hasCpu) code = 5;
  const hardware = hasCpu && !development && code !== 1;
  const said = policy === null && code !== 1 ? 2 : code;
  /** @type {Verdict} */
  const verdict = {
    verdict: WORDS[said],
    exit_code: said,
    ok: said === 0,
    development,
    hardware,
    sentence: SENTENCES[said],
    advice: [],
    subject,
    at,
    policy: digest,
    policy_trust: policy?.trust ?? null,
    roots: anchors.map((root) => root.name),
    findings,
    claims,
    facts: ledger.facts,
  };
  verdict.advice = [...advice(verdict, policy, code)];
  return verdict;
}

/** What a verdict means, in one sentence. @param {Verdict} verdict @returns {string} */
export function sentence(verdict) {
  return SENTENCES[verdict.exit_code];
}

/**
 * What to do next, in sentences.
 * @param {Verdict} verdict @param {Policy | null} policy @param {number} [code]  what it would be under a policy
 * @returns {Generator<string>}
 */
export function* advice(verdict, policy, code = verdict.exit_code) {
  if (policy === null) yield NO_POLICY;
  else if (policy.trust === "first use") yield FIRST_USE;
  if (policy?.unsafe_any_workload) yield "The policy accepts any workload on genuine hardware (unsafe_any_workload).";
  const problems = verdict.findings.filter((one) => one.outcome !== "pass" && one.required);
  const failed = problems.filter((one) => one.outcome === "fail");
  const missing = problems.filter((one) => one.outcome === "not checked");
  if (failed.length) {
    yield `Look at ${named(failed, 8)}: docs/verify.md says what each step proves, and how to check it by hand.`;
  } else if (code === 5) {
    if (missing.length) yield `Could not be checked: ${named(missing, 8)}.`;
    if (!verdict.roots.length) yield "No root was reached: a development service needs --insecure-dev-root FILE.";
    yield WHERE_FROM;
  }
  if (code === 3) yield "Use it to develop, never for data that matters.";
}

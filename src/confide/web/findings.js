// Steps as people read them: the numbers, words and outcomes of `confide verify`.

import { h, icon } from "./dom.js";
import { OUTCOME_WORDS, STEPS, stepOf } from "./proof/index.js";

const LOOKS = { pass: ["pass", "check"], fail: ["fail", "cross"], "not checked": ["open", "dash"] };

/** Findings by kind of evidence, in their order: what failed is open. */
export function groupedSteps(findings) {
  const groups = new Map();
  for (const finding of findings) {
    const name = finding.step.split(".")[0];
    const key = `${name} ${finding.subject}`;
    if (!groups.has(key)) groups.set(key, { name, subject: finding.subject, own: [] });
    groups.get(key).own.push(finding);
  }
  return [...groups.values()].map(stepsOf);
}

function stepsOf({ name, subject, own }) {
  const worst = worstOf(own);
  const title = STEPS[name]?.title ?? name;
  const passed = own.filter((one) => one.outcome === "pass").length;
  return h(
    "details",
    { className: "steps", open: worst === "fail", data: { look: worst, key: `${name} ${subject} ${worst}` } },
    h(
      "summary",
      {},
      icon("chevron", 14),
      h("span", { className: "title" }, title, subject && h("small", {}, subject)),
      h("span", { className: "tally" }, `${passed}/${own.length}`),
      mark(worst),
    ),
    stepList(own),
  );
}

/** A list of steps. */
export function stepList(findings) {
  return h("ol", { className: "step-list" }, findings.map(row));
}

function row({ step, title, outcome, detail, required }) {
  const word = OUTCOME_WORDS[outcome] + (outcome === "not checked" && !required ? " (not needed)" : "");
  const proves = stepOf(step)?.proves;
  return h(
    "li",
    { className: "step", data: { step, look: lookOf({ outcome, required }) } },
    mark(lookOf({ outcome, required })),
    h(
      "div",
      {},
      h(
        "p",
        { className: "step-head" },
        h("code", {}, step),
        h("span", { className: "name" }, title),
        h("span", { className: "outcome" }, word),
      ),
      proves && h("p", { className: "proves" }, proves),
      detail && h("p", { className: "detail" }, detail),
    ),
  );
}

function lookOf({ outcome, required }) {
  return outcome === "not checked" && !required ? "spare" : LOOKS[outcome][0];
}

/** The worst of several: "fail" before "open" (not checked, though needed) before "pass"; "spare" where nothing else is. */
export function worstOf(findings) {
  const looks = findings.map(lookOf);
  return ["fail", "open", "pass"].find((look) => looks.includes(look)) ?? "spare";
}

/** The sign of an outcome. */
export function mark(look) {
  const names = { pass: "check", fail: "cross", open: "dash", spare: "dash", development: "alert" };
  return h("span", { className: "sign", data: { look } }, icon(names[look], 12));
}

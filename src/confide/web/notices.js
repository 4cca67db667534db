// What must not be overlooked: the banner above everything, and the barrier before sending.

import { byId, h, icon } from "./dom.js";
import { closeOutside } from "./options.js";

const DEVELOPMENT = "All of it is consistent, and nothing is proven: no hardware protects what you send.";

/** Keep banner and barrier as the trust is. */
export function startNotices(trust, showProof) {
  const dialog = overrideDialog(trust);
  document.body.append(dialog);
  trust.addEventListener("change", () => {
    showBanner(trust, showProof);
    showBarrier(trust, dialog);
  });
}

function showBanner(trust, showProof) {
  const banner = byId("banner");
  if (trust.state === "busy") return; // what was said stands until the new check has ended
  const said = bannerText(trust);
  banner.hidden = said === null;
  banner.dataset.state = trust.state;
  banner.replaceChildren();
  if (!said) return;
  const [head, text] = said;
  banner.append(
    icon("alert", 18),
    h("p", {}, h("strong", {}, head), " ", text),
    h("button", { type: "button", className: "plain", on: { click: showProof } }, "See why"),
  );
}

function bannerText(trust) {
  if (trust.state === "development") return ["Development root.", DEVELOPMENT];
  if (trust.isSound) return null;
  const sentence = trust.attested?.verdict.sentence ?? trust.problem;
  if (trust.overridden) return ["You are sending without proof.", sentence];
  return [`${trust.word}.`, sentence.replace(/^FAILED: d/, "D")];
}

function showBarrier(trust, dialog) {
  const barrier = byId("barrier");
  barrier.hidden = trust.maySend || trust.state === "busy";
  if (barrier.hidden) {
    barrier.replaceChildren();
    return;
  }
  const words = `Sending is blocked: ${reason(trust)}`;
  if (barrier.dataset.words === words && barrier.childElementCount) return;
  barrier.dataset.words = words;
  barrier.replaceChildren(
    icon("lock"),
    h("p", {}, words),
    h("button", { type: "button", className: "plain", on: { click: () => dialog.showModal() } }, "Send anyway …"),
  );
}

function reason(trust) {
  if (!trust.attested) return `the server gave no attestation. ${trust.problem}`;
  const problems = trust.attested.verdict.findings.filter((one) => one.outcome !== "pass" && one.required);
  const first = problems.find((one) => one.outcome === "fail") ?? problems[0];
  if (!first) return trust.attested.verdict.sentence;
  return `${first.step} ${first.title} ${first.outcome === "fail" ? "failed" : "could not be checked"}.`;
}

function overrideDialog(trust) {
  const sure = h("input", { type: "checkbox", id: "sure" });
  const go = h("button", { className: "danger", value: "go", disabled: true }, "Send without proof");
  sure.addEventListener("change", () => (go.disabled = !sure.checked));
  const dialog = h(
    "dialog",
    { className: "sheet small", "aria-labelledby": "override-title", on: { click: closeOutside } },
    h(
      "form",
      { method: "dialog" },
      h("h2", { id: "override-title" }, "Send without proof?"),
      h(
        "p",
        {},
        "The checks of this server did not pass. Whoever runs it, or stands between it and you, may read and change everything that you send and that you are answered. Receipts prove nothing then.",
      ),
      h("p", {}, "This holds until you reload the page, or until something else is wrong."),
      h("label", { className: "tick", htmlFor: "sure" }, sure, "I understand that nothing I send here is protected."),
      h("footer", {}, h("button", { className: "main", value: "stay", autofocus: true }, "Keep it blocked"), go),
    ),
  );
  dialog.addEventListener("close", () => {
    if (dialog.returnValue === "go" && sure.checked) {
      trust.override();
      byId("prompt").focus();
    }
    sure.checked = false;
    go.disabled = true;
  });
  return dialog;
}

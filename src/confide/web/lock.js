// The lock: whether messages are sealed, and what that covers.

import { byId, h, icon, short } from "./dom.js";
import { closeOutside } from "./options.js";

/** Wire the lock of the composer. */
export function startLock(trust) {
  const button = byId("lock");
  const wish = h("input", { type: "checkbox", id: "wish", checked: true });
  const about = h("div", {});
  const dialog = h(
    "dialog",
    { className: "sheet small", "aria-labelledby": "lock-title", on: { click: closeOutside } },
    h(
      "form",
      { method: "dialog" },
      h(
        "header",
        {},
        h("h2", { id: "lock-title" }, "End-to-end encryption"),
        h("button", { className: "tool", value: "close", "aria-label": "Close" }, icon("cross")),
      ),
      about,
      h("label", { className: "tick", htmlFor: "wish" }, wish, "Seal messages where the server offers it"),
      h("footer", {}, h("button", { className: "main", value: "done" }, "Done")),
    ),
  );
  document.body.append(dialog);
  wish.addEventListener("change", () => trust.seal(wish.checked));
  button.addEventListener("click", () => dialog.showModal());
  const show = () => {
    button.replaceChildren(
      icon(trust.seals ? "lock" : "unlock", 16),
      h("span", {}, trust.seals ? "Sealed" : "Not sealed"),
    );
    button.dataset.state = trust.seals ? trust.state : "off";
    wish.disabled = trust.state === "busy";
    about.replaceChildren(...explanation(trust));
  };
  trust.addEventListener("change", show);
  show();
}

function explanation(trust) {
  if (trust.seals) {
    const isOwn = trust.attested.sealKey.algo.startsWith("secp256k1-");
    return [
      h(
        "p",
        {},
        `Each message is encrypted in this page to a key that the attested keyset names, and each answer to a key that this page makes anew for every request (${isOwn ? "secp256k1" : "X25519"}, ACI E2EE v2).`,
      ),
      isOwn &&
        h(
          "p",
          { className: "aside" },
          "The server or this browser has no X25519. So the page computes secp256k1 itself, and not in constant time: with keys that serve for one request.",
        ),
      h(
        "p",
        { className: "aside" },
        "The key: ",
        h("code", { title: trust.attested.sealKey.public_key }, short(trust.attested.sealKey.public_key)),
      ),
      twoLists(),
      trust.state === "development" &&
        h(
          "p",
          { className: "aside" },
          "Under a development root the other end is no TEE: whoever runs this machine holds the key.",
        ),
    ].filter(Boolean);
  }
  if (!trust.isSound && trust.wantsSealing) return [h("p", {}, "No key is attested that messages could be sealed to.")];
  return [
    h(
      "p",
      {},
      trust.wantsSealing
        ? "This server, or this browser, offers no encryption of messages that both know. What you send is protected by the connection alone."
        : "You turned it off: what you send is protected by the connection alone, and no browser shows a page whose connection that is.",
    ),
  ];
}

function twoLists() {
  const list = (title, items) =>
    h(
      "div",
      {},
      h("h3", {}, title),
      h(
        "ul",
        {},
        items.map((item) => h("li", {}, item)),
      ),
    );
  return h(
    "div",
    { className: "two" },
    list("Sealed", ["the text of messages", "images", "results of tools", "the answer's text and thoughts"]),
    list("Not sealed", [
      "the model's name and parameters",
      "tools, their calls, and schemas",
      "your API key",
      "how long everything is, and when",
    ]),
  );
}

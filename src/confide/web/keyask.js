// Asking for an API key, where the server wants one.

import { useKey } from "./api.js";
import { h } from "./dom.js";

/** Ask until `works()` doesn't say 401. Resolves when it doesn't. */
export function askForKey(works, problem) {
  return new Promise((resolve) => {
    const input = h("input", {
      id: "key",
      type: "password",
      autocomplete: "off",
      spellcheck: false,
      placeholder: "sk-…",
      required: true,
      "aria-describedby": "key-wrong",
    });
    const remember = h("input", { id: "remember", type: "checkbox" });
    const wrong = h("p", { id: "key-wrong", className: "wrong", role: "alert" }, problem ?? "");
    const dialog = h(
      "dialog",
      { className: "sheet small", "aria-labelledby": "key-title", on: { cancel: (event) => event.preventDefault() } },
      h(
        "form",
        { on: { submit: (event) => submit(event) } },
        h("h2", { id: "key-title" }, "This server asks for a key"),
        h(
          "p",
          {},
          "One is made with ",
          h("code", {}, "confide keys create NAME"),
          ". It is sent to this server only, and kept in this page's memory.",
        ),
        h("label", { htmlFor: "key" }, "API key"),
        input,
        wrong,
        h("label", { className: "tick", htmlFor: "remember" }, remember, "Keep it until this tab is closed"),
        h("footer", {}, h("button", { className: "main" }, "Use this key")),
      ),
    );
    async function submit(event) {
      event.preventDefault();
      useKey(input.value.trim(), { remember: remember.checked });
      const refused = await works();
      if (refused) {
        wrong.textContent = refused;
        input.select();
        return;
      }
      dialog.close();
      dialog.remove();
      resolve();
    }
    document.body.append(dialog);
    dialog.showModal();
  });
}

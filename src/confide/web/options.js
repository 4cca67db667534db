// What a request asks for beside the conversation. It lives as long as the page: nothing of it is stored.

import { byId, count, h, icon } from "./dom.js";

const FIELDS = [
  { name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.1, hint: "0 to 2; low is steady" },
  { name: "top_p", label: "Top p", min: 0, max: 1, step: 0.05, hint: "0 to 1" },
  { name: "max_tokens", label: "Most tokens", min: 1, max: 1_000_000, step: 1, hint: "of the answer" },
  { name: "seed", label: "Seed", min: 0, max: 2 ** 31, step: 1, hint: "the same again" },
];

/** The settings of requests, in a dialog. */
export class Options {
  #dialog;
  #inputs = new Map();
  #supported = new Set();
  #about = h("p", { className: "aside" });
  #onChange;

  constructor(onChange) {
    this.#onChange = onChange;
    this.#dialog = this.#build();
    document.body.append(this.#dialog);
    const button = byId("options");
    button.append(icon("sliders"));
    button.addEventListener("click", () => this.#dialog.showModal());
    this.#name();
  }

  /** Offer what this model takes. */
  offer(model) {
    this.#supported = new Set(model?.supported_parameters ?? []);
    this.#about.textContent = model ? offered(model, this.#supported) : "";
    for (const [name, { field, needs }] of this.#inputs) {
      const has = this.#supported.has(needs ?? name) || name === "system";
      field.classList.toggle("lacks", !has);
      for (const input of field.querySelectorAll("input, textarea, select")) input.disabled = !has;
    }
    this.#name();
  }

  /** Fill in an example: texts of `schema`, `tools` and so on. */
  set(values) {
    for (const name of ["schema", "tools"]) this.#inputs.get(name).input.value = values[name] ?? "";
    this.#changed();
  }

  /** The members of a request. Throws an Error that says which field is wrong. */
  members() {
    const members = {};
    for (const { name } of FIELDS) {
      const text = this.#text(name);
      if (text !== "") members[name] = Number(text);
    }
    const schema = this.#json("schema", "The JSON schema");
    if (schema) members.response_format = { type: "json_schema", json_schema: named(schema) };
    const tools = this.#json("tools", "The list of tools");
    if (tools) {
      members.tools = (Array.isArray(tools) ? tools : [tools]).map((one) =>
        one?.type ? one : { type: "function", function: one },
      );
      if (this.#text("choice") !== "auto") members.tool_choice = this.#text("choice");
    }
    return members;
  }

  /** What the model is told before everything else. */
  get system() {
    return this.#text("system");
  }

  /** Whether the answer is JSON by a schema. */
  get wantsJson() {
    return this.#text("schema") !== "";
  }

  #text(name) {
    const { input } = this.#inputs.get(name);
    return input.disabled ? "" : input.value.trim();
  }

  #json(name, what) {
    const text = this.#text(name);
    if (!text) return null;
    try {
      return JSON.parse(text);
    } catch (wrong) {
      throw new Error(`${what} is no JSON: ${wrong.message}`);
    }
  }

  // The dialog --------------------------------------------------------------------------------------------------------

  #build() {
    const changed = () => this.#changed();
    const numbers = FIELDS.map(({ name, label, hint, ...bounds }) =>
      this.#field(
        name,
        label,
        h("input", { type: "number", placeholder: "default", inputMode: "decimal", ...bounds }),
        hint,
      ),
    );
    const choice = h(
      "select",
      {},
      ["auto", "required", "none"].map((word) => h("option", { value: word }, word)),
    );
    return h(
      "dialog",
      { className: "sheet", "aria-labelledby": "options-title", on: { input: changed, click: closeOutside } },
      h(
        "form",
        { method: "dialog" },
        h(
          "header",
          {},
          h("h2", { id: "options-title" }, "Settings"),
          h("button", { className: "tool", value: "close", "aria-label": "Close" }, icon("cross")),
        ),
        this.#about,
        this.#field(
          "system",
          "System prompt",
          h("textarea", { rows: 3, placeholder: "You are …" }),
          "said before everything else",
        ),
        h("div", { className: "grid" }, numbers),
        this.#field(
          "schema",
          "JSON schema of the answer",
          codeArea('{"type": "object", "properties": …}'),
          "the model can write nothing else",
          "response_format",
        ),
        this.#field(
          "tools",
          "Tools",
          codeArea('[{"name": "get_weather", "parameters": …}]'),
          "functions that the model may call",
          "tools",
        ),
        this.#field("choice", "Tool choice", choice, "", "tools"),
        h(
          "footer",
          {},
          h("button", { type: "button", className: "plain", on: { click: () => this.#reset() } }, "Reset"),
          h("button", { className: "main", value: "done" }, "Done"),
        ),
      ),
    );
  }

  #field(name, label, input, hint, needs) {
    input.id = `option-${name}`;
    const wrong = h("span", { className: "wrong", id: `wrong-${name}` });
    input.setAttribute("aria-describedby", wrong.id);
    const field = h(
      "div",
      { className: "field" },
      h("label", { htmlFor: input.id }, label, hint && h("small", {}, hint)),
      input,
      wrong,
    );
    this.#inputs.set(name, { field, input, needs, wrong });
    return field;
  }

  #reset() {
    for (const { input } of this.#inputs.values()) input.value = input.tagName === "SELECT" ? "auto" : "";
    this.#changed();
  }

  #changed() {
    for (const [name, { input, wrong }] of this.#inputs) wrong.textContent = complaint(name, input);
    this.#name();
    this.#onChange();
  }

  #name() {
    const set = [...this.#inputs].filter(
      ([name, { input }]) => name !== "choice" && !input.disabled && input.value.trim(),
    );
    const button = byId("options");
    button.classList.toggle("on", set.length > 0);
    button.title = set.length ? `Settings: ${set.map(([name]) => name).join(", ")}` : "Settings";
    button.setAttribute("aria-label", button.title);
  }
}

/** What a model has, in a line. */
function offered({ id, context_length: context, input_modalities: inputs = [], metadata = {} }, supported) {
  const takes = supported.has("tools") ? ["calls tools"] : [];
  if (supported.has("response_format")) takes.push("answers by a schema");
  if (inputs.includes("image")) takes.push("sees images");
  const engine = [metadata.engine, metadata.engine_version].filter(Boolean).join(" ");
  return [id, context && `${count(context)} tokens of context`, ...takes, engine].filter(Boolean).join(" · ");
}

function named(schema) {
  return schema.schema && schema.name ? { strict: true, ...schema } : { name: "answer", strict: true, schema };
}

function complaint(name, input) {
  if (input.type === "number") return input.validity.valid ? "" : input.validationMessage;
  if (!["schema", "tools"].includes(name) || !input.value.trim()) return "";
  try {
    JSON.parse(input.value);
    return "";
  } catch (wrong) {
    return wrong.message;
  }
}

function codeArea(placeholder) {
  return h("textarea", { className: "mono", rows: 5, spellcheck: false, placeholder });
}

/** A click beside a dialog closes it. */
export function closeOutside(event) {
  if (event.target === event.currentTarget) event.currentTarget.close();
}

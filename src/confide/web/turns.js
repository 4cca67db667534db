// The turns of a conversation as they are seen: what a person said, what the model answered, what a tool gave.

import { copyButton, count, h, icon, iconButton } from "./dom.js";
import { breath, nextFrame, noFrame } from "./frames.js";
import { indented, isJson, jsonBlock } from "./jsonview.js";
import { MarkdownView } from "./markdown.js";
import { ReceiptView } from "./receipt.js";

const ENDS = {
  length: "cut off at the most tokens",
  content_filter: "ended by a content filter",
  tool_calls: null,
  function_call: null,
  stop: null,
};

const AT_ONCE = 2_000; // characters that are drawn in one go, so that a fast stream makes no frame long

/** What a person said. */
export class UserTurn {
  role = "user";

  constructor(text, images, { edit }) {
    this.text = text;
    this.images = images;
    this.element = h("article", { className: "turn user", "aria-label": "You" });
    this.#show(edit);
  }

  #show(edit) {
    const pictures = this.images.map(({ url, name }) => h("img", { src: url, alt: name }));
    this.element.replaceChildren(
      h(
        "div",
        { className: "bubble" },
        pictures.length > 0 && h("div", { className: "thumbs" }, pictures),
        this.text && h("p", {}, this.text),
      ),
      h(
        "div",
        { className: "acts" },
        iconButton("edit", "Edit and send again", () => this.#edit(edit)),
        copyButton(() => this.text, "Copy message"),
      ),
    );
  }

  #edit(edit) {
    const area = h("textarea", {
      value: this.text,
      rows: Math.min(12, this.text.split("\n").length + 1),
      "aria-label": "Edit the message",
    });
    const back = () => this.#show(edit);
    const done = () => (area.value.trim() ? edit(this, area.value.trim()) : back());
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") back();
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        done();
      }
    });
    const buttons = [
      h("button", { type: "button", className: "plain", on: { click: back } }, "Cancel"),
      h("button", { type: "button", className: "main", on: { click: done } }, "Send again"),
    ];
    this.element.replaceChildren(
      h("div", { className: "bubble editing" }, area, h("div", { className: "actions" }, buttons)),
    );
    area.focus();
  }

  /** As a message of a request. */
  messages() {
    if (!this.images.length) return [{ role: "user", content: this.text }];
    const pictures = this.images.map(({ url }) => ({ type: "image_url", image_url: { url } }));
    return [{ role: "user", content: [...(this.text ? [{ type: "text", text: this.text }] : []), ...pictures] }];
  }
}

/** What a tool gave, as the person typed it. */
export class ToolTurn {
  role = "tool";

  constructor(results) {
    this.results = results;
    const shown = results.map(({ name, content }) =>
      h(
        "div",
        { className: "card result" },
        h("header", {}, icon("tool", 15), h("b", {}, name), h("small", {}, "result")),
        isJson(content) ? jsonBlock(content, `Result of ${name}`) : h("pre", { className: "json" }, content),
      ),
    );
    this.element = h("article", { className: "turn tool", "aria-label": "Tool" }, shown);
  }

  /** As messages of a request. */
  messages() {
    return this.results.map(({ id, content }) => ({ role: "tool", tool_call_id: id, content }));
  }
}

/** What the model answers. */
export class AnswerTurn {
  role = "assistant";
  ended = false;
  #shownText = 0;
  #shownThoughts = 0;
  #begun = performance.now();
  #draw = () => this.draw() || this.grown();
  #body = h("div", { className: "prose" });
  #markdown = new MarkdownView(this.#body);
  #raw = null;
  #thoughts = null;
  #cards = [];
  #calls = h("div", { className: "calls" });
  #foot = h("footer", { className: "foot" });

  /**
   * @param talk the exchange
   * @param json whether the answer is JSON by a schema
   * @param acts `regenerate(turn)`, `results(results)`, which says whether they were sent, `drawn()`
   */
  constructor(trust, talk, { json, acts }) {
    this.talk = talk;
    this.acts = acts;
    this.json = json;
    this.receipt = new ReceiptView(trust, talk);
    this.wait = h(
      "p",
      { className: "wait" },
      h("span", { className: "unseen" }, "The model is answering"),
      h("i"),
      h("i"),
      h("i"),
    );
    this.element = h(
      "article",
      { className: "turn assistant", "aria-label": "Answer", "aria-busy": "true" },
      this.wait,
      this.#body,
      this.#calls,
      this.#foot,
    );
  }

  /** More of the answer is there: draw it with the next frame. */
  grown() {
    nextFrame(this.#draw);
  }

  /** Draw what is new, as much as goes at once; whether that was all. */
  draw() {
    const { answer } = this.talk;
    if (this.wait.isConnected && (answer.text || answer.reasoning || answer.calls.length || this.ended))
      this.wait.remove();
    const all = this.#think(answer.reasoning) && this.#say(answer.text) && this.#call(answer.calls);
    this.acts.drawn();
    return all;
  }

  #think(text) {
    if (text.length === this.#shownThoughts) return true;
    if (!this.#thoughts) {
      this.#thoughts = document.createTextNode("");
      const fold = h(
        "details",
        { className: "thoughts" },
        h("summary", {}, icon("chevron", 14), "Thoughts"),
        h("p", {}, this.#thoughts),
      );
      this.#body.before(fold);
    }
    const more = next(text, this.#shownThoughts);
    this.#thoughts.appendData(more);
    this.#shownThoughts += more.length;
    return this.#shownThoughts === text.length;
  }

  #say(text) {
    if (text.length === this.#shownText) return true;
    const more = next(text, this.#shownText);
    this.#shownText += more.length;
    if (this.json) {
      this.#raw ??= this.#body.appendChild(h("pre", { className: "json" }, document.createTextNode(""))).firstChild;
      this.#raw.appendData(more);
    } else {
      this.#markdown.push(more);
      this.#markdown.draw();
    }
    return this.#shownText === text.length;
  }

  #call(calls) {
    for (const [at, call] of calls.entries()) {
      if (!call) continue;
      const card = (this.#cards[at] ??= this.#newCard(call));
      const more = next(call.arguments, card.shown);
      if (more) card.text.appendData(more);
      card.shown += more.length;
      if (card.shown < call.arguments.length) return false;
    }
    return true;
  }

  #newCard({ name }) {
    const text = document.createTextNode("");
    const title = h("b", {}, name);
    const element = h(
      "section",
      { className: "card call", "aria-label": `Call of ${name}` },
      h("header", {}, icon("tool", 15), title, h("small", {}, "tool call")),
      h("pre", { className: "json" }, text),
    );
    this.#calls.append(element);
    return { element, title, text, shown: 0 };
  }

  // The end -----------------------------------------------------------------------------------------------------------

  /** The answer is complete, or will never be. */
  async end() {
    noFrame(this.#draw);
    this.ended = true;
    do await breath();
    while (!this.draw());
    await breath();
    if (this.json) this.#showJson();
    else this.#markdown.end();
    for (const [at, call] of this.talk.answer.calls.entries()) if (call) this.#endCall(this.#cards[at], call);
    if (this.talk.answer.refusal) this.#body.append(h("p", { className: "refusal" }, this.talk.answer.refusal));
    if (this.talk.problem) this.#body.append(problemCard(this.talk.problem));
    this.#foot.append(
      this.receipt.badge,
      h("span", { className: "measure" }, this.#measures()),
      h("span", { className: "acts" }, this.#buttons()),
    );
    this.element.append(this.receipt.details);
    this.element.setAttribute("aria-busy", "false");
    this.acts.drawn();
    await this.receipt.settle();
    if (this.receipt.state !== "bad") this.acts.drawn(); // a receipt that failed has opened, and is looked at
  }

  #showJson() {
    const { text } = this.talk.answer;
    if (!text || !isJson(text)) return;
    const head = h(
      "div",
      { className: "code-head" },
      h("span", {}, icon("check", 13), " valid JSON"),
      copyButton(() => text, "Copy JSON"),
    );
    this.#body.replaceChildren(h("div", { className: "code" }, head, jsonBlock(text, "Answer as JSON")));
  }

  #endCall({ element, title }, { id, name, arguments: text }) {
    title.textContent = name;
    element.querySelector("pre").replaceWith(jsonBlock(text, `Arguments of ${name}`));
    if (this.talk.problem || this.talk.stopped) return;
    const input = h("textarea", {
      rows: 2,
      className: "mono",
      placeholder: "What the tool gives back",
      "aria-label": `Result of ${name}`,
      data: { call: id, name },
    });
    element.append(h("div", { className: "give" }, input));
    if (element === this.#cards.at(-1).element) {
      element.append(
        h(
          "div",
          { className: "actions" },
          h(
            "button",
            { type: "button", className: "plain", on: { click: () => this.#give() } },
            this.#cards.length > 1 ? "Send results" : "Send result",
          ),
        ),
      );
    }
  }

  #give() {
    const inputs = [...this.#calls.querySelectorAll("textarea")];
    const results = inputs.map((input) => ({ id: input.dataset.call, name: input.dataset.name, content: input.value }));
    if (!this.acts.results(results)) return;
    for (const part of this.#calls.querySelectorAll(".give, .actions")) part.remove();
  }

  #measures() {
    const { usage, finish } = this.talk.answer;
    const seconds = (performance.now() - this.#begun) / 1000;
    const parts = [];
    if (usage) parts.push(`${count(usage.prompt_tokens)} + ${count(usage.completion_tokens)} tokens`);
    parts.push(`${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`);
    if (this.talk.stopped) parts.push("stopped");
    else if (ENDS[finish]) parts.push(ENDS[finish]);
    return parts.join(" · ");
  }

  #buttons() {
    const { text } = this.talk.answer;
    return [
      text && copyButton(() => (this.json ? indented(text) : text), "Copy answer"),
      iconButton("again", "Answer again", () => this.acts.regenerate(this)),
    ].filter(Boolean);
  }

  /** As a message of the next request; an answer that failed before it said anything is none. */
  messages() {
    const { text, calls } = this.talk.answer;
    return text || calls.length ? [this.talk.answer.message()] : [];
  }
}

/** What is to be drawn next of a text that was drawn up to a place. */
function next(text, shown) {
  return text.slice(shown, shown + AT_ONCE);
}

/** What went wrong, in the server's own words. */
function problemCard(problem) {
  const about = [
    problem.status >= 400 && `status ${problem.status}`,
    problem.type,
    problem.code,
    problem.param && `member ${problem.param}`,
    problem.retryAfter && `try again after ${problem.retryAfter} s`,
  ];
  return h(
    "div",
    { className: "problem", role: "alert" },
    icon("alert"),
    h("div", {}, h("p", {}, problem.message), h("p", { className: "aside" }, about.filter(Boolean).join(" · "))),
  );
}

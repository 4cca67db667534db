// The page: every part made once, and wired.

import { findKey, models, ServerError } from "./api.js";
import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { byId, h, icon } from "./dom.js";
import { askForKey } from "./keyask.js";
import { startLock } from "./lock.js";
import { startNotices } from "./notices.js";
import { Options } from "./options.js";
import { ProofPanel } from "./panel.js";
import { startTheme } from "./theme.js";
import { Trust } from "./trust.js";

const WEATHER = {
  name: "get_weather",
  description: "The weather in a city.",
  parameters: {
    type: "object",
    properties: { city: { type: "string" } },
    required: ["city"],
    additionalProperties: false,
  },
};
const ANIMAL = {
  type: "object",
  properties: { kind: { enum: ["cat", "dog", "bird"] }, legs: { type: "integer", minimum: 0, maximum: 8 } },
  required: ["kind", "legs"],
  additionalProperties: false,
};
const STARTERS = [
  { title: "Just ask", text: "Why is the sky blue?", set: {} },
  { title: "Call a tool", text: "What is the weather in Paris?", set: { tools: JSON.stringify([WEATHER], null, 2) } },
  { title: "Answer as JSON", text: "Tom is a cat with four legs.", set: { schema: JSON.stringify(ANIMAL, null, 2) } },
];

findKey();
startTheme();
const trust = new Trust();
const options = new Options(() => composer?.refresh());
const chat = new Chat(trust, options, () => composer.model);
const composer = new Composer({ chat, trust, options });
const panel = new ProofPanel(trust, chat);
startNotices(trust, () => panel.show());
startLock(trust);

byId("starters").append(
  ...STARTERS.map(({ title, text, set }) =>
    h(
      "li",
      {},
      h("button", { type: "button", on: { click: () => start(text, set) } }, h("b", {}, title), h("span", {}, text)),
    ),
  ),
);
byId("clear").append(icon("plus"));
byId("clear").addEventListener("click", () => {
  chat.clear();
  byId("prompt").focus();
});

function start(text, set) {
  options.set(set);
  composer.write(text);
}

/** Ask what is served; with a key, where one is wanted. What went wrong, or nothing. */
async function offer() {
  try {
    composer.offer(await models());
    return null;
  } catch (wrong) {
    if (wrong instanceof ServerError && wrong.status === 401) return wrong.message;
    composer.note(wrong instanceof ServerError ? wrong.message : "The server can't be reached.");
    return null;
  }
}

trust.check();
const refused = await offer();
if (refused) await askForKey(offer, refused.startsWith("Incorrect") ? refused : null);
if (matchMedia("(pointer: fine)").matches) byId("prompt").focus();

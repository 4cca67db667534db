// One answer, put together from the chunks of its stream (OpenAI API, CreateChatCompletionStreamResponse).

import { ServerError } from "./api.js";

/** What was said until now: text, thoughts, a refusal, tool calls, why it ended, tokens. */
export class Answer {
  id = null;
  model = null;
  text = "";
  reasoning = "";
  refusal = "";
  calls = [];
  finish = null;
  usage = null;
  error = null;
  done = false;

  /** Take the data of one event. Throws a SyntaxError where it is no JSON. */
  take(data) {
    if (data === "[DONE]") {
      this.done = true;
      return;
    }
    const chunk = JSON.parse(data);
    if (chunk.error) {
      this.error = new ServerError(200, chunk.error);
      return;
    }
    this.id ??= chunk.id ?? null;
    this.model ??= chunk.model ?? null;
    this.usage = chunk.usage ?? this.usage;
    for (const choice of chunk.choices ?? []) {
      if ((choice.index ?? 0) === 0) this.#choice(choice);
    }
  }

  #choice({ delta = {}, finish_reason: finish }) {
    if (typeof delta.content === "string") this.text += delta.content;
    if (typeof delta.refusal === "string") this.refusal += delta.refusal;
    const thought = delta.reasoning_content ?? delta.reasoning;
    if (typeof thought === "string") this.reasoning += thought;
    for (const call of delta.tool_calls ?? []) this.#call(call);
    if (finish) this.finish = finish;
  }

  #call({ index = 0, id, function: said = {} }) {
    const call = (this.calls[index] ??= { id: id ?? `call_${index}`, name: "", arguments: "" });
    call.id = id ?? call.id;
    call.name += said.name ?? "";
    call.arguments += said.arguments ?? "";
  }

  /** The message for the next request. */
  message() {
    const message = { role: "assistant", content: this.text || (this.calls.length ? null : "") };
    if (this.calls.length) {
      message.tool_calls = this.calls.map((call) => ({
        id: call.id,
        type: "function",
        function: { name: call.name, arguments: call.arguments },
      }));
    }
    return message;
  }
}

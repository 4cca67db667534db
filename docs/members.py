"""The reference pages of the endpoints beside chat completions: what becomes of each member, with each engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from confide.engine.base import COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES
from confide.engine.remote.dialect import DIALECTS
from confide.engine.remote.offers import OFFERS
from confide.engine.textreply import TEXT_PARAMETERS
from confide.wire import messages, responses, texts, vectors

_SCHEMAS: Mapping[str, tuple[Any, type[msgspec.Struct]]] = {
    COMPLETIONS: (texts, texts.CompletionRequest),
    EMBEDDINGS: (vectors, vectors.EmbeddingRequest),
    RESPONSES: (responses, responses.ResponsesRequest),
    MESSAGES: (messages, messages.MessagesRequest),
}

_TEXTS: Mapping[str, str] = {
    COMPLETIONS: """\
```python
client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=32)
```

* `prompt` is a string, a list of strings, a list of token ids, or a list of such lists. Prompts times `n` is at most
  what the model gives at once. llama-server and Ollama take one prompt, Ollama no tokens.
* `max_tokens` is 16 where it isn't given. `best_of` is taken where it is `n`.
* The embedded engine: `echo` needs a prompt of text, and goes without `logprobs`. A list counts as so many choices.
* Sealed requests are taken (ACI E2EE v2): `prompt`, or `prompt.{i}`; of the answer `choices.{i}.text` and everything
  else that is generated is sealed.
""",
    EMBEDDINGS: """\
```python
client.embeddings.create(model=MODEL, input=["one", "two"])
```

* `input` is a string, a list of up to 2048 strings, a list of token ids, or a list of such lists (Ollama: text only).
* The format that was asked for is the one that is given, whatever the engine writes; base64 is of little-endian floats
  of 32 bits. `id` is this server's, by which the older surface finds the signature.
* Sealed requests are taken (ACI E2EE v2): `input`, or `input.{i}`; the answer's `data.{i}.embedding`.
* Models of the embedded engine chat, and give no embeddings. SGLang has no way to keep the caches of tenants apart
  here: not offered.
* llama-server with `--embeddings` goes on chatting. With `--pooling mean`, a model made for chat, and slots with caches
  of their own (`--parallel 4`, build 11549), the vector of a text depends on those that are computed beside it; not so
  with `--pooling last`, or with `--kv-unified`.
""",
    RESPONSES: """\
```python
client.responses.create(model=MODEL, input="Say hello.")
```

* Nothing is stored, here or in the engine, whose store is shared by all who use it: `store` is always sent as `false`.
  `store: true`, `previous_response_id`, `conversation`, `background` and stored `prompt`s are refused by name; give the
  conversation back as `input`.
* `tools` are functions, which the client runs. Tools that run beside the model (`web_search`, `mcp`,
  `code_interpreter`, `file_search`, ...) and custom ones are refused by name. Functions are strict unless they say
  `strict: false`.
* A stream ends with `response.completed`, or `response.incomplete` where `max_output_tokens` cut it short (vLLM calls
  both completed, which is put right), or, where it fails, with an event `error`.
* llama-server's events lack the places that OpenAI's SDKs need, and SGLang's were not looked at: neither is offered.
* `input` has messages (`input_text`, `output_text`, `refusal`, `input_image`), `function_call`, `function_call_output`
  and `reasoning`; references to stored items, files and audio are refused by name. Images are checked and bounded as in
  chat, and never fetched by the engine.
* `include` takes `message.output_text.logprobs`; `reasoning.encrypted_content` is taken and not needed, since reasoning
  is in the answer.
* A stream ends with `response.completed` or `response.incomplete`, or, where it fails, with an event `error`.
* E2EE v2 doesn't define this endpoint, so that sealed requests are refused (`e2ee_unsupported_endpoint`).
""",
    MESSAGES: """\
```python
anthropic.Anthropic(base_url="http://127.0.0.1:8080", api_key=KEY).messages.create(
    model=MODEL, max_tokens=64, messages=[{"role": "user", "content": "Say hello."}]
)
```

* The key may stand in `x-api-key`, where there is no `Authorization`. Errors are Anthropic's:
  `{"type": "error", "error": {"type", "message"}}`.
* Blocks are `text`, `image`, `tool_use`, `tool_result`, `thinking` and `redacted_thinking`. Images are checked and
  bounded as in chat, and never fetched by the engine. Hints about caches (`cache_control`) are ignored.
* `tools` are the client's own (`custom`); Anthropic's (`bash_...`, `web_search_...`), `mcp_servers`, `container` and
  `context_management` are refused by name.
* llama-server and SGLang have this route, and no way on it to keep the prompt caches of tenants apart: not offered.
* A stream ends with `message_stop`, or, where it fails, with an event `error`.
* E2EE v2 doesn't define this endpoint, so that sealed requests are refused (`e2ee_unsupported_endpoint`).
""",
}


def page(path: str) -> str:
    """What becomes of each member of a request, and with which engine."""
    module, schema = _SCHEMAS[path]
    engines = {
        DIALECTS[name].engine: offers[path].members
        for name, offers in OFFERS.items()
        if path in offers and offers[path].separates
    }
    if path == COMPLETIONS:
        engines = {"the embedded engine": TEXT_PARAMETERS} | engines
    rows = ["| member | what becomes of it |", "| --- | --- |"]
    rows += [f"| `{name}` | {_fate(name, module, engines)} |" for name in schema.__struct_fields__]
    return f"""# POST {path}: the members of a request

Offered with {", ".join(engines)}, where the engine has the route; `GET /v1/models` says so of each model
(`endpoints`), and elsewhere the answer is 404 (`endpoint_not_offered`). `null` means absent. Members that aren't
named here are ignored, and no engine is sent one that it isn't known to honour: clients can't set `cache_salt`,
`priority` and their like.

{_TEXTS[path]}
{chr(10).join(rows)}
"""


def _fate(name: str, module: Any, engines: Mapping[str, frozenset[str]]) -> str:
    honouring = [engine for engine, members in engines.items() if name in members]
    if name in module.CORE or len(honouring) == len(engines):
        return "honoured"
    if name in module.HINTS:
        return "a hint: its type is checked, it may be ignored"
    harmless = (
        f", unless it is `{msgspec.json.encode(module.HARMLESS[name]).decode()}`" if name in module.HARMLESS else ""
    )
    if honouring:
        return f"honoured by {', '.join(honouring)}; else refused{harmless}"
    return f"refused{harmless}" if harmless else "refused by name (`unsupported_parameter`)"

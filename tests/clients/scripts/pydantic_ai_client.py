"""pydantic-ai."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field
from pydantic_ai import Agent, ModelHTTPError, NativeOutput, RunContext, ToolDefinition, UsageLimits
from pydantic_ai.messages import ModelResponse, ToolCallPart, ToolReturnPart
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings
from scenarios import API_KEY, BASE_URL, MODEL, main, scenario

SETTINGS = ModelSettings(temperature=0, seed=1, max_tokens=300)
LIMITS = UsageLimits(request_limit=4)


class Report(BaseModel):
    """A weather report."""

    city: Literal["Paris", "Rome"]
    sky: Literal["clear", "clouds"]
    note: str = Field(max_length=10)


def model() -> OpenAIChatModel:
    return OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=BASE_URL, api_key=API_KEY))


async def only_once(context: RunContext[list[str]], definition: ToolDefinition) -> ToolDefinition | None:
    """Offer the tool until it has been called, so that a weak model comes to an end."""
    return None if context.deps else definition


def agent(output: object) -> Agent[list[str], Report]:
    """An agent with one tool, which notes its calls in the dependencies."""
    made = Agent(model(), deps_type=list, output_type=output, model_settings=SETTINGS, retries=3)

    @made.tool(prepare=only_once)
    def get_sky(context: RunContext[list[str]], city: Literal["Paris", "Rome"]) -> str:
        """The sky over a city."""
        context.deps.append(city)
        return "clear"

    return made


@scenario
async def text() -> None:
    result = await Agent(model(), model_settings=SETTINGS | {"max_tokens": 12}).run("Say hello.")
    assert result.output
    assert result.usage.output_tokens > 0
    (response,) = [message for message in result.all_messages() if isinstance(message, ModelResponse)]
    assert response.model_name == MODEL
    assert response.finish_reason in {"stop", "length"}


@scenario
async def text_streamed() -> None:
    async with Agent(model(), model_settings=SETTINGS | {"max_tokens": 12}).run_stream("Say hello.") as result:
        pieces = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
    assert "".join(pieces)
    assert result.usage.output_tokens > 0


@scenario
async def output_by_tool() -> None:
    calls: list[str] = []
    result = await agent(Report).run("Report on Paris. Look at its sky first.", deps=calls, usage_limits=LIMITS)
    assert isinstance(result.output, Report)
    parts = [part for message in result.all_messages() for part in message.parts]
    made = [part for part in parts if isinstance(part, ToolCallPart)]
    returned = {part.tool_call_id for part in parts if isinstance(part, ToolReturnPart)}
    assert made
    assert {part.tool_call_id for part in made} == returned
    assert len([part for part in made if part.tool_name == "get_sky"]) >= len(calls)


@scenario
async def output_by_tool_streamed() -> None:
    async with agent(Report).run_stream("Report on Rome.", deps=[], usage_limits=LIMITS) as result:
        partial = [output async for output in result.stream_output(debounce_by=None)]
        whole = await result.get_output()
    assert isinstance(whole, Report)
    assert partial[-1] == whole


@scenario
async def output_by_schema() -> None:
    # With a tool on offer as well: the model may call it, or answer under the schema.
    calls: list[str] = []
    result = await agent(NativeOutput(Report)).run("Report on Rome.", deps=calls, usage_limits=LIMITS)
    assert isinstance(result.output, Report)


@scenario
async def tool_results_reach_the_model() -> None:
    # Past the first step the tool is gone, and the answer is a text.
    talker = agent(str)
    calls: list[str] = []
    result = await talker.run("How is the sky over Paris?", deps=calls, usage_limits=LIMITS)
    assert isinstance(result.output, str)
    again = await talker.run("And over Rome?", deps=["Rome"], message_history=result.all_messages())
    assert again.output


@scenario
async def errors() -> None:
    stranger = OpenAIChatModel("acme/none", provider=OpenAIProvider(base_url=BASE_URL, api_key=API_KEY))
    caught = None
    try:
        await Agent(stranger).run("Say hello.")
    except ModelHTTPError as error:
        caught = error
    assert caught is not None
    assert caught.status_code == 404
    assert caught.body["code"] == "model_not_found"


main()

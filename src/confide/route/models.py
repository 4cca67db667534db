"""The models that this server serves, and what ``/v1/models`` says of them.

Source: OpenAI API specification, schema ``Model``, and the members that aggregators add (context length, modalities,
supported parameters, endpoints, pricing as decimal strings in USD per token).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec

from confide.engine.base import Engine
from confide.errors import NotFound
from confide.wire.openai import CORE, HINTS

FREE = {"prompt": "0", "completion": "0"}


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model under its public id."""

    id: str
    engine: Engine
    name: str
    description: str = ""
    owned_by: str = "confide"
    aliases: Sequence[str] = ()
    pricing: Mapping[str, str] = field(default_factory=lambda: dict(FREE))
    is_tee: bool = False

    def as_json(self) -> dict[str, Any]:
        """The model object."""
        info = self.engine.info
        return {
            "id": self.id,
            "object": "model",
            "created": info.created,
            "owned_by": self.owned_by,
            "name": self.name,
            "description": self.description,
            "context_length": info.context_length,
            "max_output_length": info.max_output_length,
            "input_modalities": list(info.input_modalities),
            "output_modalities": list(info.output_modalities),
            "supported_parameters": sorted(
                (info.parameters | {"stream", "stream_options"}) - CORE - HINTS | {"stream"}
            ),
            "pricing": dict(self.pricing),
            "is_tee": self.is_tee,
            "providers": [self.owned_by],
            "endpoints": sorted(info.endpoints),
            "metadata": {"engine": info.engine, "engine_version": info.version},
        }


class ModelTable:
    """Looks models up by id or alias."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._models = list(models)
        self._by_name = {name: model for model in models for name in (model.id, *model.aliases)}

    def __iter__(self) -> Any:
        return iter(self._models)

    @cached_property
    def document(self) -> bytes:
        """The body of ``GET /v1/models``, made once: engines have the same for as long as they run."""
        return msgspec.json.encode({"object": "list", "data": [model.as_json() for model in self]})

    def __contains__(self, name: str) -> bool:
        """Whether there is a model of that name."""
        return name in self._by_name

    def find(self, name: str) -> ServedModel:
        """The model of that name.

        Raises:
            NotFound: ``model_not_found``.
        """
        model = self._by_name.get(name)
        if model is None:
            raise NotFound(
                f"The model `{name[:64]}` does not exist or you do not have access to it.",
                param="model",
                code="model_not_found",
            )
        return model

    def offering(self, endpoint: str, name: str) -> ServedModel:
        """The model of that name, if it answers on that path.

        Raises:
            NotFound: ``model_not_found``, or ``endpoint_not_offered``.
        """
        model = self.find(name)
        if endpoint not in model.engine.info.endpoints:
            offered = ", ".join(sorted(model.engine.info.endpoints))
            raise NotFound(
                f"The model '{name}' is not offered on {endpoint}. It is offered on: {offered}.",
                param="model",
                code="endpoint_not_offered",
            )
        return model

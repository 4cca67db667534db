"""From a model's name to the engine that serves it."""

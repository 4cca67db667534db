"""Which metrics there are: the source of ``docs/reference/metrics.md`` too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

_DURATIONS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_WAITS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


@dataclass(frozen=True, slots=True)
class Family:
    """One metric.

    Attributes:
        labels: their names.
        buckets: upper limits, in seconds, of a histogram.
        across: how several processes make one number: their sum, or the most that one of them sees.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    across: Literal["sum", "most"] = "sum"

    @property
    def width(self) -> int:
        """How many numbers a series has: of a histogram one for each bucket, the last one's too, and their sum."""
        return len(self.buckets) + 2 if self.kind == "histogram" else 1


FAMILIES: Final = (
    Family("confide_build_info", "gauge", "1; the label says which version runs.", ("version",), across="most"),
    Family("confide_requests_total", "counter", "Requests that have ended.", ("endpoint", "model", "outcome")),
    Family("confide_requests_in_flight", "gauge", "Requests under way.", ("endpoint",)),
    Family(
        "confide_errors_total",
        "counter",
        "Errors that clients were told, by their code, or by their type where they have none.",
        ("code",),
    ),
    Family(
        "confide_request_duration_seconds",
        "histogram",
        "From the request's head to the end of its answer.",
        ("endpoint", "model"),
        _DURATIONS,
    ),
    Family(
        "confide_time_to_first_byte_seconds",
        "histogram",
        "From the request's head to the first byte of the answer that the engine gave.",
        ("endpoint", "model"),
        _DURATIONS,
    ),
    Family("confide_prompt_tokens_total", "counter", "Tokens of prompts, as the engine counts them.", ("model",)),
    Family("confide_completion_tokens_total", "counter", "Tokens of answers, as the engine counts them.", ("model",)),
    Family("confide_sealed_requests_total", "counter", "Requests that were end-to-end encrypted.", ("endpoint",)),
    Family("confide_receipts_total", "counter", "Receipts, by whether they were committed.", ("result",)),
    Family(
        "confide_commit_wait_seconds",
        "histogram",
        "How long the last bytes of an answer waited for the commit of its receipt.",
        (),
        _WAITS,
    ),
    Family("confide_store_errors_total", "counter", "How often the store could not be asked or written."),
    Family("confide_reports_total", "counter", "Attestation reports that were made.", ("surface",)),
    Family("confide_engine_running", "gauge", "Requests that engines have accepted and are working on.", ("model",)),
    Family("confide_engine_waiting", "gauge", "Requests that wait for a slot of the embedded engine.", ("model",)),
    Family(
        "confide_replicas",
        "gauge",
        "Replicas of an engine in a state; the most that one of the server's processes sees in it.",
        ("model", "state"),
        across="most",
    ),
    Family("confide_replica_failures_total", "counter", "Requests on which a replica failed.", ("model",)),
    Family("confide_replica_ejections_total", "counter", "How often a replica was left alone.", ("model",)),
    Family("confide_replica_retries_total", "counter", "Requests that were given to one more replica.", ("model",)),
)

CODES: Final = (
    "array_above_max_length",
    "context_length_exceeded",
    "decimal_above_max_value",
    "decimal_below_min_value",
    "e2ee_decryption_failed",
    "e2ee_encryption_failed",
    "e2ee_header_missing",
    "e2ee_invalid_nonce",
    "e2ee_invalid_payload_model",
    "e2ee_invalid_public_key",
    "e2ee_invalid_signing_algo",
    "e2ee_invalid_timestamp",
    "e2ee_invalid_version",
    "e2ee_model_key_mismatch",
    "e2ee_replay_detected",
    "e2ee_unsupported_endpoint",
    "empty_array",
    "empty_object",
    "empty_string",
    "endpoint_not_offered",
    "image_parse_error",
    "image_too_large",
    "integer_above_max_value",
    "integer_below_min_value",
    "invalid_api_key",
    "invalid_function_parameters",
    "invalid_image_format",
    "invalid_image_url",
    "invalid_json_schema",
    "invalid_request_error",
    "invalid_type",
    "invalid_value",
    "missing_required_parameter",
    "model_not_found",
    "object_above_max_length",
    "rate_limit_exceeded",
    "request_too_large",
    "requests",
    "server_error",
    "session_not_accepted",
    "string_above_max_length",
    "too_many_images",
    "unsupported_content_encoding",
    "unsupported_content_type",
    "unsupported_parameter",
    "unsupported_value",
    "upstream_error",
)
"""The codes and types that are counted by name; all else is ``other``, since engines may have words of their own."""

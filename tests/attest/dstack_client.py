"""Run by the Python that has ``dstack-sdk``: everything the agent offers, asked by dstack's own client.

Its endpoint comes from the client's own variable, ``DSTACK_SIMULATOR_ENDPOINT``.
"""

import hashlib
import json

from dstack_sdk import DstackClient

client = DstackClient()
assert client.is_reachable()
client.emit_event("from-sdk", b"payload")
quote = client.get_quote(b"data")
info = client.info()
key, other = client.get_key("a", "b"), client.get_key("a", "b", "ed25519")
tls = client.get_tls_key(subject="sdk", alt_names=["sdk.example"], usage_ra_tls=True, not_after=4_000_000_000)
assert len(tls.certificate_chain) == 3
assert len(tls.as_uint8array()) > 100
assert info.compose_hash == hashlib.sha256(info.tcb_info.app_compose.encode()).hexdigest()
print(
    json.dumps(
        {
            "quote": quote.quote,
            "rtmrs": quote.replay_rtmrs(),
            "key": key.key,
            "other": other.key,
            "chain": key.signature_chain,
            "version": client.version().version,
        }
    )
)

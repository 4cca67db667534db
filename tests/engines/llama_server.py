"""llama.cpp's own HTTP server, as xllamacpp's wheel has it, started with the words of ``llama-server``.

The wheel brings the server without its program, and this stands in for that alone: the words that tests use are put
where the program would put them. What listens and answers is llama.cpp.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
from pathlib import Path

import xllamacpp


def main() -> None:
    """Serve until a signal."""
    words = _words()
    params = xllamacpp.CommonParams()
    params.model.path = str(words.model)
    params.model_alias = {words.alias}
    params.hostnames = [words.host]
    params.port = words.port
    params.n_parallel = words.parallel
    params.n_ctx = words.ctx_size
    params.kv_unified = False
    params.cache_ram_mib = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = words.threads
    params.endpoint_metrics = words.metrics
    if words.chat_template_file is not None:
        params.chat_template = words.chat_template_file.read_text()
    if words.mmproj is not None:
        params.mmproj.path = str(words.mmproj)
    if words.embeddings:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type[f"LLAMA_POOLING_TYPE_{words.pooling.upper()}"]
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    threading.Event().wait()


def _words() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="llama-server")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--ctx-size", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--mmproj", type=Path)
    parser.add_argument("--chat-template-file", type=Path)
    parser.add_argument("--metrics", action="store_true")
    parser.add_argument("--embeddings", action="store_true")
    parser.add_argument("--pooling", choices=["mean", "cls", "last"], default="mean")
    return parser.parse_args()


if __name__ == "__main__":
    main()

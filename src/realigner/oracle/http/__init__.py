"""Judges and completions from OpenAI-compatible servers: any vendor, vLLM, llama.cpp, Ollama, `transformers serve`."""

from __future__ import annotations

from realigner.endpoint import Endpoint, open_endpoint
from realigner.oracle.http.build import http_client, http_judge
from realigner.oracle.http.client import ChatClient
from realigner.oracle.http.judge import HttpJudge
from realigner.oracle.http.pace import Limits
from realigner.oracle.http.records import ChatRequest, Completion, ModelSettings
from realigner.oracle.http.retry import Patience

__all__ = [
    "ChatClient",
    "ChatRequest",
    "Completion",
    "Endpoint",
    "HttpJudge",
    "Limits",
    "ModelSettings",
    "Patience",
    "http_client",
    "http_judge",
    "open_endpoint",
]

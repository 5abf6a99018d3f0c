"""Judges and completions from OpenAI-compatible servers: any vendor, vLLM, llama.cpp, Ollama, `transformers serve`."""

from __future__ import annotations

from realigner.oracle.http.client import ChatClient
from realigner.oracle.http.endpoint import Endpoint, open_endpoint
from realigner.oracle.http.pace import Limits
from realigner.oracle.http.records import ChatRequest, Completion, ModelSettings
from realigner.oracle.http.retry import Patience

__all__ = [
    "ChatClient",
    "ChatRequest",
    "Completion",
    "Endpoint",
    "Limits",
    "ModelSettings",
    "Patience",
    "open_endpoint",
]

"""Options that break one rule of a server, and the same options mended. The real servers are asked about them in ``tests/real``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue

Options = Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Broken:
    """One rule: options that break it, at which option the problem stands, and options that do not."""

    options: Options
    at: str
    mended: Options
    warning: bool = False
    here: bool = True
    """Whether a vLLM on a CPU with a small dense model accepts the mended options (some need GPUs, experts or several hosts)."""


_DP: Options = {"data_parallel_size": 2, "data_parallel_rank": 1}

VLLM: list[Broken] = [
    Broken({"enable_log_outputs": True}, "enable_log_outputs", {"enable_log_outputs": True, "enable_log_requests": True}, warning=True),
    Broken({"enable_auto_tool_choice": True}, "enable_auto_tool_choice", {"enable_auto_tool_choice": True, "tool_call_parser": "hermes"}),
    Broken({"enable_per_request_metrics": True, "disable_log_stats": True}, "enable_per_request_metrics", {"disable_log_stats": True}),
    Broken({"max_num_seqs": 64, "max_num_batched_tokens": 32}, "max_num_seqs", {"max_num_seqs": 32, "max_num_batched_tokens": 32}),
    Broken(
        {"enable_chunked_prefill": False, "max_model_len": 512, "max_num_batched_tokens": 256}, "max_model_len",
        {"enable_chunked_prefill": False, "max_model_len": 256, "max_num_batched_tokens": "256"},
    ),
    Broken({"max_num_active_seqs": 10, "max_num_seqs": 4}, "max_num_active_seqs", {"max_num_active_seqs": 4, "max_num_seqs": 4}),
    Broken(
        {"long_prefill_token_threshold": 1024, "max_model_len": 512}, "long_prefill_token_threshold",
        {"long_prefill_token_threshold": 512, "max_model_len": 512},
    ),
    Broken({"enable_lora": True, "max_loras": 4, "max_cpu_loras": 2}, "max_loras", {"max_loras": 4, "max_cpu_loras": 2}),
    Broken({"tensor_parallel_size": 2, "decode_context_parallel_size": 3}, "tensor_parallel_size", {"tensor_parallel_size": 2}),
    Broken({"data_parallel_size": 2, "data_parallel_size_local": 3}, "data_parallel_size_local", {"data_parallel_size": 1}),
    Broken({"data_parallel_size": 2, "data_parallel_rank": 2}, "data_parallel_rank", _DP, here=False),
    Broken(
        {**_DP, "data_parallel_hybrid_lb": True, "data_parallel_external_lb": True}, "data_parallel_hybrid_lb",
        {**_DP, "data_parallel_external_lb": True}, here=False,
    ),
    Broken({"data_parallel_external_lb": True, "data_parallel_size": 2}, "data_parallel_external_lb", _DP, here=False),
    Broken({"enable_fault_tolerance": True}, "enable_fault_tolerance", {**_DP, "enable_fault_tolerance": True}, here=False),
    Broken({"numa_bind_nodes": [0]}, "numa_bind_nodes", {"numa_bind": True, "numa_bind_nodes": [0]}),
    Broken({"numa_bind_cpus": ["0-1"]}, "numa_bind_cpus", {"numa_bind": True, "numa_bind_cpus": ["0-1"]}),
    Broken(
        {"enable_eplb": True, "tensor_parallel_size": 2}, "enable_eplb",
        {"enable_eplb": True, "enable_expert_parallel": True, "tensor_parallel_size": 2}, here=False,
    ),
    Broken(
        {"enable_elastic_ep": True}, "enable_elastic_ep",
        {"enable_elastic_ep": True, "enable_eplb": True, "enable_expert_parallel": True}, here=False,
    ),
    Broken(
        {"spec_tokens": 2, "speculative_config": {"method": "ngram", "num_speculative_tokens": 3}}, "spec_tokens",
        {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3}},
    ),
    Broken({"spec_model": "x", "speculative_config.model": "y"}, "spec_model", {}),
    Broken({"spec_method": "ngram", "speculative_config": '{"method": "ngram", "num_speculative_tokens": 3}'}, "spec_method", {}),
    Broken(
        {"cudagraph_capture_sizes": [1, 2], "compilation_config": {"cudagraph_capture_sizes": [1]}}, "cudagraph_capture_sizes",
        {"compilation_config": {"cudagraph_capture_sizes": [1]}},
    ),
    Broken(
        {"max_cudagraph_capture_size": 4, "compilation_config": {"max_cudagraph_capture_size": 8}}, "max_cudagraph_capture_size",
        {"max_cudagraph_capture_size": 4},
    ),
    Broken(
        {"attention_backend": "CPU_ATTN", "attention_config": {"backend": "CPU_ATTN"}}, "attention_backend",
        {"attention_backend": "CPU_ATTN"},
    ),
    Broken(
        {"enable_flashinfer_autotune": True, "kernel_config": {"enable_flashinfer_autotune": True}}, "enable_flashinfer_autotune",
        {"kernel_config": {"enable_flashinfer_autotune": False}},
    ),
]  # fmt: skip
"""Each was put to vLLM 0.32's own validation and configuration."""

LLAMA_CPP: list[Broken] = [
    Broken(
        {"flash_attn": "off", "cache_type_v": "q8_0"}, "cache_type_v", {"flash_attn": "off", "cache_type_v": "bf16"}
    ),
    Broken({"flash_attn": False, "cache_type_v": "q4_0"}, "cache_type_v", {"flash_attn": True, "cache_type_v": "q4_0"}),
]
"""Each was put to a start of the real server with a small model."""

MLX_LM: list[Broken] = [
    Broken({"kv_group_size": 32}, "kv_group_size", {"kv_group_size": 32, "kv_bits": 4}, warning=True),
    Broken({"quantized_kv_start": 0}, "quantized_kv_start", {"quantized_kv_start": 0, "kv_bits": 4}, warning=True),
    Broken({"num_draft_tokens": 2}, "num_draft_tokens", {"num_draft_tokens": 2, "draft_model": "d"}, warning=True),
]
"""Read in the server's source (0.32.2): it starts, and these have no effect."""

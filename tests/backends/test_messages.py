"""What people get wrong in options, as the loader tells it: where, which option, what it takes, and the nearest right thing.

Each mistake stands alone on the sixth line of a file that is good otherwise. SERVER stands for the program and its version.
"""

# ruff: noqa: E501 - a mistake and what is said of it stand on one line

from __future__ import annotations

import pytest

from reconciler.backends import discover
from reconciler.backends._vocabulary import load
from reconciler.config.load import load_text
from reconciler.config.report import render
from reconciler.core.errors import Problem, Rejected

MISTAKES: list[tuple[str, str, int, str, str | None]] = [
    ('vllm', 'tensor_parallel_size: two', 29, "tensor_parallel_size (--tensor-parallel-size) takes a whole number of at least 1, not 'two'", None),
    ('vllm', 'tensor-parallel-size: 0', 29, 'tensor-parallel-size takes a whole number of at least 1, not 0', None),
    ('vllm', 'tensor_parallel_size: 1.5', 29, 'tensor_parallel_size (--tensor-parallel-size) takes a whole number of at least 1, not 1.5', None),
    ('vllm', 'tensor_parallel_size: 2.0', 29, 'tensor_parallel_size (--tensor-parallel-size) takes a whole number of at least 1, not 2.0', 'write 2'),
    ('vllm', 'tensor_parallel_size: true', 29, 'tensor_parallel_size (--tensor-parallel-size) takes a whole number of at least 1, not true', None),
    ('vllm', 'tensor_parallel_size:', 28, 'tensor_parallel_size (--tensor-parallel-size) has no value; it takes a whole number of at least 1', 'give one, or remove the line'),
    ('vllm', 'tensor_parallel_size: [2]', 29, 'tensor_parallel_size (--tensor-parallel-size) takes one value, not a list', 'write 2 without the brackets'),
    ('vllm', 'tensor_parallel_size: {a: 1}', 29, 'tensor_parallel_size (--tensor-parallel-size) takes a whole number of at least 1, not a mapping', None),
    ('vllm', 'gpu_memory_utilization: 50', 31, 'gpu_memory_utilization (--gpu-memory-utilization) takes a number above 0 and at most 1, not 50', 'did you mean 0.5?'),
    ('vllm', 'gpu_memory_utilization: 90%', 31, "gpu_memory_utilization (--gpu-memory-utilization) takes a number above 0 and at most 1, not '90%'", 'did you mean 0.9?'),
    ('vllm', 'gpu_memory_utilization: "0,9"', 31, "gpu_memory_utilization (--gpu-memory-utilization) takes a number above 0 and at most 1, not '0,9'", 'did you mean 0.9?'),
    ('vllm', 'gpu_memory_utilization: 0', 31, 'gpu_memory_utilization (--gpu-memory-utilization) takes a number above 0 and at most 1, not 0', None),
    ('vllm', 'device-memory-utilization: 1.5', 34, 'device-memory-utilization (--gpu-memory-utilization) takes a number above 0 and at most 1, not 1.5', None),
    ('vllm', 'seed: 32k', 13, "seed takes a whole number, not '32k'", 'write 32768'),
    ('vllm', 'seed: 1,000', 13, "seed takes a whole number, not '1,000'", 'write 1000'),
    ('vllm', 'max_model_len: atuo', 22, "max_model_len (--max-model-len) takes a whole number of at least -1 or auto or a size such as 32k, not 'atuo'", 'did you mean auto?'),
    ('vllm', 'max_model_len: 32 k', 22, "max_model_len (--max-model-len) takes a whole number of at least -1 or auto or a size such as 32k, not '32 k'", 'write 32k'),
    ('vllm', 'dtype: fp16', 14, "dtype takes one of auto, bfloat16, float, float16, float32, half, not 'fp16'", 'did you mean float16?'),
    ('vllm', 'dtype: BFloat16', 14, "dtype takes one of auto, bfloat16, float, float16, float32, half, not 'BFloat16'", 'did you mean bfloat16?'),
    ('vllm', 'dtype: [auto]', 14, 'dtype takes one value, not a list', 'write auto without the brackets'),
    ('vllm', 'enforce_eager: yes', 22, "enforce_eager (--enforce-eager) takes true or false, not 'yes'", 'write true'),
    ('vllm', 'enforce_eager: 1', 22, 'enforce_eager (--enforce-eager) takes true or false, not 1', 'write true'),
    ('vllm', 'enforce_eager: "off"', 22, "enforce_eager (--enforce-eager) takes true or false, not 'off'", 'write false'),
    ('vllm', 'enforce_eager:', 21, 'enforce_eager (--enforce-eager) has no value; it takes true or false', 'give one, or remove the line'),
    ('vllm', 'revision: 12', 17, 'revision takes text, not the number 12', 'put it in quotes: "12"'),
    ('vllm', 'revision: true', 17, 'revision takes text, not true', 'quote it if the word is meant: "true"'),
    ('vllm', 'speculative_config: "{\'model\': \'d\'}"', 27, 'speculative_config (--speculative-config) takes JSON (a YAML mapping or list), and this text is not JSON: it breaks at character 2: expecting property name enclosed in double quotes', 'JSON wants double quotes'),
    ('vllm', 'speculative_config: "{\\"model\\": sk-secret}"', 27, 'speculative_config (--speculative-config) takes JSON (a YAML mapping or list), and this text is not JSON: it breaks at character 11: expecting value', 'write it as a YAML mapping or list'),
    ('vllm', 'compilation_config: 3', 27, 'compilation_config (--compilation-config) takes a mapping (YAML or JSON), not 3', 'write it as a YAML mapping'),
    ('vllm', 'compilation_config: "[1]"', 27, "compilation_config (--compilation-config) takes a mapping (YAML or JSON), not '[1]'", 'write it as a YAML mapping'),
    ('vllm', 'served_model_name: []', 26, 'served_model_name (--served-model-name) takes at least one value', 'remove the line'),
    ('vllm', 'served_model_name: [a, -b]', 30, "served_model_name (--served-model-name) cannot take '-b' in a list: it reads as a flag there", None),
    ('vllm', 'tokenizer: "--"', 18, 'tokenizer cannot take the text --: argparse reads it as the end of all flags', None),
    ('vllm', 'n_gpu_layers: 99', 7, "SERVER has no option 'n_gpu_layers', which is llama-server's", 'vLLM keeps the whole model on the GPU; cpu_offload_gb moves a part of it to the CPU'),
    ('vllm', 'ctx-size: 4096', 7, "SERVER has no option 'ctx-size', which is llama-server's", 'vLLM calls it max_model_len (of one request, not of all together)'),
    ('vllm', 'gpus: [0]', 7, "SERVER has no option 'gpus'", 'tensor_parallel_size says how many GPUs; CUDA_VISIBLE_DEVICES in the environment says which'),
    ('vllm', 'replicas: 2', 7, "SERVER has no option 'replicas': replicas is a setting of the instance", 'move replicas up, beside backend_options'),
    ('vllm', 'environment: {A: b}', 7, "SERVER has no option 'environment': environment is a setting of the instance", 'move environment up, beside backend_options'),
    ('vllm', 'tensor_paralel_size: 2', 7, "SERVER has no option 'tensor_paralel_size'", 'did you mean tensor_parallel_size?'),
    ('vllm', 'task: embed', 7, 'SERVER no longer has task', 'use runner, and convert to turn a generative model into a pooling one'),
    ('vllm', 'no_enforce_eager: true', 7, "SERVER has no option 'no_enforce_eager'", 'write enforce_eager: false'),
    ('vllm', 'api_key: sk-verysecret', 7, '--api-key would show a secret in the process list', 'leave it out: llamactl gives each server a random key of its own, through the environment'),
    ('vllm', 'hf_token: 5', 7, '--hf-token would show a secret in the process list', 'set it in the environment: {HF_TOKEN: "${HF_TOKEN}"}'),
    ('vllm', 'enable_auto_tool_choice: true', 32, 'vLLM refuses to start with enable_auto_tool_choice alone', 'add tool_call_parser: NAME'),
    ('vllm', 'data_parallel_rank: 2', 27, 'data_parallel_rank 2 is not below data_parallel_size 1', 'ranks count from 0'),
    ('vllm', 'watermark: 1', 18, 'watermark takes a number of at least 0 and below 1, not 1', None),
    ('llama_cpp', 'ctx_size: 32k', 17, "ctx_size (--ctx-size) takes a whole number, not '32k'", 'write 32768'),
    ('llama_cpp', 'gpu_layers: alll', 19, "gpu_layers (--gpu-layers) takes a whole number or auto or all, not 'alll'", 'did you mean all?'),
    ('llama_cpp', 'flash_attn: yes', 19, "flash_attn (--flash-attn) takes one of on, off, auto, not 'yes'", 'did you mean on?'),
    ('llama_cpp', 'cache_type_k: q8', 21, "cache_type_k (--cache-type-k) takes one of f32, f16, bf16, q8_0, q4_0, q4_1, iq4_nl, q5_0, q5_1, not 'q8'", 'did you mean q8_0?'),
    ('llama_cpp', 'cache_type_v: {a: 1}', 21, 'cache_type_v (--cache-type-v) takes one of f32, f16, bf16, q8_0, q4_0, q4_1, iq4_nl, q5_0, q5_1, not a mapping', None),
    ('llama_cpp', 'max_model_len: 4096', 7, "SERVER has no option 'max_model_len', which is vllm serve's", 'llama-server calls it ctx_size (of all slots together)'),
    ('llama_cpp', 'no_mmap: true', 7, 'SERVER no longer has no_mmap', 'use load_mode: none'),
    ('llama_cpp', 'draft: 4', 7, 'SERVER no longer has --draft', 'use spec_draft_n_max or spec_ngram_mod_n_max'),
    ('llama_cpp', 'prio: 5', 13, 'prio takes a whole number from -1 to 3, not 5', None),
    ('llama_cpp', 'control_vector_layer_range: [1]', 35, 'control_vector_layer_range (--control-vector-layer-range) takes 2 values, not 1', None),
    ('llama_cpp', 'control_vector_layer_range: 3', 35, 'control_vector_layer_range (--control-vector-layer-range) takes 2 values, not 1', None),
    ('llama_cpp', 'lora: ["a,b"]', 14, "lora cannot take 'a,b' in a list: it is joined by commas", None),
    ('llama_cpp', 'n-gpu-layers: many', 21, "n-gpu-layers (--gpu-layers) takes a whole number or auto or all, not 'many'", None),
    ('llama_cpp', 'repeat_penalty: 0', 23, 'repeat_penalty (--repeat-penalty) takes a number above 0, not 0', None),
    ('llama_cpp', 'ngl: 99', 7, "SERVER has no option 'ngl'", 'did you mean gpu_layers?'),
    ('llama_cpp', 'ctx: 4096', 7, "SERVER has no option 'ctx'", 'did you mean ctx_size?'),
    ('llama_cpp', 'n_ctx: 4096', 7, "SERVER has no option 'n_ctx'", 'did you mean ctx_size?'),
    ('llama_cpp', 'context: 4096', 7, "SERVER has no option 'context'", 'llama-server calls it ctx_size (of all slots together)'),
    ('llama_cpp', 'tp: 2', 7, "SERVER has no option 'tp', which is vllm serve's", 'llama-server spreads a model over all GPUs by itself; see split_mode and tensor_split'),
    ('vllm', 'tp: 2', 7, "SERVER has no option 'tp'", 'did you mean tensor_parallel_size?'),
    ('vllm', 'ngl: 2', 7, "SERVER has no option 'ngl', which is llama-server's", 'vLLM keeps the whole model on the GPU; cpu_offload_gb moves a part of it to the CPU'),
    ('vllm', 'gpu_util: 0.5', 7, "SERVER has no option 'gpu_util'", 'did you mean gpu_memory_utilization?'),
    ('vllm', 'max_len: 5', 7, "SERVER has no option 'max_len'", 'vLLM calls it max_model_len'),
    ('vllm', 'quant: awq', 7, "SERVER has no option 'quant'", 'did you mean quantization?'),
    ('llama_cpp', 'model_path: x', 7, "SERVER has no option 'model_path'", 'did you mean model?'),
    ('llama_cpp', 'temp: hot', 13, "temp takes a number, not 'hot'", None),
    ('mlx_lm', 'prompt_cache_bytes: -1', 27, 'prompt_cache_bytes (--prompt-cache-bytes) takes a whole number of at least 0 or a size such as 2GB, not -1', None),
    ('mlx_lm', 'prompt_cache_bytes: 2 gib', 27, "prompt_cache_bytes (--prompt-cache-bytes) takes a whole number of at least 0 or a size such as 2GB, not '2 gib'", 'write 2g'),
    ('mlx_lm', 'log_level: debug', 18, "log_level (--log-level) takes one of DEBUG, INFO, WARNING, ERROR, CRITICAL, not 'debug'", 'did you mean DEBUG?'),
    ('mlx_lm', 'ctx_size: 5', 7, "SERVER has no option 'ctx_size', which is llama-server's", "mlx_lm.server has no limit of its own: the context is the model's"),
    ('mlx_lm', 'top_p: "0.9 "', 14, "top_p (--top-p) takes a number, not '0.9 '", 'write 0.9'),
    ('mlx_lm', 'chat_template_args: "{enable_thinking: false}"', 27, 'chat_template_args (--chat-template-args) takes JSON (a YAML mapping or list), and this text is not JSON: it breaks at character 2: expecting property name enclosed in double quotes', 'write it as a YAML mapping or list'),
]  # fmt: skip
"""Backend, the line, the column, the message, the hint."""
FILE = "instances:\n  a:\n    backend_type: {kind}\n    backend_options:\n      model: m\n      {line}\n"


def told(kind: str, line: str) -> Problem:
    """The one problem of a file with this line among the options."""
    text = FILE.format(kind=kind, line=line)
    with pytest.raises(Rejected) as caught:
        load_text(text.encode(), name="f.yaml", backends=discover(), environ={})
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize(("kind", "line", "column", "message", "hint"), MISTAKES)
def test_a_mistake_is_told_with_its_place_and_its_cure(
    kind: str, line: str, column: int, message: str, hint: str | None
) -> None:
    problem = told(kind, line)
    vocabulary = load(kind)
    assert (problem.file, problem.line, problem.column) == ("f.yaml", 6, column)
    assert problem.message == message.replace("SERVER", f"{vocabulary.program} {vocabulary.version}")
    assert problem.hint == hint


def test_the_table_is_large_enough() -> None:
    assert len(MISTAKES) >= 60


def test_the_caret_stands_under_the_wrong_value() -> None:
    lines = render([told("vllm", "gpu_memory_utilization: 50")]).splitlines()
    assert lines[0].startswith(
        "f.yaml:6:31: error: gpu_memory_utilization (--gpu-memory-utilization) takes a number above 0 and at most 1, not 50"
    )
    line, caret = next((text, lines[at + 1]) for at, text in enumerate(lines) if "utilization: 50" in text)
    assert line[caret.index("^")] == "5"


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("vllm", "api_key: sk-verysecret"),
        ("vllm", "api-key: [sk-verysecret, 5]"),
        ("vllm", "hf_token: sk-verysecret"),
        ("llama_cpp", "api_key: 'sk-verysecret,--x'"),
        ("llama_cpp", "hf_token: {a: sk-verysecret}"),
        ("llama_cpp", "api_key_file: sk-verysecret"),
        ("vllm", "speculative_config: '{\"token\": sk-verysecret}'"),
        ("vllm", "kv_transfer_config: ['sk-verysecret']"),
    ],
)
def test_no_message_repeats_a_secret(kind: str, line: str) -> None:
    problem = told(kind, line)
    assert "verysecret" not in problem.message + (problem.hint or "")

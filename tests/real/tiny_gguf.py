"""Write the model that ``tiny_model.py`` made as one GGUF file: ``python tiny_gguf.py MODEL_DIR OUT.gguf``.

Runs under the mlx_lm venv's python (numpy, safetensors, gguf). The weights are the same, float32, so greedy output
equals that of the other two servers when llama-server runs with ``-ctk f32 -ctv f32 -fa off``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gguf  # type: ignore[import-not-found]  # in the mlx_lm venv
import numpy as np  # type: ignore[import-not-found]  # these packages live in the mlx_lm venv
from safetensors.numpy import load_file  # type: ignore[import-not-found]  # in the mlx_lm venv

OUTER_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def interleave_rotary(weight: Any, heads: int) -> Any:
    """From Hugging Face's rotary layout (two halves of a head) to llama.cpp's (pairs side by side)."""
    rows = weight.shape[0]
    halves = weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def renamed(name: str) -> str:
    """A tensor's GGUF name; KeyError for one that this architecture does not have."""
    if name in OUTER_NAMES:
        return OUTER_NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{LAYER_NAMES[rest.removesuffix('.weight')]}.weight"


def write_tokenizer(writer: Any, tokenizer: dict[str, Any], configuration: dict[str, Any]) -> None:
    """Tokens in the order of their ids, their kinds, and the merges."""
    tokens = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    if [index for _, index in tokens] != list(range(configuration["vocab_size"])):
        raise SystemExit("cannot write GGUF: the tokenizer's ids have holes")
    special = {token["content"] for token in tokenizer["added_tokens"]}
    kinds = (gguf.TokenType.NORMAL, gguf.TokenType.CONTROL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([token for token, _ in tokens])
    writer.add_token_types([kinds[token in special] for token, _ in tokens])
    writer.add_token_merges(
        [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    )
    writer.add_bos_token_id(configuration["bos_token_id"])
    writer.add_eos_token_id(configuration["eos_token_id"])
    writer.add_add_bos_token(False)


def write_shape(writer: Any, configuration: dict[str, Any]) -> None:
    """The architecture's numbers."""
    writer.add_name("tiny-random")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(configuration["max_position_embeddings"])
    writer.add_embedding_length(configuration["hidden_size"])
    writer.add_block_count(configuration["num_hidden_layers"])
    writer.add_feed_forward_length(configuration["intermediate_size"])
    writer.add_head_count(configuration["num_attention_heads"])
    writer.add_head_count_kv(configuration["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(configuration["rms_norm_eps"])
    writer.add_rope_freq_base(configuration["rope_theta"])
    writer.add_rope_dimension_count(configuration["head_dim"])
    writer.add_vocab_size(configuration["vocab_size"])


def main(source: Path, target: Path) -> None:
    """Convert one model."""
    configuration = json.loads((source / "config.json").read_text())
    writer = gguf.GGUFWriter(str(target), "llama")
    write_shape(writer, configuration)
    write_tokenizer(writer, json.loads((source / "tokenizer.json").read_text()), configuration)
    writer.add_chat_template(json.loads((source / "tokenizer_config.json").read_text())["chat_template"])
    rotary_heads = {"q_proj": configuration["num_attention_heads"], "k_proj": configuration["num_key_value_heads"]}
    for name, loaded in load_file(source / "model.safetensors").items():
        weight = np.ascontiguousarray(loaded, dtype=np.float32)
        for projection, heads in rotary_heads.items():
            if name.endswith(f".{projection}.weight"):
                weight = interleave_rotary(weight, heads)
        writer.add_tensor(renamed(name), weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    sys.stdout.write(f"{target}: {target.stat().st_size} bytes\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

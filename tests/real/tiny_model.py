"""Write a tiny random-weight Llama model in Hugging Face layout: ``python tiny_model.py OUTDIR [--hidden N ...]``.

Runs under the mlx_lm venv's python (numpy, tokenizers, safetensors); no torch, no network, the same bytes every time.
The text it produces is nonsense but printable, and by default it never stops by itself, so that a request runs to its
``max_tokens`` and a stream stays open for as long as a test wants.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np  # type: ignore[import-not-found]  # these packages live in the mlx_lm venv
from safetensors.numpy import save_file  # type: ignore[import-not-found]  # in the mlx_lm venv
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # type: ignore[import-not-found]  # in the mlx_lm venv

ROLES = ("system", "user", "assistant", "tool")
SPECIALS = ("<|bos|>", "<|eos|>", *(f"<|{role}|>" for role in ROLES), "<|end|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SENTENCES = (
    "A reconciler compares what should run with what does run, and then closes the gap.",
    "The server loads its weights, opens a port, answers its health check and waits for requests.",
    "Tell me how a small model streams its answer, one token after another, until it is done.",
    "When a file is saved, only the process that changed is replaced; the others never notice.",
    "Hello there! Is anybody listening? Yes: one, two, three, four, five, six, seven, eight.",
    "def total(values): return sum(value for value in values if value > 0)",
)

CONSTANT_CHANNEL_INPUT = 8.0
"""Value of residual channel 0 for every token. No layer adds to that channel, so after the last norm it is still a
positive number, about 4 to 6, and the first column of the output matrix acts as a bias per token."""
CONSTANT_CHANNEL_OUTPUT = 4.5
NEVER = -30.0
"""A logit bias that keeps a token from being chosen in practice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of the model; the defaults make 0.5 MB."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    context: int
    end_bias: float
    seed: int


def train_tokenizer(size: int) -> Tokenizer:
    """A byte-level BPE over a few sentences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIALS),
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(SENTENCES * 4, trainer)
    return tokenizer


def output_bias(tokenizer: Tokenizer, end_bias: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Per-token logit bias: nothing for printable ASCII, NEVER for the rest, ``end_bias`` for the end of text."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    bias = np.full(len(vocabulary), NEVER, np.float32)
    for token, index in vocabulary.items():
        text = tokenizer.decode([index], skip_special_tokens=False)
        if token not in SPECIALS and text and all(" " <= character <= "~" for character in text):
            bias[index] = 0.0
    bias[vocabulary["<|eos|>"]] = end_bias
    return bias


def make_weights(shape: Shape, bias: np.ndarray[Any, np.dtype[np.float32]]) -> dict[str, Any]:
    """All tensors of the model, float32, under Hugging Face's names."""
    generator = np.random.default_rng(shape.seed)
    width, head = shape.hidden, shape.hidden // shape.heads

    def random(rows: int, columns: int, scale: float | None = None) -> Any:
        spread = np.float32(columns**-0.5 if scale is None else scale)
        return generator.standard_normal((rows, columns)).astype(np.float32) * spread

    embedding = random(len(bias), width, 1.0)
    embedding[:, 0] = CONSTANT_CHANNEL_INPUT
    tensors: dict[str, Any] = {"model.embed_tokens.weight": embedding, "model.norm.weight": np.ones(width, np.float32)}
    for layer in range(shape.layers):
        attention_out, mlp_down = random(width, width), random(width, shape.feed_forward)
        attention_out[0] = mlp_down[0] = 0.0  # nothing is ever added to the constant channel
        tensors |= {
            f"model.layers.{layer}.{name}.weight": value
            for name, value in {
                "input_layernorm": np.ones(width, np.float32),
                "post_attention_layernorm": np.ones(width, np.float32),
                "self_attn.q_proj": random(shape.heads * head, width),
                "self_attn.k_proj": random(shape.kv_heads * head, width),
                "self_attn.v_proj": random(shape.kv_heads * head, width),
                "self_attn.o_proj": attention_out,
                "mlp.gate_proj": random(shape.feed_forward, width),
                "mlp.up_proj": random(shape.feed_forward, width),
                "mlp.down_proj": mlp_down,
            }.items()
        }
    output = random(len(bias), width, 0.5)
    output[:, 0] = bias / CONSTANT_CHANNEL_OUTPUT
    return tensors | {"lm_head.weight": output}


def write_configuration(target: Path, tokenizer: Tokenizer, shape: Shape) -> None:
    """config.json, generation_config.json and the tokenizer's two files."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    ends = {"bos_token_id": vocabulary["<|bos|>"], "eos_token_id": vocabulary["<|eos|>"]}
    files: dict[str, dict[str, Any]] = {
        "config.json": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "torch_dtype": "float32",
            "vocab_size": len(vocabulary),
            "max_position_embeddings": shape.context,
            "hidden_size": shape.hidden,
            "intermediate_size": shape.feed_forward,
            "hidden_act": "silu",
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.hidden // shape.heads,
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": False,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            **ends,
        },
        "generation_config.json": {"do_sample": True, **ends},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": shape.context,
            "bos_token": "<|bos|>",
            "eos_token": "<|eos|>",
            "pad_token": "<|eos|>",
            "additional_special_tokens": list(SPECIALS[2:]),
            "add_bos_token": False,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
    }
    for name, content in files.items():
        (target / name).write_text(json.dumps(content, indent=1) + "\n")
    tokenizer.save(str(target / "tokenizer.json"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the model; the sizes can be raised to get one that takes visible time to load (see ``--help``)."""
    parser = argparse.ArgumentParser(
        description="Write a tiny random Llama model.",
        epilog="490 MB, visibly loading: --hidden 1024 --feed-forward 4096 --layers 8 --heads 16 --kv-heads 4",
    )
    parser.add_argument("target", type=Path)
    for name, default in {
        "vocabulary": 384,
        "hidden": 64,
        "layers": 2,
        "heads": 2,
        "kv-heads": 1,
        "feed-forward": 128,
        "context": 65536,
        "seed": 0,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument(
        "--end-bias", type=float, default=NEVER, help="logit bias of the end of text; 0: as likely as any"
    )
    options = vars(parser.parse_args(arguments))
    target: Path = options.pop("target")
    shape = Shape(**options)
    target.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(shape.vocabulary)
    write_configuration(target, tokenizer, shape)
    weights = make_weights(shape, output_bias(tokenizer, shape.end_bias))
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    sys.stdout.write(f"{target}: {sum(tensor.nbytes for tensor in weights.values())} bytes of weights\n")


if __name__ == "__main__":
    main()

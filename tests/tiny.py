"""A tiny random target for tests: the real file formats at the smallest size that every engine accepts.

Four Llama layers, hidden size 64, two heads of 32 (smaller heads crash CPU attention kernels), one token per byte,
ChatML template. The same seed gives the same bytes. Only printable ASCII, newline and the end of turn have a row in the
output head: what it generates is nonsense, but text and tokens translate into each other without loss.
"""

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END_OF_TURN = SPECIAL.index("<|im_end|>")
VOCAB_SIZE = len(SPECIAL) + 256
HIDDEN_SIZE = 64
NUM_LAYERS = 4
AUX_LAYERS = (1, 2, 3)
"""Layers for a drafter: the usual early, middle and late ones coincide in so shallow a model."""
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer() -> Tokenizer:
    """One token per byte, ids 3…258; the special tokens have ids 0…2."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer


def build_tiny(folder: Path, seed: int = 0) -> Path:
    """Write the target into `folder` (made if absent, about 1 MB) and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=HIDDEN_SIZE,
        intermediate_size=2 * HIDDEN_SIZE,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=2048,
        initializer_range=0.1,
        tie_word_embeddings=False,
        bos_token_id=SPECIAL.index("<|im_start|>"),
        eos_token_id=END_OF_TURN,
        pad_token_id=END_OF_TURN,
        architectures=["LlamaForCausalLM"],
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        printable = torch.tensor(tokenizer.encode("".join(map(chr, range(32, 127))) + "\n<|im_end|>").ids)
        head = torch.zeros_like(model.lm_head.weight)
        head[printable] = 0.5 * torch.randn(len(printable), HIDDEN_SIZE)
        model.lm_head.weight.copy_(head)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": "<|im_start|>",
                "eos_token": "<|im_end|>",
                "pad_token": "<|im_end|>",
                "model_max_length": 2048,
                "clean_up_tokenization_spaces": False,
            },
            indent=1,
        )
    )
    return folder

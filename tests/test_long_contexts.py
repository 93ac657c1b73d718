"""Thousands of positions behind a longrope's original context: a unit in the last place of a frequency is a phase of 5e-4 at
position 8192, which tests of a few dozen tokens do not show. transformers is the reference.
"""
from __future__ import annotations

import json
from pathlib import Path

import families
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import converter
import pyllama

N = 4000


def phi3_config() -> dict[str, object]:
    """A tiny Phi-3 with factors like those of its published long-context models."""
    long = [1.08, 1.11, 1.14, 1.34, 1.59, 1.6, 1.62, 2.62, 3.23, 3.23, 4.79, 7.4, 7.7, 9.09, 12.2, 17.67,
            *np.linspace(24.46, 64.3, 32).round(2)]
    short = [1.0, 1.02, 1.03, 1.03, *[1.05] * 5, 1.07, 1.1, 1.11, 1.16, *np.linspace(1.2, 2.8, 35).round(2)]
    return {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "hidden_size": 192, "num_attention_heads": 2,
            "num_key_value_heads": 2, "intermediate_size": 128, "num_hidden_layers": 3, "vocab_size": 203, "hidden_act": "silu",
            "rms_norm_eps": 1e-5, "rope_theta": 1e4, "max_position_embeddings": 131072, "original_max_position_embeddings": 2048,
            "rope_scaling": {"type": "longrope", "long_factor": long, "short_factor": short}, "sliding_window": None,
            "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def test_longrope_thousands_of_positions_on(tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    folder.mkdir()
    text = json.dumps(phi3_config())
    (folder / "config.json").write_text(text)
    made = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).float()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, values in sorted(made.state_dict().items()):
            values.copy_(families.random_values(name, tuple(values.shape), generator, False, 192))
    made.save_pretrained(folder)
    (folder / "config.json").write_text(text)
    ids = np.random.default_rng(0).integers(0, 203, N).tolist()
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
    with torch.inference_mode():
        expected = reference(torch.tensor([ids]), use_cache=False).logits[0].numpy()
    converter.convert(folder, tmp_path / "m.bin", format="ak42-v3")
    with pyllama.Model(tmp_path / "m.bin") as model, model.session(n_ctx=N) as session:
        logits = np.concatenate([session.eval(ids[at:at + 512], all_logits=True) for at in range(0, N, 512)])
    assert np.abs(logits - expected).max() < 1e-3

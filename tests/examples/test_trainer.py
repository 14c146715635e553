"""The transformers `Trainer` with a placement from a file: nothing of the loop is ours."""

from pathlib import Path
from typing import Any

import torch
from tests.examples.test_causal_lm import TOKENS, gpt2
from tests.examples.training import STEPS, equal, library, regions

from rematbench import Placement, applied, outline

transformers = library("transformers")
library("accelerate")


def trained(model: Any, folder: Path) -> dict[str, torch.Tensor]:
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=2,
        learning_rate=1e-3,
        seed=3,
        use_cpu=True,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
    )
    rows = [{"input_ids": row, "labels": row} for row in TOKENS]
    transformers.Trainer(model=model, args=arguments, train_dataset=rows).train()
    return model.state_dict()


def test_the_trainer_under_a_loaded_placement(tmp_path: Path) -> None:
    model, plain = gpt2(), gpt2()
    wanted = trained(plain, tmp_path)
    path = tmp_path / "plan.json"
    made = regions("transformer.h[0:2]", "transformer.h[2]")
    made.model_copy(update={"fingerprint": outline(model).fingerprint}).save(path)
    with applied(model, Placement.load(path)) as handle:
        assert handle.blocks == ("transformer.h.0", "transformer.h.1", "transformer.h.2")
        assert equal(trained(model, tmp_path), wanted)

"""All networks of the zoo, by name. Their modules import no library but torch until a network is built."""

from __future__ import annotations

from importlib import import_module

from tests.zoo.network import REGISTERED, Network

MODULES = ("by_hand", "torchvision_nets", "timm_nets", "transformers_nets", "diffusers_peft_nets", "other_nets")

for _module in MODULES:
    import_module(f"tests.zoo.{_module}")

NETWORKS: dict[str, Network] = dict(REGISTERED)

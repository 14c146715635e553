"""Imported before any library that imports torchvision; see `declare_operators`."""

from tests.zoo.network import declare_operators

declare_operators()

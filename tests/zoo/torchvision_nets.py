"""Networks of torchvision, from their classes with small sizes. It has no checkpointing of its own but in DenseNet."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from tests.zoo.network import Made, images, network, package
from torch import nn

vision = partial(network, library="torchvision")


def _models(name: str = "") -> Any:
    return package(f"torchvision.models{name}")


def _three_stages(model: Any, width: int) -> Any:
    """Take the last and widest stage out, whose weights would outweigh the activations of small images."""
    model.layer4, model.fc = nn.Identity(), nn.Linear(width, 10)
    return model


def _sum(losses: Any) -> torch.Tensor:
    return torch.stack([value.mean() for value in losses.values()]).sum()


@vision("stages by name", "in-place activation")
def resnet18() -> Made:
    models = _models(".resnet")
    return _three_stages(models.ResNet(models.BasicBlock, [2, 2, 2, 2]), 256), (images(),)


@vision("stages by name", "in-place activation")
def resnet50() -> Made:
    models = _models(".resnet")
    model = models.ResNet(models.Bottleneck, [2, 2, 2, 1], width_per_group=32)
    return _three_stages(model, 1024), (images(),)


@vision(
    "in-place activation",
    "in-place view",
    "skips",
    own=lambda model: _save_memory(model),
    own_call="memory_efficient=True",
)
def densenet() -> Made:
    model = _models().DenseNet(growth_rate=16, block_config=(4, 6, 4), num_init_features=32, num_classes=10)
    return model, (images(),)


def _save_memory(model: Any) -> None:
    for layer in model.modules():
        if hasattr(layer, "memory_efficient"):
            layer.memory_efficient = True


@vision("parallel branches", "auxiliary head", "stages by name")
def googlenet() -> Made:
    return _models().GoogLeNet(num_classes=10, aux_logits=True, init_weights=False), (images(4, 96),)


@vision("parallel branches", "stages by name")
def inception_v3() -> Made:
    model = _models().Inception3(num_classes=10, aux_logits=False, init_weights=False)
    return model, (images(4, 96),)


@vision("split channels", "in-place activation", "stages by name")
def shufflenet_v2() -> Made:
    return _models().shufflenet_v2_x0_5(num_classes=10), (images(8),)


@vision("in-place activation", "chains in chains")
def mobilenet_v2() -> Made:
    return _models().mobilenet_v2(num_classes=10, width_mult=0.5), (images(8),)


@vision("in-place activation", "chains in chains")
def mobilenet_v3() -> Made:
    return _models().mobilenet_v3_small(num_classes=10), (images(8),)


@vision("chains in chains", "in-place activation", "layer drop")
def efficientnet_b0() -> Made:
    return _models().efficientnet_b0(num_classes=10), (images(4),)


@vision("chains in chains", "layer drop")
def convnext() -> Made:
    models = _models(".convnext")
    setting = [models.CNBlockConfig(24, 48, 2), models.CNBlockConfig(48, 96, 2), models.CNBlockConfig(96, None, 4)]
    return models.ConvNeXt(setting, num_classes=10), (images(),)


@vision("chains in chains", "layer drop")
def maxvit() -> Made:
    model = _models().MaxVit(
        input_size=(64, 64),
        stem_channels=16,
        partition_size=4,
        block_channels=[16, 32],
        block_layers=[2, 2],
        head_dim=8,
        stochastic_depth_prob=0.1,
        num_classes=10,
    )
    return model, (images(),)


@vision("chains in chains", "layer drop")
def swin() -> Made:
    model = _models().SwinTransformer(
        patch_size=[2, 2], embed_dim=24, depths=[2, 4, 2], num_heads=[2, 4, 8], window_size=[4, 4], num_classes=10
    )
    return model, (images(),)


@vision("plain chain")
def vit() -> Made:
    model = _models().VisionTransformer(
        image_size=64, patch_size=8, num_layers=6, num_heads=4, hidden_dim=96, mlp_dim=192, num_classes=10
    )
    return model, (images(),)


@vision("chains in chains", "in-place activation")
def regnet() -> Made:
    return _models().regnet_y_400mf(num_classes=10), (images(),)


@vision("chains in chains", "in-place activation")
def mnasnet() -> Made:
    return _models().MNASNet(0.5, num_classes=10), (images(8),)


@vision("parallel branches", "in-place activation")
def squeezenet() -> Made:
    return _models().squeezenet1_1(num_classes=10), (images(8),)


@vision("in-place activation", "plain chain")
def vgg_bn() -> Made:
    models = _models(".vgg")
    model = models.VGG(models.make_layers([16, "M", 32, "M", 64, 64, "M", 128, 128], batch_norm=True))
    model.avgpool, model.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(128, 10)
    return model, (images(8),)


@vision("auxiliary head", "in-place activation")
def deeplab() -> Made:
    model = _models(".segmentation").deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=4, aux_loss=True
    )
    return model, (images(),)


@vision("parallel branches", "in-place activation")
def lraspp() -> Made:
    model = _models(".segmentation").lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
    return model, (images(),)


def _pyramid() -> Any:
    """The features of three small stages, at the levels of a pyramid."""
    utils, ops = _models("._utils"), package("torchvision.ops")
    resnet = _three_stages(_models(".resnet").ResNet(_models(".resnet").BasicBlock, [2, 2, 2, 2]), 256)

    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = utils.IntermediateLayerGetter(resnet, {"layer1": "0", "layer2": "1", "layer3": "2"})
            self.fpn = ops.FeaturePyramidNetwork([64, 128, 256], 64)
            self.out_channels = 64

        def forward(self, x: torch.Tensor) -> Any:
            return self.fpn(self.body(x))

    return Pyramid()


def _anchors() -> Any:
    generator = package("torchvision.models.detection.anchor_utils").AnchorGenerator
    return generator(sizes=((16,), (32,), (64,)), aspect_ratios=((1.0,),) * 3)


def _detection_batch() -> tuple[Any, ...]:
    boxes = torch.tensor([[4.0, 4.0, 30.0, 30.0], [20.0, 16.0, 60.0, 56.0]])
    targets = [{"boxes": boxes.clone(), "labels": torch.tensor([1, 2])} for _ in range(2)]
    return [torch.rand(3, 64, 64) for _ in range(2)], targets


@vision("feature pyramid", "in-place activation", "stages by name")
def retinanet() -> Made:
    model = _models(".detection").RetinaNet(
        _pyramid(), num_classes=3, anchor_generator=_anchors(), min_size=64, max_size=64
    )
    return model, _detection_batch(), _sum


@vision("feature pyramid", "in-place activation", "stages by name")
def fcos() -> Made:
    model = _models(".detection").FCOS(_pyramid(), num_classes=3, anchor_generator=_anchors(), min_size=64, max_size=64)
    return model, _detection_batch(), _sum


@vision("module called several times", "two encoders", "in-place activation")
def raft() -> Made:
    """Two images through one encoder, and an update block called once for every refinement."""
    model = _models(".optical_flow").raft_small(weights=None)
    return model, (torch.rand(1, 3, 128, 128), torch.rand(1, 3, 128, 128))


@vision("chains in chains", "stages by name", "in-place activation")
def video_resnet() -> Made:
    models = _models(".video.resnet")
    model = models.VideoResNet(models.BasicBlock, [models.Conv3DSimple] * 4, [1, 1, 1, 1], models.BasicStem)
    return _three_stages(model, 256), (torch.randn(1, 3, 8, 32, 32),)

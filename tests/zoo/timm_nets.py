"""Networks of timm, with small sizes, checkpointed by `set_grad_checkpointing()`."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.zoo.network import Made, images, network, package

timm = partial(network, library="timm")
checkpointed = partial(timm, own=lambda model: model.set_grad_checkpointing(), own_call="set_grad_checkpointing()")


def _made(name: str, **sizes: Any) -> Any:
    return package("timm").create_model(name, pretrained=False, num_classes=10, **sizes)


@checkpointed("plain chain")
def vit() -> Made:
    return _made("vit_tiny_patch16_224", img_size=64, patch_size=8, embed_dim=96, depth=8), (images(),)


@checkpointed("plain chain")
def beit() -> Made:
    return _made("beit_base_patch16_224", img_size=64, patch_size=8, embed_dim=96, depth=6, num_heads=4), (images(),)


@checkpointed("plain chain")
def eva02() -> Made:
    return _made("eva02_tiny_patch14_224", img_size=64, patch_size=8, embed_dim=96, depth=6, num_heads=4), (images(),)


@checkpointed("chains in chains")
def swin() -> Made:
    sizes: dict[str, Any] = {"embed_dim": 24, "depths": (2, 4, 2), "num_heads": (2, 4, 8)}
    return _made("swin_tiny_patch4_window7_224", img_size=64, patch_size=2, window_size=4, **sizes), (images(),)


@checkpointed("chains in chains")
def convnext() -> Made:
    return _made("convnext_atto", dims=(24, 48, 96, 128), depths=(2, 2, 4, 2)), (images(),)


@checkpointed("chains in chains")
def maxvit() -> Made:
    maxxvit = package("timm.models.maxxvit")
    conv, transformer = maxxvit.MaxxVitConvCfg(), maxxvit.MaxxVitTransformerCfg(dim_head=8, window_size=(4, 4))
    config = maxxvit.MaxxVitCfg(
        embed_dim=(16, 32),
        depths=(2, 2),
        block_type=("M", "M"),
        stem_width=16,
        conv_cfg=conv,
        transformer_cfg=transformer,
    )
    return maxxvit.MaxxVit(config, img_size=64, num_classes=10), (images(),)


@checkpointed("chains in chains", "in-place activation")
def efficientnet_b0() -> Made:
    return _made("efficientnet_b0"), (images(),)


@checkpointed("chains in chains", "in-place activation")
def mobilenet_v3() -> Made:
    return _made("mobilenetv3_small_100"), (images(8),)


@checkpointed("plain chain")
def mixer() -> Made:
    mixer = package("timm.models.mlp_mixer").MlpMixer
    return mixer(num_classes=10, img_size=64, patch_size=8, embed_dim=96, num_blocks=6), (images(),)


@checkpointed("stages by name", "in-place activation")
def resnet() -> Made:
    return _made("resnet26", layers=(2, 2, 1, 1), channels=(16, 32, 64, 128)), (images(8),)


@checkpointed("split channels", "stages by name", "in-place activation")
def res2net() -> Made:
    return _made("res2net50_26w_4s", layers=(1, 1, 1, 1), channels=(16, 32, 64, 128)), (images(8),)


@checkpointed("parallel branches", "stages by name", "in-place activation")
def resnest() -> Made:
    return _made("resnest14d", channels=(16, 32, 64, 128)), (images(8),)


@checkpointed("skips", "in-place activation", "in-place view")
def densenet() -> Made:
    return _made("densenet121", growth_rate=16, block_config=(4, 6, 4)), (images(),)


@checkpointed("chains in chains")
def nfnet() -> Made:
    return _made("test_nfnet"), (images(8),)


@timm("two encoders", "parallel branches", "tuples")
def crossvit() -> Made:
    sizes: dict[str, Any] = {"img_scale": (1.0, 14 / 15), "embed_dim": (48, 96)}
    return _made("crossvit_9_240", img_size=60, patch_size=(6, 8), **sizes), (images(2, 60),)


@checkpointed("plain chain", "masks by layer")
def cait() -> Made:
    return _made("cait_xxs24_224", img_size=64, patch_size=8, embed_dim=96, depth=6), (images(),)


@checkpointed("chains in chains")
def poolformer() -> Made:
    metaformer = package("timm.models.metaformer").MetaFormer
    return metaformer(num_classes=10, dims=(16, 32, 64, 96), depths=(2, 2, 4, 2)), (images(),)


@checkpointed("chains in chains", "tuples")
def pvt_v2() -> Made:
    return _made("pvt_v2_b0"), (images(),)


@timm("parallel branches", "lists of lists", "in-place activation", "stages by name")
def hrnet() -> Made:
    return _made("hrnet_w18_small"), (images(2, 96),)


@timm("skips", "stages by name", "in-place activation")
def dla() -> Made:
    return _made("dla46_c"), (images(8),)


@checkpointed("plain chain", "tuples")
def xcit() -> Made:
    return _made("xcit_nano_12_p16_224", img_size=64, depth=6), (images(),)


@checkpointed("parallel branches", "chains in chains")
def mobileone() -> Made:
    return _made("mobileone_s0"), (images(),)


@checkpointed("skips", "chains in chains", "in-place activation")
def vovnet() -> Made:
    return _made("ese_vovnet19b_slim_dw"), (images(),)


@timm("recurrence", "chains in chains")
def sequencer() -> Made:
    return _made("sequencer2d_s", img_size=64, layers=(1, 1, 2, 1), embed_dims=(32, 64, 64, 64)), (images(2),)


@checkpointed("parallel branches", "chains in chains", "in-place activation")
def ghostnet() -> Made:
    return _made("ghostnet_050"), (images(8),)

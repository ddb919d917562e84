"""The numbers that define a Qwen2.5-VL, frozen and hashable, read from a folder's `config.json`.

`config.json` is parsed by transformers' config class, so that missing keys take the same defaults
as there. Settings that this port cannot compute raise an error that names them; none is ignored.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lfpc_jax.jsonfile import Checked, brief, read_object
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.processing.preprocessor_config import has_processor, processor_fields

_DEEPEST, _WIDEST, _LARGEST_VOCABULARY, _LARGEST_PATCH = 1024, 1 << 17, 1 << 22, 256
"""More than any model has: a config that asks for more is damaged."""

Kernel = Literal["auto", "xla", "cudnn", "splash"]
Remat = Literal["none", "dots", "attended", "full", "offload"]
"""What updates save for the backward pass: see `layers.each_layer`."""


@dataclass(frozen=True)
class VisionConfig:
    depth: int
    width: int
    heads: int
    mlp: int
    out: int
    full_layers: tuple[int, ...]
    patch: int = 14
    merge: int = 2
    temporal_patch: int = 2
    window_px: int = 112
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def window(self) -> int:
        """Side of an attention window in merged tokens."""
        return self.window_px // (self.patch * self.merge)

    @property
    def processor(self) -> ImageProcessor:
        """An image processor with this tower's layout of pixels, and the default limits of size."""
        return ImageProcessor(
            patch=self.patch,
            merge=self.merge,
            temporal_patch=self.temporal_patch,
            mean=self.mean,
            std=self.std,
            window=self.window,
        )

    @property
    def window_tokens(self) -> int:
        return self.window**2

    @property
    def window_patches(self) -> int:
        return self.window_tokens * self.merge**2


@dataclass(frozen=True)
class TextConfig:
    layers: int
    width: int
    heads: int
    kv_heads: int
    mlp: int
    vocab: int
    eps: float = 1e-6
    rope_theta: float = 1e6
    mrope_section: tuple[int, int, int] = (16, 24, 24)

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


@dataclass(frozen=True)
class ModelConfig:
    """The model's numbers; `dtype`, `remat` and `kernel` say how to compute. The vision tower's
    `tower_remat` is `remat` if it is None."""

    text: TextConfig
    vision: VisionConfig
    tied: bool
    image_token: int = 151655
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    remat: Remat = "none"
    tower_remat: Remat | None = None
    kernel: Kernel = "auto"

    def __post_init__(self) -> None:
        text, vision = self.text, self.vision
        checks = {
            "text heads divide the width": text.width % text.heads == 0,
            "kv heads divide the heads": text.heads % text.kv_heads == 0,
            "mrope sections fill half a head": 2 * sum(text.mrope_section) == text.head_dim,
            "vision heads divide the width": vision.width % vision.heads == 0,
            "vision heads are a multiple of 4 wide": vision.head_dim % 4 == 0,
            "windows are whole merged tokens": vision.window_px % (vision.patch * vision.merge) == 0
            and vision.window > 0,
            "the vision output has the text's width": vision.out == text.width,
            "full layers lie in the tower": all(0 <= i < vision.depth for i in vision.full_layers),
        }
        for claim, holds in checks.items():
            if not holds:
                raise ValueError(f"model config: not true: {claim}; got {text} and {vision}")


def from_folder(folder: str | Path, **compute: Any) -> ModelConfig:
    """The config of a Hugging Face folder; `compute` sets dtype, remat and kernel."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected the folder of a Qwen2.5-VL model")
    raw = read_object(path)
    if raw.get("model_type") != "qwen2_5_vl":
        raise ValueError(
            f"{path}: model_type is {brief(raw.get('model_type'))}, expected 'qwen2_5_vl'; "
            "only Qwen2.5-VL models can be loaded"
        )
    try:
        cfg = _from_hf(raw, path, _image_statistics(Path(folder)))
    except ValueError as error:
        named = str(error).startswith(str(folder))
        raise error if named else ValueError(f"{path}: {error}") from error
    return replace(cfg, **compute)


def _from_hf(raw: dict[str, Any], path: Path, statistics: dict[str, Any]) -> ModelConfig:
    from transformers import Qwen2_5_VLConfig

    try:
        hf = Qwen2_5_VLConfig.from_dict(raw)
    except Exception as error:  # transformers checks some values, and trips over others
        reason = " ".join(f"{type(error).__name__}: {error!s:.200}".split())
        raise ValueError(f"{path}: transformers cannot read it ({reason})") from error
    check = Checked(path)
    text: Any = hf.text_config
    vision: Any = hf.vision_config
    rope = check.mapping("rope_parameters", text.rope_parameters)
    section = rope.get("mrope_section", (16, 24, 24))
    sections = check.wholes("rope_parameters.mrope_section", section, 0, _WIDEST)
    vision_rope = check.mapping("vision_config.rope_parameters", vision.rope_parameters or {})
    for key, value, expected in (
        ("hidden_act", text.hidden_act, "silu"),
        ("vision_config.hidden_act", vision.hidden_act, "silu"),
        ("vision_config.in_channels", vision.in_channels, 3),
        ("rope type", rope.get("rope_type"), "default"),
        ("use_sliding_window", bool(text.use_sliding_window), False),
        ("layer_types", sorted(set(map(str, text.layer_types))), ["full_attention"]),
        ("vision rope", vision_rope.get("rope_theta", 10000.0), 10000.0),
        ("mrope sections", len(sections), 3),
    ):
        if value != expected:
            raise ValueError(
                f"{path}: {key} is {brief(value)}, but this port computes only {expected!r}, so "
                "results would be wrong; use another model"
            )

    def whole(name: str, most: int) -> int:
        return check.whole(name, getattr(text, name), 1, most)

    def of_tower(name: str, most: int) -> int:
        return check.whole(f"vision_config.{name}", getattr(vision, name), 1, most)

    vocabulary = whole("vocab_size", _LARGEST_VOCABULARY)
    depth = of_tower("depth", _DEEPEST)
    full_layers = vision.fullatt_block_indexes
    return ModelConfig(
        text=TextConfig(
            layers=whole("num_hidden_layers", _DEEPEST),
            width=whole("hidden_size", _WIDEST),
            heads=whole("num_attention_heads", _WIDEST),
            kv_heads=whole("num_key_value_heads", _WIDEST),
            mlp=whole("intermediate_size", 8 * _WIDEST),
            vocab=vocabulary,
            eps=check.number("rms_norm_eps", text.rms_norm_eps, 0.0, 1.0),
            rope_theta=check.number("rope_theta", rope.get("rope_theta"), 0.0, 1e12),
            mrope_section=(sections[0], sections[1], sections[2]),
        ),
        vision=VisionConfig(
            depth=depth,
            width=of_tower("hidden_size", _WIDEST),
            heads=of_tower("num_heads", _WIDEST),
            mlp=of_tower("intermediate_size", 8 * _WIDEST),
            out=of_tower("out_hidden_size", _WIDEST),
            full_layers=check.wholes("vision_config.fullatt_block_indexes", full_layers, 0, depth),
            patch=of_tower("patch_size", _LARGEST_PATCH),
            merge=of_tower("spatial_merge_size", _LARGEST_PATCH),
            temporal_patch=of_tower("temporal_patch_size", _LARGEST_PATCH),
            window_px=of_tower("window_size", _WIDEST),
            **statistics,
        ),
        tied=bool(hf.tie_word_embeddings),
        image_token=check.whole("image_token_id", hf.image_token_id, 0, vocabulary - 1),
    )


def _image_statistics(folder: Path) -> dict[str, Any]:
    """Mean and standard deviation of the folder's image processor, if it has one."""
    if not has_processor(folder):
        return {}
    fields = processor_fields(folder)
    return {key: fields[key] for key in ("mean", "std")}


_PUBLISHED_VISION = VisionConfig(
    depth=32, width=1280, heads=16, mlp=3420, out=0, full_layers=(7, 15, 23, 31)
)
_PUBLISHED = {  # layers, width, heads, kv heads, mlp, vocabulary, vision mlp, tied
    "3b": (36, 2048, 16, 2, 11008, 151936, 3420, True),
    "7b": (28, 3584, 28, 4, 18944, 152064, 3420, False),
    "32b": (64, 5120, 40, 8, 27648, 152064, 3456, False),
    "72b": (80, 8192, 64, 8, 29568, 152064, 3456, False),
}


def published(size: str, **compute: Any) -> ModelConfig:
    """The config of a published size (3b, 7b, 32b or 72b), for planning without its folder."""
    if size not in _PUBLISHED:
        raise ValueError(f"model size {size!r}: choose one of {', '.join(_PUBLISHED)}")
    layers, width, heads, kv_heads, mlp, vocab, vision_mlp, tied = _PUBLISHED[size]
    return ModelConfig(
        text=TextConfig(layers, width, heads, kv_heads, mlp, vocab),
        vision=replace(_PUBLISHED_VISION, mlp=vision_mlp, out=width),
        tied=tied,
        **compute,
    )

"""Reads what a model folder says about its image processor.

If `processor_config.json` holds an image processor (transformers 5), that is read, otherwise
`preprocessor_config.json`. Settings that this package would silently compute differently are
refused. There are no defaults, because those of transformers' classes differ from those of the
checkpoints.
"""

import math
from pathlib import Path
from typing import Any

from lfpc_jax.jsonfile import Checked, brief, read_object

_TYPES = ("Qwen2VLImageProcessor", "Qwen2_5_VLImageProcessor")
_LARGEST_PATCH, _MOST_PIXELS = 256, 1 << 40
_FIXED = {
    "do_convert_rgb": True,
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "resample": 3,
    "rescale_factor": 1 / 255,
}


def processor_fields(folder: Path) -> dict[str, Any]:
    """The fields of `ImageProcessor` as the folder's own files give them."""
    file, config = _find(folder)
    _refuse_the_unsupported(file, config)
    check = Checked(file)
    size = check.mapping("size", config.get("size") or {})

    def required(name: str, *values: Any) -> Any:
        value = next((value for value in values if value is not None), None)
        if value is None:
            raise ValueError(f"{file}: no `{name}`; take the file that the checkpoint came with")
        return value

    def whole(name: str, most: int, *values: Any) -> int:
        return check.whole(name, required(name, config.get(name), *values), 1, most)

    least = size.get("shortest_edge"), size.get("min_pixels")
    most = size.get("longest_edge"), size.get("max_pixels")
    fields: dict[str, Any] = {
        "patch": whole("patch_size", _LARGEST_PATCH),
        "merge": whole("merge_size", _LARGEST_PATCH),
        "temporal_patch": whole("temporal_patch_size", _LARGEST_PATCH),
        "min_pixels": whole("min_pixels", _MOST_PIXELS, *least),
        "max_pixels": whole("max_pixels", _MOST_PIXELS, *most),
        "mean": check.numbers("image_mean", required("image_mean", config.get("image_mean")), 3),
        "std": check.numbers("image_std", required("image_std", config.get("image_std")), 3),
    }
    return fields | _window(folder, fields["patch"] * fields["merge"])


def has_processor(folder: Path) -> bool:
    """Whether the folder describes an image processor. Folders of text-only models do not."""
    return any(
        (folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")
    )


def _find(folder: Path) -> tuple[Path, dict[str, Any]]:
    nested, flat = folder / "processor_config.json", folder / "preprocessor_config.json"
    if nested.is_file():
        config = read_object(nested).get("image_processor")
        if config is not None:
            return nested, Checked(nested).mapping("image_processor", config)
    if flat.is_file():
        return flat, read_object(flat)
    raise ValueError(
        f"{folder}: neither `preprocessor_config.json` nor a `processor_config.json` with an "
        "`image_processor`; copy them from the checkpoint"
    )


def _refuse_the_unsupported(file: Path, config: dict[str, Any]) -> None:
    kind = config.get("image_processor_type")
    if kind is not None and str(kind).removesuffix("Fast").removesuffix("Pil") not in _TYPES:
        raise ValueError(
            f"{file}: `image_processor_type` is {brief(kind)}; only {' and '.join(_TYPES)} "
            "are known"
        )
    for key, supported in _FIXED.items():
        value = config.get(key)
        if value is not None and not _equal(value, supported):
            raise ValueError(
                f"{file}: `{key}` is {brief(value)}, but only {supported!r} is implemented; "
                "use a Qwen2.5-VL checkpoint's own file"
            )


def _window(folder: Path, factor: int) -> dict[str, int]:
    """The attention window in merged tokens, from `config.json` where the folder has one."""
    file = folder / "config.json"
    if not file.is_file():
        return {}
    check = Checked(file)
    vision = check.mapping("vision_config", read_object(file).get("vision_config") or {})
    pixels = vision.get("window_size")
    if pixels is None:
        return {}
    return {"window": check.whole("vision_config.window_size", pixels, 1, _MOST_PIXELS) // factor}


def _equal(value: object, supported: float | int) -> bool:
    try:
        return isinstance(value, int | float) and math.isclose(value, supported, rel_tol=1e-6)
    except OverflowError:  # a whole number that no float holds
        return False

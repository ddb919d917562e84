"""Reads what a model folder says about its image processor.

If `processor_config.json` holds an image processor (transformers 5), that is read, otherwise
`preprocessor_config.json`. Settings that this package would silently compute differently are
refused. There are no defaults, because those of transformers' classes differ from those of the
checkpoints.
"""

import json
import math
from pathlib import Path
from typing import Any

_TYPES = ("Qwen2VLImageProcessor", "Qwen2_5_VLImageProcessor")
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
    size = config.get("size") or {}

    def required(name: str, *values: Any) -> Any:
        value = next((value for value in values if value is not None), None)
        if value is None:
            raise ValueError(f"{file}: no `{name}`; take the file that the checkpoint came with")
        return value

    fields = {
        "patch": required("patch_size", config.get("patch_size")),
        "merge": required("merge_size", config.get("merge_size")),
        "temporal_patch": required("temporal_patch_size", config.get("temporal_patch_size")),
        "min_pixels": required(
            "min_pixels",
            config.get("min_pixels"),
            size.get("shortest_edge"),
            size.get("min_pixels"),
        ),
        "max_pixels": required(
            "max_pixels", config.get("max_pixels"), size.get("longest_edge"), size.get("max_pixels")
        ),
        "mean": tuple(map(float, required("image_mean", config.get("image_mean")))),
        "std": tuple(map(float, required("image_std", config.get("image_std")))),
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
        config = _json(nested).get("image_processor")
        if config is not None:
            return nested, config
    if flat.is_file():
        return flat, _json(flat)
    raise ValueError(
        f"{folder}: neither `preprocessor_config.json` nor a `processor_config.json` with an "
        "`image_processor`; copy them from the checkpoint"
    )


def _refuse_the_unsupported(file: Path, config: dict[str, Any]) -> None:
    kind = config.get("image_processor_type")
    if kind is not None and kind.removesuffix("Fast").removesuffix("Pil") not in _TYPES:
        raise ValueError(
            f"{file}: `image_processor_type` is {kind!r}; only {' and '.join(_TYPES)} are known"
        )
    for key, supported in _FIXED.items():
        value = config.get(key)
        if value is not None and not math.isclose(value, supported, rel_tol=1e-6):
            raise ValueError(
                f"{file}: `{key}` is {value!r}, but only {supported!r} is implemented; "
                "use a Qwen2.5-VL checkpoint's own file"
            )


def _window(folder: Path, factor: int) -> dict[str, int]:
    """The attention window in merged tokens, from `config.json` where the folder has one."""
    file = folder / "config.json"
    if not file.is_file():
        return {}
    vision = _json(file).get("vision_config") or {}
    pixels = vision.get("window_size")
    return {} if pixels is None else {"window": pixels // factor}


def _json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not valid JSON ({error}); copy the file again") from error

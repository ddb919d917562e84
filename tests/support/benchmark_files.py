"""HR-Bench and V* as files of their exact published formats."""

import base64
import csv
import io
import json

import PIL.Image

HEAD = ["index", "question", "answer", "category", "A", "B", "C", "D", "cycle_category", "image"]


def jpeg(shade=0, size=(64, 48)):
    out = io.BytesIO()
    PIL.Image.new("RGB", size, (shade, 9, 9)).save(out, "JPEG")
    return out.getvalue()


def rows(samples=2):
    """Four cycles each; the right option moves from A on."""
    made = []
    for sample in range(samples):
        options = ["red", "blue", 'a "quoted", one', "line\nbreak"]
        for cycle in range(4):
            turned = options[cycle:] + options[:cycle]
            letter = "ABCD"[(0 - cycle) % 4]
            kind = ("single", "cross")[sample % 2]
            image = base64.b64encode(jpeg(sample)).decode()
            made.append([len(made), f"What is\t{sample}?", letter, kind, *turned, cycle, image])
    return made


def write_tsv(path, made, head=HEAD):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t").writerows([head, *made])
    return path


def v_star_folder(folder, attributes=3, relations=2):
    for name, count, options in (
        ("direct_attributes", attributes, ["rubber", "cotton", "kevlar", "leather"]),
        ("relative_position", relations, ["left", "right"]),
    ):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            sample = {
                "target_object": ["glove"],
                "bbox": [[10, 20, 30, 10]]
                if count == attributes
                else [[0, 0, 5, 5], [60, 40, 9, 9]],
                "question": f"What about {number}?",
                "options": options,
            }
            (folder / name / f"sa_{number}.json").write_text(json.dumps(sample))
            (folder / name / f"sa_{number}.jpg").write_bytes(jpeg(number))
    return folder

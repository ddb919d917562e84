"""A target's evaluation on the page: the box on the original, what the target saw, what it said."""

import json
import re

import numpy as np
import pytest

from lfpc_jax.cli import evaluate
from lfpc_jax.cli import report as command
from lfpc_jax.cropvlm.pair import shown_box
from lfpc_jax.cropvlm.seen import target_view
from lfpc_jax.evaluation.alter import alteration, altered
from lfpc_jax.evaluation.journal import Journal, Trial
from support import rigged, rigged_answers
from support.browser import opened

BLOCK = r'<script type="[^"]+" id="([^"]+)">(.*?)</script>'


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Five questions with predicted boxes, of which some are invalid, true ones, and noise."""
    folder = tmp_path_factory.mktemp("target")
    data = rigged.write_set(folder / "data", 5)
    network = rigged_answers.proposer(rigged_answers.outlines_two_in_three)
    with pytest.MonkeyPatch.context() as patch:
        engines = rigged_answers.targets(rigged_answers.RiggedTarget(), network)
        patch.setattr(evaluate, "TargetEngines", engines)
        flags = ["--target", "t", "--target-image-tokens", "32", "--target-crop-tokens", "16"]
        flags += ["--model", "m", "--image-tokens", "32", "--boxes", "true", "--diagnose", "noise"]
        flags += ["--likelihoods", "--data", f"set={data}"]
        assert evaluate.main([str(folder / "out"), *flags]) == 0
    return folder / "out"


@pytest.mark.parametrize("name", ["tool", "direct", "true", "noise"])
def test_what_the_target_saw_is_made_again(out, name):
    target = rigged_answers.RiggedTarget()
    journal = Journal(out)
    part = Trial("set", 32, name)
    show = target_view(journal, part)
    groups = [*journal.read(part, 1)]
    assert groups
    alter = alteration("noise") if name == "noise" else None
    with altered(target, alter):
        for group in groups:
            [trajectory] = group.trajectories
            wanted = target.dialogue.pictures(group.record, shown_box(trajectory))
            found = show(group.record, trajectory)
            assert [kind for kind, _ in found] == ["full image", "crop"][: len(found)]
            for (_, pixels), expected in zip(found, wanted):
                np.testing.assert_array_equal(pixels, expected)
            assert (len(found) == 2) == (wanted[1] is not None)


@pytest.fixture(scope="module")
def page(out):
    assert command.main([str(out)]) == 0
    return out / "report.html"


def test_the_page_holds_the_box_the_view_the_answer_and_its_likelihood(page, out):
    blocks = dict(re.findall(BLOCK, page.read_text(), re.DOTALL))
    lines = json.loads(blocks["index"])["episodes"]
    details = [json.loads(blocks[f"episode-{n}"]) for n in range(len(lines))]
    urls = json.loads(blocks["pictures"]) if "pictures" in blocks else None
    groups = {
        (part.name, group.record.id): group
        for part in Journal(out).parts()
        for group in Journal(out).read(part, 1)
    }
    records = json.loads(blocks["index"])["records"]
    for line, detail in zip(lines, details):
        name = line["part"].rpartition("-p")[0]
        [trajectory] = groups[name, records[line["record"]]["id"]].trajectories
        target = detail["target"]
        assert target["answer"] == line["answer"] == trajectory.answer
        assert target["likelihood"] == trajectory.likelihood
        assert target["likelihood"] in (-0.1, -2.0)
        box = shown_box(trajectory)
        assert [one["name"] for one in target["seen"]] == ["full image", "crop"][: 1 + bool(box)]
        crops = [turn["crop"]["box"] for turn in detail["turns"] if turn["crop"]]
        assert crops == ([] if box is None else [list(box)])
    shown = {line["part"] for line in lines}
    assert shown == {f"set-32-{name}-p0" for name in ("tool", "direct", "true", "noise")}
    assert urls is None or len(urls) > len(lines)


def test_the_target_s_view_is_on_the_page(browser, page):
    with opened(browser, page) as view:
        lines = json.loads(view.locator("script#index").inner_text())["episodes"]
        at = next(n for n, line in enumerate(lines) if line["part"] == "set-32-true-p0")
        view.evaluate("place => { location.hash = '#' + place }", f"episodes/{at}")
        view.locator(f'.episode[data-episode="{at}"]').wait_for()
        block = view.locator(".block.target")
        assert "answered" in block.inner_text()
        assert "log-likelihood of the right answer" in block.inner_text()
        names = [image.get_attribute("alt") for image in block.locator("img").all()]
        assert names == ["full image as the target saw it", "crop as the target saw it"]
        assert view.locator(".frame rect.box").count() == 1

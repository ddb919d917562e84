"""What a stranger finds first: licence, citation and changelog agree with the package."""

import hashlib
import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
APACHE = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
"""SHA-256 of the Apache Software Foundation's LICENSE-2.0.txt."""


def test_the_licence_is_the_standard_text_that_the_project_names():
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE
    assert PROJECT["license"] == "Apache-2.0"
    assert PROJECT["license-files"] == ["LICENSE"]


def test_the_citation_has_what_the_format_requires():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "type"} <= set(citation)
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    papers = citation["references"]
    assert [paper["year"] for paper in papers] == [2026, 2025]
    for paper in papers:
        assert {"type", "title", "authors"} <= set(paper)
        [preprint] = paper["identifiers"]
        assert preprint["value"].removeprefix("arXiv:") in (ROOT / "README.md").read_text()
    for author in (
        *citation["authors"],
        *(author for paper in papers for author in paper["authors"]),
    ):
        assert set(author) == {"name"}


def test_the_changelog_begins_with_what_is_unreleased_and_knows_this_version():
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert PROJECT["version"] in headings

"""A real headless Chromium for the tests of the page, where the machine has one."""

from support.chromium import browser

__all__ = ["browser"]

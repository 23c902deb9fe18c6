"""What holds for every test."""

from __future__ import annotations

import os

from hypothesis import settings

# CI judges a change, so it tries the same examples each time; elsewhere new ones are tried on every run.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("local", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")

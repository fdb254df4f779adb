"""docs/configuration.md says what the core's tables say."""

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_current() -> None:
    page = runpy.run_path(str(ROOT / ".ci" / "configuration.py"))["page"]()
    assert (ROOT / "docs" / "configuration.md").read_text() == page, (
        "python .ci/configuration.py >docs/configuration.md"
    )

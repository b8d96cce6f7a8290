# SPDX-License-Identifier: BSD-3-Clause
"""What ferryctl has printed when it is interrupted."""

import io
import pathlib
import sys

import pytest
from scenes import path

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "contrib" / "ferryctl"))
# pylint: disable=wrong-import-position
from ferryctl_lib.output import Output  # noqa: E402


class Interrupted(io.StringIO):
    """Ctrl-C comes between two writes."""

    def write(self, text):
        super().write(text)
        raise KeyboardInterrupt


@path("ferryctl/output/whole-lines/{kind}")
@pytest.mark.parametrize("kind", ["people", "json", "warning"])
def test_whole_lines(kind):
    out = Output(kind == "json")
    out.stdout = out.stderr = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        if kind == "warning":
            out.warn("words")
        else:
            out.answer({}, "one", "two")
    assert out.stdout.getvalue() in ("one\ntwo\n", "{}\n", "ferryctl: words\n")

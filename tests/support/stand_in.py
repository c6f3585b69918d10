"""A stand-in for upstream, compiler and cmake, with which a build takes no time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from places import ROOT

from sdcffi._build.digests import source_digest
from sdcffi._build.plan import BuildPlan, make_plan
from sdcffi._build.request import BuildRequest

HEADER = """\
#include <stdint.h>
#define SD_API __attribute__((visibility("default")))
typedef struct { int32_t width; float cfg; } sd_thing_t;
SD_API int sd_answer(const sd_thing_t* thing);
"""
ENGINE = '#include "../include/stable-diffusion.h"\nint sd_answer(const sd_thing_t* thing) { return thing->width; }\n'
LICENCE = "Copyright (c) 2020 The stand-ins\n\nDo as you like.\n"
CMAKE_LISTS = """\
cmake_minimum_required(VERSION 3.20)
project(stand-in LANGUAGES C CXX)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")
foreach(name stable-diffusion sdcffi-ggml sdcffi-ggml-base)
    add_library(${name} SHARED "${SDCFFI_UPSTREAM}/src/engine.c")
endforeach()
add_library(ggml-cpu MODULE "${SDCFFI_UPSTREAM}/src/engine.c")
foreach(step one two)
    add_custom_command(OUTPUT ${step} DEPENDS ${previous} COMMAND @PYTHON@ @STEP@ ${step} VERBATIM)
    set(previous ${step})
endforeach()
add_custom_target(native ALL DEPENDS two stable-diffusion sdcffi-ggml sdcffi-ggml-base ggml-cpu)
"""
STEP = """\
import pathlib, sys, time
here, name = pathlib.Path(__file__).parent, sys.argv[1]
with open(here / "trace", "a") as trace:
    trace.write(name + " ")
while name == "two" and (here / "hold").exists():
    time.sleep(0.05)
if (here / "disk-full").exists():
    pathlib.Path("/dev/full").write_text("x")
pathlib.Path(name).touch()
"""
DRIVER = """\
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts its background jobs with Ctrl-C ignored
from pathlib import Path
from sdcffi._build.pipeline import compile_native
from sdcffi._build.plan import make_plan
from sdcffi._build.request import BuildRequest
compile_native(make_plan(BuildRequest.from_arguments(sys.argv[2:]), Path(sys.argv[1])))
"""
PATCH = """\
Subject: Answer otherwise
Upstream-issue: not reported
Why-a-patch: it is for tests
Fault: return thing->width;
Test: tests/_build/test_build.py
2026-05: applies
2026-08: applies

--- a/src/engine.c
+++ b/src/engine.c
@@ -1,2 +1,2 @@
 #include "../include/stable-diffusion.h"
-int sd_answer(const sd_thing_t* thing) { return thing->width; }
+int sd_answer(const sd_thing_t* thing) { return thing->width + 1; }
"""


UPSTREAM = """\
default = "2026-05"
[[revision]]
name = "2026-05"
commit = "{commit}"
date = 2026-05-06
tree = "{tree}"
{origin}
[[revision]]
name = "2026-08"
commit = "0000000000000000000000000000000000000000"
date = 2026-08-19
tree = "0000"
"""


class StandIn:
    """A small upstream and small C sources of ours; `tools` holds what its build steps read and write."""

    def __init__(self, directory: Path) -> None:
        self.upstream, self.csrc, self.tools = (directory / name for name in ("upstream", "csrc", "tools"))
        files = {
            self.upstream / "include/stable-diffusion.h": HEADER,
            self.upstream / "src/engine.c": ENGINE,
            self.upstream / "ggml/CMakeLists.txt": "",
            self.upstream / "LICENSE": LICENCE,
            self.csrc / "guard/guard.h": "typedef struct { char text[8]; } sdg_error;\nSD_API int sdg_answer(void);\n",
            self.csrc / "upstream.toml": (ROOT / "csrc/upstream.toml").read_text(),
            self.csrc / "patches/0001-answer.patch": PATCH,
            self.tools / "step.py": STEP,
            self.csrc / "CMakeLists.txt": CMAKE_LISTS.replace("@PYTHON@", f'"{sys.executable}"').replace(
                "@STEP@", f'"{self.tools}/step.py"'
            ),
        }
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def verify(self, *, commit: str = "0" * 40, origin: str = "") -> None:
        """Make the upstream as it is now the verified revision 2026-05."""
        text = UPSTREAM.format(commit=commit, tree=source_digest(self.upstream), origin=origin)
        (self.csrc / "upstream.toml").write_text(text)

    def plan(self, *arguments: str) -> BuildPlan:
        return make_plan(BuildRequest.from_arguments(self.arguments(*arguments)), self.csrc)

    def arguments(self, *arguments: str) -> list[str]:
        return ["--backend", "cpu", "--source", str(self.upstream), *arguments]

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", DRIVER, str(self.csrc), *self.arguments()]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)

    @property
    def trace(self) -> list[str]:
        trace = self.tools / "trace"
        return trace.read_text().split() if trace.exists() else []

    def wait_for(self, step: str) -> None:
        wait_until(lambda: step in self.trace, f"the build never came to step {step}")


def wait_until(happened: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.05)

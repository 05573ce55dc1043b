"""Compiles the engine's kernels. A machine without a C++ compiler gets a server that computes with torch alone."""

import runpy
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = "rhapsode_server/engine/kernels"


class KernelsHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        compiler = runpy.run_path(str(Path(self.root) / KERNELS / "compile.py"))
        try:
            compiler["compile_library"]()
        except compiler["CompilationError"] as failure:
            self.app.display_warning(f"the kernels of rhapsode-server are not built, torch computes alone: {failure}")
            compiler["LIBRARY"].unlink(missing_ok=True)
            return
        build_data["artifacts"].append(f"{KERNELS}/built/kernels.so")
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"

"""The review page belongs to the light half: none of it loads torch or transformers, and its verbs load no server."""

from __future__ import annotations

import subprocess
import sys


def test_no_module_of_the_page_loads_torch_and_only_the_page_loads_its_server() -> None:
    program = (
        "import importlib, pkgutil, sys, realigner.review as review\n"
        "names = [m.name for m in pkgutil.iter_modules(review.__path__)]\n"
        "page = {'app', 'arriving', 'desk', 'working'}\n"
        "for name in sorted(names, key=lambda name: name in page):\n"
        "    if name in page: assert name == 'app' or 'starlette' in sys.modules\n"
        "    else: assert 'starlette' not in sys.modules, name\n"
        "    importlib.import_module(f'realigner.review.{name}')\n"
        "heavy = [name for name in ('torch', 'transformers', 'datasets', 'matplotlib') if name in sys.modules]\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")

"""The `python` check: loads a function of the user's, only with permission, and survives what it does."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from realigner.errors import did_you_mean
from realigner.policy.base import BaseCheck, Finding, Target
from realigner.records import Judgement, Label, Prompt, text_hash

log = logging.getLogger(__name__)

CheckFunction = Callable[[Prompt, str], "bool | Label"]
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class Permission:
    """Whether a policy may run code, and the folder (the policy file's) where its modules are looked for first."""

    allow_code: bool = False
    folder: Path | None = None


class PythonCheck(BaseCheck):
    """Calls a function of the user's, `f(prompt: Prompt, response: str) -> bool | Label`; needs permission.

    True is a match. `unsure` and `invalid` leave the rule without an answer; `compliant` and `non_compliant` are
    the rule's answer, so they may only come from a check that is the whole of a `forbid` or `require`.
    """

    target: str = Field(alias="python")
    _function: CheckFunction = PrivateAttr()
    _code_hash: str = PrivateAttr()

    @field_validator("target")
    @classmethod
    def _permitted(cls, target: str, info: ValidationInfo) -> str:
        permission = info.context if isinstance(info.context, Permission) else Permission()
        if not permission.allow_code:
            raise ValueError(
                "a python check imports and runs code, which is off by default; if you trust this file, set "
                "policy.allow_code: true in the recipe or pass allow_code=True"
            )
        return target

    @model_validator(mode="after")
    def _load(self, info: ValidationInfo) -> PythonCheck:
        permission = info.context if isinstance(info.context, Permission) else Permission()
        self._function, self._code_hash = load_function(self.target, permission)
        return self

    @property
    def code_hash(self) -> str:
        """Identity of the module's source, so that edited code is not taken for the old policy."""
        return self._code_hash

    def find(self, question: Judgement, default: Target) -> Finding:  # noqa: ARG002
        """Call the function; what it raises makes the answer `invalid`."""
        try:
            answer: object = self._function(question.prompt, question.response)
        except Exception as error:
            # Only the type and the place: an exception's text may hold the response or a secret of the user's code.
            fact = f"{self.target} raised {type(error).__name__}{_raised_at(error.__traceback__)}"
            log.debug("%s", fact)
            return Finding(None, fact, Label.INVALID)
        if isinstance(answer, bool):
            return Finding(answer, f"{self.target} says {'yes' if answer else 'no'}")
        if isinstance(answer, Label):
            return Finding(None, f"{self.target} says {answer.value}", answer)
        fact = f"{self.target} returned {type(answer).__name__}, not bool or Label"
        return Finding(None, fact, Label.INVALID)


def _raised_at(trace: TracebackType | None) -> str:
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    name = trace.tb_frame.f_code.co_filename.replace("\\", "/").rsplit("/", 1)[-1]
    return f" ({name}, line {trace.tb_lineno})"


def load_function(target: str, permission: Permission) -> tuple[CheckFunction, str]:
    """Import `module:function` and return the function and the hash of its module's source.

    Raises:
        ValueError: the target is misspelt, absent, does not import, or cannot take (prompt, response).
    """
    if not _TARGET.fullmatch(target):
        raise ValueError(f"{target!r} is not of the form module:function")
    module_name, name = target.split(":")
    module = _load_module(module_name, permission.folder)
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value)]
        raise ValueError(f"module {module_name!r} has no function {name!r}.{did_you_mean(name, known)}")
    _check_signature(function, target)
    source = getattr(module, "__file__", None)
    # A built-in module has no source file; its interpreter stands for it.
    code = Path(source).read_bytes().decode("latin-1") if source else sys.version
    return function, text_hash(target, code)


def _load_module(name: str, folder: Path | None) -> ModuleType:
    beside = folder / f"{name}.py" if folder is not None else None
    try:
        if beside is not None and beside.is_file():
            return _load_file(beside)
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.split(".")[0] and error.name != name:
            raise ValueError(f"module {name!r} needs {error.name!r}, which is not installed") from None
        places = f"beside the policy file ({folder}) or " if folder is not None else ""
        raise ValueError(f"module {name!r} was not found {places}among the installed ones") from None
    except Exception as error:
        raise ValueError(f"module {name!r} fails to import: {type(error).__name__}: {error}") from error


class _FromSource(SourceFileLoader):
    """Compiles the source every time: bytecode is kept by second and size, and an edit may change neither."""

    def path_stats(self, path: Any) -> Any:
        """Say that there are none, so that no bytecode is read or written."""
        raise OSError(f"no bytecode is kept of {path}")


def _load_file(path: Path) -> ModuleType:
    """Import a file without touching sys.path; its name carries its place, so two policies can each have one."""
    name = f"realigner_policy_{path.stem}_{text_hash(str(path.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_FromSource(name, str(path)))
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and typing look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _check_signature(function: Callable[..., object], target: str) -> None:
    try:
        inspect.signature(function).bind((), "")
    except TypeError as error:
        raise ValueError(f"{target!r} must take (prompt, response): {error}") from None
    except ValueError:
        return  # some built-ins tell no signature; calling them will

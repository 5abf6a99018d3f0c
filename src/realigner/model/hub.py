"""Whether a model on the hub can be had at all, in seconds: loading itself asks again and again, for a minute."""

from __future__ import annotations

from pathlib import Path

from realigner.errors import ModelError
from realigner.model.load import base_of
from realigner.recipe import ModelSettings

SECONDS = 10.0
"""How long the hub may take to answer."""
_FILE = "config.json"


def refuse_unreachable(settings: ModelSettings) -> None:
    """Ask the hub once for a model that is neither a directory nor in the cache; nothing is downloaded.

    Raises:
        ModelError: the hub knows no such model or revision, does not show it to this account, or does not answer.
    """
    if Path(settings.path).is_absolute():
        return  # no name of the hub's; loading says at once where there is no such directory
    path, revision = base_of(settings)
    if Path(path).is_dir():
        return
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    try:
        if not isinstance(try_to_load_from_cache(path, _FILE, revision=revision), str):
            get_hf_file_metadata(hf_hub_url(path, _FILE, revision=revision), timeout=SECONDS)
    except HfHubHTTPError as error:
        raise _refusal(settings, f"the hub does not give it ({_reason(error)})") from error
    except Exception as error:  # a bad name, being offline, and each failure of the network have their own
        raise _refusal(settings, f"the hub cannot be asked for it ({_reason(error)})") from error


def _refusal(settings: ModelSettings, why: str) -> ModelError:
    return ModelError(
        f"{settings.called} = {settings.path!r}",
        f"it is no directory here and not in the cache, and {why}",
        "Correct the path or the name (and its revision), log in where it is not public (hf auth login), or fetch it "
        "where there is a network (hf download NAME)",
    )


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}" if str(error) else type(error).__name__

"""What the models behind the Messages format take, told from their names."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

# From the provider's migration guides; what a model does not take is a 400.


@dataclass(frozen=True, slots=True)
class Traits:
    """What a model takes. `thinking` is its way of being asked to think; `efforts` the values of `output_config.effort`."""

    thinking: Literal["none", "budget", "both", "adaptive"] = "budget"
    thinks_unasked: bool = False
    can_stop_thinking: bool = True
    efforts: tuple[str, ...] = ()
    sampling: bool = True
    one_sampler: bool = False  # temperature or top_p, not both
    forces_tools: bool = True
    schema: bool = False  # output_config.format
    mid_system: bool = False  # role system within the conversation
    known: bool = True


_NEW_NAME = re.compile(r"claude-(opus|sonnet|haiku|fable|mythos|instant)-(\d{1,2})(?!\d)(?:[-.](\d{1,2})(?!\d))?")
_OLD_NAME = re.compile(r"claude-(\d{1,2})(?!\d)(?:[-.](\d{1,2})(?!\d))?(?:-(opus|sonnet|haiku))?")


@lru_cache(maxsize=512)
def traits_of(model: str) -> Traits:
    """What a model takes, told from its name.

    A Claude without a version in its name is taken for the newest. Other makers' models behind this format are taken for plain ones: a
    thinking budget, sampling, forced tools, nothing newer.
    """
    name = model.lower()
    if new := _NEW_NAME.search(name):
        family, major, minor = new[1], int(new[2]), int(new[3] or 0)
    elif old := _OLD_NAME.search(name):
        family, major, minor = old[3] or "", int(old[1]), int(old[2] or 0)
    elif "claude" in name:
        family, major, minor = next((word for word in ("haiku", "sonnet", "opus", "fable", "mythos") if word in name), ""), 99, 0
        if "mythos-preview" in name:
            major = 5
    else:
        return Traits(known=False)
    version = (major, minor)
    largest = family in ("fable", "mythos")
    efforts: tuple[str, ...] = ()
    if version >= (4, 7):
        efforts = ("low", "medium", "high", "xhigh", "max")
    elif version == (4, 6):
        efforts = ("low", "medium", "high", "max")
    elif version == (4, 5) and family == "opus":
        efforts = ("low", "medium", "high")
    return Traits(
        thinking="none" if version < (3, 7) else "budget" if version < (4, 6) else "both" if version < (4, 7) else "adaptive",
        thinks_unasked=version >= (5, 0),
        can_stop_thinking=not largest and (version < (5, 5) or family == "haiku"),
        efforts=efforts,
        sampling=version < (4, 7),
        one_sampler=version >= (4, 1),
        forces_tools=version < ((5, 1) if largest else (5, 5)),
        schema=version >= (4, 5) or (family == "opus" and version >= (4, 1)),
        mid_system=version >= (5, 5)
        or (family == "opus" and version >= (4, 8))
        or (largest and version >= (5, 0) and "preview" not in name),
    )

"""What Gemini's models take, by their names, and thinking in their words. Pure."""

from dataclasses import dataclass, replace
from typing import Any

from proxy.formats.conversation import Target, Thinking


@dataclass(frozen=True, slots=True)
class Traits:
    """What a model takes: `levels` of thinking, or a `budget` of least and most tokens; whether it can stop thinking at all."""

    levels: tuple[str, ...] = ()
    budget: tuple[int, int] | None = None
    can_stop_thinking: bool = False
    thinks: bool = True
    demands_signatures: bool = True
    knows_ids: bool = True
    reads_media_in_results: bool = True
    combines_tools_and_json: bool = True
    knows_penalties: bool = False
    knows_validated: bool = True


_ALL_LEVELS = ("MINIMAL", "LOW", "MEDIUM", "HIGH")
_SECOND = Traits(demands_signatures=False, knows_ids=False, reads_media_in_results=False, combines_tools_and_json=False)
_FIRST = replace(_SECOND, thinks=False, knows_penalties=True, knows_validated=False)
_TRAITS: tuple[tuple[str, Traits], ...] = (  # the first that the name begins with
    ("gemini-3-pro-image", Traits(demands_signatures=False)),
    ("gemini-3-pro", Traits(levels=("LOW", "HIGH"))),
    ("gemini-3.1-flash-image", Traits(levels=("MINIMAL", "HIGH"), demands_signatures=False)),
    ("gemini-2.5-flash-image", replace(_SECOND, thinks=False)),
    ("gemini-2.5-flash-preview-tts", replace(_SECOND, thinks=False)),
    ("gemini-2.5-pro-preview-tts", replace(_SECOND, thinks=False)),
    ("gemini-2.5-flash-lite", replace(_SECOND, budget=(512, 24_576), can_stop_thinking=True)),
    ("gemini-2.5-flash", replace(_SECOND, budget=(1, 24_576), can_stop_thinking=True)),
    ("gemini-2.5-pro", replace(_SECOND, budget=(128, 32_768))),
    ("gemini-2.", _FIRST),
    ("gemini-1.", _FIRST),
    ("gemma", replace(_FIRST, knows_penalties=False)),
    ("learnlm", _FIRST),
)


def traits_of(model: str) -> Traits:
    """What the model of this upstream name takes. A name that is not in the table counts as one of the newest generation."""
    name = model.rsplit("/", 1)[-1].lower()
    for prefix, traits in _TRAITS:
        if name.startswith(prefix):
            return traits
    if "image" in name or "tts" in name:
        return Traits(demands_signatures=False)
    return Traits(levels=_ALL_LEVELS[1:] if "pro" in name else _ALL_LEVELS)


_LEVEL_OF = {"none": 0, "minimal": 0, "low": 1, "medium": 2, "high": 3, "xhigh": 3, "max": 3}
_BUDGET_OF = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24_576, "xhigh": 32_768, "max": 32_768}


def render_thinking(thinking: Thinking, traits: Traits, target: Target, param: str) -> dict[str, Any]:
    """The `thinkingConfig` that comes nearest to what is asked; empty where the model does not think (`param` is then dropped)."""
    off = thinking.enabled is False or thinking.effort == "none" or thinking.budget == 0
    if not traits.thinks:
        if not off:
            target.dropped.append(param)
        return {}
    config: dict[str, Any] = {} if off else {"includeThoughts": True}
    wanted = "none" if off else thinking.effort
    if traits.levels:
        if not wanted and thinking.budget is not None:
            wanted = "low" if thinking.budget <= 2048 else "medium" if thinking.budget <= 8192 else "high"
        if wanted in _LEVEL_OF:
            config["thinkingLevel"] = _nearest_level(_ALL_LEVELS[_LEVEL_OF[wanted]], traits.levels)
    elif traits.budget is not None:
        least, most = traits.budget
        if off:
            config["thinkingBudget"] = 0 if traits.can_stop_thinking else least
        elif thinking.budget is not None:
            config["thinkingBudget"] = min(max(thinking.budget, least), most)
        elif wanted in _BUDGET_OF:
            budget = _BUDGET_OF[wanted]
            if budget >= target.max_output:  # thoughts count as output: leave room for the answer
                budget = target.max_output // 2
            config["thinkingBudget"] = min(max(budget, least), most)
        else:
            config["thinkingBudget"] = -1
    return config


def _nearest_level(level: str, levels: tuple[str, ...]) -> str:
    """The level itself, else the next one above it, else the highest there is."""
    at = _ALL_LEVELS.index(level)
    return next((name for name in levels if _ALL_LEVELS.index(name) >= at), levels[-1])

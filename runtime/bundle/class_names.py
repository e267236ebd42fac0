"""Which classes of two lists are the same, by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

# Other names, in plain form, of classes of the known datasets.
ALIASES: Mapping[str, Mapping[str, str]] = {
    "cityscapes": {
        "pavement": "sidewalk",
        "pedestrian": "person",
        "cyclist": "rider",
        "bicyclist": "rider",
        "automobile": "car",
        "motorbike": "motorcycle",
        "bike": "bicycle",
        "tree": "vegetation",
        "trees": "vegetation",
        "signsymbol": "trafficsign",
        "sign": "trafficsign",
    },
    "camvid": {
        "sidewalk": "pavement",
        "footpath": "pavement",
        "columnpole": "pole",
        "vegetation": "tree",
        "trees": "tree",
        "sign": "signsymbol",
        "trafficsign": "signsymbol",
        "person": "pedestrian",
        "cyclist": "bicyclist",
        "rider": "bicyclist",
        "bicycle": "bicyclist",
    },
    "vspw": {
        "walls": "wall",
        "handrailfence": "handrailorfence",
        "billboard": "billboardorbulletinboard",
        "parasol": "parasolorumbrella",
        "cushion": "cushionorcarpet",
        "ship": "shiporboat",
        "table": "tableordesk",
        "chair": "chairorseat",
        "bag": "bagorpackage",
        "bottle": "bottleorcup",
        "screen": "screenortelevision",
        "painting": "paintingorposter",
    },
}

_NUMBERED = re.compile(r"(?:class|label|category|id|c)?[\s_\-#]*(\d+)", re.IGNORECASE)


def has_names(names: Sequence[str]) -> bool:
    """Whether a list has names rather than numbers such as ``class 0`` or ``LABEL_0``."""
    numbers = [_NUMBERED.fullmatch(name.strip()) for name in names]
    found = [int(match[1]) for match in numbers if match is not None]
    return found not in (list(range(len(names))), list(range(1, len(names) + 1)))


def plain_name(name: str) -> str:
    """A name without case, spaces and punctuation: ``Traffic_Light`` and ``traffic light`` agree.

    Text in brackets and other scripts stay: they may distinguish two classes.
    """
    return re.sub(r"[\s_\-./,;&+'\"()]+", "", name.casefold())


def match_names(
    names: Sequence[str], others: Sequence[str], *, dataset: str | None = None
) -> tuple[int, ...] | None:
    """Find each of ``names`` among ``others``.

    Args:
        names: to find.
        others: to find them in; may be more.
        dataset: one of ``ALIASES``, whose aliases count; None tries all.
    Returns:
        For each name the index in ``others``; None where a name is missing, or where two are
        the same.
    """
    known = ALIASES.values() if dataset is None else [ALIASES.get(dataset, {})]
    for aliases in ({}, *known):
        mine = [aliases.get(plain_name(name), plain_name(name)) for name in names]
        theirs = [aliases.get(plain_name(name), plain_name(name)) for name in others]
        places = {name: index for index, name in enumerate(theirs)}
        distinct = len(set(mine)) == len(mine) and len(places) == len(theirs)
        if distinct and all(name in places for name in mine):
            return tuple(places[name] for name in mine)
    return None


def unmatched(
    names: Sequence[str], others: Sequence[str], *, dataset: str | None = None
) -> list[str]:
    """Those of ``names`` that are not among ``others``, aliases of the dataset counted."""
    aliases = ALIASES.get(dataset, {}) if dataset is not None else {}
    theirs = {aliases.get(plain_name(name), plain_name(name)) for name in others}
    return [n for n in names if aliases.get(plain_name(n), plain_name(n)) not in theirs]

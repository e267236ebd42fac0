"""Names of classes: which lists have any, and which names mean the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamseg.evaluation.datasets import label_classes
from streamseg.runtime.bundle.class_names import (
    ALIASES,
    has_names,
    match_names,
    plain_name,
    unmatched,
)

KNOWN = {
    "cityscapes": [entry.name for entry in label_classes.CITYSCAPES],
    "camvid": [entry.name for entry in label_classes.CAMVID],
    "vspw": [entry.name for entry in label_classes.VSPW],
}


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (["class 0", "class 1"], False),
        (["LABEL_0", "LABEL_1", "LABEL_2"], False),
        (["1", "2"], False),
        (["0"], False),
        (["class 1", "class 0"], True),
        (["road", "1"], True),
        (["class 0", "class 0"], True),
        (["classroom"], True),
    ],
)
def test_numbers_are_not_names(names: list[str], named: bool) -> None:
    assert has_names(names) is named


@given(st.permutations(range(19)), st.sampled_from(["_", "-", " ", ""]), st.booleans())
def test_order_spelling_and_case_do_not_matter(order: list[int], mark: str, upper: bool) -> None:
    names = KNOWN["cityscapes"]
    written = [names[i].replace(" ", mark) for i in order]
    written = [name.upper() if upper else name.title() for name in written]
    assert match_names(written, names, dataset="cityscapes") == tuple(order)


@pytest.mark.parametrize("dataset", KNOWN)
def test_aliases_name_classes_of_their_dataset_and_nothing_else(dataset: str) -> None:
    own = {plain_name(name) for name in KNOWN[dataset]}
    assert len(own) == len(KNOWN[dataset])
    for alias, meant in ALIASES[dataset].items():
        assert alias == plain_name(alias)
        assert meant in own, alias
        assert alias not in own, alias


@pytest.mark.parametrize("dataset", KNOWN)
def test_every_alias_is_found(dataset: str) -> None:
    names = KNOWN[dataset]
    plain = [plain_name(name) for name in names]
    for alias, meant in ALIASES[dataset].items():
        place = plain.index(meant)
        written = [*names[:place], alias.title(), *names[place + 1 :]]
        assert match_names(written, names, dataset=dataset) == tuple(range(len(names)))
        assert match_names(names, written) == tuple(range(len(names)))


def test_names_that_collapse_or_are_missing_do_not_match() -> None:
    assert match_names(["road", "Road"], ["road", "car"]) is None
    assert match_names(["person", "pedestrian"], ["person", "rider"], dataset="cityscapes") is None
    assert match_names(["road", "sofa"], ["road", "car"]) is None
    assert match_names(["sign (front)", "sign"], ["sign", "sign (front)"]) == (1, 0)
    assert unmatched(["road", "sofa"], ["car", "Road"]) == ["sofa"]


def test_aliases_of_one_dataset_are_not_those_of_another() -> None:
    assert match_names(["tree"], ["vegetation"], dataset="vspw") is None
    assert match_names(["tree"], ["vegetation"], dataset="cityscapes") == (0,)

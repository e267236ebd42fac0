"""Class names and palettes of the published datasets, and how their label files map to them."""

from __future__ import annotations

from dataclasses import dataclass

VOID = 255
"""The label of pixels without a class."""


@dataclass(frozen=True)
class SegmentationClass:
    """One class: its name as published and the colour (R, G, B) that it is drawn in."""

    name: str
    color: tuple[int, int, int]


def _classes(*rows: tuple[str, tuple[int, int, int]]) -> tuple[SegmentationClass, ...]:
    return tuple(SegmentationClass(name, color) for name, color in rows)


# The 19 evaluated classes, in train-id order (Cordts et al., CVPR 2016).
CITYSCAPES = _classes(
    ("road", (128, 64, 128)),
    ("sidewalk", (244, 35, 232)),
    ("building", (70, 70, 70)),
    ("wall", (102, 102, 156)),
    ("fence", (190, 153, 153)),
    ("pole", (153, 153, 153)),
    ("traffic light", (250, 170, 30)),
    ("traffic sign", (220, 220, 0)),
    ("vegetation", (107, 142, 35)),
    ("terrain", (152, 251, 152)),
    ("sky", (70, 130, 180)),
    ("person", (220, 20, 60)),
    ("rider", (255, 0, 0)),
    ("car", (0, 0, 142)),
    ("truck", (0, 0, 70)),
    ("bus", (0, 60, 100)),
    ("train", (0, 80, 100)),
    ("motorcycle", (0, 0, 230)),
    ("bicycle", (119, 11, 32)),
)

# labelIds value -> train id; every other label id that Cityscapes knows is not evaluated.
CITYSCAPES_TRAIN_IDS = {
    label: train_id
    for train_id, label in enumerate(
        (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
    )
}
CITYSCAPES_LABEL_IDS = range(34)
# labelIds stores the licence plate's id -1 as 255.
CITYSCAPES_LICENSE_PLATE = 255

# The 11 classes of the SegNet split (Badrinarayanan et al., 2015).
CAMVID = _classes(
    ("sky", (128, 128, 128)),
    ("building", (128, 0, 0)),
    ("pole", (192, 192, 128)),
    ("road", (128, 64, 128)),
    ("pavement", (60, 40, 222)),
    ("tree", (128, 128, 0)),
    ("signsymbol", (192, 128, 128)),
    ("fence", (64, 64, 128)),
    ("car", (64, 0, 128)),
    ("pedestrian", (64, 64, 0)),
    ("bicyclist", (0, 128, 192)),
)

# In the order of the published label values 1 to 124; value 0 is "others" (Miao et al., CVPR 2021).
_VSPW_NAMES = (
    "wall ceiling door stair ladder escalator Playground_slide handrail_or_fence window rail "
    "goal pillar pole floor ground grass sand athletic_field road path crosswalk building "
    "house bridge tower windmill well_or_well_lid other_construction sky mountain stone wood "
    "ice snowfield grandstand sea river lake waterfall water billboard_or_Bulletin_Board "
    "sculpture pipeline flag parasol_or_umbrella cushion_or_carpet tent roadblock car bus "
    "truck bicycle motorcycle wheeled_machine ship_or_boat raft airplane tyre traffic_light "
    "lamp person cat dog horse cattle other_animal tree flower other_plant toy ball_net "
    "backboard skateboard bat ball cupboard_or_showcase_or_storage_rack box "
    "traveling_case_or_trolley_case basket bag_or_package trash_can cage plate "
    "tub_or_bowl_or_pot bottle_or_cup barrel fishbowl bed pillow table_or_desk chair_or_seat "
    "bench sofa shelf bathtub gun commode roaster other_machine refrigerator washing_machine "
    "Microwave_oven fan curtain textiles clothes painting_or_poster mirror flower_pot_or_vase "
    "clock book tool blackboard tissue screen_or_television computer printer Mobile_phone "
    "keyboard other_electronic_product fruit food instrument train "
)


def voc_color(index: int) -> tuple[int, int, int]:
    """The PASCAL VOC colour of an index: its bits dealt to R, G, B from the high end down."""
    red = green = blue = 0
    for shift in range(7, -1, -1):
        red |= (index & 1) << shift
        green |= (index >> 1 & 1) << shift
        blue |= (index >> 2 & 1) << shift
        index >>= 3
    return red, green, blue


VSPW = tuple(
    SegmentationClass(name, voc_color(index))
    for index, name in enumerate(_VSPW_NAMES.split(), start=1)
)

# KITTI-360 labels have the label ids of Cityscapes and eleven more, of which three count as a class
# that Cityscapes evaluates (Liao et al., TPAMI 2022).
KITTI360_TRAIN_IDS = {**CITYSCAPES_TRAIN_IDS, 34: 2, 35: 4, 37: 5}
KITTI360_LABEL_IDS = range(45)

# Label value, name and colour of the 22 evaluated classes (Huang et al., TPAMI 2020).
_APOLLOSCAPE_ROWS = (
    (33, "car", (142, 0, 0)),
    (34, "motorbicycle", (230, 0, 0)),
    (35, "bicycle", (32, 11, 119)),
    (36, "person", (0, 128, 192)),
    (37, "rider", (128, 64, 128)),
    (38, "truck", (128, 0, 192)),
    (39, "bus", (192, 0, 64)),
    (40, "tricycle", (128, 128, 192)),
    (49, "road", (192, 128, 192)),
    (50, "sidewalk", (192, 128, 64)),
    (65, "traffic_cone", (0, 0, 64)),
    (66, "road_pile", (0, 0, 192)),
    (67, "fence", (64, 0, 64)),
    (81, "traffic_light", (192, 64, 0)),
    (82, "pole", (64, 0, 192)),
    (83, "traffic_sign", (64, 64, 128)),
    (84, "wall", (192, 64, 128)),
    (85, "dustbin", (192, 192, 64)),
    (86, "billboard", (64, 192, 64)),
    (97, "building", (0, 64, 192)),
    (113, "vegetation", (192, 192, 0)),
    (17, "sky", (30, 170, 250)),
)
APOLLOSCAPE = tuple(SegmentationClass(name, color) for _, name, color in _APOLLOSCAPE_ROWS)
APOLLOSCAPE_VALUES = {value: index for index, (value, _, _) in enumerate(_APOLLOSCAPE_ROWS)}
# Others, rover, the same as instances, bridge, tunnel, overpass and unlabelled.
APOLLOSCAPE_VOID = (0, 1, *range(161, 169), 98, 99, 100, VOID)

# The 40 classes in the order of the label values 1 to 40 (Gupta et al., CVPR 2013).
_NYUDV2_NAMES = (
    "wall, floor, cabinet, bed, chair, sofa, table, door, window, bookshelf, picture, counter, "
    "blinds, desk, shelves, curtain, dresser, pillow, mirror, floor mat, clothes, ceiling, books, "
    "refrigerator, television, paper, towel, shower curtain, box, whiteboard, person, night stand, "
    "toilet, sink, lamp, bathtub, bag, other structure, other furniture, other prop"
)
NYUDV2 = tuple(
    SegmentationClass(name, voc_color(index))
    for index, name in enumerate(_NYUDV2_NAMES.split(", "), start=1)
)

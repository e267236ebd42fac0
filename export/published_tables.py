"""Tables of the publications: the rows of networks that can be built here.

Lines are the row's number in its table (from 1), the network's name in the catalogue, and the
values of the table's columns, ``-`` where it prints none.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedTable:
    """One table of one publication.

    Attributes:
        paper: name and where it appeared.
        table: as it is called there.
        dataset, split: what the accuracy is of; "not named" where the publication does not say.
        size: (H, W) of the frames that work and frames a second are of; None: it does not say.
        columns: names of ``PublishedRow``'s figures, in the table's order.
        text: a line for each row.
    """

    paper: str
    table: str
    dataset: str
    split: str
    size: tuple[int, int] | None
    columns: str
    text: str


TV3S = "TV3S (CVPR 2025, arXiv 2503.20824)"
CFFM_PLUS = "CFFM++ (TPAMI 2024, arXiv 2204.03330v2)"
MPVSS = "MPVSS (NeurIPS 2023, arXiv 2310.18954)"
MRCFA = "MRCFA (ECCV 2022, arXiv 2207.10436)"
SEGFORMER = "SegFormer (NeurIPS 2021, arXiv 2105.15203)"
MASK2FORMER = "Mask2Former (CVPR 2022, arXiv 2112.01527)"

TABLES = (
    PublishedTable(
        TV3S,
        "table 1",
        "VSPW",
        "not named",
        (480, 853),
        "miou mvc8 mvc16 gflops parameters_m fps",
        """
        1 segformer/mit_b1 36.5 84.7 79.9 26.6 13.8 58.7
        2 cffm/mit_b1 38.5 88.6 84.1 - 15.5 29.8
        3 mrcfa/mit_b1 38.9 88.8 84.4 - 16.2 40.1
        4 tv3s/mit_b1 40.0 90.7 87.0 36.9 17.3 24.7
        5 segformer/mit_b2 43.9 86.0 81.2 100.8 24.8 16.2
        6 cffm/mit_b2 44.9 89.8 85.8 143.2 26.5 10.1
        7 mrcfa/mit_b2 45.3 90.3 86.2 127.9 27.3 10.7
        8 tv3s/mit_b2 46.3 91.5 88.35 53.9 28.3 21.9
        9 mask2former/resnet50 38.5 81.3 76.4 110.6 44.0 19.4
        10 mpvss/resnet50 37.5 84.1 77.2 38.9 84.1 33.9
        11 mask2former/resnet101 39.3 82.5 77.6 141.3 63.0 16.9
        12 mpvss/resnet101 38.8 84.8 79.6 45.1 103.1 32.3
        19 segformer/mit_b5 48.9 87.8 83.7 185.0 82.1 9.4
        20 cffm/mit_b5 49.3 90.8 87.1 413.5 85.5 4.5
        21 mrcfa/mit_b5 49.9 90.9 87.4 373.0 84.5 5.0
        22 tv3s/mit_b5 49.8 91.7 88.7 137.0 85.6 14.0
        23 mask2former/swin_t 41.2 84.5 80.0 114.4 47.4 17.1
        24 mpvss/swin_t 39.9 85.9 80.4 39.7 114.0 32.8
        25 tv3s/swin_t 44.9 88.0 83.5 57.3 31.7 22.9
        26 mask2former/swin_s 42.1 84.7 79.3 152.2 68.9 14.5
        27 mpvss/swin_s 40.4 86.0 80.7 47.3 108.0 30.6
        28 tv3s/swin_s 50.6 89.6 85.8 94.1 53.1 19.5
        """,
    ),
    PublishedTable(
        TV3S,
        "table 2",
        "Cityscapes",
        "not named",
        (512, 1024),
        "miou gflops parameters_m fps",
        """
        2 segformer/mit_b0 71.9 - 3.7 58.5
        3 cffm/mit_b0 74.0 80.7 4.6 15.8
        4 mrcfa/mit_b0 72.8 77.5 4.2 16.6
        5 segformer/mit_b1 74.1 - 13.8 46.8
        6 cffm/mit_b1 75.1 158.7 15.4 11.7
        7 mrcfa/mit_b1 75.1 145.0 14.9 13.0
        8 tv3s/mit_b1 75.6 83.6 17.3 25.1
        """,
    ),
    PublishedTable(
        CFFM_PLUS,
        "table 1",
        "VSPW",
        "val",
        (480, 853),
        "parameters_m miou weighted_iou mvc8 mvc16 gmacs fps",
        """
        1 segformer/mit_b0 3.8 32.9 56.8 82.7 77.3 14.6 73.4
        2 segformer/mit_b1 13.8 36.5 58.8 84.7 79.9 33.0 58.7
        3 cffm/mit_b0 4.7 35.4 58.5 87.7 82.9 25.6 43.1
        4 cffm/mit_b1 15.5 38.5 60.0 88.6 84.1 55.4 29.8
        5 cffm++/mit_b0 5.7 35.9 58.9 88.4 83.8 34.3 40.4
        6 cffm++/mit_b1 16.5 39.9 60.7 89.1 84.9 64.2 27.6
        18 segformer/mit_b2 24.8 43.9 63.7 86.0 81.2 57.2 39.2
        19 segformer/mit_b5 82.1 48.2 65.1 87.8 83.7 187.0 17.2
        20 cffm/mit_b2 26.5 44.9 64.9 89.8 85.8 79.6 23.8
        21 cffm/mit_b5 85.5 49.3 65.8 90.8 87.1 232.2 11.3
        22 cffm++/mit_b2 28.5 45.5 64.7 90.2 86.4 96.9 21.5
        23 cffm++/mit_b5 87.5 50.1 66.5 90.8 87.4 249.5 10.4
        """,
    ),
    PublishedTable(
        CFFM_PLUS,
        "table 2",
        "VSPW",
        "test",
        (480, 853),
        "parameters_m miou mvc8 mvc16",
        """
        1 segformer/mit_b0 3.8 30.9 81.6 75.7
        2 segformer/mit_b1 13.8 33.5 82.6 76.9
        3 cffm/mit_b0 4.7 31.8 86.3 80.9
        4 cffm/mit_b1 15.5 35.1 87.2 82.2
        5 cffm++/mit_b0 5.7 32.8 87.4 82.4
        6 cffm++/mit_b1 16.5 36.0 87.9 83.2
        18 segformer/mit_b2 24.8 40.0 84.9 79.8
        19 cffm/mit_b2 26.5 41.0 88.4 83.6
        20 cffm++/mit_b2 28.5 42.0 88.9 84.7
        """,
    ),
    PublishedTable(
        CFFM_PLUS,
        "table 3",
        "Cityscapes",
        "not named",
        (512, 1024),
        "parameters_m miou fps",
        """
        9 segformer/mit_b0 3.7 71.9 58.5
        10 cffm/mit_b0 4.6 74.0 34.2
        11 cffm++/mit_b0 5.1 74.3 28.8
        12 segformer/mit_b1 13.8 74.1 46.8
        13 cffm/mit_b1 15.4 75.1 23.6
        14 cffm++/mit_b1 15.9 75.7 20.4
        """,
    ),
    PublishedTable(
        MPVSS,
        "table 1",
        "VSPW",
        "not named",
        (480, 853),
        "miou weighted_iou mvc8 mvc16 gflops parameters_m fps",
        """
        8 segformer/mit_b2 43.9 63.7 86.0 81.2 100.8 24.8 16.16
        9 segformer/mit_b5 48.9 65.1 87.8 83.7 185.0 82.1 9.48
        10 cffm/mit_b2 44.9 64.9 89.8 85.8 143.2 26.5 10.08
        11 cffm/mit_b5 49.3 65.8 90.8 87.1 413.5 85.5 4.58
        12 mrcfa/mit_b2 45.3 64.7 90.3 86.2 127.9 27.3 10.7
        13 mrcfa/mit_b5 49.9 66.0 90.9 87.4 373.0 84.5 5.02
        14 mask2former/resnet50 38.5 60.2 81.3 76.4 110.6 44.0 19.4
        15 mask2former/resnet101 39.3 60.1 82.5 77.6 141.3 63.0 16.90
        16 mask2former/swin_t 41.2 62.6 84.5 80.0 114.4 47.4 17.13
        17 mask2former/swin_s 42.1 63.1 84.7 79.3 152.2 68.9 14.52
        18 mask2former/swin_b 54.1 70.3 86.6 82.9 223.5 107.1 11.45
        19 mask2former/swin_l 56.1 70.8 87.6 84.1 402.7 215.1 8.41
        20 mpvss/resnet50 37.5 59.0 84.1 77.2 38.9 84.1 33.93
        21 mpvss/resnet101 38.8 59.0 84.8 79.6 45.1 103.1 32.38
        22 mpvss/swin_t 39.9 62.0 85.9 80.4 39.7 114.0 32.86
        23 mpvss/swin_s 40.4 62.0 86.0 80.7 47.3 108.0 30.61
        24 mpvss/swin_b 52.6 68.4 89.5 85.9 61.5 147.0 27.38
        25 mpvss/swin_l 53.9 69.1 89.6 85.8 97.3 255.4 23.22
        """,
    ),
    PublishedTable(
        MPVSS,
        "table 2",
        "Cityscapes",
        "val",
        (1024, 2048),
        "miou gflops parameters_m fps",
        """
        7 segformer/mit_b1 78.5 243.7 13.8 20.7
        8 segformer/mit_b5 82.4 1460.4 84.7 7.20
        9 cffm/mit_b0 74.0 80.7 4.6 15.79
        10 cffm/mit_b1 75.1 158.7 15.4 11.71
        11 mrcfa/mit_b0 72.8 77.5 4.2 16.55
        12 mrcfa/mit_b1 75.1 145 14.9 12.97
        13 mask2former/resnet50 79.4 529.9 44.0 6.58
        14 mask2former/resnet101 80.1 685.5 63.0 5.68
        15 mask2former/swin_t 82.1 543.6 47.4 5.41
        16 mask2former/swin_s 82.6 730.1 68.7 4.31
        17 mask2former/swin_b 83.3 1057.0 107.0 3.26
        18 mask2former/swin_l 83.3 1911.3 215.0 2.11
        23 mpvss/resnet50 78.4 173.2 84.1 13.43
        24 mpvss/resnet101 78.2 204.3 103.1 12.55
        25 mpvss/swin_t 80.7 175.9 114.0 12.33
        26 mpvss/swin_s 81.3 213.2 108.0 10.98
        27 mpvss/swin_b 81.7 278.6 147.0 9.54
        28 mpvss/swin_l 81.6 449.5 255.4 7.24
        """,
    ),
    PublishedTable(
        MRCFA,
        "table 5",
        "VSPW",
        "val",
        (480, 853),
        "miou weighted_iou mvc8 mvc16 parameters_m fps",
        """
        1 segformer/mit_b0 32.9 56.8 82.7 77.3 3.8 73.4
        2 segformer/mit_b1 36.5 58.8 84.7 79.9 13.8 58.7
        3 mrcfa/mit_b0 35.2 57.9 88.0 83.2 5.2 50.0
        4 mrcfa/mit_b1 38.9 60.0 88.8 84.4 16.2 40.1
        16 segformer/mit_b2 43.9 63.7 86.0 81.2 24.8 39.2
        17 segformer/mit_b5 48.2 65.1 87.8 83.7 82.1 17.2
        18 mrcfa/mit_b2 45.3 64.7 90.3 86.2 27.3 32.1
        19 mrcfa/mit_b5 49.9 66.0 90.9 87.4 84.5 15.7
        """,
    ),
    PublishedTable(
        MRCFA,
        "table 6",
        "Cityscapes",
        "val",
        (512, 1024),
        "miou parameters_m fps",
        """
        9 segformer/mit_b0 71.9 3.7 58.5
        10 mrcfa/mit_b0 72.8 4.2 33.3
        11 segformer/mit_b1 74.1 13.8 46.8
        12 mrcfa/mit_b1 75.1 14.9 21.5
        """,
    ),  # Read without the number of the row, which is 0.
    PublishedTable(
        SEGFORMER,
        "a table of the paper",
        "Cityscapes",
        "val",
        (1024, 2048),
        "miou parameters_m gflops fps",
        """
        0 segformer/mit_b0 76.2 3.8 125.5 15.2
        0 segformer/mit_b4 83.8 64.1 1240.6 3.0
        0 segformer/mit_b5 84.0 84.7 1447.6 2.5
        """,
    ),
    PublishedTable(
        SEGFORMER,
        "a table of the paper",
        "ADE20K",
        "val",
        None,
        "miou parameters_m",
        """
        0 segformer/mit_b3 48.6 47.3
        """,
    ),
    PublishedTable(
        MASK2FORMER,
        "MODEL_ZOO.md of its repository",
        "Cityscapes",
        "val",
        None,
        "miou",
        """
        0 mask2former/resnet50 79.4
        0 mask2former/resnet101 80.1
        0 mask2former/swin_b 83.3
        0 mask2former/swin_l 83.3
        """,
    ),
)

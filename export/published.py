"""What others published of the networks in the catalogue, each figure with where it was read.

Only what could be read there; a figure that is known by hearsay alone stays out.
"""

from __future__ import annotations

from dataclasses import dataclass

UNVERIFIED = "not verified"

_PAPER = "table in the paper"
_TV3S = "table in TV3S's README"
_MPVSS = "table in MPVSS's README"
_ZOO = "Mask2Former's MODEL_ZOO.md"


@dataclass(frozen=True)
class Published:
    """Figures of one network, as its sources give them.

    Attributes:
        accuracy: mIoU in percent and its dataset; empty where none was found.
        source: where they were read.
        parameters_m: 10^6 parameters, with the classes of that publication: 124 on VSPW, 19 on
            Cityscapes where ``gflops_cityscapes`` is given, 150 on ADE20K.
        gflops_cityscapes: 10^9 operations a frame, as the source counts them; of 1024x2048 where
            the source is SegFormer's paper or MPVSS's README, else it does not say.
        gflops_vspw: the same of 480x853.
        fps_cityscapes: frames a second of 1024x2048, on the GPU of the source.
        fps_vspw: the same of 480x853.
    """

    accuracy: str = ""
    source: str = ""
    parameters_m: float | None = None
    gflops_cityscapes: float | None = None
    gflops_vspw: float | None = None
    fps_cityscapes: float | None = None
    fps_vspw: float | None = None


PUBLISHED = {
    "segformer/mit_b0": Published("76.2 mIoU, Cityscapes val", _PAPER, 3.8, 125.5, None, 15.2),
    "segformer/mit_b1": Published("36.5 mIoU, VSPW", _TV3S, 13.8, fps_vspw=58.7),
    "segformer/mit_b2": Published("43.9 mIoU, VSPW", _TV3S, fps_vspw=16.2),
    "segformer/mit_b3": Published("48.6 mIoU, ADE20K", _PAPER, 47.3),
    "segformer/mit_b4": Published("83.8 mIoU, Cityscapes val", _PAPER, 64.1, 1240.6, None, 3.0),
    "segformer/mit_b5": Published("84.0 mIoU, Cityscapes val", _PAPER, 84.7, 1447.6, None, 2.5),
    "tv3s/mit_b1": Published("40.0 mIoU, VSPW", _TV3S, 17.3, 83.6, fps_vspw=24.7),
    "tv3s/mit_b2": Published("46.3 mIoU, VSPW", _TV3S, fps_vspw=21.9),
    "tv3s/swin_t": Published("44.9 mIoU, VSPW", _TV3S, fps_vspw=22.9),
    "tv3s/swin_s": Published("50.6 mIoU, VSPW", _TV3S, fps_vspw=19.5),
    "cffm/mit_b1": Published("38.5 mIoU, VSPW", _TV3S, 15.4, 158.7, fps_vspw=29.8),
    "cffm/mit_b2": Published("44.9 mIoU, VSPW", _TV3S, fps_vspw=10.1),
    "mrcfa/mit_b1": Published("38.9 mIoU, VSPW", _TV3S, 14.9, 145.0, fps_vspw=40.1),
    "mrcfa/mit_b2": Published("45.3 mIoU, VSPW", _TV3S, fps_vspw=10.7),
    "mrcfa/mit_b5": Published("49.9 mIoU, VSPW", "hyper.ai/en/papers/2207.10436"),
    "mask2former/resnet50": Published("79.4 mIoU, Cityscapes val", _ZOO),
    "mask2former/resnet101": Published("80.1 mIoU, Cityscapes val", _ZOO),
    "mask2former/swin_t": Published("41.2 mIoU, VSPW", _TV3S, fps_vspw=17.1),
    "mask2former/swin_s": Published("42.1 mIoU, VSPW", _TV3S, fps_vspw=14.5),
    "mask2former/swin_b": Published("83.3 mIoU, Cityscapes val", _ZOO),
    "mask2former/swin_l": Published("83.3 mIoU, Cityscapes val", _ZOO),
    "mpvss/resnet50": Published("37.5 mIoU, VSPW", _MPVSS, 84.1, 173.2, 38.9, 13.43, 33.93),
    "mpvss/resnet101": Published("38.8 mIoU, VSPW", _MPVSS, 103.1, 204.3, 45.1, 12.55, 32.38),
    # 114.0 M parameters are given for it, more than for Swin-S: taken for a misprint.
    "mpvss/swin_t": Published("39.9 mIoU, VSPW", _MPVSS, None, 175.9, 39.7, 12.33, 32.86),
    "mpvss/swin_s": Published("40.4 mIoU, VSPW", _MPVSS, 108.0, 213.2, 47.3, 10.98, 30.61),
    "mpvss/swin_b": Published("52.6 mIoU, VSPW", _MPVSS, 147.0, 278.6, 61.5, 9.54, 27.38),
    "mpvss/swin_l": Published("53.9 mIoU, VSPW", _MPVSS, 255.4, 449.5, 97.3, 7.24, 23.22),
}

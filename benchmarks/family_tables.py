"""Tables of the small networks on the drawn streets: prototypes of CFFM++, and schedules.

    python benchmarks/family_tables.py out/families

Uses the networks committed under samples/families, and otherwise those that benchmarks/families.py
wrote to the folder. Rows of missing networks are omitted. Writes
benchmarks/results/prototypes.{json,md} and benchmarks/results/schedules.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

if __package__:
    from benchmarks.families import HEADS, STREET, committed_path, join
    from benchmarks.measuring import RESULTS, describe_machine, write_results
else:
    from families import HEADS, STREET, committed_path, join
    from measuring import RESULTS, describe_machine, write_results

from streamseg.evaluation.clip_prototypes import (
    OwnPrototypes,
    PrototypeSource,
    StoredPrototypes,
    give_prototypes,
)
from streamseg.evaluation.clustering import (
    cluster,
    collect_tokens,
    prototype_state,
    sample_frames,
    store_given,
)
from streamseg.evaluation.datasets import Dataset, IndexedClip, open_dataset
from streamseg.evaluation.scores import Evaluation, evaluate
from streamseg.evaluation.segmenter import SegmenterOptions
from streamseg.evaluation.subjects import open_segmenter
from streamseg.evaluation.sweep import name_variant, sweep
from streamseg.export import export_bundle, load_checkpoint
from streamseg.runtime.stream import open_stream

# Network, frame size, and what each row changes; the first row is the network as trained.
SWEEPS: dict[str, list[dict[str, str]]] = {
    "tv3s": [{}, {"window": "4", "shift": "2"}, {"window": "8", "shift": "4"}],
    "cffm": [{}, {"offsets": "-3,-2,-1"}, {"offsets": "-15,-10,-5"}],
    "mrcfa": [
        {},
        {"offsets": "-3,-2,-1"},
        {"keep_ratio": "0.3"},
        {"keep_ratio": "0.5"},
        {"keep_ratio": "1"},
    ],
    "mpvss": [{}, {"key_interval": "2"}, {"key_interval": "3"}, {"key_interval": "8"}],
}
Row = dict[str, Any]


def figures(evaluation: Evaluation) -> Row:
    """The figures of a score that the tables show, in percent."""
    scores = evaluation.scores
    values = {"miou": scores.miou, "mvc8": scores.mvc[8], "mvc16": scores.mvc[16]}
    return {name: round(100 * value, 2) for name, value in values.items()}


def store_prototypes(bundle: Path, dataset: Dataset) -> None:
    """Put prototypes of other streets into a bundle: 10 frames of each clip."""
    with open_stream(bundle) as stream:
        spec, _ = prototype_state(stream.manifest)
        images = []
        for clip in dataset.clips:
            assert isinstance(clip, IndexedClip)
            images += [clip[index].image for index in sample_frames(len(clip))]
        centres = cluster(collect_tokens(stream, images), spec.shape[0])
    store_given(bundle, spec.name, centres)


def prototype_rows(
    networks: dict[str, Path], folder: Path, size: tuple[int, int], scored: str, footage: str
) -> list[Row]:
    """CFFM, and CFFM++ with prototypes of each clip and with those of other streets."""
    dataset = open_dataset(scored, "test")
    bundles = {}
    for name in ("cffm", "cffm++"):
        bundles[name] = folder / f"{name}-bundle"
        export_bundle(load_checkpoint(networks[name]), bundles[name], size=size)
    with open_segmenter(bundles["cffm"], SegmenterOptions(threads=1)) as segmenter:
        rows = [
            {"prototypes": "none: CFFM", "causal": True, **figures(evaluate(segmenter, dataset))}
        ]
    others = open_dataset(footage, "train")
    store_prototypes(bundles["cffm++"], others)
    sources: Sequence[tuple[str, PrototypeSource]] = (
        ("of the clip itself, as published", OwnPrototypes()),
        (f"of other drives ({len(others.clips)}), in the bundle", StoredPrototypes()),
    )
    with open_segmenter(bundles["cffm++"], SegmenterOptions(threads=1)) as segmenter:
        for name, source in sources:
            found = evaluate(segmenter, dataset, prepare=partial(give_prototypes, source=source))
            rows.append({"prototypes": name, "causal": source.causal, **figures(found)})
            print(rows[-1], flush=True)
    return rows


def schedule_rows(
    networks: dict[str, Path], size: tuple[int, int], scored: str
) -> dict[str, list[Row]]:
    """A sweep over the settings of each network; MPVSS gets the frames as they are drawn."""
    tables: dict[str, list[Row]] = {}
    for name, variants in SWEEPS.items():
        if name not in networks:
            continue
        frame = (size[0] // 2, size[1] // 2) if name == "mpvss" else size
        options = SegmenterOptions(size=frame)
        tables[name] = []
        for row in sweep(networks[name], open_dataset(scored, "test"), variants, options):
            tables[name].append(
                {
                    "settings": name_variant(row.variant),
                    **figures(row.evaluation),
                    "frame_gmacs": round(row.cost.frame_gmacs, 3),
                    "state_bytes": row.cost.state_bytes,
                }
            )
            print(name, tables[name][-1], flush=True)
    return tables


def earlier_tables(path: Path, scored: str) -> dict[str, list[Row]]:
    """Rows that were measured before, on the same frames."""
    if not path.is_file():
        return {}
    content = json.loads(path.read_text())
    return content["networks"] if content["scored"] == scored else {}


def find_networks(folder: Path) -> dict[str, Path]:
    """The street sample, and for each family the committed network or the one in the folder."""
    found = {"tv3s": STREET}
    for name in (*HEADS, "mpvss"):
        trained = folder / name / "weights.safetensors"
        if committed_path(name).is_file():
            found[name] = join(committed_path(name), folder / "joined" / f"{name}.safetensors")
        elif trained.is_file():
            found[name] = trained
    return found


def head_line(result: Row) -> str:
    """The networks and the data that were scored."""
    machine = result["machine"]
    return (
        f"Drawn streets, split `test`: `{result['scored']}`, drawn at 128x256. Percent; "
        f"{machine['processor']}, commit {machine['commit']}. Command: `{result['command']}`."
    )


def prototype_table(result: Row) -> str:
    """Table of prototypes, as Markdown."""
    lines = [
        head_line(result),
        "",
        "CFFM and CFFM++ over the street sample's frozen encoder (`benchmarks/families.py`), "
        "float32 bundles. Prototypes of the clip itself need the whole clip beforehand.",
        "",
        "| prototypes | causal | mIoU | mVC8 | mVC16 |",
        "|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        scores = " | ".join(f"{row[key]:.2f}" for key in ("miou", "mvc8", "mvc16"))
        lines.append(f"| {row['prototypes']} | {'yes' if row['causal'] else 'no'} | {scores} |")
    return "\n".join(lines) + "\n"


def schedule_table(result: Row) -> str:
    """Table of the sweeps, as Markdown."""
    lines = [
        head_line(result),
        "",
        "The same weights in every row of a network; publications train each variant. PyTorch, "
        "float32; 10^9 multiply-adds are the mean over frames.",
        "",
        "| network | settings | mIoU | mVC8 | mVC16 | 10^9 multiply-adds | state, bytes |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, rows in result["networks"].items():
        for row in rows:
            scores = " | ".join(f"{row[key]:.2f}" for key in ("miou", "mvc8", "mvc16"))
            cost = f"{row['frame_gmacs']:.2f} | {row['state_bytes']:,}"
            lines.append(f"| {name} | {row['settings']} | {scores} | {cost} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the runs of benchmarks/families.py")
    parser.add_argument("--only", choices=("prototypes", "schedules"))
    parser.add_argument("--sweep", choices=SWEEPS, action="append", help="keep other rows as is")
    parser.add_argument("--scenes", type=int, default=2)
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--size", default="256x512", help="HxW of the networks with a head")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    height, width = map(int, arguments.size.split("x"))
    drawn = f"synthetic:street?size=128x256&scenes={arguments.scenes}&frames={arguments.frames}"
    networks = find_networks(arguments.folder)
    base = {
        "machine": describe_machine(1),
        "scored": drawn,
        "size": [height, width],
        "command": shlex.join(["python", *sys.argv]),
    }
    if arguments.only != "schedules":
        rows = prototype_rows(networks, arguments.folder, (height, width), drawn, drawn)
        result = {**base, "rows": rows}
        write_results("prototypes", result, prototype_table(result), arguments.results)
    if arguments.only != "prototypes":
        chosen = {n: path for n, path in networks.items() if n in (arguments.sweep or networks)}
        tables = schedule_rows(chosen, (height, width), drawn)
        if arguments.sweep:
            tables = earlier_tables(arguments.results / "schedules.json", drawn) | tables
        result = {**base, "networks": tables}
        write_results("schedules", result, schedule_table(result), arguments.results)


if __name__ == "__main__":
    main()

"""``streamseg prototypes``: what CFFM++ has to know of a video beforehand."""

from __future__ import annotations

from pathlib import Path

import click

FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("bundle", type=FOLDER)
@click.option("--source", required=True, help="Video file or folder of images.")
@click.option("--seed", default=0, show_default=True, help="Seed of the clustering.")
@click.option("--frames", default=10, show_default=True, type=click.IntRange(min=1))
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of one step.")
def command(bundle: Path, source: str, seed: int, frames: int, threads: int | None) -> None:
    """Cluster footage into prototypes and store them in BUNDLE (CFFM++).

    The paper takes them from the whole video that is then segmented, which a live stream cannot:
    take similar footage. `streamseg run` uses what is stored.
    """
    from streamseg.evaluation.clustering import (
        cluster,
        collect_tokens,
        prototype_state,
        read_sampled,
        store_given,
    )
    from streamseg.runtime.stream import open_stream

    with open_stream(bundle, threads=threads) as stream:
        spec, _ = prototype_state(stream.manifest)
        images, count = read_sampled(source, frames)
        tokens = collect_tokens(stream, images)
    centres = cluster(tokens, spec.shape[0], seed=seed)
    store_given(bundle, spec.name, centres)
    click.echo(
        f"{bundle}: {spec.shape[0]} prototypes of {len(tokens):,} tokens from {len(images)} of "
        f"{count} frames of {source}, seed {seed}"
    )
    click.echo(f"  next: streamseg run {bundle} --source VIDEO --out overlay.mp4")

"""``streamseg prototypes``: the prototypes of a CFFM++ bundle, from footage."""

from __future__ import annotations

from pathlib import Path

import click

from streamseg.cli.dataclass_options import dataclass_options
from streamseg.cli.phases import show_phases
from streamseg.cli.removals import source_of
from streamseg.cli.subcommand import subcommand
from streamseg.cli.value_types import PLACE
from streamseg.counting import count_of
from streamseg.evaluation.clustering import (
    ClusteringOptions,
    cluster,
    collect_tokens,
    prototype_state,
    read_sampled,
    store_given,
)
from streamseg.runtime.backends import BackendOptions
from streamseg.runtime.stream import open_stream


@subcommand(
    "prototypes",
    examples=("prototypes cffmpp/ clip.mp4", "prototypes cffmpp/ frames/ --samples 20 --seed 1"),
    removed={**source_of("prototypes"), "--frames": "write --samples"},
)
@click.argument("bundle", type=PLACE)
@click.argument("source")
@dataclass_options(ClusteringOptions, "clustering", "Clustering")
@dataclass_options(BackendOptions, "options", "Backend", only=("threads",))
def command(
    bundle: Path, source: str, clustering: ClusteringOptions, options: BackendOptions
) -> None:
    """Cluster the frames of SOURCE into prototypes and store them in BUNDLE (CFFM++).

    SOURCE is a video file or a folder of images. The paper takes prototypes from the whole video
    to be segmented, which a live stream cannot: use similar footage. 'streamseg run' uses the
    stored prototypes.
    """
    with (
        show_phases(f"opening {bundle}") as phase,
        open_stream(bundle, threads=options.threads) as stream,
    ):
        spec, _ = prototype_state(stream.manifest)
        phase(f"reading {source}")
        images, count = read_sampled(source, clustering.samples)
        phase("collecting tokens")
        tokens = collect_tokens(stream, images)
        phase("clustering")
        centres = cluster(tokens, spec.shape[0], seed=clustering.seed)
    store_given(bundle, spec.name, centres)
    click.echo(
        f"{bundle}: {spec.shape[0]} prototypes of {len(tokens):,} tokens from {len(images)} of "
        f"{count_of(count, 'frame')} of {source}, seed {clustering.seed}"
    )
    click.echo(f"  next: streamseg run {bundle} VIDEO -o overlay.mp4")

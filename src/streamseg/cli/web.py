"""``streamseg web``: a bundle as a static web site."""

from __future__ import annotations

from pathlib import Path

import click

from streamseg.cli.dataclass_options import grouped
from streamseg.cli.phases import show_phases
from streamseg.cli.subcommand import subcommand
from streamseg.cli.value_types import PLACE


@subcommand("web", examples=("web street/ -o site/", "web street/ -o site/ --webgpu"))
@click.argument("bundle", type=PLACE)
@grouped("-o", "--out", type=PLACE, required=True, help="Folder of the site.")
@grouped("--webgpu", is_flag=True, help="Also include the build for graphics cards (27 MB).")
@grouped(
    "--onnxruntime-web",
    type=PLACE,
    help="Unpacked npm package onnxruntime-web.",
    show_default="fetched with npm",
)
def command(bundle: Path, out: Path, webgpu: bool, onnxruntime_web: Path | None) -> None:
    """Write a static site that runs BUNDLE in the browser.

    The site needs no server of its own and makes no request to another host. Serve the folder with
    any web server, for example: python -m http.server -d site
    """
    from streamseg.runtime.bundle.bundle import read_bundle
    from streamseg.web.onnxruntime_package import find_package
    from streamseg.web.site import write_site

    opened = read_bundle(bundle)
    with show_phases("fetching onnxruntime-web") as phase:
        package = find_package(onnxruntime_web)
        phase("writing the site")
        site = write_site(opened, out, package, webgpu=webgpu)
    click.echo(f"{site.path}: {site.size / 1e6:.1f} MB, {site.kernels} operators as kernels")
    click.echo(f"next: python -m http.server -d {site.path}")

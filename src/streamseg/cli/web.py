"""``streamseg web``: a bundle as a static web site."""

from __future__ import annotations

from pathlib import Path

import click

from streamseg.cli.dataclass_options import dataclass_options, grouped
from streamseg.cli.phases import show_phases
from streamseg.cli.subcommand import subcommand
from streamseg.cli.value_types import PLACE, OutputType
from streamseg.destinations import FOLDER
from streamseg.web.site_options import SiteOptions


@subcommand("web", examples=("web street/ -o site/", "web street/ -o site/ --webgpu"))
@click.argument("bundle", type=PLACE)
@grouped("-o", "--out", type=OutputType(FOLDER), required=True, help="Folder of the site.")
@dataclass_options(SiteOptions, "options", "Site")
def command(bundle: Path, out: Path, options: SiteOptions) -> None:
    """Write a static site that runs BUNDLE in the browser.

    The site needs no server of its own and makes no request to another host. Serve the folder with
    any web server, for example: python -m http.server -d site
    """
    from streamseg.runtime.bundle.bundle import read_bundle, require_one_stream
    from streamseg.web.onnxruntime_package import find_package
    from streamseg.web.site import write_site

    opened = read_bundle(bundle)
    require_one_stream(opened, "the web site")
    with show_phases("fetching onnxruntime-web") as phase:
        package = find_package(options.onnxruntime_web)
        phase("writing the site")
        site = write_site(opened, out, package, webgpu=options.webgpu)
    click.echo(f"{site.path}: {site.size / 1e6:.1f} MB, {site.kernels} operators as kernels")
    click.echo(f"next: python -m http.server -d {site.path}")

"""``streamseg web``: a bundle as a static web site."""

from __future__ import annotations

from pathlib import Path

import click

FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("bundle", type=FOLDER)
@click.option("-o", "--out", type=FOLDER, required=True, help="Folder of the site.")
@click.option("--webgpu", is_flag=True, help="Also include the build for graphics cards (27 MB).")
@click.option(
    "--onnxruntime-web",
    type=FOLDER,
    help="Unpacked npm package onnxruntime-web; fetched with npm by default.",
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
    site = write_site(opened, out, find_package(onnxruntime_web), webgpu=webgpu)
    click.echo(f"{site.path}: {site.size / 1e6:.1f} MB, {site.kernels} operators as kernels")
    click.echo(f"next: python -m http.server -d {site.path}")

"""``calibrate``: how fast this machine is, and what that makes of real devices; needs no root."""

from __future__ import annotations

import click


@click.command()
@click.option("--afresh", is_flag=True, help="Measure again, even if this machine's calibration is kept already.")
def calibrate(afresh: bool) -> None:
    """Time reference models on one core, and print the share of a core that each known device is.

    The result is kept for this machine; experiments with `device:` use it. Run it while the machine is idle.
    """
    # --help must not wait for torch.
    from rich.console import Console
    from rich.table import Table

    from runner.calibration import machine_calibration
    from testbed.spec.devices import DEVICES, share_of, spread_of
    from testbed.units import format_duration, format_size

    found = machine_calibration(lambda text: click.echo(f"{text} …", err=True), afresh=afresh)
    console = Console(highlight=False)
    console.print(f"{found.cpu_model}, Linux {found.kernel}, PyTorch {found.torch_version}")
    models = Table("reference model", "on one core here", box=None, pad_edge=False, header_style="bold")
    for name, seconds in found.model_s.items():
        models.add_row(name, format_duration(seconds))
    console.print(models)
    if found.spread_pct > 10:
        console.print(f"One run in ten took over {found.spread_pct:.0f} % longer: measure again on an idle machine.")
    table = Table("device", "cpu", "models agree within", "memory", box=None, pad_edge=False, header_style="bold")
    for device in DEVICES.values():
        spread = spread_of(device, found.model_s)
        share = share_of(device, found.model_s)
        table.add_row(device.name, f"{share:.3f}", f"× {spread:.2f}", format_size(device.memory_bytes))
    console.print(table)

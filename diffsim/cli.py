"""The command line: what each command takes. What it does stands in ``diffsim.commands``, imported when one runs.

``diffsim --help`` and ``diffsim list`` answer at once, so nothing here imports torch.
"""

import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from diffsim.errors import DiffsimError

app = typer.Typer(
    help="A differentiable physics engine: run, optimize and check scenes without a display. --debug shows tracebacks.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

SceneName = Annotated[str, typer.Argument(metavar="SCENE", help="A name from 'diffsim list', or file.py[:function].")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a run.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the scene; repeatable.")
]
Steps = Annotated[int | None, typer.Option(help="Control steps, when other than the scene's.", min=1)]
Out = Annotated[Path | None, typer.Option(help="Run folder; runs/SCENE or the next free one by default.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in the folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, vulkan or metal.")]
Precision = Annotated[str, typer.Option(help="f32 or f64.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; all by default. Results do not depend on it.", min=1)]
Seed = Annotated[int | None, typer.Option(help="Of random numbers; also the scene's option 'seed', if it has one.")]
Memory = Annotated[str, typer.Option(help="Budget of a gradient, such as 500MiB.")]
Workers = Annotated[int | None, typer.Option(help="Processes that evaluate the candidates of a population.", min=1)]
Cluster = Annotated[str | None, typer.Option(help="Ray cluster that the workers run on; 'local' starts one here.")]
Render = Annotated[bool, typer.Option("--render/--no-render", help="Write video.mp4 and last.png.")]
Vtu = Annotated[bool, typer.Option("--vtu", help="Write frames/*.vtu and trajectory.pvd, for ParaView.")]
Ply = Annotated[bool, typer.Option("--ply", help="Write the particles of the last frame as last.ply.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]


def _show_version(wanted: bool):
    if wanted:
        print(f"diffsim {metadata.version('diffsim')}")
        raise typer.Exit


@app.callback(help=app.info.help)
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and end.")
    ] = False,
):
    """What stands before the name of a command."""


@app.command("list")
def list_(
    scene: Annotated[str | None, typer.Argument(metavar="[SCENE]", help="Describe this one and its options.")] = None,
    json: Json = False,
):
    """Name the scenes that are shipped, or describe one and its options."""
    from diffsim.report import describe_scene, show_scenes

    if scene is None:
        show_scenes(json)
    else:
        describe_scene(scene, json)


@app.command()
def run(
    scene: SceneName,
    set_: Settings = None,
    steps: Steps = None,
    out: Out = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    precision: Precision = "f32",
    threads: Threads = None,
    seed: Seed = None,
    render: Render = True,
    vtu: Vtu = False,
    ply: Ply = False,
    json: Json = False,
):
    """Simulate a scene and write its trajectory and video."""
    options = _pairs(set_, "--set")
    from diffsim import commands

    commands.start(device, precision, threads)
    built = commands.build(scene, options, seed)
    commands.run(built, steps, out, overwrite, seed or 0, commands.Outputs(render, vtu, ply), json)


@app.command()
def optimize(
    scene: SceneName,
    set_: Settings = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="A torch optimizer by name, lbfgs, sophia, cma, consensus, hybrid, multi_start, expanding, "
            "augmented_lagrangian."
        ),
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="Updates of the variables.", min=1)] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="An option of the method; repeatable.")
    ] = None,
    patience: Annotated[int | None, typer.Option(help="Stop after so many iterations without gain.", min=1)] = None,
    truncate: Annotated[int | None, typer.Option(help="Steps that gradients pass back through.", min=1)] = None,
    workers: Workers = None,
    cluster: Cluster = None,
    memory: Memory = "2GiB",
    steps: Steps = None,
    out: Out = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    precision: Precision = "f32",
    threads: Threads = None,
    seed: Seed = None,
    render: Render = True,
    vtu: Vtu = False,
    ply: Ply = False,
    json: Json = False,
):
    """Optimize a scene's variables; 'diffsim resume' continues a run that was stopped or killed."""
    options, more = _pairs(set_, "--set"), _pairs(option, "--option")
    from diffsim import commands

    commands.start(device, precision, threads)
    built = commands.build(scene, options, seed)
    settings = {"method": method, "iterations": iterations, "lr": lr, "patience": patience, "memory": memory}
    settings |= {"steps": steps, "overwrite": overwrite, "seed": seed or 0}
    settings |= {"truncate": truncate, "workers": workers or 1, "cluster": cluster}
    commands.optimize(built, settings, more, out, commands.Outputs(render, vtu, ply), json)


@app.command()
def fit(
    scene: Annotated[
        str, typer.Argument(metavar="SCENE_OR_DATA", help="A scene, or a motion (.h5) in the folder of a run of it.")
    ],
    set_: Settings = None,
    law: Annotated[
        str, typer.Option(help="neural, nclaw, hyperelastic, polyconvex, spline, sysid, blind or unconstrained.")
    ] = "neural",
    epochs: Annotated[int, typer.Option(help="Passes over the motion.", min=1)] = 300,
    segments: Annotated[str, typer.Option(help="Steps of a segment at the start and at the end.")] = "25,200",
    positions_only: Annotated[
        bool, typer.Option("--positions-only", help="Use positions alone: no recorded v, C and F.")
    ] = False,
    steps: Annotated[int | None, typer.Option(help="Frames to use; all by default.", min=1)] = None,
    lr_elastic: Annotated[float | None, typer.Option(help="Learning rate of the elastic law.")] = None,
    lr_plastic: Annotated[float | None, typer.Option(help="Learning rate of the plastic law.")] = None,
    clip: Annotated[float, typer.Option(help="Largest norm of a law's gradient.")] = 0.1,
    updates: Annotated[int, typer.Option(help="Steps of the optimizer in an epoch; 1 as published.", min=1)] = 1,
    patience: Annotated[int | None, typer.Option(help="Stop after so many epochs without gain.", min=1)] = None,
    of: Annotated[
        str | None, typer.Option("--scene", help="The scene of the data, when its folder holds no run.json.")
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also log for TensorBoard, in the run folder.")
    ] = False,
    memory: Memory = "1GiB",
    out: Out = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    precision: Precision = "f32",
    threads: Threads = None,
    seed: Seed = None,
    json: Json = False,
):
    """Learn a constitutive law from motion; 'diffsim resume' continues a fit that was stopped or killed."""
    options = _pairs(set_, "--set")
    first, comma, last = segments.partition(",")
    try:
        lengths = float(first), float(last if comma else first)
    except ValueError:
        raise typer.BadParameter(f"{segments!r} is not FIRST,LAST", param_hint="--segments") from None
    from diffsim import commands

    commands.start(device, precision, threads)
    settings = {"law": law, "epochs": epochs, "positions_only": positions_only, "steps": steps, "clip": clip}
    settings |= {"lr_elastic": lr_elastic, "lr_plastic": lr_plastic, "patience": patience, "memory": memory}
    settings |= {"updates": updates, "tensorboard": tensorboard}
    settings |= {"seed": seed or 0, "overwrite": overwrite}
    commands.fit(scene, of, options, lengths, settings, out, json)


@app.command()
def evaluate(
    laws: Annotated[
        list[str], typer.Argument(metavar="LAW...", help="Files of learned laws (law.safetensors), or NAME=FILE.")
    ],
    scene: Annotated[
        str, typer.Option(help="The scene to judge by; for tumbling_cube the trials of its study.")
    ] = "tumbling_cube",
    tests: Annotated[
        str, typer.Option(help="Trials, by commas: see 'diffsim list nclaw_trials'.")
    ] = "reconstruction,time,velocity_1,velocity_7,velocity_8",
    set_: Settings = None,
    steps: Annotated[int | None, typer.Option(help="Steps of dt, when other than the trial's.", min=1)] = None,
    out: Out = None,
    device: Device = "auto",
    precision: Precision = "f32",
    threads: Threads = None,
    video: Annotated[bool, typer.Option("--video", help="Write a video for each cell: true, learned, error.")] = False,
    json: Json = False,
):
    """Compare motions with learned laws to those with the true law; what is found in --out is not computed again."""
    options = _pairs(set_, "--set")
    from diffsim import commands

    commands.start(device, precision, threads)
    commands.evaluate(laws, scene, tests, options, steps, out, video, json)


@app.command()
def resume(
    folder: Folder,
    iterations: Annotated[int | None, typer.Option(help="A new total, to go further.", min=1)] = None,
    workers: Workers = None,
    cluster: Cluster = None,
    render: Render = True,
    vtu: Vtu = False,
    ply: Ply = False,
    json: Json = False,
):
    """Continue an optimization from its last checkpoint, with the result of an uninterrupted run."""
    from diffsim import commands

    commands.resume(folder, iterations, workers, cluster, commands.Outputs(render, vtu, ply), json)


@app.command()
def render(
    folder: Folder,
    color: Annotated[str | None, typer.Option(help="body, speed, pressure, plastic, or a field of the state.")] = None,
    every: Annotated[int, typer.Option(help="Take each so many-th frame.", min=1)] = 1,
    fps: Annotated[float, typer.Option(help="Frames per second of the video.")] = 30,
    size: Annotated[str, typer.Option(help="Width x height in pixels.")] = "640x480",
    frames: Annotated[bool, typer.Option("--frames", help="Also write frames/*.png.")] = False,
    vtu: Vtu = False,
    ply: Ply = False,
):
    """Draw the trajectory of a run again, otherwise."""
    from diffsim import commands

    width, _, height = size.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise typer.BadParameter(f"{size!r} is not WIDTHxHEIGHT", param_hint="--size")
    commands.render(folder, color, every, fps, (int(width), int(height)), frames, vtu, ply)


@app.command("check-gradients")
def check_gradients(
    scene: SceneName,
    set_: Settings = None,
    steps: Annotated[int | None, typer.Option(help="Control steps; 3 or fewer by default.", min=1)] = None,
    tolerance: Annotated[float, typer.Option(help="Largest relative difference that passes.")] = 1e-6,
    horizon: Annotated[
        bool, typer.Option("--horizon", help="Show gradient norm and agreement against the number of steps instead.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="PNG file of --horizon; SCENE-horizon.png by default.")] = None,
    memory: Memory = "2GiB",
    device: Device = "cpu",
    precision: Precision = "f64",
    threads: Threads = None,
    seed: Seed = None,
    json: Json = False,
):
    """Compare a scene's gradients with finite differences; fails when one is off."""
    options = _pairs(set_, "--set")
    from diffsim import checks, commands

    commands.start(device, precision, threads)
    built = commands.build(scene, options, seed)
    if horizon:
        checks.show_horizon(built, steps, memory, seed or 0, plot, json)
    elif not checks.show_gradients(built, steps, tolerance, memory, seed or 0, json):
        raise typer.Exit(1)


@app.command()
def estimate(
    scene: SceneName,
    set_: Settings = None,
    steps: Steps = None,
    memory: Memory = "2GiB",
    time: Annotated[bool, typer.Option("--time", help="Measure one step, and say how long all will take.")] = False,
    device: Device = "auto",
    precision: Precision = "f32",
    threads: Threads = None,
    seed: Seed = None,
    json: Json = False,
):
    """Say what a scene will take, before running it."""
    options = _pairs(set_, "--set")
    from diffsim import commands

    commands.start(device, precision, threads)
    commands.estimate(commands.build(scene, options, seed), steps, memory, time, json)


@app.command()
def doctor(json: Json = False):
    """Check versions, devices, the video encoder and the kernel cache."""
    from diffsim.report import show_doctor

    if not show_doctor(json):
        raise typer.Exit(1)


def _pairs(texts: list[str] | None, option: str) -> dict[str, str]:
    pairs = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint=option)
        pairs[name.strip().replace("-", "_")] = value
    return pairs


def main(arguments: list[str] | None = None) -> int:
    """Run a command; every error is one line on standard error.

    Returns:
        Exit code: 0, 1 for an error, 2 for wrong usage, 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        return app(arguments, prog_name="diffsim", standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        sys.stderr.close()
        return 1
    except Exception as error:
        if debug:
            raise
        if isinstance(error, typer.TyperException):
            text = error.format_message()
        elif isinstance(error, DiffsimError):
            text = str(error)
        else:
            first = (str(error).strip() or "no message").splitlines()[0]
            text = f"{type(error).__name__}: {first[:300]}; run again with --debug for the traceback"
        print("error:", " ".join(text.split()), file=sys.stderr)
        return getattr(error, "exit_code", 1)


if __name__ == "__main__":
    sys.exit(main())

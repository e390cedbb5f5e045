"""What ``diffsim list`` and ``diffsim doctor`` print; the list imports neither torch nor a scene."""

import json
import os
import subprocess
import sys

from diffsim.scripts import description_of, list_scenes, parameters_of

_PROBE = "import diffsim; diffsim.init(device={device!r}, precision='f32')"


def show_scenes(as_json: bool) -> None:
    """Print the shipped scenes."""
    scenes = list_scenes()
    if as_json:
        print(json.dumps(scenes))
        return
    width = max(map(len, scenes), default=0)
    for name, text in scenes.items():
        print(f"{name:{width}}  {text}")


def describe_scene(scene: str, as_json: bool) -> None:
    """Print a scene's description and its options with their defaults.

    Raises:
        SceneError: an unknown scene, or a script that fails.
    """
    text = description_of(scene)
    defaults = {name: p.default for name, p in parameters_of(scene).items() if p.default is not p.empty}
    if as_json:
        print(json.dumps({"description": text, "options": defaults}, default=str))
        return
    print(text)
    print("\nDefaults:")
    for name, value in defaults.items():
        print(f"    --set {name}={','.join(map(str, value)) if isinstance(value, tuple | list) else value}")


def show_doctor(as_json: bool) -> bool:
    """Print the state of the installation; returns whether the engine can run here."""
    devices = ["cpu", "cuda", "metal" if sys.platform == "darwin" else "vulkan"]
    # a driver that is broken may end its process
    probes = {device: _probe(device) for device in devices}
    rows = {name: (True, text) for name, text in _versions().items()}
    rows |= {f"device {device}": _answer(probe) for device, probe in probes.items()}
    rows["video encoder"] = _encoder()
    rows["kernel cache"] = _cache()
    rows["threads"] = (True, f"{os.cpu_count()} cores")
    needed = ("device cpu", "video encoder")
    healthy = all(rows[name][0] for name in needed)
    if as_json:
        print(json.dumps({name: {"ok": good, "is": text} for name, (good, text) in rows.items()}))
    else:
        width = max(map(len, rows))
        for name, (good, text) in rows.items():
            mark = "ok" if good else "FAIL" if name in needed else "-"
            print(f"{mark:4}  {name:{width}}  {text}")
    return healthy


def _versions() -> dict[str, str]:
    from diffsim.kernels.lang import LANGUAGE
    from diffsim.runs import versions

    found = versions()
    return {"kernel language": f"{LANGUAGE} {found.pop(LANGUAGE)}", **found}


def _probe(device: str) -> subprocess.Popen:
    command = [sys.executable, "-c", _PROBE.format(device=device)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _answer(probe: subprocess.Popen) -> tuple[bool, str]:
    try:
        _, errors = probe.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        probe.kill()
        probe.communicate()
        return False, "did not answer in two minutes"
    if probe.returncode == 0:
        return True, "available"
    last = (errors.strip().splitlines() or [f"the driver ended the process ({probe.returncode})"])[-1]
    return False, last.rpartition("Error: ")[2]


def _encoder() -> tuple[bool, str]:
    import imageio_ffmpeg

    try:
        return True, f"ffmpeg {imageio_ffmpeg.get_ffmpeg_version()}, {imageio_ffmpeg.get_ffmpeg_exe()}"
    except (RuntimeError, OSError) as error:
        return False, f"{error}; reinstall imageio-ffmpeg"


def _cache() -> tuple[bool, str]:
    from diffsim.kernels.lang import ti

    if os.environ.get("DIFFSIM_KERNEL_CACHE", "1") == "0":
        return False, "off (DIFFSIM_KERNEL_CACHE=0): every start compiles all kernels"
    folder = ti.lang.impl.default_cfg().offline_cache_file_path
    parent = folder
    while not os.path.exists(parent):
        parent = os.path.dirname(parent)
    if not os.access(parent, os.W_OK):
        return False, f"{folder} cannot be written: every start compiles all kernels"
    return True, folder

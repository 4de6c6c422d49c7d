"""What the documents name is found where they name it, and nobody inside goes through those addresses."""

from __future__ import annotations

import inspect
import re
import tomllib
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "python" / "iltools_datasets"

ADDRESSES: dict[str, dict[str, str]] = {
    # module: {name: parameters of a function or of a class's constructor, and attributes of a class after a colon}
    "replay_export": {
        "build_replay_from_zarr": (
            "zarr_path scratch_dir obs_keys act_key concat_obs_to_key include_terminated include_truncated "
            "infer_terminated_if_missing original_obs_td_key strict float_dtype on_nan"
        )
    },
    "replay_manager": {
        "EnvAssignment": "task_id traj_id step",
        "ExpertReplaySpec": "tasks scratch_dir device sample_batch_size",
        "ExpertReplayManager": (
            "spec: set_assignment update_env_assignment update_assignments clear_assignment assignment "
            "set_uniform_sampler set_custom_sampler set_device_transform sample_per_env_window segments "
            "state_dict load_state_dict"
        ),
        "SequentialPerEnvSampler": "segments assignment: sample",
        "AssignedUniformSampler": "segments assignment without_replacement: sample",
    },
    "replay_memmap": {
        "ExpertMemmapBuilder": "scratch_dir max_size device: add_trajectory finalize size segments clear",
        "Segment": "task_id traj_id start length: index_at",
        "build_trajectory_td": "observation action next_observation",
        "build_trajectory_td_from_components": "",
        "concat_components": "parts",
    },
    "reference": {
        "JointMapping": "reference_joint_names target_joint_names",
        "ReferenceManager": "joint_mapping qpos_key qvel_key device: get_reference_window",
    },
    "offline": {
        "OfflineDataset": (
            ": from_zarr_root num_trajectories total_steps iter_trajectories "
            "build_replay_manager make_sequential_replay"
        )
    },
    "storage": {
        "VectorizedTrajectoryDataset": (
            "zarr_path num_envs cfg: update_references fetch fetch_window available_dataset_sources available_motions "
            "available_motions_in available_trajectories available_trajectories_in"
        )
    },
    "jax_stream": {"DoubleBufferStreamer": "window_fn: start stop next_window"},
    "trajopt.loader": {
        "TrajoptLoader": ": save as_dataset metadata __len__ __getitem__",
        "Trajectory": "observations actions rewards infos dt",
        "TrajoptTrajectoryDataset": "",
    },
    "trajopt.digit_refs": {
        "DigitRefSpec": "a_pos_index a_vel_index subsample",
        "build_refs_from_window": "qpos qvel spec ee_pos",
        "DigitTrajoptRefBuilder": "data_dir ref_spec: build_by_index",
    },
    "loco_mujoco.loader": {"LocoMuJoCoLoader": "path: save as_dataset metadata __len__ __getitem__"},
    "torchrl": {
        "LazyMemmapStorage": "max_size scratch_dir",
        "LazyTensorStorage": "max_size",
        "RandomSampler": "",
        "SamplerWithoutReplacement": "drop_last shuffle",
        "SliceSampler": "",
        "SliceSamplerWithoutReplacement": "drop_last shuffle",
        "TensorDictReplayBuffer": ": sample extend dumps loads state_dict load_state_dict",
        "TrajectoryStorage": "store",
    },
    "data": {
        "Dataset": "",
        "Transition": "",
        "LeRobotDatasetAdapter": "",
        "LeRobotDatasetConfig": "",
        "JaxDataLoader": "dataset batch_size num_workers shuffle drop_last devices prefetch_factor",
    },
    "collection": {
        "ExpertTrajectoryCollector": (
            "obs_dim action_dim student_obs_dim max_trajectories device: add_step mark_trajectory_end save"
        ),
        "StudentObsBuilder": "env obs_keys history_length device: get_observation update_history reset_history",
    },
}
ELSEWHERE = {"vibe_rl.data": "data", "whole_body_tracking.collection": "collection"}
"""Packages of others whose names the documents use, and the room that has them here."""
THIN = ["replay_export", "replay_manager", "replay_memmap", "reference", "offline", "storage", "jax_stream"]
NEEDS_JAX = {"jax_stream", "JaxDataLoader"}
NEEDS_TORCH = {"replay_export", "replay_manager", "replay_memmap", "reference", "torchrl", "TrajoptTrajectoryDataset"}


def found(module: str, name: str) -> Any:
    for framework, places in (("jax", NEEDS_JAX), ("torchrl", NEEDS_TORCH)):
        if {module, name} & places:
            pytest.importorskip(framework, reason=f"needs the {framework.removesuffix('rl')} extra")
    return getattr(import_module(f"iltools_datasets.{module}"), name)


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in ADDRESSES.items() for name in names])
def test_names_are_at_their_documented_address(module: str, name: str) -> None:
    thing = found(module, name)
    assert name in import_module(f"iltools_datasets.{module}").__all__
    wanted, _, members = ADDRESSES[module][name].partition(":")
    signature = inspect.signature(thing)
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    assert anything or set(wanted.split()) <= set(signature.parameters), signature
    assert [member for member in members.split() if not hasattr(thing, member)] == []


def test_the_documents_name_nothing_else() -> None:
    """Wherever the specification lies beside the checkout, each of its imports is in the table above."""
    spec = ROOT.parent / "shared" / "spec"
    if not spec.is_dir():
        pytest.skip(f"no specification at {spec}")
    pattern = r"^\s*from (iltools_datasets|vibe_rl|whole_body_tracking)\.([\w.]+) import (?:\(([^)]*)\)|(.+))$"
    text = "\n".join(path.read_text() for path in sorted(spec.glob("*.md")))
    named = {
        (ELSEWHERE.get(f"{package}.{module}", module), name.strip())
        for package, module, many, few in re.findall(pattern, text, re.MULTILINE)
        for name in re.sub(r"#.*", "", many or few).split(",")
        if name.strip()
    }
    known = {(module, name) for module, names in ADDRESSES.items() for name in names}
    assert len(named) > 12
    assert named - known == set()


@pytest.mark.parametrize("module", THIN)
def test_an_address_is_thin(module: str) -> None:
    """A docstring, one import from one room, and `__all__` of what was imported."""
    lines = [line for line in (PACKAGE / f"{module}.py").read_text().splitlines() if line]
    assert len([line for line in lines if line.startswith(("from", "import"))]) == 1
    assert not [line for line in lines if line.startswith(("def", "class", "if"))]
    imported = set(re.findall(r"\w+", "".join(lines[1:]).partition(" import ")[2].partition("__all__")[0]))
    assert imported == set(re.findall(r'"(\w+)"', "".join(lines).partition("__all__")[2]))


def test_nobody_inside_goes_through_an_address() -> None:
    addresses = "|".join(re.escape(module) for module in (*THIN, "trajopt.loader", "loco_mujoco.loader"))
    through = re.compile(rf"^\s*(?:from|import) iltools_datasets\.(?:{addresses})\b", re.MULTILINE)
    assert [path for path in PACKAGE.rglob("*.py") if through.search(path.read_text())] == []


def test_the_top_level_has_few_doors() -> None:
    doors = {
        path.stem
        for path in PACKAGE.iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists()) and not path.stem.startswith("_")
    }
    addresses = {*THIN, "trajopt", "loco_mujoco"}
    assert addresses <= doors
    assert len(doors - addresses) <= 18, sorted(doors - addresses)


def test_files_are_read_in_one_sitting() -> None:
    files = [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi"), *(ROOT / "rust").glob("*/src/**/*.rs")]
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert len(lines) > 200
    assert {path: count for path, count in lines.items() if count > 400} == {}


def test_no_module_imports_itself_by_a_detour() -> None:
    grimp = pytest.importorskip("grimp", reason="needs import-linter of the dev extra")
    graph = grimp.build_graph("iltools_datasets", exclude_type_checking_imports=True, cache_dir=None)
    top = "iltools_datasets"
    # The native module is no file of Python's, so what imports it seems to import the package's top.
    through_the_top = {
        (module, detail["line_contents"])
        for module in graph.find_modules_that_directly_import(top)
        for detail in graph.get_import_details(importer=module, imported=top)
        if not re.search(r"import (_core|__version__)\b", detail["line_contents"])
    }
    assert through_the_top == set()
    imports = {module: graph.find_modules_directly_imported_by(module) - {top} for module in graph.modules}
    assert sum(map(len, imports.values())) > 300
    TopologicalSorter(imports).prepare()  # raises CycleError with the circle


def test_no_room_is_left_out_of_the_contracts() -> None:
    """The forbidden contracts list who may not import a framework; a new room must be in each of them or be excused."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [layer for contract in contracts for layer in contract.get("layers", ())]
    floors = {room.strip() for layer in layers for room in layer.split("|")}
    excused = {
        ("torch", "tensordict", "torchrl"): {"collection", "demo", "ranks", "replay", "sources", "torchrl", "tracking"},
        ("jax",): {"data", "jax", "ranks", "tracking"},
        ("zarr",): {"archive"},
        ("pyarrow", "av", "PIL", "huggingface_hub"): {"lerobot"},
    }
    forbidden = {tuple(c["forbidden_modules"]): set(c["source_modules"]) for c in contracts if c["type"] == "forbidden"}
    assert set(forbidden) == set(excused)
    addresses = set(THIN)
    for frameworks, sources in forbidden.items():
        rooms = {source.removeprefix("iltools_datasets.") for source in sources}
        assert floors - addresses - rooms == excused[frameworks], frameworks

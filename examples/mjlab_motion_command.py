"""mjlab's tracking task over a store: its own motion command, with motion and starts of a `MotionSampler`.

    settings = registry.load_env_cfg("Mjlab-Tracking-Flat-Unitree-G1")
    settings.commands["motion"] = SampledMotionCommandCfg.over("store", settings.commands["motion"])

is all that changes in a program that makes such an env. Where mjlab reads one file and knows frames alone, there are
now all clips of a store, at any rate, and starts are drawn as `Adaptive` says. Rewards, observations, terminations,
perturbations of starts and metrics are mjlab's. Needs `pip install iltools-datasets[sim]`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import torch
from iltools_datasets import TrajectoryStore
from iltools_datasets.ranks import torch_rank, torch_sum
from iltools_datasets.tracking import Adaptive, MotionSampler
from mjlab.managers import CommandTerm
from mjlab.tasks.tracking.mdp import MotionCommand, MotionCommandCfg
from torch import Tensor

JOINTS, BODIES = ("joint_pos", "joint_vel"), ("body_pos_w", "body_quat_w", "body_lin_vel_w", "body_ang_vel_w")


@dataclass(kw_only=True)
class SampledMotionCommandCfg(MotionCommandCfg):
    """What mjlab's command is told, and instead of its file a store.

    Args:
        store: path of a store with the keys of a motion npz. Without names of bodies and joints in it, its bodies and
            joints are taken to be the robot's, in the robot's order, as mjlab takes those of a file.
        adaptive: of the sampler; None = all bins take turns. mjlab's `adaptive_*` are not looked at.
        steps_per_sync: control steps of an iteration.
        seed: of the starts.
    """

    store: str
    adaptive: Adaptive | None = field(default_factory=Adaptive)
    steps_per_sync: int = 24
    seed: int = 0

    @classmethod
    def over(cls, store: str, settings: MotionCommandCfg, **options: Any) -> SampledMotionCommandCfg:
        """Return the settings of a task, but for the motion."""
        kept = {each.name: getattr(settings, each.name) for each in fields(MotionCommandCfg)}
        return cls(**{**kept, "store": store, **options})

    def build(self, env: Any) -> SampledMotionCommand:
        return SampledMotionCommand(self, env)


class SampledMotionCommand(MotionCommand):
    """Targets are those of a sampler, which is told of falls before envs are put elsewhere."""

    cfg: SampledMotionCommandCfg

    def __init__(self, cfg: SampledMotionCommandCfg, env: Any) -> None:
        CommandTerm.__init__(self, cfg, env)  # mjlab's own reads its file next
        self.robot = env.scene[cfg.entity_name]
        self.robot_anchor_body_index = self.robot.body_names.index(cfg.anchor_body_name)
        self.motion_anchor_body_index = cfg.body_names.index(cfg.anchor_body_name)
        indexes = self.robot.find_bodies(cfg.body_names, preserve_order=True)[0]
        self.body_indexes = torch.tensor(indexes, device=self.device)
        store = TrajectoryStore.open(cfg.store)
        told = store.attributes["motion"]
        named = told["body_names"] is not None
        options: dict[str, Any] = {
            "bodies": list(cfg.body_names) if named else indexes,
            "anchor": cfg.anchor_body_name if named else self.robot_anchor_body_index,
            "as_": "torch",
            "device": self.device,
        }
        joints = list(self.robot.joint_names) if told["joint_names"] is not None else None
        together = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.all_reduce = torch_sum() if together else None
        self.sampler = MotionSampler(
            store, self.num_envs, env.step_dt, keys=[*JOINTS, *BODIES], joints=joints, adaptive=cfg.adaptive,
            env_origins=env.scene.env_origins, seed=cfg.seed, **(torch_rank() if together else {}), **options,
        )  # fmt: skip
        self.aligned = MotionSampler(store, 1, env.step_dt, keys=BODIES[:2], frame="robot", **options).motion
        self.now = torch.zeros(1, dtype=torch.float64, device=self.device)
        self.playable = torch.as_tensor(self.sampler.coverage().bin_clip, device=self.device).unique()
        self.time_steps = torch.zeros(self.num_envs, dtype=torch.long, device=self.device)
        self.age, self._pending_forward = 0, False
        with self.sampler.paused():  # observations are asked for their shapes before the first reset
            self.sampler.reset(clip=self.playable[0], time=0.0)
        self._look()
        self.body_pos_relative_w, self.body_quat_relative_w = self.body_pos_w, self.body_quat_w
        for name in ("entropy", "top1_prob"):
            self.metrics[f"sampling_{name}"] = torch.zeros(self.num_envs, device=self.device)

    def _look(self) -> None:
        self.target = {key: rows[:, 0] for key, rows in self.sampler.lookup().items()}

    joint_pos = property(lambda self: self.target["joint_pos"])
    joint_vel = property(lambda self: self.target["joint_vel"])
    body_pos_w = property(lambda self: self.target["body_pos_w"])
    body_quat_w = property(lambda self: self.target["body_quat_w"])
    body_lin_vel_w = property(lambda self: self.target["body_lin_vel_w"])
    body_ang_vel_w = property(lambda self: self.target["body_ang_vel_w"])
    anchor_pos_w = property(lambda self: self.body_pos_w[:, self.motion_anchor_body_index])
    anchor_quat_w = property(lambda self: self.body_quat_w[:, self.motion_anchor_body_index])
    anchor_lin_vel_w = property(lambda self: self.body_lin_vel_w[:, self.motion_anchor_body_index])
    anchor_ang_vel_w = property(lambda self: self.body_ang_vel_w[:, self.motion_anchor_body_index])

    def update_relative_body_poses(self) -> None:
        """Put the motion's bodies where the robot is, turned to its heading."""
        seen = self.aligned.at(
            self.sampler.clip, self.sampler.time, self.now,
            anchor_pos=self.robot_anchor_pos_w, anchor_quat=self.robot_anchor_quat_w,
        )  # fmt: skip
        self.body_pos_relative_w, self.body_quat_relative_w = seen["body_pos_w"][:, 0], seen["body_quat_w"][:, 0]
        # Heights are the motion's, above each env's ground.
        self.body_pos_relative_w[..., 2] += self._env.scene.env_origins[:, None, 2]

    def reset(self, env_ids: Any) -> dict[str, float]:
        """Book falls where the envs are, then give them new starts and put their robots there."""
        self.sampler.report_failures(self._mask(env_ids) & self._env.termination_manager.terminated)
        return super().reset(env_ids)

    def _resample_command(self, env_ids: Tensor) -> None:
        if self.cfg.sampling_mode == "start":
            self.sampler.reset(env_ids, clip=self.playable[env_ids % len(self.playable)], time=0.0)
            self._look()
        super()._resample_command(env_ids)  # draws a start if it is to be drawn, and puts the robots there

    def _adaptive_sampling(self, env_ids: Tensor) -> None:
        self.sampler.reset(self._mask(env_ids))
        self._look()

    _uniform_sampling = _adaptive_sampling  # which of both it is, `adaptive` says

    def _update_command(self, env_ids: Tensor | None = None) -> None:
        if env_ids is None:
            over = self.sampler.step()
            self._look()
            if len(ids := over.nonzero()[:, 0]):
                self._resample_command(ids)
        else:  # a program's own reset: these alone go on by a step
            clip, time = self.sampler.clip[env_ids], self.sampler.time[env_ids]
            with self.sampler.paused():
                self.sampler.reset(env_ids, clip=clip, time=time + self._env.step_dt)
            self._look()
        if self._pending_forward:
            self._pending_forward = False
            self._env.sim.forward()
        self.update_relative_body_poses()
        self.age += env_ids is None
        if env_ids is None and self.age % self.cfg.steps_per_sync == 0:
            self.sampler.sync(self.all_reduce)
            seen = self.sampler.coverage().metrics()
            self.metrics["sampling_entropy"][:] = seen["entropy"]
            self.metrics["sampling_top1_prob"][:] = seen["largest_share"]

    def _mask(self, env_ids: Any) -> Tensor:
        mask = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        mask[env_ids] = True
        return mask

    def create_gui(self, *_: Any, **__: Any) -> None:
        """mjlab's slider goes through the frames of its one file."""

"""The built-in noise schedulers are diffusers' classes with the options that latents need."""

from neuroimagen.trainer.reconstruction.schedulers import SCHEDULERS

CONFIG = {"num_train_timesteps": 500, "beta_start": 0.001, "beta_end": 0.02, "prediction_type": "v_prediction"}


def test_the_options_take_the_place_of_the_folder_s() -> None:
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    ddim = SCHEDULERS["ddim"].from_config({**CONFIG, "clip_sample": True})
    assert isinstance(ddim, DDIMScheduler)
    assert not ddim.config.clip_sample  # latents have no fixed range
    solver = SCHEDULERS["dpm-solver++"].from_config({**CONFIG, "solver_order": 3, "algorithm_type": "dpmsolver"})
    assert isinstance(solver, DPMSolverMultistepScheduler)
    assert (solver.config.solver_order, solver.config.algorithm_type) == (2, "dpmsolver++")

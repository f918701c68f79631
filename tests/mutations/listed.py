"""The mistakes, room by room."""

from tests.mutations.guiding import GUIDING
from tests.mutations.recognising import RECOGNISING
from tests.mutations.running import Mutation

GOLDEN = "tests/conformance/test_run.py::test_the_golden_numbers_hold"
HOSTS = "tests/conformance/test_hosts.py"
TRAJECTORIES = "tests/diffusion/test_trajectories.py"

HOSTS_AND_DIFFUSION = (
    Mutation(
        "the times of a flow are not shifted by the picture's size",
        "hosts/host.py",
        "share * (config.max_shift - config.base_shift)",
        "0 * share",
        (HOSTS,),
    ),
    Mutation(
        "FLUX reads latents of a token across instead of along",
        "hosts/flux.py",
        "packed = packed.reshape(n, (h // 2) * (w // 2), 4 * c)",
        "packed = packed.flip(1).reshape(n, (h // 2) * (w // 2), 4 * c)",
        (HOSTS,),
    ),
    Mutation(
        "SDXL is told the picture's height twice over",
        "hosts/sdxl.py",
        "[height, width, 0, 0, height, width]",
        "[height, width, 0, 0, 2 * height, width]",
        (HOSTS,),
    ),
    Mutation(
        "v of a diffusion has its other sign",
        "diffusion/noise.py",
        "return signal * noise - share * clean",
        "return signal * noise + share * clean",
        ("tests/diffusion/test_noise.py",),
    ),
    Mutation(
        "the clean latents of v have another sign",
        "diffusion/noise.py",
        "return signal * latents - share * prediction",
        "return signal * latents + share * prediction",
        ("tests/diffusion/test_noise.py",),
    ),
    Mutation(
        "the velocity of a flow has its other sign",
        "diffusion/noise.py",
        "return noise - clean",
        "return clean - noise",
        ("tests/diffusion/test_noise.py",),
    ),
    Mutation(
        "errors are summed instead of averaged",
        "diffusion/losses.py",
        ".square().mean()",
        ".square().sum()",
        ("tests/methods/test_concept_ablation.py",),
    ),
    Mutation(
        "a fresh pool asks the teacher at the time of the step before",
        "diffusion/trajectories.py",
        "denoiser.timesteps(steps)[",
        "denoiser.timesteps(steps).roll(1)[",
        (TRAJECTORIES,),
    ),
)

TRAINING = (
    Mutation(
        "accumulated batches are not averaged",
        "training/loop.py",
        "scaler.scale(term / settings.accumulate)",
        "scaler.scale(term)",
        ("tests/training/test_loop.py",),
    ),
    Mutation(
        "a cosine schedule ends at a tenth instead of a hundredth",
        "training/loop.py",
        "0.01 + 0.99 *",
        "0.1 + 0.9 *",
        ("tests/training/test_loop.py",),
    ),
    Mutation(
        "the decay of weights is dropped",
        "training/loop.py",
        "else settings.weight_decay",
        "else 0.0",
        ("tests/training/test_loop.py",),
    ),
    Mutation(
        "surgery where there is no conflict",
        "training/gradients.py",
        "torch.where(inner < 0,",
        "torch.where(inner > 0,",
        ("tests/training/test_gradients.py",),
    ),
    Mutation(
        "a saliency mask of all weights is one of each tensor",
        "training/gradients.py",
        'if scope == "tensor":',
        'if scope == "all":',
        ("tests/training/test_gradients.py",),
    ),
    Mutation(
        "the layers beside weights are not scaled in the patch",
        "deltas/adapters.py",
        "(self._scale * self.parameters[",
        "(1.0 * self.parameters[",
        ("tests/deltas/test_adapters.py",),
    ),
    Mutation(
        "kept latents where the empty prompt is held ask for the prompt's prediction",
        "runs/gradient_runs.py",
        "torch.cat([visits.unconditional[:without],",
        "torch.cat([visits.conditional[:without],",
        ("tests/methods/test_keeping.py",),
    ),
    Mutation(
        "training times are of the cleaner half alone",
        "runs/gradient_runs.py",
        "torch.randint(every, (count,)",
        "torch.randint(every // 2, (count,)",
        ("tests/methods/test_concept_ablation.py",),
    ),
)

METHODS = (
    Mutation(
        "concept_ablation asks for the noise whatever the network predicts",
        "methods/concept_ablation.py",
        "run.denoiser.process.truth(z, noise, times)",
        "noise",
        ("tests/methods/test_concept_ablation.py",),
    ),
    Mutation(
        "doco's retained gradient has no weight",
        "methods/doco.py",
        "self.method.retain_weight * retained",
        "retained",
        ("tests/methods/test_doco.py",),
    ),
    Mutation(
        "doco's surgery is on the wrong gradient",
        "methods/doco.py",
        "self._bent(list(erase), list(retain))",
        "self._bent(list(retain), list(erase))",
        ("tests/methods/test_doco.py",),
    ),
    Mutation(
        "spm's anchors have no weight",
        "methods/spm.py",
        '"anchor", self.anchoring,',
        '"anchor", 1.0,',
        (GOLDEN, "-k", "spm"),
    ),
    Mutation(
        "rece's rounds hold with no weight",
        "methods/rece.py",
        "self.hold * first.weights",
        "first.weights",
        (GOLDEN, "-k", "rece-tiny_sd1"),
    ),
    Mutation(
        "rece's first edit keeps as its rounds do",
        "methods/rece.py",
        "ridge=self.first_ridge, keep=self.first_keep_scale",
        "ridge=self.first_ridge, keep=self.keep_scale",
        (GOLDEN, "-k", "rece-tiny_sd1"),
    ),
    Mutation(
        "ant's early side has the weight of its late one",
        "methods/ant.py",
        '_prompted(run, "preserve", a, kept, stay)',
        '_prompted(run, "preserve", 1.0, kept, stay)',
        (GOLDEN, "-k", "ant-tiny_sd1"),
    ),
    Mutation(
        "trce_vision's margin is dropped",
        "methods/trce_vision.py",
        "near - far + self.margin",
        "near - far",
        (GOLDEN, "-k", "trce_vision-tiny_sd1"),
    ),
)

EDITS = (
    Mutation(
        "a parent counts in full in a child's state, however it is applied",
        "deltas/application.py",
        "record.scale * _ungated(record.delta)",
        "_ungated(record.delta)",
        ("tests/deltas/test_delta.py",),
    ),
    Mutation(
        "a composed text map ignores the changes beneath it",
        "deltas/composition.py",
        "return _sum([patches, *extra])",
        "return _sum([patches])",
        ("tests/deltas/test_delta.py",),
    ),
    Mutation(
        "gated layers are applied in full whatever the scale",
        "deltas/gates.py",
        "(scale * patch.up).to(weight)",
        "patch.up.to(weight)",
        ("tests/deltas/test_gates.py", "tests/methods/test_spm.py"),
    ),
    Mutation(
        "uce's kept rows have no weight",
        "methods/uce.py",
        "self.keep_scale * kept_gram",
        "kept_gram",
        (GOLDEN, "-k", "uce-tiny_sd1"),
    ),
    Mutation(
        "means of kept rows are sums",
        "closed_form/fusion.py",
        "return flat.T @ flat / len(flat)",
        "return flat.T @ flat",
        ("tests/closed_form", "tests/methods/test_many_concepts.py", "tests/methods/test_ant.py"),
    ),
    Mutation(
        "neighbours in one direction too few",
        "closed_form/neighbours.py",
        "across / max(width - 1, 1)",
        "across / max(width, 1)",
        ("tests/closed_form/test_neighbours.py",),
    ),
    Mutation(
        "weights of equal rows are not added up",
        "closed_form/text_space.py",
        ".index_add(0, group, pairs.weights)",
        ".index_copy(0, group, pairs.weights)",
        ("tests/closed_form/test_text_space.py",),
    ),
    Mutation(
        "kept prompts change their sum of weights between rounds",
        "closed_form/reweighting.py",
        "raised * (weights.sum() / raised.sum().clamp(min=1e-300))",
        "raised",
        ("tests/closed_form/test_reweighting.py",),
    ),
    Mutation(
        "returning rows are pulled twice as hard",
        "closed_form/returning.py",
        "gains = problem.values**2 + strength",
        "gains = problem.values**2 + 2 * strength",
        ("tests/closed_form/test_returning.py",),
    ),
)

MEASURING = (
    Mutation(
        "the seed of a sweep's job is no part of its name",
        "evaluation/sweep_jobs.py",
        '_ELSEWHERE = ("model", "method", "settings")',
        '_ELSEWHERE = ("model", "method", "settings", "seed")',
        ("tests/evaluation/test_sweeps.py",),
    ),
    Mutation(
        "a job that failed counts as one that was never tried",
        "evaluation/jobs.py",
        'if f"{job.id}.json" in there',
        'if f"{job.id}" in there',
        ("tests/evaluation/test_jobs.py",),
    ),
    Mutation(
        "a picture without an answer of the judge counts as one without the concept",
        "evaluation/tallies.py",
        "blank = int(found.isnan().sum())",
        "blank = 0",
        ("tests/evaluation/test_debias.py",),
    ),
    Mutation(
        "Wilson's interval is of 90 percent",
        "metrics/estimates.py",
        "z = float(stats.norm.ppf(0.975))",
        "z = float(stats.norm.ppf(0.95))",
        ("tests/metrics/test_estimates.py",),
    ),
    Mutation(
        "groups do not widen an interval",
        "metrics/estimates.py",
        "return max(float(groups), count / design_effect)",
        "return float(count)",
        ("tests/metrics/test_estimates.py",),
    ),
    Mutation(
        "KID's kernel is a square",
        "metrics/kid.py",
        "/ first.shape[1] + 1) ** 3",
        "/ first.shape[1] + 1) ** 2",
        ("tests/metrics/test_metrics.py",),
    ),
    Mutation(
        "a judge's answer leaves out the model's temperature",
        "judges/zero_shot.py",
        "(self._clip.temperature * cosines)",
        "cosines",
        ("tests/judges",),
    ),
    Mutation(
        "a classifier takes the first of a concept's labels",
        "judges/classifier.py",
        "probabilities[:, places].sum(dim=-1)",
        "probabilities[:, places[:1]].sum(dim=-1)",
        ("tests/judges",),
    ),
    Mutation(
        "a LoRA file holds half of a layer",
        "exchange/low_rank.py",
        "replace(layer, up=layer.up * scale)",
        "replace(layer, up=layer.up)",
        ("tests/exchange/test_lora_files.py",),
    ),
)

MUTATIONS = (*HOSTS_AND_DIFFUSION, *TRAINING, *METHODS, *EDITS, *MEASURING, *RECOGNISING, *GUIDING)
